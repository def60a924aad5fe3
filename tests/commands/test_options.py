"""The options of all commands: declared once, the same on the command line, in Python, in the docs."""

import json
import re
from dataclasses import MISSING, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import typer
from options_list import all_options
from typer.testing import CliRunner

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._options_page import COMMANDS, render
from varestorer_cli.core import options as options_module
from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import (
    CheckedOptions,
    Option,
    Range,
    Stale,
    all_declared,
    declared,
    option,
    settings_of,
    values_of,
)
from varestorer_cli.core.options import FailureLimit, RestoreOptions, RestoreRequest, TextOptions
from varestorer_cli.core.sharding import Shard
from varestorer_cli.core.shared_options import GROUPS
from varestorer_cli.core.sizing import Sizing

ROOT = Path(__file__).resolve().parents[2]
PROMISED = json.loads((ROOT / "tests" / "data" / "options.json").read_text())
"""Options that scripts rely on; a new one need not be added, one of these may not change."""


@pytest.mark.parametrize("command", PROMISED)
def test_no_option_changes_its_name_type_or_default(command: str) -> None:
    now = all_options()[command]
    assert {name: now.get(name) for name in PROMISED[command]} == PROMISED[command]


def test_the_page_of_options_is_what_the_fields_say() -> None:
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == render(), "run: make options-page"


def test_the_page_names_every_option_of_every_command() -> None:
    page = render()
    for command, options in all_options().items():
        for name in options:
            assert re.search(rf"`{re.escape(name)}\b", page) or not name.startswith("-"), f"{command}: {name}"


@pytest.mark.parametrize("owner", sorted({one for owners in COMMANDS.values() for one in owners}, key=str))
def test_every_option_stands_under_a_heading_and_says_what_it_is(owner: type) -> None:
    for one in all_declared(owner):
        assert one.option.group in GROUPS and len(one.option.help) > 5, one.name


# --- the settings hash

OTHER: dict[str, Any] = {
    "model": "x", "weights": "x", "sizing": Sizing(scale=2), "tile": 7, "overlap": 7, "batch": 7, "device": "cpu",
    "gpus": "all", "threads": 7, "fidelity": 0.5, "text": TextOptions(prompt="x"), "seed": 7, "format": ImageFormat.EXR,
    "quality": 7, "layer": "x", "name": "x", "frames": "1", "shard": Shard(0, 2), "max_failed": FailureLimit(1),
    "only_below": 7, "pages": "all",
}  # fmt: skip


@pytest.mark.parametrize("one", declared(RestoreOptions), ids=lambda one: one.name)
def test_the_hash_holds_what_a_field_says(one: Any) -> None:
    """Overlap, sampling, format and the text are handed over as resolved: they count as those."""
    if one.name in OTHER:
        value = OTHER[one.name]
    else:
        value = not one.default if one.kind is bool else list(type(one.default))[-1]
    assert value != one.default
    assert (settings_of(RestoreOptions(**{one.name: value})) != settings_of(RestoreOptions())) is (
        one.option.stale in (Stale.ALWAYS, Stale.WHEN_SET)
    )


def settings_hash(options: RestoreOptions, **changes: Any) -> str:
    return options.settings_sha256(
        **{"overlap": 4, "sampling": "argmax", "format": ImageFormat.PNG} | changes  # type: ignore[arg-type]
    )


