"""Sanity check of a restored tile against its input: NaN, black, constant, unlike the input, blurred.

Each check compares with the degraded tile, so that a flat or dark input may give a flat or dark result. The limits
are wide: a tile that fails twice costs the whole image. Measured with the bundled model on 10 photographs, the
reduced tiles differ by 0.02 at most and keep 0.9 or more of the structure; the limits are 0.15 and 0.15.

A model that fails on :func:`probe_card` too fails everywhere (it is untrained, say): its tiles are then checked for
values that are not finite only.

The check runs where the tiles are; what leaves the device are five bits per tile.

Shapes: n tiles, C channels (3 or more; only the first three are compared), T tile side.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_BLOCK = 16  # output pixels; noise has averaged out at this size, content has not
_LARGEST_DIFFERENCE = 0.15
_STRUCTURE = 10 / 255
_LEAST_STRUCTURE = 0.15

FAULTS = ("not finite", "black", "constant", "unlike its input", "blurred")
"""What can be wrong with a tile, in words that follow "is"."""
NOT_FINITE, BLACK, CONSTANT, UNLIKE, BLURRED = FAULTS
RELATIVE = (UNLIKE, BLURRED)
"""Faults that only a comparison with the input shows."""

TileCheck = Callable[[Tensor, Tensor], Tensor]
"""What is wrong with each of n restored tiles (n, 3, T, T), given the degraded ones (n, C, T, T).

The result is (n, k) bool, whether the first k of :data:`FAULTS` hold; NaN makes all but the first of them meaningless.
"""


def fault(restored_n3TT: Tensor, degraded_nCTT: Tensor) -> Tensor:
    """What is wrong with restored tiles, see :data:`TileCheck`.

    Args:
        restored_n3TT: nominally in [0, 1].
        degraded_nCTT: the model's input for them.
    """
    got, given = restored_n3TT, degraded_nCTT[:, :3]
    got_variance, got_mean = torch.var_mean(got, (1, 2, 3), correction=0)
    given_variance, given_mean = torch.var_mean(given, (1, 2, 3), correction=0)
    black = (given_mean > 16 / 255) & (got_mean < 1 / 255)
    constant = (given_variance > (4 / 255) ** 2) & (got_variance < (0.5 / 255) ** 2)
    blocks = torch.stack([_reduced(got.clamp(0, 1), _BLOCK), _reduced(given, _BLOCK)])
    unlike = _mean((blocks[0] - blocks[1]) ** 2) > _LARGEST_DIFFERENCE**2
    found = [_not_finite(got_mean), black, constant, unlike]
    if min(got.shape[2:]) >= 8 * _BLOCK:
        kept, structure = _band(blocks.flatten(0, 1)).view_as(blocks)
        energy = _mean(structure**2)
        found.append((energy > _STRUCTURE**2) & (_mean(structure * kept) < _LEAST_STRUCTURE * energy))
    return torch.stack(found, 1)


def not_finite(restored_n3TT: Tensor, degraded_nCTT: Tensor) -> Tensor:
    """Check for NaN and infinity only; see :data:`TileCheck`."""
    return _not_finite(_mean(restored_n3TT))[:, None]


def named(found: Sequence[bool]) -> str:
    """The first fault of one tile, a row of what a :data:`TileCheck` returns; "" if there is none."""
    return next((name for name, wrong in zip(FAULTS, found, strict=False) if wrong), "")


def probe_card(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Test image that every trained model restores: (3, height, width) in [0.05, 0.95], soft waves of three colours."""
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.float32)
    waves = [torch.sin(x / 23 + phase) * torch.cos(y / 31 - phase) for phase in (0.0, 2.1, 4.2)]
    return torch.stack(waves) * 0.45 + 0.5


def _not_finite(mean_n: Tensor) -> Tensor:
    """Whether a tile has a value that is not finite: its mean is not either."""
    return mean_n - mean_n != 0


def _mean(values: Tensor) -> Tensor:
    return values.mean((1, 2, 3))


def _reduced(images: Tensor, factor: int) -> Tensor:
    """Means of blocks of ``factor`` x ``factor`` pixels; blocks are stretched where they do not fit."""
    height, width = images.shape[2:]
    return F.interpolate(images, (max(1, height // factor), max(1, width // factor)), mode="area")


def _band(blocks: Tensor) -> Tensor:
    """Structure of one to two blocks: the blocks minus their own coarser version."""
    return blocks - F.interpolate(_reduced(blocks, 2), blocks.shape[2:], mode="bilinear")
