"""Tilers: cut an image into tiles, and blend its restored tiles into an image. Knows no model and no device.

A tiler belongs to one image. :class:`BlendedTiler` is this project's; :mod:`.released` has those of the released
script. The engine asks for tiles, restores them, and writes the finished blocks, whatever the tiler.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.engine.tiling import Tile, TileGrid
from varestorer_cli.core.image.resample import Pixels, Resampler

Floats = npt.NDArray[np.float32]
RestoredTiles = Iterator[tuple[Tile, Floats]]
"""Tiles in the order of :attr:`Tiler.tiles`, each with its restored pixels in [0, 1], cut to the tile's window."""


class Tiler(Protocol):
    """Cuts one image into tiles and makes one image of the restored tiles."""

    @property
    def grid(self) -> TileGrid:
        """The tiles of the image."""

    @property
    def tiles(self) -> Sequence[Tile]:
        """The tiles in the order in which :meth:`blocks` takes them."""

    def cut(self, tile: Tile) -> Floats:
        """Pixels of one tile for the model: (T, T, 3) in [0, 1]; the two sides may differ."""

    def blocks(self, restored: RestoredTiles) -> Iterator[tuple[int, int, Floats]]:
        """Finished parts of the result: (top, left, block in [0, 1]); together they cover each pixel once."""


class BlendedTiler:
    """Tiles spread evenly, cut from the virtually upscaled image, blended where neighbours overlap.

    Memory is bounded by one band of tiles across the image's shorter side: each tile is resampled from the image as it
    was given (see :class:`varestorer_cli.core.image.resample.Resampler`); the whole upscaled image never exists.

    Args:
        image: (h, w, 3) as decoded.
        grid: tiles over the result.
        filter: of the upscaling, a key of ``resample.FILTERS``.
    """

    def __init__(self, image: Pixels, grid: TileGrid, filter: str) -> None:
        self.grid = grid
        self.tiles = [tile for tiles in grid.bands() for tile in tiles]
        self._image = image
        target = (grid.vertical.length, grid.horizontal.length)
        self._resampler = Resampler((image.shape[0], image.shape[1]), target, filter)
        self._rows = [grid.vertical.weights(i) for i in range(len(grid.vertical.starts))]
        self._columns = [grid.horizontal.weights(i) for i in range(len(grid.horizontal.starts))]

    def cut(self, tile: Tile) -> Floats:
        """Cut a tile from the upscaled image; an image smaller than the tile is padded by reflection."""
        pixels = self._resampler.window(self._image, tile.top, tile.left, tile.bottom, tile.right).clip(0, 1)
        return reflected(pixels, self.grid.sides)

    def blocks(self, restored: RestoredTiles) -> Iterator[tuple[int, int, Floats]]:
        """See :class:`Tiler`."""
        grid, by_rows = self.grid, self.grid.by_rows
        along = grid.vertical if by_rows else grid.horizontal
        across = grid.horizontal if by_rows else grid.vertical
        depth = min(along.side, along.length)
        # The band holds the sum of weighted tiles from the first pixel that is not final yet.
        band = np.zeros((depth, across.length, 3) if by_rows else (across.length, depth, 3), np.float32)
        for number, tiles in enumerate(grid.bands()):
            start = along.starts[number]
            for tile, pixels in islice(restored, len(tiles)):
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
