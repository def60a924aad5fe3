"""What runs leave to be read: figures of steps and validation, images, the best checkpoint."""

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import figures, losses, options

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.metrics.psnr_ssim import OUR_METRICS
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.run_folder import checkpoints
from varestorer_cli.core.training.trainer import learning_rate_factor
from varestorer_cli.core.training.validation import is_lower_better, validation_metrics
from varestorer_cli.core.weights.model_file import load_bundle


def test_runs_leave_logs_and_images(chain: Path) -> None:
    for stage in ("prerestorer", "tokenizer", "teacher", "distill"):
        assert set(losses(chain / stage)) == {1, 2, 3, 4, 5, 6}
        assert (chain / stage / "samples" / "step_000004.png").stat().st_size > 100
        assert json.loads((chain / stage / "run.json").read_text())["stage"] == stage
        assert list((chain / stage).glob("events.out.tfevents*"))
        with (chain / stage / "log.csv").open() as stream:
            scored = {(r["step"], r["name"]) for r in csv.DictReader(stream) if r["kind"] == "validation"}
        assert {(step, name) for step in ("0", "4", "6") for name in OUR_METRICS} <= scored


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
