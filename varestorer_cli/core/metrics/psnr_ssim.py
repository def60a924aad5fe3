"""Image quality metrics: our own PSNR and SSIM; everything else is asked of other libraries.

Our own (``psnr_y``, ``ssim_y``, ``psnr_rgb``, ``ssim_rgb``, ``ssim_yiq``) need numpy and OpenCV only, carry no
licence condition and equal pyiqa's to 1e-4, so that a table of ours stands beside the published ones. LPIPS comes
from the package lpips where that and its weights are installed (``core.lpips_metric``); every other name is
pyiqa's (``core.pyiqa_metrics``). Neither is imported before a score is asked for that no earlier run has left.

Images are arrays (H, W, 3): uint8, RGB. Published protocols score 8-bit files.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from varestorer_cli.version import __version__

Image8 = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]
Notify = Callable[[str], None]

# pyiqa adds this to the mean squared error of images in [0, 1]. Published tables carry it, so ours does: it
# takes 1e-4 dB off at 34 dB, 4e-4 dB at 40 dB, and bounds every finite score by 80 dB.
PSNR_EPSILON = 1e-8
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03

# ITU-R BT.601, studio swing: Y = 16 + (65.481 R + 128.553 G + 24.966 B) for R, G, B in [0, 1].
LUMA_OFFSET = 16.0
LUMA_WEIGHTS = (65.481, 128.553, 24.966)
# Y of YIQ, full swing: 0.299 R + 0.587 G + 0.114 B. pyiqa's metric called just "ssim" uses it.
YIQ_WEIGHTS = (0.299, 0.587, 0.114)

Measure = Callable[[Sequence[Image8], Sequence[Image8 | None]], list[float]]


@dataclass(frozen=True)
class MetricInfo:
    """What a table says of a metric; enough for scores that were computed elsewhere.

    Attributes:
        name: what the user types and what heads the column of a file, e.g. ``psnr_y``.
        label: what heads the column of a table, e.g. ``PSNR-Y``.
        needs_reference: True for a full-reference metric (FR), False for a no-reference one (NR).
        lower_better: whether a lower score is the better one.
        library: who computes it, with version and device.
        whole_set: one number for all pairs together instead of one each.
    """

    name: str
    label: str
    needs_reference: bool
    lower_better: bool
    library: str
    whole_set: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Metric(MetricInfo):
    """One metric, ready to call.

    Attributes:
        measure: scores of several images of one size and their references; raises ValueError with a reason.
        batch: how many images one call of ``measure`` may take.
        measure_set: (restored folder, reference folder) of 8-bit PNG files of the same names -> score, of a metric
            of the whole set.
        prepare: loads what the metric needs; called before long work, so that what is missing is said early.
        version: what beside the images decides a score; part of the key under which scores are kept.
    """

    measure: Measure
    batch: int = 1
    measure_set: Callable[[Path, Path], float] | None = None
    prepare: Callable[[], object] = field(default=lambda: None)
    version: Callable[[], str] = field(default=lambda: "")

    def compute(self, restored: Image8, reference: Image8 | None) -> float:
        """Score of one image."""
        return self.measure([restored], [reference])[0]

    def identity(self) -> str:
        """Name, library and version in one text: scores with equal identity are interchangeable."""
        return "\n".join((self.name, self.library, self.version()))


def luma(image: Image8) -> Plane:
    """Y of YCbCr (ITU-R BT.601, studio swing), not rounded.

    Args:
        image: uint8 RGB, (H, W, 3).

    Returns:
        float64 plane, 16 (black) to 235 (white).
    """
    weights = np.asarray(LUMA_WEIGHTS) / 255.0
    return LUMA_OFFSET + image.astype(np.float64) @ weights


def luma_yiq(image: Image8) -> Plane:
    """Y of YIQ, not rounded.

    Args:
        image: uint8 RGB, (H, W, 3).

    Returns:
        float64 plane, 0 to 255.
    """
    plane: Plane = image.astype(np.float64) @ np.asarray(YIQ_WEIGHTS)
    return plane


def psnr(restored: npt.NDArray[Any], reference: npt.NDArray[Any], *, epsilon: float = PSNR_EPSILON) -> float:
    """Peak signal-to-noise ratio in dB: -10 log10(mean squared error / 255^2 + epsilon).

    Args:
        restored: planes or images in 0..255, any real type.
        reference: the same shape.
        epsilon: added to the error; the default is pyiqa's, 0 gives the textbook value.

    Returns:
        Decibels; infinity where the two are identical (pyiqa says 80 there).

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(restored, reference)
    difference = restored.astype(np.float64) - reference.astype(np.float64)
    error = float(np.mean(np.square(difference))) / 255.0**2
    return math.inf if error == 0 else -10.0 * math.log10(error + epsilon)


