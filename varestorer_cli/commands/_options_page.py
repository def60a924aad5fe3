"""The page ``docs/options.md``: every option of every command (``make options-page``)."""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any

from varestorer_cli.commands._help import MOST_WITHOUT_HEADINGS
from varestorer_cli.core.fields import Declared, Stale, all_declared
from varestorer_cli.core.install.options import ImportOptions, PullOptions, StoreTextOptions, VerifyOptions
from varestorer_cli.core.options import RestoreOptions, RestoreRequest
from varestorer_cli.core.score.options import ScoreOptions
from varestorer_cli.core.shared_options import GROUPS, ConsoleOptions, InstalledOptions, QuietOptions
from varestorer_cli.core.training.options import TrainOptions, VariantOptions
from varestorer_cli.core.training.tool_options import (
    AverageOptions,
    ConfigOptions,
    DialOptions,
    RunsOptions,
    TextsOptions,
)

COMMANDS: Mapping[str, tuple[type, ...]] = {
    "restore": (RestoreRequest, RestoreOptions, ConsoleOptions),
    "score": (ScoreOptions, QuietOptions),
    "train STAGE, distill": (TrainOptions, VariantOptions),
    "train without a stage": (ConfigOptions,),
    "train average": (AverageOptions,),
    "train dial": (DialOptions,),
    "runs": (RunsOptions,),
    "texts": (TextsOptions,),
    "weights pull": (PullOptions,),
    "weights import": (ImportOptions,),
    "weights text": (StoreTextOptions,),
    "weights verify": (VerifyOptions,),
    "weights list, doctor": (InstalledOptions,),
}
_HEAD = """# Options
This page is made from the fields that declare the options (`make options-page`); a test holds it to them.

"Redone" says whether outputs that exist count as stale and are redone when the option's value changes. In Python the
options of `restore` are fields of `RestoreOptions`, `Sizing` and `TextOptions`, with the same checks.
"""


def render() -> str:
    """The page."""
    lines = [_HEAD]
    for command, owners in COMMANDS.items():
        options = [one for owner in owners for one in all_declared(owner)]
        lines += [f"## {command}", ""]
        if len(options) <= MOST_WITHOUT_HEADINGS:
            lines += [*_table(options, redone=False), ""]
            continue
        for group in GROUPS:
            of_group = [one for one in options if one.option.group == group]
            if of_group:
                lines += [f"### {group}", "", *_table(of_group, redone=command == "restore"), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(options: Iterable[Declared], *, redone: bool) -> list[str]:
    head = ["option", "values", "default", *(["redone"] if redone else []), "help"]
    lines = [_line(head), _line("---" for _ in head).replace(" ", "")]
    for one in options:
        names = one.option.metavar or one.name.upper() if one.option.positional else ", ".join(one.flags)
        stale = [] if not redone else ["" if one.option.stale is Stale.NEVER else "yes"]
        only = f" ({', '.join(one.option.only)})" if one.option.only else ""
        lines.append(_line([f"`{names}`", _values(one), _default(one), *stale, one.option.help + only]))
    return lines


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(one: Declared) -> str:
    kind = one.plain_kind
    kind = one.option.given_as if isinstance(one.option.given_as, type) else kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(value.value) for value in kind)
    if one.option.range is not None:
        return re.sub(
            r"^(it must be|a seed is|the learning rate must be) | is (needed|possible)$", "", str(one.option.range)
        )
    if one.option.metavar and not one.option.positional:
        return f"`{one.option.metavar}`"
    return {bool: "", int: "whole number", float: "number", Path: "path"}.get(kind, "")


def _default(one: Declared) -> str:
    if one.option.default_text:
        return one.option.default_text
    value: Any = one.default
    return "" if value is MISSING or (not value and value != 0) or value is False else str(value)


if __name__ == "__main__":
    sys.stdout.write(render())
