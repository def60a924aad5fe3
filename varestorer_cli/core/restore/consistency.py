"""How far a result is from its input, and which results of a run stand out in that.

Outliers are found by robust statistics: an image is compared with the median of its run; the spread is the median
absolute deviation (times 1.4826, so that it is a standard deviation where values are normal), which a few bad images
cannot widen. Hampel's rule of three spreads is taken wider, and a floor in dB or 8-bit steps keeps folders of
near-identical images quiet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np

from varestorer_cli.core.atomic import release
from varestorer_cli.core.image.resample import Pixels, to_float
from varestorer_cli.core.report.rows import Row

HIGHEST_PSNR = 100.0
_ROWS = 256
_LEAST_ROWS = 8
_SPREADS = 4.0
_FLOOR_DB = 3.0
_FLOOR_STEPS = 2.0


def compare(source: Pixels, result: Pixels) -> tuple[float, float]:
    """Compare a result with its input, the larger one reduced to the size of the smaller by area means.

    The reduction keeps the sample type, so that it costs a few percent of encoding; the rounding it adds (1/12 of a
    squared step) shows only above 55 dB.

    Args:
        source: (h, w, 3) input.
        result: (H, W, 3) output.

    Returns:
        Largest shift of a channel's mean in 8-bit steps, and PSNR in dB over RGB (at most 100).
    """
    small, large = (source, result) if source.shape[0] <= result.shape[0] else (result, source)
    height, width = small.shape[:2]
    # Rows of both where a whole number of the one is a whole number of the other: between them the means are the same
    # as those of the whole image, which may be in a file.
    common = math.gcd(height, large.shape[0])
    low, high = height // common, large.shape[0] // common
    step = max(1, _ROWS // low)
    squares, shift = 0.0, np.zeros(3)
    for first in range(0, common, step):
        last = min(first + step, common)
        part, reduced = small[first * low : last * low], large[first * high : last * high]
        if large.shape != small.shape:
            reduced = cv2.resize(reduced, (width, len(part)), interpolation=cv2.INTER_AREA)
        difference = to_float(reduced) - to_float(part)
        squares += float(np.vdot(difference, difference))
        shift += cv2.sumElems(difference)[:3]
        release(small)
        release(large)
    error = squares / (height * width * 3)
    psnr = HIGHEST_PSNR if error <= 0 else min(HIGHEST_PSNR, -10 * math.log10(error))
    return float(np.abs(shift).max() / (height * width) * 255), psnr


@dataclass(frozen=True)
class Outlier:
    """An image that stands out, and in what."""

    row: Row
    reason: str


def outliers(rows: Sequence[Row]) -> list[Outlier]:
    """Images that resemble their inputs far less than the rest of the folder does, the worst first.

    Args:
        rows: of a run; those without measurements do not count. Fewer than eight give no statistics.
    """
    found: dict[int, tuple[float, Outlier]] = {}
    for name, sign, floor, unit in (
        ("consistency_psnr", -1.0, _FLOOR_DB, "dB against its input"),
        ("mean_colour_error", 1.0, _FLOOR_STEPS, "8-bit steps of mean colour shift"),
    ):
        measured = [(row, float(value)) for row in rows if (value := getattr(row, name)) is not None]
        if len(measured) < _LEAST_ROWS:
            continue
        middle = median(value for _, value in measured)
        spread = 1.4826 * median(abs(value - middle) for _, value in measured)
        for row, value in measured:
            excess = sign * (value - middle)
            if excess > max(floor, _SPREADS * spread):
                said = Outlier(row, f"{value:.1f} {unit}, the median is {middle:.1f}")
                weight = excess / max(spread, floor / _SPREADS)
                if id(row) not in found or found[id(row)][0] < weight:
                    found[id(row)] = (weight, said)
    return [said for _, said in sorted(found.values(), key=lambda pair: -pair[0])]
