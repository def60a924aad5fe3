"""Scale schedules: the coarse-to-fine grids of one visual autoregressive sequence.

A schedule is all that the rest of the package needs to know about a sequence: how many positions each scale
has, where they lie, and who may attend to whom. Position 0 is the start token; it is the 1 x 1 scale 0.

Shape legend: L positions of all scales, h w rows and columns of one grid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

INFINITY_SIZES: dict[str, int] = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Number of scales of each released size; the name is the image's pixel count in millions."""

# Released tables, coarse to fine (h, w), by aspect ratio height / width. Wide images mirror the tall ones.
_SQUARE_SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
_TALL_GRIDS: dict[float, str] = {
    1.25: "1,1 2,2 3,3 5,4 10,8 15,12 20,16 25,20 30,24 35,28 45,36 55,44 70,56",
    1.333: "1,1 2,2 4,3 8,6 12,9 16,12 20,15 24,18 28,21 36,27 48,36 60,45 72,54",
    1.5: "1,1 2,2 3,2 6,4 9,6 15,10 21,14 27,18 33,22 39,26 48,32 63,42 78,52",
    1.75: "1,1 2,2 3,3 7,4 11,6 14,8 21,12 28,16 35,20 42,24 56,32 70,40 84,48",
    2.0: "1,1 2,2 4,2 6,3 10,5 16,8 22,11 30,15 38,19 46,23 60,30 74,37 90,45",
    2.5: "1,1 2,2 5,2 10,4 15,6 20,8 25,10 30,12 40,16 50,20 65,26 80,32 100,40",
    3.0: "1,1 2,2 6,2 9,3 15,5 21,7 27,9 36,12 45,15 54,18 72,24 90,30 111,37",
}
_WIDE_TO_TALL = {0.8: 1.25, 0.75: 1.333, 0.666: 1.5, 0.571: 1.75, 0.5: 2.0, 0.4: 2.5, 0.333: 3.0}

INFINITY_RATIOS: tuple[float, ...] = (1.0, *_TALL_GRIDS, *_WIDE_TO_TALL)
"""Aspect ratios (height / width) that have a released table."""


@dataclass(frozen=True)
class ScaleSchedule:
    """Coarse-to-fine tuple of (h, w) grids; the last one is the full latent grid.

    Grids never shrink from one scale to the next. Repeating one is legal: 16, 16 refines the same grid twice.

    Attributes:
        grids: height and width of each scale in codes; the first is (1, 1), the grid of the start token.

    Raises:
        ValueError: If the grids are empty, not positive, do not begin with (1, 1), or shrink.
    """

    grids: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        # Lists come from JSON metadata; tuples make equal schedules equal and hashable.
        grids = tuple((int(height), int(width)) for height, width in self.grids)
        object.__setattr__(self, "grids", grids)
        if not grids:
            raise ValueError("a scale schedule needs at least one grid, got none; start with (1, 1)")
        if grids[0] != (1, 1):
            raise ValueError(f"the first grid holds the start token and must be (1, 1), got {grids[0]}")
        for k in range(1, len(grids)):
            coarse, fine = grids[k - 1], grids[k]
            if fine[0] < coarse[0] or fine[1] < coarse[1]:
                raise ValueError(f"grids must not shrink, got {fine} after {coarse}; list them coarse to fine")

    @classmethod
    def infinity(cls, size: str = "0.25M", ratio: float = 1.0) -> "ScaleSchedule":
        """The schedule of the released models for an image size and an aspect ratio.

        Args:
            size: One of ``INFINITY_SIZES``; "0.25M" is the 512 x 512 model with 2521 positions.
            ratio: Height / width, one of ``INFINITY_RATIOS``.

        Raises:
            ValueError: If there is no table for the size or the ratio.
        """
        if size not in INFINITY_SIZES:
            raise ValueError(f"there is no released size {size!r}; choose one of {', '.join(INFINITY_SIZES)}")
        if ratio not in INFINITY_RATIOS:
            known = ", ".join(str(known_ratio) for known_ratio in sorted(INFINITY_RATIOS))
            raise ValueError(f"there is no released table for height / width = {ratio}; choose one of {known}")
        return cls(_infinity_grids(ratio)[: INFINITY_SIZES[size]])

    def infinity_reference(self) -> "ScaleSchedule | None":
        """The released 13-scale "1M" schedule that begins with this one, or None if no released table does.

        The released models take their rotary coordinates from it. Short prefixes that several tables share
        resolve to the first match, the square table before the others.
        """
        for ratio in INFINITY_RATIOS:
            grids = _infinity_grids(ratio)
            if grids[: len(self.grids)] == self.grids:
                return ScaleSchedule(grids)
        return None

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.grids)

    @property
    def sides(self) -> tuple[float, ...]:
        """Side of each scale in codes, of the square of its area: weights of :func:`.losses.bit_cross_entropy`."""
        return tuple(math.sqrt(height * width) for height, width in self.grids)

    @property
    def latent_grid(self) -> tuple[int, int]:
        """The last grid, (h, w) of the autoencoder's latent."""
        return self.grids[-1]

    @property
    def latent_length(self) -> int:
        """Positions of the latent grid, h * w; also the length of the extra block."""
        return self.grids[-1][0] * self.grids[-1][1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each scale."""
        return tuple(height * width for height, width in self.grids)

    @property
    def length(self) -> int:
        """Positions of all scales together, L."""
        return sum(self.lengths)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each scale lies in a sequence of L positions (position 0 = scale 0 = start token)."""
        result, first = [], 0
        for length in self.lengths:
            result.append(slice(first, first + length))
            first += length
        return tuple(result)

    def scale_index(self, device: torch.device | str | None = None) -> Tensor:
        """The scale of every position, long (L,)."""
        lengths = torch.tensor(self.lengths, device=device)
        return torch.repeat_interleave(torch.arange(len(self), device=device), lengths, output_size=self.length)

    def block_causal_mask(self, device: torch.device | str | None = None) -> Tensor:
        """Who may attend to whom in the teacher, bool (L, L), [query, key], True = may attend.

        A query of scale a sees every key of the scales b <= a, its own scale included.
        """
        scale = self.scale_index(device)
        return scale[:, None] >= scale[None, :]


def _infinity_grids(ratio: float) -> tuple[tuple[int, int], ...]:
    """All 13 grids of one released aspect ratio."""
    if ratio == 1.0:
        return tuple((side, side) for side in _SQUARE_SIDES)
    if ratio in _WIDE_TO_TALL:
        return tuple((width, height) for height, width in _infinity_grids(_WIDE_TO_TALL[ratio]))
    pairs = (pair.split(",") for pair in _TALL_GRIDS[ratio].split())
    return tuple((int(height), int(width)) for height, width in pairs)
