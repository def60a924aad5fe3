"""What a run refuses before its first step, and how it goes on after a fault."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from training_runs import earlier_stages, losses, options

from varestorer_cli.app import run
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.run_folder import checkpoints
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_models.tokenizer import ImageTokenizer


def test_a_used_run_folder_is_refused_without_resume(chain: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match=r"holds a run already; give --resume"):
        train(options("tokenizer", photos, chain, steps=6))


def test_resume_under_other_settings_names_the_difference(chain: Path, photos: Path) -> None:
    with pytest.raises(CheckpointError, match=r"seed = 0, now it is 1"):
        train(options("tokenizer", photos, chain, steps=6, seed=1, resume=True))


def test_other_frozen_weights_are_refused_by_name(chain: Path, photos: Path, tmp_path: Path) -> None:
    """The same shape is not the same tokenizer."""
    other = train(options("tokenizer", photos, tmp_path, steps=1, seed=5, cache=chain / "cache"))
    with pytest.raises(CheckpointError, match=r"started with frozen\.tokenizer = '[0-9a-f]{64}', now it is"):
        train(options("teacher", photos, chain, steps=6, resume=True, tokenizer=other.parent))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_with_another_rate(
    chain: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = options("prerestorer", photos, tmp_path, steps=6, cache=chain / "cache", resume=True)
    for _ in range(3):
        train(replace(run, stop_after=0.0))
    newest, before = checkpoints(run.out)
    newest.write_bytes(newest.read_bytes()[:-100])
    train(replace(run, stop_after=0.0))
    said = capsys.readouterr().err
    assert f"warning: {newest}: the checkpoint is damaged" in said and before.name in said
    assert checkpoints(run.out)[0].name == newest.name, "made again"
    train(replace(run, learning_rate=1e-5))
    assert "learning rate 1e-05 (was 0.001)" in capsys.readouterr().err
    assert set(losses(run.out)) == {1, 2, 3, 4, 5, 6}
    starts = json.loads((run.out / "run.json").read_text())["starts"]
    assert [start["learning_rate"] for start in starts] == [1e-3] * 4 + [1e-5]


def test_an_earlier_stage_of_another_preset_is_refused(chain: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(CheckpointError, match=r"its tokenizer has tile 64, preset compact has 256; give the --preset"):
        train(options("teacher", photos, tmp_path, preset="compact", tokenizer=chain / "tokenizer", crops=8, steps=1))


def test_missing_earlier_stage_says_what_to_run(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"needs a trained tokenizer.*varestorer train tokenizer"):
        train(options("teacher", photos, tmp_path, steps=1))


def test_a_student_is_refused_as_a_teacher(photos: Path, chain: Path, tmp_path: Path) -> None:
    given = earlier_stages("distill", chain) | {"teacher": chain / "distill"}
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*holds a student"):
        train(options("distill", photos, tmp_path, cache=chain / "cache", **given))


def test_a_students_guided_tokenizer_is_refused_for_a_teacher(photos: Path, chain: Path, tmp_path: Path) -> None:
    smoke = preset("smoke").tokenizer
    guided = ImageTokenizer(replace(smoke, autoencoder=replace(smoke.autoencoder, guided=True)))
    path = tmp_path / "guided.safetensors"
    save_bundle(path, {"tokenizer": guided})
    given = earlier_stages("teacher", chain) | {"tokenizer": path}
    with pytest.raises(CheckpointError, match=r"guided\.safetensors: .*train tokenizer made"):
        train(options("teacher", photos, tmp_path, cache=chain / "cache", **given))


def test_unknown_loss_is_refused_with_the_known_ones(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no loss term 'l7'.*l1, mse"):
        train(options("prerestorer", photos, tmp_path, losses={"l7": 1.0}))


def test_damaged_checkpoint_is_refused(chain: Path, photos: Path, tmp_path: Path) -> None:
    run = options("tokenizer", photos, tmp_path, steps=6, cache=chain / "cache", resume=True)
    run.out.mkdir()
    data = checkpoints(chain / "tokenizer")[0].read_bytes()
    (run.out / "checkpoint_00000006.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        CheckpointError, match=r"the checkpoint is damaged \([^.]*\); there is no other, start a new run"
    ):
        train(run)


def test_hints_need_a_network_that_can_take_them(photos: Path, chain: Path, tmp_path: Path) -> None:
    for asked in ({"losses": {"hints": 1.0}}, {"label_share": 0.5}):
        with pytest.raises(UsageError, match="RRDBNet"):
            train(options("prerestorer", photos, tmp_path, cache=chain / "cache", **asked))


def test_a_refused_start_leaves_the_record_as_it_was(photos: Path, chain: Path, tmp_path: Path) -> None:
    run = options("prerestorer", photos, tmp_path, steps=2, cache=chain / "cache")
    train(run)
    record = (run.out / "run.json").read_text()
    with pytest.raises(CheckpointError, match="started with seed = 0, now it is 9"):
        train(replace(run, resume=True, seed=9))
    assert (run.out / "run.json").read_text() == record
    train(replace(run, resume=True))
    assert [start["resume"] for start in json.loads((run.out / "run.json").read_text())["starts"]] == [False, True]


def test_a_run_that_diverges_is_no_bug_and_goes_on_with_a_lower_rate(photos: Path, chain: Path, tmp_path: Path) -> None:
    words = ["train", "prerestorer", str(photos), "-o", str(tmp_path / "run"), "--preset", "smoke", "--crops", "24"]
    words += ["--threads", "1", "--device", "cpu", "-q", "--steps", "4", "--cache", str(chain / "cache")]
    assert run([*words, "--lr", "1e30"]) == 1
    assert run([*words, "--lr", "1e-4", "--resume"]) == 0


def test_weights_of_another_number_of_blocks_name_the_first_that_differs(
    photos: Path, chain: Path, tmp_path: Path
) -> None:
    config = tmp_path / "deeper.toml"
    config.write_text('base = "smoke"\n[prerestorer]\nblocks = 3\n')
    asked = options("prerestorer", photos, tmp_path, preset=None, config=config, init=chain / "prerestorer", steps=1)
    with pytest.raises(CheckpointError, match=r'does not fit this preset \(Missing key\(s\) in state_dict: "[\w.]+"\)'):
        train(asked)


def test_weights_of_another_size_name_the_first_that_differs(photos: Path, chain: Path, tmp_path: Path) -> None:
    asked = options("prerestorer", photos, tmp_path, preset="mini", init=chain / "prerestorer", steps=1)
    with pytest.raises(
        CheckpointError, match=r"does not fit this preset \(size mismatch for conv_in\.weight: .*--config"
    ):
        train(asked)


@pytest.mark.parametrize(
    ("stage", "variant", "missing"),
    [("teacher", {}, "tokenizer"), ("teacher", {"degraded": 1.0}, "prerestorer"), ("distill", {}, "prerestorer")],
)
def test_a_missing_earlier_stage_is_said_before_photographs_are_cut(
    stage: str, variant: dict[str, float], missing: str, photos: Path, chain: Path, tmp_path: Path
) -> None:
    tokenizer = {"tokenizer": chain / "tokenizer"} if variant else {}
    with pytest.raises(MissingDependencyError, match=f"needs a trained {missing}, but .* does not exist"):
        train(options(stage, photos, tmp_path, variant=variant, **tokenizer))
    assert not (tmp_path / "cache").exists()
