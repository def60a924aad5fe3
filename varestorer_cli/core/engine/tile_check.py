"""Sanity check of a restored tile against its input: NaN, black, constant, unlike the input, blurred.

Each check compares with the degraded tile, so that a flat or dark input may give a flat or dark result. The limits
are wide: a tile that fails twice costs the whole image. Measured with the bundled model on 10 photographs, the
reduced tiles differ by 0.02 at most and keep 0.9 or more of the structure; the limits are 0.15 and 0.15.

A model that fails on :func:`probe_card` too fails everywhere (it is untrained, say): its tiles are then checked for
values that are not finite only.
"""

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_BLOCK = 16  # output pixels; noise has averaged out at this size, content has not
_LARGEST_DIFFERENCE = 0.15
_STRUCTURE = 10 / 255
_LEAST_STRUCTURE = 0.15

UNLIKE, BLURRED = "unlike its input", "blurred"
RELATIVE = (UNLIKE, BLURRED)
"""Faults that only a comparison with the input shows."""


def fault(restored: Floats, degraded: Floats) -> str | None:
    """What is wrong with a restored tile, in words that follow "is", or None.

    Args:
        restored: (H, W, 3), nominally in [0, 1].
        degraded: the model's input for it, (H, W, 3 or more); only its first three channels are compared.
    """
    degraded = degraded[..., :3]
    found = not_finite(restored, degraded)
    if found is not None:
        return found
    if degraded.mean() > 16 / 255 and restored.mean() < 1 / 255:
        return "black"
    if degraded.std() > 4 / 255 and restored.std() < 0.5 / 255:
        return "constant"
    got, given = _reduced(restored.clip(0, 1), _BLOCK), _reduced(degraded, _BLOCK)
    if float(np.sqrt(np.mean((got - given) ** 2))) > _LARGEST_DIFFERENCE:
        return UNLIKE
    if min(restored.shape[:2]) >= 8 * _BLOCK:
        structure = _band(given)
        energy = float(np.mean(structure**2))
        if energy > _STRUCTURE**2 and float(np.mean(structure * _band(got))) < _LEAST_STRUCTURE * energy:
            return BLURRED
    return None


def not_finite(restored: Floats, degraded: Floats) -> str | None:
    """Check for NaN and infinity only; arguments and result as of :func:`fault`."""
    return None if np.isfinite(restored).all() else "not finite"


def probe_card(height: int, width: int) -> Floats:
    """Test image that every trained model restores: (height, width, 3) in [0.05, 0.95], soft waves of three colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 23 + phase) * np.cos(y / 31 - phase) for phase in (0.0, 2.1, 4.2)]
    return np.asarray(np.stack(waves, axis=-1) * 0.45 + 0.5, np.float32)


def _reduced(image: Floats, factor: int) -> Floats:
    height, width = image.shape[:2]
    size = (max(1, width // factor), max(1, height // factor))
    out: Floats = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)
    return out.reshape(size[1], size[0], -1)


def _band(blocks: Floats) -> Floats:
    """Structure of one to two blocks: the blocks minus their own coarser version."""
    height, width = blocks.shape[:2]
    coarse = cv2.resize(_reduced(blocks, 2), (width, height), interpolation=cv2.INTER_LINEAR)
    out: Floats = blocks - coarse.reshape(blocks.shape)
    return out
