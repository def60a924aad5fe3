"""Separable resampling of any window of an image, to any size, without seams.

Each output pixel depends on its global position only, so windows computed apart are the same as cut from the whole.
The filters are the usual ones with pixel centres aligned; a reduction widens them (antialiasing), and at the border
the weights that fall outside are dropped and the rest scaled to one (as Pillow does).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[Any]  # uint8, uint16, or float32 in [0, 1]


def _cubic(x: npt.NDArray[np.float64], a: float = -0.5) -> npt.NDArray[np.float64]:
    """Keys' cubic (Keys 1981); with a = -0.5 it reproduces quadratics."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _sharp_cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic of OpenCV and PyTorch, a = -0.75."""
    return _cubic(x, -0.75)


def _lanczos(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _triangle(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear interpolation: no negative weights, so that nothing rings beside a step of any height."""
    out: npt.NDArray[np.float64] = np.maximum(0.0, 1 - np.abs(x))
    return out


FILTERS: dict[str, tuple[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], float]] = {
    "bicubic": (_cubic, 2.0),
    "bicubic_sharp": (_sharp_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "triangle": (_triangle, 1.0),
}


def to_float(pixels: Pixels) -> Floats:
    """Samples in [0, 1]: 8 and 16 bit are divided by their largest value, floats are taken as they are."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) / np.float32(65535)
    return pixels.astype(np.float32, copy=False)


def to_depth(pixels: Floats, dtype: npt.DTypeLike) -> Pixels:
    """Samples in [0, 1] rounded to the nearest value of ``dtype``; values outside are clipped."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return pixels
    top = np.iinfo(kind).max
    out: Pixels = np.floor(np.clip(pixels, 0, 1) * np.float32(top) + np.float32(0.5)).astype(kind)
    return out


@dataclass(frozen=True)
class Taps:
    """Which pixels of one axis of the source make n pixels of the target, and with which weights.

    Attributes:
        first: first source pixel that is needed.
        last: the one after the last.
        index: (n, k) int64, source pixels counted from ``first``; where one does not exist its weight is 0.
        weights: (n, k) float32; each row sums to one.
    """

    first: int
    last: int
    index: npt.NDArray[np.int64]
    weights: Floats


@lru_cache(maxsize=128)
def taps(source: int, target: int, start: int, stop: int, name: str) -> Taps:
    """Taps of the target pixels start .. stop, for an axis of ``source`` pixels resampled to ``target``.

    Args:
        source: pixels of the axis.
        target: pixels it is resampled to.
        start: first pixel of the target.
        stop: the one after the last.
        name: a key of :data:`FILTERS`.
    """
    kernel, radius = FILTERS[name]
    step = source / target
    widen = max(step, 1.0)
    centre = (np.arange(start, stop) + 0.5) * step - 0.5
    reach = radius * widen
    first = max(0, math.ceil(centre[0] - reach))
    last = min(source, math.floor(centre[-1] + reach) + 1)
    index = np.floor(centre - reach).astype(np.int64)[:, None] + np.arange(2 * math.ceil(reach) + 2)
    weights = kernel((index - centre[:, None]) / widen)
    weights[(index < first) | (index >= last)] = 0
    weights /= weights.sum(1, keepdims=True)
    return Taps(first, last, np.clip(index, first, last - 1) - first, weights.astype(np.float32))


@lru_cache(maxsize=128)
def _matrix(source: int, target: int, start: int, stop: int, name: str) -> tuple[int, int, Floats]:
    """Rows of the resampling matrix for target pixels start .. stop.

    Returns:
        first and last (exclusive) source pixel needed, and the weights (stop - start, last - first).
    """
    found = taps(source, target, start, stop, name)
    weights = np.zeros((stop - start, found.last - found.first), np.float32)
    np.add.at(weights, (np.arange(stop - start)[:, None], found.index), found.weights)
    return found.first, found.last, weights


@dataclass(frozen=True)
class Resampler:
    """Resamples windows of images of one size to another.

    Attributes:
        source: (height, width) of the image.
        target: (height, width) it is resampled to.
        filter: a key of :data:`FILTERS`.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    filter: str = "bicubic"

    def window(self, image: Pixels, top: int, left: int, bottom: int, right: int) -> Floats:
        """One window of the resampled image.

        Args:
            image: (H, W, C), any supported sample type.
            top: first row of the window in the target.
            left: first column.
            bottom: row after the last.
            right: column after the last.

        Returns:
            (bottom - top, right - left, C) float32, not clipped.
        """
        y0, y1, rows = _matrix(self.source[0], self.target[0], top, bottom, self.filter)
        x0, x1, columns = _matrix(self.source[1], self.target[1], left, right, self.filter)
        part = to_float(image[y0:y1, x0:x1])
        height, width, channels = part.shape
        part = (rows @ part.reshape(height, width * channels)).reshape(-1, width, channels)
        out: Floats = np.ascontiguousarray(np.einsum("xw,ywc->yxc", columns, part, optimize=True))
        return out
