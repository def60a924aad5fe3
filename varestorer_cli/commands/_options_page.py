"""The page ``docs/options.md``: every option of the commands that declare theirs as fields (``make options-page``)."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any

from varestorer_cli.core.fields import Declared, Stale, all_declared
from varestorer_cli.core.options import GROUPS, ConsoleOptions, RestoreOptions, RestoreRequest

_COMMANDS: Mapping[str, tuple[type, ...]] = {"restore": (RestoreRequest, RestoreOptions, ConsoleOptions)}
_HEAD = """# Options
This page is made from the fields that declare the options (`make options-page`); a test holds it to them.

"Redone" says whether outputs that exist count as stale and are redone when the option's value changes. The same
options are fields of `RestoreOptions`, `Sizing` and `TextOptions` in Python, with the same checks.
"""


def render() -> str:
    """The page."""
    lines = [_HEAD]
    for command, owners in _COMMANDS.items():
        options = [one for owner in owners for one in all_declared(owner)]
        lines.append(f"## {command}")
        for group in GROUPS:
            of_group = [one for one in options if one.option.group == group]
            if of_group:
                lines += [f"### {group}", *_table(of_group), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(options: Iterable[Declared]) -> list[str]:
    lines = ["| option | values | default | redone | |", "|---|---|---|---|---|"]
    for one in options:
        names = one.option.metavar if one.option.positional else ", ".join(one.flags)
        redone = "" if one.option.stale is Stale.NEVER else "yes"
        cells = (f"`{names}`", _values(one), _default(one), redone, one.option.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _values(one: Declared) -> str:
    kind = one.plain_kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(value.value) for value in kind)
    if one.option.range is not None:
        return str(one.option.range).removesuffix(" is needed").removesuffix(" is possible")
    if one.option.metavar and not one.option.positional:
        return f"`{one.option.metavar}`"
    return {bool: "", int: "whole number", float: "number", Path: "path"}.get(kind, "")


def _default(one: Declared) -> str:
    if one.option.default_text:
        return one.option.default_text
    value: Any = one.default
    return "" if value in (MISSING, None, False, "", ()) else str(value)


if __name__ == "__main__":
    sys.stdout.write(render())
