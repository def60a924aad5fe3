"""Training: the four stages end to end, exact resume, signals."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from training_runs import earlier_stages, losses, options

from varestorer_cli.app import run
from varestorer_cli.core.errors import CheckpointError, UsageError
from varestorer_cli.core.training import builder, presets
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.run_folder import checkpoints
from varestorer_cli.core.training.stages import PrerestorerTask, blended_target
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet


def test_chain_ends_in_a_restorer_that_runs(chain: Path) -> None:
    loaded = load_restorer(chain / "distill")
    assert isinstance(loaded.restorer, OneStepRestorer)
    tile = torch.rand(2, 3, loaded.restorer.tile, loaded.restorer.tile, generator=torch.Generator().manual_seed(0))
    out = loaded.restorer(tile)
    assert out.image_B3TT.shape == tile.shape
    assert torch.isfinite(out.image_B3TT).all()
    assert loaded.metadata["stage"] == "distill"
    assert loaded.metadata["steps"] == "6"


@pytest.mark.parametrize("stage", ["prerestorer", "tokenizer", "teacher", "distill"])
def test_resume_repeats_the_uninterrupted_run_exactly(stage: str, photos: Path, chain: Path, tmp_path: Path) -> None:
    earlier = earlier_stages(stage, chain)
    torn = options(stage, photos, tmp_path, steps=6, cache=chain / "cache", **earlier)
    paused = train(replace(torn, stop_after=0.0))  # pauses after its first step
    assert set(losses(torn.out)) == {1}
    assert paused.exists()
    train(replace(torn, resume=True))
    assert losses(torn.out) == losses(chain / stage)
    whole, resumed = (
        load_bundle(chain / stage / "model.safetensors"),
        load_bundle(torn.out / "model.safetensors"),
    )
    for name, module in whole.components.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, resumed.components[name].state_dict()[key]), f"{name}.{key}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_writes_a_checkpoint_first(number: signal.Signals, photos: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "varestorer_cli",
        "train",
        "prerestorer",
        str(photos),
        "--out",
        str(tmp_path / "run"),
    ]
    command += [
        "--preset",
        "smoke",
        "--crops",
        "24",
        "--steps",
        "100000",
        "--threads",
        "1",
        "--log-every",
        "1",
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3/"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) == (143 if number == signal.SIGTERM else 130)
    assert "a checkpoint was written" in rest and "--resume" in rest
    assert "Traceback" not in rest
    assert checkpoints(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*.part"))


def test_adapters_of_the_student_are_merged_in_the_file(chain: Path) -> None:
    keys = load_bundle(chain / "distill" / "model.safetensors").components["transformer"].state_dict()
    assert keys and not [key for key in keys if "adapter" in key]


def test_distillation_moves_the_student_away_from_its_teacher(chain: Path) -> None:
    teacher = load_bundle(chain / "teacher" / "model.safetensors").components["transformer"].state_dict()
    student = load_bundle(chain / "distill" / "model.safetensors").components["transformer"].state_dict()
    moved = [key for key in teacher if not torch.equal(teacher[key], student[key])]
    assert moved and all("attention" in key for key in moved), "only what adapters touch may change"


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_both_heads_train(head: str, photos: Path, chain: Path, tmp_path: Path) -> None:
    run = options(
        "distill",
        photos,
        tmp_path,
        steps=3,
        head=head,
        cache=chain / "cache",
        teacher=chain / "teacher",
        prerestorer=chain / "prerestorer",
    )
    train(run)
    assert load_restorer(run.out).restorer.transformer.config.head == head


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_target_keeps_a_share_of_the_sharper_image(share: float) -> None:
    image = torch.full((1, 3, 64, 64), 51, dtype=torch.uint8)
    batch = PairBatch(image, image[..., ::4, ::4], torch.zeros(1, dtype=torch.int64))
    target = blended_target(batch, torch.full((1, 3, 64, 64), 0.6), share)
    torch.testing.assert_close(target, torch.full_like(target, 2 * (0.2 + share * (0.6 - 0.2)) - 1))


def test_keeping_the_pre_restored_image_is_another_target(photos: Path, chain: Path, tmp_path: Path) -> None:
    earlier = earlier_stages("distill", chain)
    run = options("distill", photos, tmp_path, steps=2, cache=chain / "cache", **earlier)
    plain = losses(train(run).parent)
    assert losses(train(replace(run, out=tmp_path / "kept", label_share=0.5)).parent) != plain


def test_patches_have_the_side_that_was_asked_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    terms = PrerestorerTask.terms

    def recorded(task: PrerestorerTask, batch: PairBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        seen.append((tuple(batch.hq.shape[-2:]), tuple(batch.lq.shape[-2:])))
        return terms(task, batch, generator)

    monkeypatch.setattr(PrerestorerTask, "terms", recorded)
    train(options("prerestorer", photos, tmp_path / "run", steps=2, patch=32))
    assert seen == [((32, 32), (8, 8))] * 2
    for patch in (34, 4096):
        with pytest.raises(
            UsageError, match=rf"recipes\.prerestorer\.patch is {patch}; it must be a multiple of restorer\.scale, 4"
        ):
            train(options("prerestorer", photos, tmp_path / str(patch), patch=patch))


def test_broken_photograph_is_named_and_skipped(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, path in enumerate(sorted(photos.glob("*.png")) * 2):
        (folder / f"{index:02d}.png").write_bytes(path.read_bytes())
    (folder / "torn.png").write_bytes(next(photos.glob("*.png")).read_bytes()[:200])
    train(options("prerestorer", folder, tmp_path, steps=1, quiet=False))
    assert "torn.png" in capsys.readouterr().err


def test_smoke_preset_from_photographs_to_a_restored_image(photos: Path, tmp_path: Path) -> None:
    """The four stages with the preset's own steps, then ``restore``: everything a user types, in one process."""
    runs = tmp_path / "runs"
    common = ["--preset", "smoke", "--crops", "24", "--threads", "1", "--device", "cpu", "-q"]
    for stage in ("prerestorer", "tokenizer", "teacher"):
        assert run(["train", stage, str(photos), "--out", str(runs / stage), *common]) == 0
    assert run(["distill", str(photos), "--out", str(runs / "distill"), "--half", *common]) == 0
    words = ["restore", str(photos), str(tmp_path / "out"), "--scale", "1", "--model", str(runs / "distill"), "-q"]
    assert run(words) == 0
    restored = cv2.imread(str(next((tmp_path / "out").glob("training_*.png"))))
    assert restored.shape == (160, 200, 3) and restored.std() > 5


