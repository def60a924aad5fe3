"""Options of a run: nonsense is refused with code 2 before anything is done; documented commands are commands."""

import math
from pathlib import Path
from typing import Any

import pytest

from varestorer_cli.app import run
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.options import STAGES, TrainOptions
from varestorer_cli.core.training.presets import preset, preset_names

ROOT = Path(__file__).parents[3]


def options(stage: str = "distill", **changes: Any) -> TrainOptions:
    return TrainOptions(stage, Path("photos"), Path("out"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[({"learning_rate": value}, r"--lr .*above 0") for value in (-1.0, 0.0, math.nan, math.inf)],
        ({"seed": -5}, "--seed -5"),
        ({"seed": 2**40}, "--seed"),
        *[({"losses": {"mse": value}}, "--loss mse=") for value in (-0.5, math.nan, math.inf)],
        *[({"label_share": value}, "--keep .*from 0 to 1") for value in (-0.1, 1.5, math.nan)],
        *[({"decoder": value}, "--decoder .*from 0 up") for value in (-1.0, math.nan)],
        ({"variant": {"encoder": -1.0}}, "--encoder -1"),
        ({"variant": {"flips": 1.5}}, "--flips 1.5"),
        ({"variant": {"guidance": math.nan}}, "--guidance nan"),
        ({"variant": {"text_drop": 0.1}}, "give --texts"),
        ({"batch": 0}, "--batch 0"),
        ({"steps": -1}, "--steps -1"),
        ({"crops": 0}, "--crops 0"),
        ({"checkpoint_minutes": math.nan}, "--checkpoint-minutes nan"),
        ({"stop_after": -1.0}, "--stop-after -1"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0"),
    ],
    ids=str,
)
def test_values_without_a_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    options().check()
    with pytest.raises(UsageError, match=message):
        options(**changes).check()


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("prerestorer", {"head": "bits"}),
        ("prerestorer", {"tokenizer": Path("x")}),
        ("tokenizer", {"texts": Path("x")}),
        ("tokenizer", {"label_share": 0.5}),
        ("tokenizer", {"patch": 64}),
        ("teacher", {"decoder": 0.5}),
        ("teacher", {"variant": {"flips": 0.1}}),
        ("teacher", {"label": Path("x")}),
        ("prerestorer", {"recompute": True}),
        ("tokenizer", {"parallel": "fsdp"}),
    ],
    ids=str,
)
def test_options_that_a_stage_has_no_use_for_are_refused(stage: str, changes: dict[str, Any]) -> None:
    options(stage).check()
    with pytest.raises(UsageError, match=r"--.*stage " + stage):
        options(stage, **changes).check()


@pytest.mark.parametrize(
    "words",
    [
        ["prerestorer", "--lr", "nan"],
        ["prerestorer", "--lr", "0"],
        ["prerestorer", "--seed", "-5"],
        ["prerestorer", "--loss", "l1=-1"],
        ["prerestorer", "--keep", "-1"],
        ["prerestorer", "--texts", "x"],
        ["prerestorer", "--precision", "fp16"],
        ["prerestorer", "--precision", "half"],
        ["tokenizer", "--keep", "0.5"],
        ["prerestorer", "--patch", "28"],
    ],
    ids=" ".join,
)
def test_the_command_ends_with_code_2(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage, *rest = words
    assert run(["train", stage, str(tmp_path), "-o", str(tmp_path / "run"), *rest]) == 2
    assert "bug" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", preset_names())
def test_crops_and_scales_of_every_preset_agree(name: str) -> None:
    chosen = preset(name)
    for stage in STAGES[1:]:
        if stage != "prerestorer":
            assert chosen.recipes[stage].patch == chosen.tokenizer.tile
