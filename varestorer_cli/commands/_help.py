"""The help of a command: options under headings, one line each where it fits, as wide as the terminal."""

import os
import re
import shutil
import textwrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_WIDEST = 120
_FLAGS_WIDTH = 34
_WHOLE = 10_000  # characters of a sentence that are shown
_PLACEHOLDERS = {"int": "N", "float": "X", "str": "TEXT", "path": "PATH", "Path": "PATH", "bool": ""}
_LAST = "Messages"
MOST_WITHOUT_HEADINGS = 10
"""Options of a command that stand under no headings, here and in ``docs/options.md``."""


def help_width() -> int:
    """Columns of the terminal, 80 where there is none; not more than people read in one line."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


class GroupedCommand(TyperCommand):
    """A command whose help shows its options under their headings, in the order of its parameters."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the headings and the options."""
        _format_options(self, ctx, formatter)


class WrappedGroup(TyperGroup):
    """A command with subcommands whose help says the first sentence of each, wrapped and not cut off."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the subcommands."""
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names and the sentences."""
        shown = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(_WHOLE)) for name, one in shown if not one.hidden])


def _format_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the options of a command, under their headings where they are many."""
    shown = [(one, record) for one in command.get_params(ctx) if (record := one.get_help_record(ctx)) is not None]
    many = len(shown) - 1 > MOST_WITHOUT_HEADINGS  # --help does not count
    groups: dict[str, list[tuple[str, str]]] = {}
    for one, record in shown:
        heading = getattr(one, "rich_help_panel", None) or _LAST
        groups.setdefault(heading if many else "Options", []).append(_shortened(*record))
    width = max(len(flags) for rows in groups.values() for flags, _ in rows if len(flags) <= _FLAGS_WIDTH)
    for heading, rows in groups.items():
        formatter.write(f"\n{_styled(heading, bold=True, fg=typer.colors.YELLOW)}\n")
        for flags, text in rows:
            # a name such as released-square stays whole
            lines = textwrap.wrap(text, max(20, formatter.width - width - 4), break_on_hyphens=False)
            start = _styled(flags, fg=typer.colors.CYAN) + " " * (width - len(flags))
            first, rest = (lines[:1], lines[1:]) if len(flags) <= width else ([], lines)
            formatter.write(f"  {'  '.join([start, *first])}\n")
            formatter.write("".join(f"{'':{width + 4}}{line}\n" for line in rest))


def _shortened(flags: str, text: str) -> tuple[str, str]:
    """Flags with a short placeholder; choices that are too long for it go to the end of the text.

    A default that the choices or the text begin with is not said again.
    """
    body, _, rest = text.partition("  [")
    rest = re.sub(r"^default: \((.*)\)\]$", r"default: \1]", rest)  # brackets of a default in words
    default = re.fullmatch(r"default: (.*)\]", rest)
    found = re.fullmatch(r"(.*?) <(?:list\[)?([^>\]]*)\]?>\.*", flags)
    if not flags.startswith("-"):  # whether an argument is required is in the line of usage
        return (found[1].upper() if found is not None else flags), body
    first = flags.rpartition(" ")[2].split("|")[0] if "|" in flags else re.split(r"[\s,]", body, maxsplit=1)[0]
    if found is not None and "|" in found[2]:
        first = found[2].split("|")[0]
        if len(flags) - 2 <= _FLAGS_WIDTH:
            flags = f"{found[1]} {found[2]}"
        else:
            flags, body = f"{found[1]} WORD", f"{body.rstrip('.')}: {found[2].replace('|', ', ')}."
    elif found is not None:
        flags = f"{found[1]} {_PLACEHOLDERS.get(found[2], '')}".rstrip()
    if not rest or (default is not None and default[1] == first):
        return flags, body
    return flags, f"{body}  [{rest}"


def _styled(text: str, **style: Any) -> str:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "") in ("", "dumb")
    return text if plain else typer.style(text, **style)
