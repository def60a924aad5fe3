"""What a run says of itself: validation in score's figures, warnings of collapse."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.metrics.psnr_ssim import OUR_METRICS
from varestorer_cli.core.score.pairing import Pair
from varestorer_cli.core.score.scorer import score_pairs
from varestorer_cli.core.training.data.crops import CropCacheConfig, held_out
from varestorer_cli.core.training.log import LEAST_ENTROPY, LEAST_USED, RunLog
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.validation import scores, validation_metrics
from varestorer_models.tokenizer import ImageTokenizer


def quiet(text: str) -> None:
    raise AssertionError(text)


def test_validation_figures_are_those_of_score(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(2, 3, 24, 32, generator=generator)
    result = reference + 0.2 * torch.randn(2, 3, 24, 32, generator=generator)  # beyond [0, 1] too
    metrics = validation_metrics(None, "cpu", quiet)
    assert tuple(metric.name for metric in metrics) == OUR_METRICS
    pairs = []
    for number in range(2):
        paths = []
        for name, images in (("result", result), ("reference", reference)):
            paths.append(tmp_path / f"{name}{number}.png")
            levels = (images[number].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            cv2.imwrite(str(paths[-1]), np.ascontiguousarray(levels[:, :, ::-1]))
        pairs.append(Pair(str(number), *paths))
    files = score_pairs(pairs, metrics)
    assert not any(score.failed for score in files)
    found = scores(metrics, result, reference)
    assert found == pytest.approx({name: sum(score.values[name] for score in files) for name in OUR_METRICS})


def test_other_metrics_are_asked_for_by_scores_names() -> None:
    assert [metric.name for metric in validation_metrics("psnr_y,ssim_rgb", "cpu", quiet)] == ["psnr_y", "ssim_rgb"]
    with pytest.raises((UsageError, MissingDependencyError), match=r"nonsense|pyiqa"):
        validation_metrics("nonsense", "cpu", quiet)


def test_a_number_for_a_whole_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varestorer_cli.core.metrics.pyiqa_backend._installed", lambda: True)
    monkeypatch.setattr("varestorer_cli.core.metrics.pyiqa_backend._version", lambda package: "0")
    with pytest.raises(UsageError, match="--metrics fid: wants hundreds of images"):
        validation_metrics("psnr_y,fid", "cpu", lambda text: None)


def test_a_scale_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = {"entropy": -1.0, "entropy/1": LEAST_ENTROPY, "used/3": LEAST_USED, "entropy/3": 0.6}
    with RunLog(tmp_path, 0, 10, "tiles", Console(Progress.NONE, quiet=True)) as log:
        log.scalars(1, fine, 2)
        assert capsys.readouterr().err == ""
        log.scalars(2, {**fine, "used/3": 0.02}, 2)
        first = capsys.readouterr().err
        log.scalars(3, {**fine, "used/3": 0.01}, 2)
        assert capsys.readouterr().err == ""
        log.scalars(4, {**fine, "used/3": 0.01, "used/4": 0.0, "used/5": 0.05, "entropy/1": 0.001}, 2)
        second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: step 2: fewer than 10% of the bits take both values in scale 3 (0.02);")
    assert "look at samples/" in first and "--lr" in first and "--loss entropy=W" in first and first.count("\n") == 1
    assert "in scale 4 (0), 5 (0.05);" in second[0] and "below 0.01 nats in scale 1 (0.001);" in second[1]
    assert len(second) == 2


def test_processes_that_do_not_write_do_not_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, 0, 10, "tiles", Console(Progress.NONE), writing=False) as log:
        log.scalars(1, {"used/3": 0.0}, 2)
    assert capsys.readouterr().err == ""


def test_a_tokenizer_that_says_the_same_of_every_image_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    held = next(name for name in (f"{n}.png" for n in range(200)) if held_out(name, CropCacheConfig()))
    for name in (held, "one.png", "two.png"):
        coarse = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / name), cv2.resize(coarse, (160, 128), interpolation=cv2.INTER_CUBIC))
    options = TrainOptions(
        "tokenizer", photos, tmp_path / "healthy", preset="smoke", steps=3, crops=12, threads=1, device="cpu",
        log_every=1, quiet=True,
    )  # fmt: skip
    train(options)
    assert "collapsing" not in capsys.readouterr().err
    with (options.out / "log.csv").open() as stream:
        used = {row["name"]: float(row["value"]) for row in csv.DictReader(stream) if row["name"].startswith("used/")}
    assert set(used) == {"used/3", "used/4"} and min(used.values()) > 0.5  # of 1, 2, 4 and 8 codes a side

    encode = ImageTokenizer.encode

    def same(self: ImageTokenizer, image: Tensor) -> Tensor:
        return encode(self, image) * 0 + 0.1

    monkeypatch.setattr(ImageTokenizer, "encode", same)
    train(TrainOptions(**{**vars(options), "out": tmp_path / "collapsed"}))
    said = capsys.readouterr().err
    assert said.count("fewer than 10% of the bits take both values in scale 3 (0), 4 (0);") == 1
    assert said.count("below 0.01 nats in scale 3") == 1 and said.count("warning") == 2