def test_hashes_of_earlier_versions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every output that exists would be redone. The values were written by the version before.

    Only ``PROCESSING_VERSION`` may change them all: it is raised where the same settings make other pixels.
    """
    now = settings_hash(RestoreOptions())
    monkeypatch.setattr(options_module, "PROCESSING_VERSION", 1)
    assert settings_hash(RestoreOptions()) != now
    assert settings_hash(RestoreOptions()) == "21e4a626c29f55449dcb84dc1c8d73f325542958caa8eac0cda0e7549f3c17ab"
    many: dict[str, Any] = {
        "sizing": Sizing(size=(10, 20)), "tile": 64, "fidelity": 1, "seed": 3, "strip": True, "layer": "a",
        "keep_hidden": True, "quality": 80, "precision": "bf16", "color_fix": "none", "compat": "released",
        "transfer": "linear",
    }  # fmt: skip
    assert (
        settings_hash(RestoreOptions(**many), sampling="sample", format=ImageFormat.JPEG, text=("a", "b"), overlap=9)
        == "e88c13a4962c1c0c4d2093b3c05bb8181af8dc00fddf965acfcba3a083091b99"
    )


def test_a_new_option_leaves_the_hash_alone_until_it_is_set() -> None:
    assert "layer" not in settings_of(RestoreOptions())
    assert settings_hash(RestoreOptions(layer="a")) != settings_hash(RestoreOptions())


@pytest.mark.parametrize("change", [{"scale": 2}, {"size": (3, 4)}, {"long_side": 9}, {"short_side": 9}])
def test_sizes_count(change: dict[str, Any]) -> None:
    assert settings_hash(RestoreOptions(sizing=Sizing(**change))) != settings_hash(RestoreOptions())
    assert settings_hash(RestoreOptions(sizing=Sizing(scale=4))) == settings_hash(RestoreOptions())


# --- values from Python are checked as those of the command line


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tile": "x"}, "--tile 'x': a whole number is needed"),
        ({"tile": 2.5}, "--tile 2.5: a whole number is needed"),
        ({"tile": True}, "--tile True: a whole number is needed"),
        ({"fidelity": "1"}, "--fidelity '1': a number is needed"),
        ({"fidelity": float("nan")}, "--fidelity nan: 0 .sharpest. to 1 .most faithful. is possible"),
        ({"strict": "yes"}, "--strict 'yes': True or False is needed"),
        ({"name": 3}, "--name 3: text is needed"),
        ({"shard": "3/2"}, "--shard 3/2: shards count from 0"),
        ({"max_failed": "x"}, "--max-failed x: expected a number"),
        ({"compat": "x"}, "--compat x: possible are none, released and released-square"),
    ],
)
def test_impossible_values_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RestoreOptions(**values)


def test_text_becomes_what_the_field_holds() -> None:
    options = RestoreOptions(shard="1/3", max_failed="5%", weights="w", format=".JPEG")  # type: ignore[arg-type]
    assert options.shard == Shard(1, 3) and options.max_failed == FailureLimit(5, percent=True)
    assert options.weights == Path("w") and options.format is ImageFormat.JPEG
    assert Sizing(size="30x20").size == (30, 20)  # type: ignore[arg-type]


# --- from fields to a command


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


SHARED = Option("How loud.", "Loud", range=Range(0, 9))


@dataclass(frozen=True)
class Inner:
    width: int = option(3, "How wide.", "Wide", flags=("--wide", "-w"))


@dataclass(frozen=True)
class Outer(CheckedOptions):
    files: tuple[str, ...] = option(MISSING, "Which.", "Loud", positional=True, metavar="FILE...")
    colour: Colour = option(Colour.RED, "Which one.", "Loud")
    volume: int | None = option(None, SHARED)
    limit: FailureLimit = option(FailureLimit(2), "How many.", "Loud", parse=FailureLimit.parse)
    deep: bool = option(False, "Whether deep.", "Loud")
    inner: Inner = Inner()
    untold: int = 5


def run(words: list[str], groups: tuple[str, ...] = ()) -> tuple[Any, str]:
    got: list[Outer] = []

    def command(outer: Outer) -> None:
        got.append(outer)

    app = typer.Typer()
    app.command()(with_options(command, groups))
    result = CliRunner().invoke(app, words)
    return (got[0] if got else result.exception), result.output


def test_a_command_gets_its_dataclasses() -> None:
    assert run(["a", "b"])[0] == Outer(("a", "b"))
    words = ["a", "--colour", "blue", "--volume", "9", "--limit", "7%", "--deep", "-w", "4"]
    assert run(words)[0] == Outer(("a",), Colour.BLUE, 9, FailureLimit(7, percent=True), True, Inner(4))


def test_a_command_refuses_what_the_fields_refuse() -> None:
    error, _ = run(["a", "--volume", "10"])
    assert isinstance(error, UsageError) and "--volume 10: 0 to 9 is possible" in str(error)
    error, _ = run(["a", "--limit", "x"])
    assert isinstance(error, UsageError)
    _, said = run(["a", "--colour", "green"])
    assert "green" in said


def test_headings_come_in_the_order_that_is_asked_for() -> None:
    first, last = (run(["--help"], groups)[1] for groups in (("Loud", "Wide"), ("Wide", "Loud")))
    assert first.index("--volume") < first.index("--wide") and last.index("--volume") > last.index("--wide")


def test_every_value_is_told_with_its_option() -> None:
    told = {one.flag: value for one, value in values_of(RestoreOptions(sizing=Sizing(scale=2), name="{stem}"))}
    assert told["--scale"] == 2 and told["--name"] == "{stem}" and told["--prompt"] is None
    assert set(told) == {one.flag for one in all_declared(RestoreOptions)}


def test_two_fields_of_one_name_are_refused() -> None:
    def command(outer: Outer, inner: Inner) -> None: ...

    with pytest.raises(TypeError, match="two fields have one name"):
        with_options(command)


def test_the_last_path_is_the_output_unless_one_is_named() -> None:
    assert RestoreRequest(("a", "b", "c")).inputs == ("a", "b") and RestoreRequest(("a", "b", "c")).output == "c"
    named = RestoreRequest(("a", "b"), "c")
    assert (named.inputs, named.output) == (("a", "b"), "c")
    assert replace(named, json=True).inputs == ("a", "b")
    with pytest.raises(UsageError, match="a: an input and an output are needed"):
        RestoreRequest(("a",))
