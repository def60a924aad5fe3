"""`make train-bundled` is the recipe of the files that ship: stages, steps, seeds, shares, as their own notes say."""

import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.test_boundaries import ROOT


@pytest.fixture(scope="module")
def planned() -> dict[str, list[str]]:
    """Words of the command that makes each stage, by the stage's folder."""
    words = ["make", "-n", "-B", "train-bundled", "PHOTOS=p", "RUNS=runs"]
    plan = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = [
        shlex.split(line) for line in plan.replace("\\\n", " ").splitlines() if " train " in line and "--out" in line
    ]
    return {Path(after(command, "--out")).name: command for command in commands}


def after(command: list[str], option: str, default: str = "") -> str:
    """The value of an option in a command."""
    return command[command.index(option) + 1] if option in command else default


def parts(notes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a mixture was made of."""
    return json.loads(notes.get("of", "[]"))


def stages(name: str, notes: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A model and all that it was made of, with their notes."""
    yield name, notes
    for part in parts(notes):
        yield from stages(Path(part["name"]).parent.name, part["notes"])


@pytest.mark.parametrize("model", ["fine", "compact"])
def test_the_recipe_is_that_of_the_file(model, planned):
    with safe_open(ROOT / f"varestorer_cli/data/{model}.safetensors", "pt") as opened:
        notes = json.loads(opened.metadata()["notes"])
    found = list(stages(model, notes))
    assert len(found) > 4
    for name, said in found:
        command = planned[name]
        made_of = [Path(part["name"]).parent.name for part in parts(said)]
        if said["stage"] == "prerestorer":
            assert (after(command, "--steps"), after(command, "--seed", "0")) == (said["steps"], said.get("seed", "0"))
            assert after(command, "--trainable") == said.get("trainable", "")
            assert said["licence"] in ("", after(command, "--license"))
        elif said["stage"] == "average":
            assert [Path(word).name for word in command[3 : 3 + len(made_of)]] == made_of
            assert [float(share) for share in after(command, "--weights").split(",")] == [
                part["weight"] for part in parts(said)
            ]
        else:
            assert [Path(word).name for word in command[3:5]] == made_of
            assert float(after(command, "--default")) == parts(said)[0]["fidelity"]
