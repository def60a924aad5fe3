"""Does the result still show the input? Two numbers per picture, computed block by block."""

import math

import numpy as np

from varestorer_cli.core.resample import Pixels, Resampler, to_float

HIGHEST_PSNR = 100.0
_BLOCK = 64


def compare(source: Pixels, result: Pixels) -> tuple[float, float]:
    """Compare a result with its input, the larger one reduced to the size of the smaller.

    Args:
        source: (h, w, 3) input.
        result: (H, W, 3) output.

    Returns:
        Largest shift of a channel's mean in 8-bit steps, and PSNR in dB over RGB (at most 100).
    """
    small, large = (source, result) if source.shape[0] <= result.shape[0] else (result, source)
    height, width = small.shape[:2]
    resampler = Resampler((large.shape[0], large.shape[1]), (height, width))
    squares, shift = 0.0, np.zeros(3)
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            bottom, right = min(top + _BLOCK, height), min(left + _BLOCK, width)
            reduced = resampler.window(large, top, left, bottom, right).clip(0, 1)
            difference = (reduced - to_float(small[top:bottom, left:right])).astype(np.float64)
            squares += float((difference**2).sum())
            shift += difference.sum(axis=(0, 1))
    error = squares / (height * width * 3)
    psnr = HIGHEST_PSNR if error <= 0 else min(HIGHEST_PSNR, -10 * math.log10(error))
    return float(np.abs(shift).max() / (height * width) * 255), psnr
