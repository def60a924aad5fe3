"""How a picture becomes tiles, and its restored tiles a picture. Knows no model and no device.

A plan belongs to one picture. :class:`EvenPlan` is this project's; :mod:`core.released` has those of the released
script. The engine asks for tiles, restores them, and writes the finished blocks, whatever the plan.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.engine.tiling import Tile, TileGrid
from varestorer_cli.core.image.resample import Pixels, Resampler

Floats = npt.NDArray[np.float32]
RestoreTiles = Callable[[Sequence[Tile]], Iterable[tuple[Tile, Floats]]]
"""Tiles -> each with its restored pixels in [0, 1], cut to the tile's window."""


class PicturePlan(Protocol):
    """One picture's way through the model."""

    @property
    def grid(self) -> TileGrid:
        """Its tiles."""

    def cut(self, tile: Tile) -> Floats:
        """Pixels that the model gets for a tile: (T, T, 3) in [0, 1]; the two sides may differ."""

    def blocks(self, restore: RestoreTiles) -> Iterator[tuple[int, int, Floats]]:
        """Finished parts of the result: (top, left, block in [0, 1]), each pixel once."""


class EvenPlan:
    """Tiles spread evenly, cut from the virtually upscaled picture, blended over what neighbours share.

    Memory is bounded by one band of tiles across the picture's shorter side: each tile is cut from the picture as it
    was given (see :mod:`core.resample`), so the upscaled picture never exists as a whole.

    Args:
        picture: (h, w, 3).
        grid: tiles over the result.
        filter: of the upscaling, a key of ``resample.FILTERS``.
    """

    def __init__(self, picture: Pixels, grid: TileGrid, filter: str) -> None:
        self.grid = grid
        self._picture = picture
        target = (grid.vertical.length, grid.horizontal.length)
        self._resampler = Resampler((picture.shape[0], picture.shape[1]), target, filter)
        self._rows = [grid.vertical.weights(i) for i in range(len(grid.vertical.starts))]
        self._columns = [grid.horizontal.weights(i) for i in range(len(grid.horizontal.starts))]

    def cut(self, tile: Tile) -> Floats:
        """A tile of the upscaled picture; a picture smaller than the tile is padded by reflection."""
        pixels = self._resampler.window(self._picture, tile.top, tile.left, tile.bottom, tile.right).clip(0, 1)
        return reflected(pixels, self.grid.sides)

    def blocks(self, restore: RestoreTiles) -> Iterator[tuple[int, int, Floats]]:
        """See :class:`PicturePlan`."""
        grid, by_rows = self.grid, self.grid.by_rows
        along = grid.vertical if by_rows else grid.horizontal
        across = grid.horizontal if by_rows else grid.vertical
        depth = min(along.side, along.length)
        # The band holds the sum of weighted tiles from the first pixel that is not final yet.
        band = np.zeros((depth, across.length, 3) if by_rows else (across.length, depth, 3), np.float32)
        for number, tiles in enumerate(grid.bands()):
            start = along.starts[number]
            for tile, pixels in restore(tiles):
                weights = self._rows[tile.row][:, None, None] * self._columns[tile.column][None, :, None]
                if by_rows:
                    band[: tile.bottom - tile.top, tile.left : tile.right] += pixels * weights
                else:
                    band[tile.top : tile.bottom, : tile.right - tile.left] += pixels * weights
            final = along.done_before(number) - start
            if by_rows:
                yield start, 0, band[:final]
                band = np.concatenate([band[final:], np.zeros_like(band[:final])])
            else:
                yield 0, start, band[:, :final]
                band = np.concatenate([band[:, final:], np.zeros_like(band[:, :final])], axis=1)


def reflected(pixels: Floats, sides: tuple[int, int]) -> Floats:
    """Continue (h, w, C) at the bottom and right to these sides; the edge itself is not repeated."""
    missing = (sides[0] - pixels.shape[0], sides[1] - pixels.shape[1])
    if not any(missing):
        return pixels
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
