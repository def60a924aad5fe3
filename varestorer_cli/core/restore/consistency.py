"""Does the result still show the input? Two numbers per picture."""

import math

import cv2
import numpy as np

from varestorer_cli.core.image.resample import Pixels, to_float

HIGHEST_PSNR = 100.0
_ROWS = 256


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
    reduced = large
    if large.shape != small.shape:
        reduced = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    squares, shift = 0.0, np.zeros(3)
    for top in range(0, height, _ROWS):
        difference = to_float(reduced[top : top + _ROWS]) - to_float(small[top : top + _ROWS])
        squares += float(np.vdot(difference, difference))
        shift += cv2.sumElems(difference)[:3]
    error = squares / (height * width * 3)
    psnr = HIGHEST_PSNR if error <= 0 else min(HIGHEST_PSNR, -10 * math.log10(error))
    return float(np.abs(shift).max() / (height * width) * 255), psnr
