"""Training: the four stages end to end, exact resume, signals, refusals."""

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from varestorer_cli.app import run
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.metrics.psnr_ssim import OUR_METRICS
from varestorer_cli.core.training import builder, presets
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.data.crops import CropCacheConfig, held_out
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.run_folder import checkpoints
from varestorer_cli.core.training.stages import blended_target
from varestorer_cli.core.training.trainer import learning_rate_factor
from varestorer_cli.core.training.validation import is_lower_better, validation_metrics
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer, save_bundle
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.tokenizer import ImageTokenizer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven small images with edges and texture, one of which is held out for validation."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    names = [name for name in (f"photo_{n}.png" for n in range(200)) if held_out(name, CropCacheConfig())][:1]
    for index, name in enumerate([*names, *(f"training_{n}.png" for n in range(6))]):
        image = cv2.resize(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8), (200, 160), interpolation=cv2.INTER_CUBIC)
        image = cv2.circle(image, (60 + 10 * index, 80), 40, (20, 200, 90), -1)
        cv2.imwrite(str(folder / name), image)
    return folder


def options(stage: str, photos: Path, run: Path, **changes: object) -> TrainOptions:
    base = TrainOptions(
        stage=stage,
        data=photos,
        out=run / stage,
        preset="smoke",
        crops=24,
        threads=1,
        device="cpu",
        log_every=1,
        sample_every=4,
        quiet=True,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def losses(folder: Path) -> dict[int, str]:
    """Loss by step as written in the log."""
    with (folder / "log.csv").open() as stream:
        rows = csv.DictReader(stream)
        return {int(r["step"]): r["value"] for r in rows if r["kind"] == "train" and r["name"] == "loss"}


def earlier_stages(stage: str, chain: Path) -> dict[str, Path]:
    """The runs that a stage needs, by the option that names them."""
    needed = {"teacher": ("tokenizer",), "distill": ("prerestorer", "teacher")}
    return {name: chain / name for name in needed.get(stage, ())}


@pytest.fixture(scope="module")
def chain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages of the smoke preset, a few steps each."""
    run = tmp_path_factory.mktemp("run")
    for stage in ("prerestorer", "tokenizer", "teacher", "distill"):
        train(options(stage, photos, run, steps=6))
    return run


def test_chain_ends_in_a_restorer_that_runs(chain: Path) -> None:
    loaded = load_restorer(chain / "distill")
    assert isinstance(loaded.restorer, OneStepRestorer)
    tile = torch.rand(2, 3, loaded.restorer.tile, loaded.restorer.tile, generator=torch.Generator().manual_seed(0))
    out = loaded.restorer(tile)
    assert out.image_B3TT.shape == tile.shape
    assert torch.isfinite(out.image_B3TT).all()
    assert loaded.metadata["stage"] == "distill"
    assert loaded.metadata["steps"] == "6"


def test_runs_leave_logs_and_images(chain: Path) -> None:
    for stage in ("prerestorer", "tokenizer", "teacher", "distill"):
        assert set(losses(chain / stage)) == {1, 2, 3, 4, 5, 6}
        assert (chain / stage / "samples" / "step_000004.png").stat().st_size > 100
        assert json.loads((chain / stage / "run.json").read_text())["stage"] == stage
        assert list((chain / stage).glob("events.out.tfevents*"))
        with (chain / stage / "log.csv").open() as stream:
            scored = {(r["step"], r["name"]) for r in csv.DictReader(stream) if r["kind"] == "validation"}
        assert {(step, name) for step in ("0", "4", "6") for name in OUR_METRICS} <= scored


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


def test_a_student_with_a_bits_head_is_no_teacher(chain: Path, photos: Path, tmp_path: Path) -> None:
    given = earlier_stages("distill", chain) | {"teacher": chain / "distill"}
    with pytest.raises(CheckpointError, match="holds a student"):
        train(options("distill", photos, tmp_path, cache=chain / "cache", **given))


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
    with pytest.raises(CheckpointError, match="damaged"):
        train(run)


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


def test_hints_need_a_network_that_can_take_them(photos: Path, chain: Path, tmp_path: Path) -> None:
    for asked in ({"losses": {"hints": 1.0}}, {"label_share": 0.5}):
        with pytest.raises(UsageError, match="RRDBNet"):
            train(options("prerestorer", photos, tmp_path, cache=chain / "cache", **asked))


def test_a_pre_restorer_that_is_asked_for_stays_under_init(photos: Path, chain: Path, tmp_path: Path) -> None:
    other = train(options("prerestorer", photos, tmp_path, steps=2, seed=9, cache=chain / "cache")).parent
    earlier = {"teacher": chain / "teacher", "prerestorer": other, "init": chain / "distill"}
    made = train(options("distill", photos, tmp_path, steps=1, cache=chain / "cache", **earlier))
    asked, found = (
        load_bundle(folder / "model.safetensors").components["prerestorer"].state_dict()
        for folder in (other, made.parent)
    )
    assert all(torch.equal(asked[key], found[key]) for key in asked)


def figures(folder: Path, kind: str) -> dict[str, dict[int, float]]:
    """Values by name and step of a run's log."""
    found: dict[str, dict[int, float]] = {}
    with (folder / "log.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["kind"] == kind:
                found.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return found


def test_the_log_has_rate_norms_and_what_happens_in_each_scale(chain: Path) -> None:
    recipe = replace(preset("smoke").recipes["distill"], steps=6)
    trained, validated = figures(chain / "distill", "train"), figures(chain / "distill", "validation")
    rates = {step: recipe.learning_rate * learning_rate_factor(step - 1, recipe) for step in range(1, 7)}
    assert trained["learning_rate"] == pytest.approx(rates, rel=1e-6)
    scales = len(preset("smoke").tokenizer.schedule)
    for found in (trained, validated):
        for step, kl in found["kl"].items():
            parts = [found[f"kl/{k + 1}"][step] for k in range(scales)]
            assert sum(parts) == pytest.approx(kl, rel=1e-4) and min(parts) >= 0
    for stage, kind in itertools.product(("teacher", "distill"), ("train", "validation")):
        found = figures(chain / stage, kind)
        sizes = [h * w for h, w in preset("smoke").tokenizer.schedule.grids]
        for step, share in found["bit_accuracy"].items():
            parts = [found[f"bit_accuracy/{k + 1}"][step] * n for k, n in enumerate(sizes)]
            assert sum(parts) / sum(sizes) == pytest.approx(share, rel=1e-4)
    norms = figures(chain / "tokenizer", "train")
    for step, norm in norms["gradient_norm"].items():
        parts = [norms[f"gradient_norm/{group}"][step] for group in ("tokenizer", "linear")]
        assert math.hypot(*parts) == pytest.approx(norm, rel=1e-4) and min(parts) > 0
    notes = json.loads(load_bundle(chain / "distill" / "model.safetensors").notes["validation"])
    assert "kl" in notes and not any("/" in name for name in notes)


def test_the_student_starts_at_its_teachers_distance_to_itself(chain: Path) -> None:
    """At step 0 a student with empty adapters differs from the teacher in input and mask alone."""
    validated = figures(chain / "distill", "validation")
    assert 0 < validated["kl"][0] < 10 and 0.3 < validated["bit_accuracy"][0] <= 1


@pytest.mark.parametrize(("metric", "lower"), [("cross_entropy", True), ("psnr_y", False)])
def test_the_best_checkpoint_stays_with_its_model(
    metric: str, lower: bool, photos: Path, chain: Path, tmp_path: Path
) -> None:
    asked = options("teacher", photos, tmp_path, steps=9, sample_every=2, cache=chain / "cache", learning_rate=0.05)
    asked = replace(asked, best=metric, keep_checkpoints=1, tokenizer=chain / "tokenizer")
    train(asked)
    validated = figures(asked.out, "validation")[metric]
    assert set(validated) == {0, 2, 4, 6, 8, 9}
    step = (min if lower else max)(validated, key=lambda step: validated[step])
    noted = json.loads((asked.out / "best.json").read_text())
    assert (noted["metric"], noted["step"]) == (metric, step)
    assert noted["value"] == pytest.approx(validated[step], rel=1e-6)
    assert {path.stem for path in checkpoints(asked.out)} == {noted["checkpoint"], "checkpoint_00000009"}
    best = load_bundle(asked.out / "best.safetensors")
    assert best.notes["steps"] == str(step)
    torn = replace(asked, out=tmp_path / "torn" / "teacher")
    for minutes in (0.0, 0.0, 0.0, None):  # a pause after each of the first three steps
        train(replace(torn, resume=True, stop_after=minutes))
    assert json.loads((torn.out / "best.json").read_text()) == noted, "pauses are no validations of the run"
    again = load_bundle(torn.out / "best.safetensors")
    for key, tensor in best.components["transformer"].state_dict().items():
        assert torch.equal(tensor, again.components["transformer"].state_dict()[key])


def test_a_figure_that_is_not_there_is_refused_before_the_first_step(photos: Path, chain: Path, tmp_path: Path) -> None:
    asked = options("prerestorer", photos, tmp_path, cache=chain / "cache", best="kl")
    with pytest.raises(UsageError, match="--best kl: no figure of the validation of this stage; known are psnr,"):
        train(asked)
    assert not losses_logged(asked.out)


def losses_logged(folder: Path) -> bool:
    return "train" in {row.split(",")[0] for row in (folder / "log.csv").read_text().splitlines()}


def test_every_validation_figure_has_a_direction(chain: Path) -> None:
    metrics = validation_metrics(None, "cpu", lambda text: None)
    better_lower = {
        name
        for stage in ("prerestorer", "tokenizer", "teacher", "distill")
        for name in figures(chain / stage, "validation")
        if is_lower_better(name, metrics)
    }
    assert {name.partition("/")[0] for name in better_lower} == {"cross_entropy", "kl"}
    assert is_lower_better("features_over_noise", metrics) and not is_lower_better("psnr_over_noise", metrics)
    with pytest.raises(UsageError, match="--best nonsense"):
        is_lower_better("nonsense", metrics)


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
