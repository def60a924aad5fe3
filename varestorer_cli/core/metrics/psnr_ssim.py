"""PSNR and SSIM of 8-bit images, equal to pyiqa's to 1e-4.

They need numpy and OpenCV only and carry no licence condition, so that a table of ours stands beside published ones.
Images are arrays (H, W, 3): uint8, RGB. Published protocols score 8-bit files.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from varestorer_cli.core.metrics.base import Image8, Metric
from varestorer_cli.version import __version__

Plane = npt.NDArray[np.float64]

# pyiqa adds this to the mean squared error of images in [0, 1]. Published tables carry it, so ours does: it
# takes 1e-4 dB off at 34 dB, 4e-4 dB at 40 dB, and bounds every finite score by 80 dB.
PSNR_EPSILON = 1e-8
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03

# ITU-R BT.601, studio swing: Y = 16 + (65.481 R + 128.553 G + 24.966 B) for R, G, B in [0, 1].
LUMA_OFFSET = 16.0
LUMA_WEIGHTS = (65.481, 128.553, 24.966)
# Y of YIQ, full swing: 0.299 R + 0.587 G + 0.114 B. pyiqa's metric called just "ssim" uses it.
YIQ_WEIGHTS = (0.299, 0.587, 0.114)


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


def load(name: str) -> Metric:
    """One of :data:`OUR_METRICS`, ready to call."""
    label, compute = _OUR_COMPUTE[name]

    def measure(restored: Sequence[Image8], references: Sequence[Image8 | None]) -> list[float]:
        return [compute(a, b) for a, b in zip(restored, references, strict=True)]

    return Metric(name, label, needs_reference=True, lower_better=False, library=OUR_LIBRARY, measure=measure)
