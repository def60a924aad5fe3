import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import flat

from varestorer_cli.core.metrics import psnr_ssim
from varestorer_cli.core.metrics.registry import load_metrics

DATA = Path(__file__).parents[2] / "data"
STORED = json.loads((DATA / "metrics_pyiqa.json").read_text())["rows"]
SKIMAGE = json.loads((DATA / "metrics_skimage.json").read_text())["rows"]


def maker() -> Any:
    """The script that made the stored numbers; it also makes the crops."""
    spec = importlib.util.spec_from_file_location("metrics_make", DATA / "metrics_make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compute(name: str, restored: Any, reference: Any) -> float:
    return load_metrics([name])[0].compute(restored, reference)


@pytest.mark.parametrize("row", STORED, ids=lambda row: "-".join(map(str, row["case"])))
@pytest.mark.parametrize("name", psnr_ssim.OUR_METRICS)
def test_equals_pyiqa_to_a_ten_thousandth(name: str, row: dict[str, Any]) -> None:
    restored, reference = maker().crop(*row["case"])
    assert compute(name, restored, reference) == pytest.approx(row["scores"][name], abs=1e-4)


@pytest.mark.parametrize("row", SKIMAGE, ids=lambda row: "-".join(map(str, row["case"])))
def test_equals_scikit_image_to_a_ten_thousandth(row: dict[str, Any]) -> None:
    restored, reference = maker().crop(*row["case"])
    for name, score in row["scores"].items():
        convert = psnr_ssim.luma if name.endswith("_y") else np.asarray
        pair = (convert(restored), convert(reference))
        ours = psnr_ssim.psnr(*pair, epsilon=0) if name.startswith("psnr") else psnr_ssim.ssim(*pair)
        assert ours == pytest.approx(score, abs=1e-4), name


def test_the_stored_cases_are_no_trivial_ones() -> None:
    for name in psnr_ssim.OUR_METRICS:
        scores = [row["scores"][name] for row in STORED]
        assert max(scores) - min(scores) > (20 if name.startswith("psnr") else 0.5)


def test_luma_runs_from_16_to_235_and_yiq_from_0_to_255() -> None:
    assert psnr_ssim.luma(flat(0)) == pytest.approx(16)
    assert psnr_ssim.luma(flat(255)) == pytest.approx(235)
    assert psnr_ssim.luma_yiq(flat(255)) == pytest.approx(255)
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert psnr_ssim.luma(red).item() == pytest.approx(16 + 65.481)
    assert psnr_ssim.luma_yiq(red).item() == pytest.approx(0.299 * 255)


def test_psnr_by_hand() -> None:
    # Every sample off by 5 levels: mean squared error 25, PSNR = 20 log10(255 / 5) = 34.1514.
    assert psnr_ssim.psnr(flat(105), flat(100), epsilon=0) == pytest.approx(20 * math.log10(51), abs=1e-9)
    # Y is off by 5 * 219 / 255 levels.
    restored, reference = psnr_ssim.luma(flat(105)), psnr_ssim.luma(flat(100))
    assert psnr_ssim.psnr(restored, reference, epsilon=0) == pytest.approx(20 * math.log10(51 * 255 / 219), abs=1e-9)


def test_psnr_of_nearly_identical_images_is_bounded_by_80_as_in_pyiqa() -> None:
    restored = np.zeros((512, 512, 3), np.uint8)
    reference = restored.copy()
    reference[0, 0, 0] = 1
    assert psnr_ssim.psnr(restored, reference) == pytest.approx(80, abs=0.05)
    assert psnr_ssim.psnr(restored, reference, epsilon=0) > 100


@pytest.mark.parametrize("name", psnr_ssim.OUR_METRICS)
def test_identical_images(name: str) -> None:
    image = maker().crop(*STORED[0]["case"])[1]
    assert compute(name, image, image.copy()) == (math.inf if name.startswith("psnr") else 1)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert compute("ssim_rgb", flat(100), flat(150)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_one_window_by_the_formula() -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.integers(0, 256, (11, 11)).astype(float) for _ in range(2))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    covariance = (window * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    expected = luminance * max(0.0, (2 * covariance + c2) / (var_x + var_y + c2))
    assert expected > 0
    assert psnr_ssim.ssim(x, y) == pytest.approx(expected, abs=1e-9)


def test_ssim_sees_no_border() -> None:
    # What lies within windows that stick out must not be mirrored in: one more row changes only its own windows.
    rng = np.random.default_rng(4)
    x, y = (rng.integers(0, 256, (20, 12)).astype(float) for _ in range(2))
    halves = [psnr_ssim.ssim(x[:11], y[:11]), *(psnr_ssim.ssim(x[i : i + 11], y[i : i + 11]) for i in range(1, 10))]
    assert psnr_ssim.ssim(x, y) == pytest.approx(np.mean(halves), abs=1e-9)


def test_small_and_unequal_images_are_refused_with_their_sizes() -> None:
    with pytest.raises(ValueError, match="at least 11x11 pixels, the image has 16x10"):
        psnr_ssim.ssim(np.zeros((10, 16)), np.zeros((10, 16)))
    with pytest.raises(ValueError, match=r"restored \(8, 8\), reference \(8, 9\)"):
        psnr_ssim.psnr(np.zeros((8, 8)), np.zeros((8, 9)))
    with pytest.raises(ValueError, match="got none"):
        load_metrics(["psnr_y"])[0].compute(flat(1), None)


def test_ours_need_no_pyiqa_and_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    said: list[str] = []
    loaded = load_metrics(["ssim_rgb", "psnr_y", "ssim_rgb"], notify=said.append)
    assert [metric.name for metric in loaded] == ["ssim_rgb", "psnr_y"]
    assert all(metric.needs_reference and not metric.lower_better for metric in loaded)
    assert said == []


@pytest.mark.weights
def test_the_real_pyiqa_agrees() -> None:
    pyiqa = pytest.importorskip("pyiqa")
    for case in maker().CASES:
        restored, reference = maker().crop(*case)
        for name, (theirs, settings) in maker().PYIQA.items():
            import torch

            tensors = [
                torch.from_numpy(x.astype(np.float32) / 255).permute(2, 0, 1)[None] for x in (restored, reference)
            ]
            expected = float(pyiqa.create_metric(theirs, device="cpu", **settings)(*tensors))
            assert compute(name, restored, reference) == pytest.approx(expected, abs=1e-4)
    gmsd = load_metrics(["gmsd"], device="cpu")[0]
    assert gmsd.lower_better and gmsd.compute(reference, reference) == pytest.approx(0, abs=1e-6)


@pytest.mark.weights
def test_a_batch_gives_each_image_its_own_score() -> None:
    pytest.importorskip("pyiqa")
    crops = [maker().crop(seed, 200, 168, "noise 8") for seed in (1, 2, 3)]
    restored, references = [crop[0] for crop in crops], [crop[1] for crop in crops]
    for metric in load_metrics(["ms_ssim", "gmsd", "vif"], device="cpu"):
        alone = [metric.compute(a, b) for a, b in zip(restored, references, strict=True)]
        assert metric.batch > 1 and metric.measure(restored, references) == pytest.approx(alone, abs=1e-5)
