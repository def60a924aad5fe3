"""What the option parser refuses, in the words of this program: what was expected, and what to type."""

import os
import re
from collections.abc import Sequence
from typing import Any

from varestorer_cli.core.phrases import and_list, visible

_EXPECTED = (
    ("Input should be a valid integer", "a whole number is needed"),
    ("Input should be a valid number", "a number is needed"),
    ("Input should be a finite number", "a finite number is needed"),
)
_CHOICES = re.compile(r"Value error, (.*) is not one of (.*?)\.?$", re.DOTALL)


def show(error: Any, words: Sequence[str]) -> int:
    """Write an error of the parser on stderr.

    Args:
        error: Typer's, with ``show()``, ``message`` and ``exit_code``.
        words: the command line.

    Returns:
        its exit code.
    """
    if getattr(error, "message", None):
        error.message = _value(error.message, getattr(error, "param", None), words) + _hint(error, words)
    error.show()
    return int(error.exit_code)


def _value(message: str, option: Any, words: Sequence[str]) -> str:
    """The parser's own message, or ours where it is one of its library of validators."""
    for start, expected in _EXPECTED:
        if message.startswith(start):
            given = _given(getattr(option, "opts", ()), words)
            return f"{given}{expected}."
    if found := _CHOICES.match(message):
        choices = [choice.strip("'\"") for choice in found[2].split(", ")]
        return f"{found[1]} is not known; possible are {and_list(choices)}."
    return message


def _given(flags: Sequence[str], words: Sequence[str]) -> str:
    """The value that an option was given, where it is one word of the command line."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in flags:
            value = value if equals else next(iter(words[place + 1 :]), "")
            return f"'{visible(value)}': "
    return ""


def _hint(error: Any, words: Sequence[str]) -> str:
    """What to type where a name was taken for an option, or a file for a command."""
    if getattr(error, "option_name", None) is not None:
        # the parser names only the first letter of a word of short options
        names = [word for word in words if word.startswith("-") and os.path.lexists(word)]
        if names:
            return f". {visible(names[0])} is a file here: write ./{visible(names[0])} for it"
    command = getattr(getattr(error, "ctx", None), "command", None)
    if error.message.startswith("No such command") and command is not None:
        known = [name for name, one in command.commands.items() if not one.hidden]
        text = f" Commands are {and_list(known)}."
        unknown = next((word for word in words if not word.startswith("-") and word not in known), "")
        if "restore" in known and os.path.lexists(unknown):
            text += f" To restore {visible(unknown)}: varestorer restore {visible(unknown)} OUTPUT"
        return text
    return ""