def ssim(restored: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Structural similarity (Wang et al. 2004, equation 13) as published tables compute it.

    Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, no down-sampling, only windows that lie wholly
    inside the image; the contrast-structure term is cut at 0 (as pyiqa does), channels are averaged.

    Args:
        restored: (H, W) or (H, W, C) in 0..255; rounded to integers first, as the MATLAB original does.
        reference: the same shape.

    Returns:
        0 to 1, 1 for identical images.

    Raises:
        ValueError: the shapes differ or a side is under 11 pixels.
    """
    _same_shape(restored, reference)
    height, width = restored.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        needed = f"{SSIM_WINDOW}x{SSIM_WINDOW}"
        raise ValueError(f"SSIM needs at least {needed} pixels, the image has {width}x{height}")
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    x, y = np.rint(restored).astype(np.float64), np.rint(reference).astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    structure = np.maximum((2 * covariance + c2) / (variance_x + variance_y + c2), 0)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * structure))


def _window_mean(plane: Plane) -> Plane:
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    kernel /= kernel.sum()
    filtered = cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    edge = SSIM_WINDOW // 2  # what is left after the cut never saw the border
    return np.asarray(filtered, np.float64)[edge:-edge, edge:-edge]


def _same_shape(restored: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
    if restored.shape != reference.shape:
        raise ValueError(f"shapes differ: restored {restored.shape}, reference {reference.shape}")


def _on(
    convert: Callable[[Image8], npt.NDArray[Any]], measure: Callable[[Any, Any], float]
) -> Callable[[Image8, Image8 | None], float]:
    return lambda restored, reference: measure(convert(restored), convert(_given(reference)))


def _rgb(image: Image8) -> Image8:
    return image


def _given(reference: Image8 | None) -> Image8:
    if reference is None:
        raise ValueError("this metric compares with a reference and got none")
    return reference


_OUR_COMPUTE: dict[str, tuple[str, Callable[[Image8, Image8 | None], float]]] = {
    "psnr_y": ("PSNR-Y", _on(luma, psnr)),
    "ssim_y": ("SSIM-Y", _on(luma, ssim)),
    "psnr_rgb": ("PSNR-RGB", _on(_rgb, psnr)),
    "ssim_rgb": ("SSIM-RGB", _on(_rgb, ssim)),
    "ssim_yiq": ("SSIM-YIQ", _on(luma_yiq, ssim)),
}
OUR_METRICS = tuple(_OUR_COMPUTE)
OUR_LIBRARY = f"varestorer {__version__} (numpy {np.__version__}, OpenCV {cv2.__version__})"


def load_metrics(names: Sequence[str], *, device: str = "cpu", notify: Notify = lambda text: None) -> list[Metric]:
    """Make the named metrics ready to call, other libraries' only where one is named.

    Args:
        names: metric names in the order of the columns; repeats count once.
        device: where other libraries compute: ``auto`` (a GPU if there is one), ``cpu``, ``cuda:0``.
        notify: gets pyiqa's licence (once) and what pyiqa is about to download, one sentence each.

    Raises:
        UsageError: no such metric.
        MissingDependencyError: pyiqa or a package it needs is not there. Weight files are looked for by ``prepare``.
    """
    unique = list(dict.fromkeys(names))
    foreign = [name for name in unique if name not in _OUR_COMPUTE]
    made: dict[str, Metric] = {name: _ours(name) for name in unique if name in _OUR_COMPUTE}
    if "lpips" in foreign:
        from varestorer_cli.core.metrics import lpips_backend as lpips_metric

        if lpips_metric.available():
            made["lpips"] = lpips_metric.load(device)
            foreign.remove("lpips")
    if foreign:
        from varestorer_cli.core.metrics import pyiqa_backend as pyiqa_metrics

        made.update((metric.name, metric) for metric in pyiqa_metrics.load(foreign, device, notify))
    return [made[name] for name in unique]


def _ours(name: str) -> Metric:
    label, compute = _OUR_COMPUTE[name]

    def measure(restored: Sequence[Image8], references: Sequence[Image8 | None]) -> list[float]:
        return [compute(a, b) for a, b in zip(restored, references, strict=True)]

    return Metric(name, label, needs_reference=True, lower_better=False, library=OUR_LIBRARY, measure=measure)


def hub_folder() -> Path:
    """Torch's folder of downloaded weights, as ``torch.hub.get_dir`` says; found without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub"


def resolve_device(device: str) -> str:
    """``auto`` -> a GPU if there is one; torch is imported only where its build could use one."""
    if device != "auto":
        return device
    if metadata.version("torch").endswith("+cpu"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