def test_a_pre_restorer_made_from_a_larger_network_trains_and_resumes(
    photos: Path, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke = preset("smoke")
    small = RRDBConfig(width=8, growth=4, blocks=2)
    recipe = replace(smoke.recipes["prerestorer"], losses={"hints": 1.0, "l1": 0.5}, label_share=0.75)
    changed = replace(smoke, prerestorer=small, recipes={**smoke.recipes, "prerestorer": recipe})
    torch.manual_seed(0)
    large = RRDBNet(replace(small, blocks=4, unshuffle=1)).requires_grad_(False)
    monkeypatch.setattr(presets, "preset", lambda name: changed)
    monkeypatch.setattr(builder, "load_realesrgan", lambda: large)
    whole = options("prerestorer", photos, tmp_path / "whole", steps=6, cache=chain / "cache")
    train(whole)
    torn = replace(whole, out=tmp_path / "torn")
    train(replace(torn, stop_after=0.0))
    train(replace(torn, resume=True))
    assert losses(torn.out) == losses(whole.out)
    figures = json.loads(load_bundle(whole.out / "model.safetensors").notes["validation"])
    assert figures["psnr_rgb"] == pytest.approx(figures["psnr"], abs=0.1), "score's figures are of the result"
    assert figures["psnr_label"] > figures["psnr"]
    trained = load_bundle(whole.out / "model.safetensors").components["prerestorer"]
    assert isinstance(trained, RRDBNet)
    assert not torch.equal(trained.body[0].rdb1.conv1.weight, large.body[0].rdb1.conv1.weight)


def test_a_pre_restorer_that_is_asked_for_stays_under_init(photos: Path, chain: Path, tmp_path: Path) -> None:
    other = train(options("prerestorer", photos, tmp_path, steps=2, seed=9, cache=chain / "cache")).parent
    earlier = {"teacher": chain / "teacher", "prerestorer": other, "init": chain / "distill"}
    made = train(options("distill", photos, tmp_path, steps=1, cache=chain / "cache", **earlier))
    asked, found = (
        load_bundle(folder / "model.safetensors").components["prerestorer"].state_dict()
        for folder in (other, made.parent)
    )
    assert all(torch.equal(asked[key], found[key]) for key in asked)


def test_degradation_on_the_fly_trains_resumes_exactly_and_is_no_other_run(
    photos: Path, chain: Path, tmp_path: Path
) -> None:
    whole = options("prerestorer", photos, tmp_path, steps=5, cache=chain / "cache", degrade="fly")
    train(whole)
    torn = replace(whole, out=tmp_path / "torn")
    train(replace(torn, stop_after=0.0))
    train(replace(torn, resume=True))
    assert losses(torn.out) == losses(whole.out)
    assert losses(whole.out) != dict(itertools.islice(losses(chain / "prerestorer").items(), 5))
    with pytest.raises(CheckpointError, match="started with degrade = 'fly', now it is None"):
        train(replace(torn, resume=True, degrade="cache"))
    with pytest.raises(UsageError, match="--degrade sometimes: possible are cache and fly"):
        train(replace(torn, degrade="sometimes"))
    with pytest.raises(UsageError, match="--degrade fly: labels are made once"):
        train(options("prerestorer", photos, tmp_path / "x", cache=chain / "cache", degrade="fly",
                      label=chain / "prerestorer", label_share=0.5))  # fmt: skip


def test_only_the_named_weights_move_and_the_licence_of_the_start_stays(
    photos: Path, chain: Path, tmp_path: Path
) -> None:
    first = train(
        options("prerestorer", photos, tmp_path / "a", steps=1, cache=chain / "cache", license_text="CC0-1.0")
    )
    asked = options(
        "prerestorer",
        photos,
        tmp_path / "b",
        steps=4,
        cache=chain / "cache",
        init=first,
        trainable=("conv_out", "body.0"),
    )
    made = train(asked)
    bundles = load_bundle(first), load_bundle(made)
    before, after = (bundle.components["prerestorer"].state_dict() for bundle in bundles)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(("conv_out.", "body.0."))}
    assert bundles[1].notes["trainable"] == "conv_out,body.0"
    assert bundles[1].notes["licence"] == "CC0-1.0"
    train(replace(asked, resume=True, steps=4))
    with pytest.raises(CheckpointError, match="started with trainable"):
        train(replace(asked, resume=True, trainable=("conv_out",)))
    with pytest.raises(UsageError, match=r"--trainable: no weights are named conv_ou; did you mean conv_out\?"):
        train(replace(asked, out=tmp_path / "c", trainable=("conv_ou",)))
    with pytest.raises(UsageError, match="write names with commas between them"):
        replace(asked, trainable="conv_out,,body.0")
    with pytest.raises(UsageError, match="--trainable: stage teacher has no use for it"):
        train(replace(asked, stage="teacher"))
