"""Presets and configuration files: read, refused with the key's name, printed and read back."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from varestorer_cli.app import run
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.config_file import to_toml
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import configured, effective, preset, preset_names, read_preset
from varestorer_models.rrdb import RRDBConfig
from varestorer_models.swinir import SwinIRConfig


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("base", ["compact", "2b", None])
def test_what_is_printed_is_read_back_over_any_preset(name: str, base: str | None, tmp_path: Path) -> None:
    assert read_preset(written(tmp_path, to_toml(preset(name))), base) == preset(name)


def test_every_field_is_printed() -> None:
    printed = tomllib.loads(to_toml(preset("smoke")))
    assert set(printed) == set(vars(preset("smoke")))
    recipe = preset("smoke").recipes["distill"]
    assert set(printed["recipes"]["distill"]) == set(vars(recipe))
    assert set(printed["recipes"]["distill"]["variant"]) == set(vars(recipe.variant))
    assert set(printed["teacher"]) == set(vars(preset("smoke").teacher))
    assert printed["student_autoencoder"] == "none" and printed["prerestorer"]["class"] == "ConvRestorer"


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    text = "[teacher]\ndepth = 6\n[recipes.distill]\nlearning_rate = 1\n[recipes.distill.losses]\nkl = 1.0\n"
    made, base = read_preset(written(tmp_path, text), "2b"), preset("2b")
    recipe = replace(base.recipes["distill"], learning_rate=1.0, losses={"kl": 1.0})
    assert made == replace(
        base, name="mine", teacher=replace(base.teacher, depth=6), recipes={**base.recipes, "distill": recipe}
    ), "a table of losses takes the place of the one before"


def test_the_base_may_stand_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'base = "smoke"\nname = "own"')
    assert read_preset(path, None) == replace(preset("smoke"), name="own") == read_preset(path, "smoke")
    with pytest.raises(UsageError, match="its base is 'smoke', --preset says 2b"):
        read_preset(path, "2b")


def test_another_network_starts_from_its_own_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, '[prerestorer]\nclass = "SwinIR"\nwidth = 60\n')
    assert read_preset(path, "compact").prerestorer == SwinIRConfig(width=60)
    path = written(tmp_path, "[prerestorer]\nwidth = 16\n")
    assert read_preset(path, "compact").prerestorer == RRDBConfig(width=16, blocks=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[techer]\nwidth = 64", "there is no key techer; did you mean teacher"),
        ("[teacher]\nwdth = 64", r"no key teacher\.wdth; did you mean width"),
        ("[recipes.distil]\nsteps = 3", "recipes.* no stage distil; did you mean distill|recipes.distil"),
        ("[recipes.distill.variant]\nflip = 0.1", r"variant\.flip; did you mean flips"),
        ("zzz = 1", "no key zzz; known are name"),
        ("[teacher]\nwidth = 64.0", r"teacher\.width is 64\.0; it must be a whole number"),
        ("[teacher]\nwidth = true", r"teacher\.width is True; it must be a whole number"),
        ("large = 1", "large is 1; it must be true or false"),
        ("name = 3", "name is 3; it must be a text"),
        ("teacher = 3", r"teacher is 3; it must be a table, \[teacher\]"),
        ("recipes = []", "recipes is .*must be a table"),
        ("[recipes]\ndistill = 1", r"recipes\.distill is 1; it must be a table"),
        ('[recipes.distill]\nlearning_rate = "1e-4"', r"recipes\.distill\.learning_rate is '1e-4'; .*number"),
        ("[recipes.distill]\nlearning_rate = nan", r"learning_rate is nan; it must be a number"),
        ("[recipes.distill]\nlearning_rate = 0", "recipes.distill: learning_rate must be above 0"),
        ("[recipes.distill]\nbetas = [0.9]", r"betas is \[0\.9\]; it needs 2 entries"),
        ("[recipes.distill]\nbetas = [0.9, 1.0]", "betas must be from 0 up and below 1"),
        ("[recipes.distill]\nbetas = 0.9", "betas is 0.9; it must be a list"),
        ("[recipes.distill.losses]\nkl = -1", "losses.kl must be a number from 0 up"),
        ('[recipes.distill.losses]\nkl = "1"', "losses.kl is '1'; it must be a number"),
        ("[recipes.distill.variant]\nflips = 2", "flips must be a number from 0 to 1"),
        ('[recipes.distill.variant]\nbits = "few"', "bits is 'few'; it must be one of 'sampled'"),
        ("[recipes.distill]\npatch = 32", r"recipes\.distill\.patch is 32, its scales belong to tiles of 64"),
        ("[recipes.prerestorer]\npatch = 30", r"recipes\.prerestorer\.patch is 30; it must be a multiple"),
        ("[recipes.prerestorer]\nsteps = -1", "steps must be a number from 0 up"),
        (f"[recipes.prerestorer]\nsteps = {10**30}", "must be a whole number"),
        ("[teacher]\nbits = 8", "teacher.bits is 8, tokenizer.quantizer.bits 16"),
        ("[teacher]\nlevels = 2", "teacher.levels is 2, the schedule needs 5"),
        ("[teacher]\nwidth = 30", r"teacher: width 30 does not give"),
        ("[tokenizer.schedule]\ngrids = [[1, 1], [8, 8], [4, 4]]", "tokenizer.schedule: grids must not shrink"),
        ("[tokenizer.schedule]\ngrids = [[1, 1], [8]]", r"grids\[1\] is \[8\]; it needs 2 entries"),
        ('[prerestorer]\nclass = "UNet"', "prerestorer.class is 'UNet'; it must be one of ConvRestorer, RRDB, SwinIR"),
        ("[prerestorer]\nwidth = -4", "no network can be built from prerestorer"),
        ('base = "huge"', "there is no preset 'huge' for its base"),
        ("base = 2", "there is no preset 2 for its base"),
        ("a = [", "not a TOML file"),
        ("\x00", "not a TOML file"),
    ],
    ids=str,
)
def test_what_a_file_cannot_say_is_refused_with_code_2(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, 'base = "smoke"\n' + text if not text.startswith("base") else text)
    with pytest.raises(UsageError, match=message) as caught:
        configured(None, path)
    assert str(path) in str(caught.value)
    assert run(["train", "--show-config", "--config", str(path)]) == 2
    assert "bug" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "large"])
def test_files_that_are_none_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(bytes(range(128, 256)))
    elif kind == "large":
        path.write_bytes(b" " * (2 << 20))
    with pytest.raises(UsageError, match=str(path)):
        configured(None, path)
    assert run(["train", "teacher", "photos", "-o", str(tmp_path / "r"), "--config", str(path), "--dry-run"]) == 2


def test_an_empty_file_is_the_preset(tmp_path: Path) -> None:
    assert read_preset(written(tmp_path, ""), "smoke") == replace(preset("smoke"), name="mine")


def test_options_come_on_top_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, 'base = "smoke"\n[recipes.distill]\nsteps = 7\nwarmup = 2\n')
    words = ["distill", "photos", "-o", str(tmp_path / "run"), "--config", str(path)]
    changes = ["--lr", "0.25", "--loss", "mse=0", "--flips", "0.5", "--head", "latent", "--crops", "3", "--keep", "0.5"]
    assert run([*words, *changes, "--show-config"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    recipe = printed["recipes"]["distill"]
    assert (recipe["steps"], recipe["warmup"], recipe["learning_rate"], recipe["label_share"]) == (7, 2, 0.25, 0.5)
    assert recipe["losses"] == {"kl": 0.1, "texture": 0.25, "mse": 0.0} and recipe["variant"]["flips"] == 0.5
    assert (printed["student_head"], printed["crops"], printed["name"]) == ("latent", 3, "mine")
    assert not (tmp_path / "run").exists()
    (tmp_path / "again.toml").write_text(to_toml(effective(TrainOptions("distill", Path(), Path(), config=path))))
    assert configured(None, tmp_path / "again.toml").recipes["distill"].steps == 7


def test_a_preset_is_printed_without_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--show-config", "--preset", "2b"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["teacher"]["depth"] == 32
    assert run(["train", "--show-config", "teacher", "photos", "-o", "x"]) == 2
    assert "behind the stage" in capsys.readouterr().err
    assert run(["train", "--preset", "smoke"]) == 2


def test_a_run_of_own_sizes_resumes_and_says_what_it_was(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    (tmp_path / "photos").mkdir()
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), image)
    path = written(tmp_path, 'base = "smoke"\ncrops = 6\n[prerestorer]\nwidth = 4\n[recipes.prerestorer]\nsteps = 2\n')
    words = ["train", "prerestorer", str(tmp_path / "photos"), "-o", str(tmp_path / "run"), "--config", str(path)]
    words += ["--device", "cpu", "--threads", "1", "-q"]
    assert run(words) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["preset"] == "mine" and record["config"]["prerestorer"]["width"] == 4
    assert record["config"]["recipes"]["prerestorer"]["steps"] == 2 and record["config"]["crops"] == 6
    assert run([*words, "--resume"]) == 0
    path.write_text(path.read_text().replace("width = 4", "width = 8"))
    assert run([*words, "--resume"]) == 4, "another network"
