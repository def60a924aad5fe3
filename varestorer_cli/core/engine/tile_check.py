"""Sanity check of a restored tile against its input: NaN, black, constant, unlike the input, blurred.

Each check compares with the degraded tile, so that a flat or dark input may give a flat or dark result. The limits
are wide: a tile that fails twice costs the whole image. Measured with the bundled model on 10 photographs, the
reduced tiles differ by 0.02 at most and keep 0.9 or more of the structure; the limits are 0.15 and 0.15.

A model that fails on :func:`probe_card` too fails everywhere (it is untrained, say): its tiles are then checked for
values that are not finite only.

The check runs where the tiles are; what leaves the device is one small number per tile.

Shapes: n tiles, C channels (3 or more; only the first three are compared), T tile side.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_BLOCK = 16  # output pixels; noise has averaged out at this size, content has not
_LARGEST_DIFFERENCE = 0.15
_STRUCTURE = 10 / 255
_LEAST_STRUCTURE = 0.15

FAULTS = ("", "not finite", "black", "constant", "unlike its input", "blurred")
"""What can be wrong with a tile, in words that follow "is", by number; 0 is nothing."""
NOT_FINITE, BLACK, CONSTANT, UNLIKE, BLURRED = range(1, len(FAULTS))
RELATIVE = (UNLIKE, BLURRED)
"""Faults that only a comparison with the input shows."""

TileCheck = Callable[[Tensor, Tensor], Tensor]
"""What is wrong with each of n restored tiles (n, 3, T, T), given the degraded ones (n, C, T, T): (n,) of FAULTS."""


def fault(restored_n3TT: Tensor, degraded_nCTT: Tensor) -> Tensor:
    """What is wrong with restored tiles.

    Args:
        restored_n3TT: nominally in [0, 1].
        degraded_nCTT: the model's input for them.

    Returns:
        (n,) int64, numbers of :data:`FAULTS`.
    """
    given, got = degraded_nCTT[:, :3], restored_n3TT
    found = not_finite(got, given)

    def note(number: int, wrong: Tensor) -> None:
        nonlocal found
        # not torch.where with a number: that would wait for the number's copy to the device
        found = found + ((found == 0) & wrong) * number

    note(BLACK, (_mean(given) > 16 / 255) & (_mean(got) < 1 / 255))
    note(CONSTANT, (_deviation(given) > 4 / 255) & (_deviation(got) < 0.5 / 255))
    blocks_got, blocks_given = _reduced(got.clamp(0, 1), _BLOCK), _reduced(given, _BLOCK)
    note(UNLIKE, _mean((blocks_got - blocks_given) ** 2).sqrt() > _LARGEST_DIFFERENCE)
    if min(got.shape[2:]) >= 8 * _BLOCK:
        structure = _band(blocks_given)
        energy = _mean(structure**2)
        kept = _mean(structure * _band(blocks_got))
        note(BLURRED, (energy > _STRUCTURE**2) & (kept < _LEAST_STRUCTURE * energy))
    return found


def not_finite(restored_n3TT: Tensor, degraded_nCTT: Tensor) -> Tensor:
    """Check for NaN and infinity only; arguments and result as of :func:`fault`."""
    return torch.isfinite(restored_n3TT).flatten(1).all(1).logical_not() * NOT_FINITE


def probe_card(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Test image that every trained model restores: (3, height, width) in [0.05, 0.95], soft waves of three colours."""
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.float32)
    waves = [torch.sin(x / 23 + phase) * torch.cos(y / 31 - phase) for phase in (0.0, 2.1, 4.2)]
    return torch.stack(waves) * 0.45 + 0.5


def _mean(values: Tensor) -> Tensor:
    return values.mean((1, 2, 3))


def _deviation(values: Tensor) -> Tensor:
    return values.std((1, 2, 3), correction=0)


def _reduced(images: Tensor, factor: int) -> Tensor:
    """Means of blocks of ``factor`` x ``factor`` pixels; blocks are stretched where they do not fit."""
    height, width = images.shape[2:]
    return F.interpolate(images, (max(1, height // factor), max(1, width // factor)), mode="area")


def _band(blocks: Tensor) -> Tensor:
    """Structure of one to two blocks: the blocks minus their own coarser version."""
    return blocks - F.interpolate(_reduced(blocks, 2), blocks.shape[2:], mode="bilinear")
