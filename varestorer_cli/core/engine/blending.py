"""Tilers: cut an image into tiles, and blend its restored tiles into an image, on the device. Knows no model.

A tiler belongs to one image. :class:`BlendedTiler` is this project's; :mod:`.released` has those of the released
script. The engine asks for tiles, restores them, and writes the finished blocks, whatever the tiler.

Shapes: C channels of the image, T tile side (the two sides of a tile may differ).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from varestorer_cli.core.engine.tiling import Axis, Tile, TileGrid
from varestorer_cli.core.engine.transfers import Transfers
from varestorer_cli.core.image.resample import Pixels, taps

RestoredTiles = Iterator[tuple[Tile, Tensor]]
"""Tiles in the order of :attr:`Tiler.tiles`, each with its restored pixels (3, h, w) in [0, 1], cut to its window."""
_TENSOR_TYPES = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.uint16,
    np.dtype(np.float32): torch.float32,
}
_KEPT_MATRICES = 16
_LARGEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


class Tiler(Protocol):
    """Cuts one image into tiles and makes one image of the restored tiles."""

    @property
    def grid(self) -> TileGrid:
        """The tiles of the image."""

    @property
    def tiles(self) -> Sequence[Tile]:
        """The tiles in the order in which :meth:`blocks` takes them."""

    def cut(self, tile: Tile) -> Tensor:
        """Pixels of one tile for the model, on the device: (C, T, T) in [0, 1]; the two sides may differ."""

    def blocks(self, restored: RestoredTiles) -> Iterator[tuple[int, int, Tensor]]:
        """Finished parts of the result: (top, left, block (3, h, w) in [0, 1]); together they cover each pixel once.

        A block is only valid until the next one is asked for.
        """


class Upscaling:
    """Matrices that upscale along one axis, on the device; the latest ones are kept for images of the same size.

    Args:
        filter: a key of ``resample.FILTERS``.
        transfers: to the device.
    """

    def __init__(self, filter: str, transfers: Transfers) -> None:
        self.transfers = transfers
        self._filter = filter
        self._kept = lru_cache(_KEPT_MATRICES)(self._made)

    def matrix(self, source: int, length: int, start: int, stop: int) -> tuple[int, int, Tensor | None]:
        """Source pixels (first, last exclusive) that pixels ``start`` to ``stop`` need, and what makes them.

        Args:
            source: pixels of the image along the axis.
            length: of the result.
            start: first pixel of the result.
            stop: last one, exclusive.

        Returns:
            The two and the matrix (pixels of the result, source pixels), None where the image keeps its size.
        """
        return (start, stop, None) if source == length else self._kept(source, length, start, stop)

    def _made(self, source: int, length: int, start: int, stop: int) -> tuple[int, int, Tensor | None]:
        tap = taps(source, length, start, stop, self._filter)
        index, weights = self.transfers.to_device(tap.index), self.transfers.to_device(tap.weights)
        empty = torch.zeros(stop - start, tap.last - tap.first, device=weights.device)
        return tap.first, tap.last, empty.scatter_add_(1, index, weights)


class BlendedTiler:
    """Tiles spread evenly, cut from the virtually upscaled image, blended where neighbours overlap.

    Memory of host and device is bounded by one band of tiles across the image's shorter side: what a tile needs of the
    image as it was given goes to the device and is resampled there, with the weights of
    :func:`varestorer_cli.core.image.resample.taps`; the whole upscaled image never exists.

    Args:
        image: (h, w, C) as decoded.
        grid: tiles over the result.
        upscaling: of the image.
        blend_on: torch device of the band; that of ``upscaling`` by default.
    """

    def __init__(self, image: Pixels, grid: TileGrid, upscaling: Upscaling, blend_on: str | None = None) -> None:
        self.grid = grid
        self.tiles = [tile for tiles in grid.bands() for tile in tiles]
        self._image = image
        self._upscaling = upscaling
        self._transfers = upscaling.transfers
        self._blend_on = torch.device(blend_on) if blend_on else self._transfers.device
        self._matrices: dict[tuple[bool, int], tuple[int, int, Tensor | None]] = {}

    def cut(self, tile: Tile) -> Tensor:
        """Cut a tile from the upscaled image, which is continued by reflection."""
        top, bottom, rows = self._matrix(False, tile.row)
        left, right, columns = self._matrix(True, tile.column)
        part = self._transfers.to_device(self._image[top:bottom, left:right])
        pixels = part.to(torch.float32)
        if self._image.dtype in _LARGEST:
            pixels = pixels / _LARGEST[self._image.dtype]
        pixels = pixels.permute(2, 0, 1)
        if rows is not None:
            pixels = torch.matmul(rows, pixels)
        if columns is not None:
            pixels = torch.matmul(pixels, columns.t())
        return reflected(pixels.clamp(0, 1), self.grid.sides, (tile.above, tile.before))

    def blocks(self, restored: RestoredTiles) -> Iterator[tuple[int, int, Tensor]]:
        """See :class:`Tiler`."""
        if len(self.tiles) == 1:  # nothing to blend with
            for _, pixels in restored:
                yield 0, 0, pixels
            return
        grid, by_rows = self.grid, self.grid.by_rows
        row_weights, column_weights = self._weights(grid.vertical), self._weights(grid.horizontal)
        along = grid.vertical if by_rows else grid.horizontal
        across = grid.horizontal if by_rows else grid.vertical
        depth = min(along.side, along.length)
        # The band holds the sum of weighted tiles from the first pixel that is not final yet.
        shape = (3, depth, across.length) if by_rows else (3, across.length, depth)
        band = torch.zeros(shape, device=self._blend_on)
        for number, tiles in enumerate(grid.bands()):
            start = along.window(number)[0]
            for tile, pixels in islice(restored, len(tiles)):
                weights = row_weights[tile.row][:, None] * column_weights[tile.column]
                rows, columns = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
                if by_rows:
                    rows = slice(0, tile.bottom - tile.top)
                else:
                    columns = slice(0, tile.right - tile.left)
                band[:, rows, columns] += pixels.to(self._blend_on) * weights
            final = along.done_before(number) - start
            if by_rows:
                yield start, 0, band[:, :final]
            else:
                yield 0, start, band[:, :, :final]
            if number + 1 < len(along.starts):
                dim = 1 if by_rows else 2
                kept = band.narrow(dim, final, depth - final)
                band = torch.cat([kept, torch.zeros_like(band.narrow(dim, 0, final))], dim)

    def _weights(self, axis: Axis) -> tuple[Tensor, ...]:
        """Blend weights of each tile along an axis."""
        rows = [axis.weights(i) for i in range(len(axis.starts))]
        together = self._transfers.to_device(np.concatenate(rows)).to(self._blend_on)
        return torch.split(together, [len(row) for row in rows])

    def _matrix(self, horizontal: bool, number: int) -> tuple[int, int, Tensor | None]:
        """See :meth:`Upscaling.matrix`, for a row or column of tiles."""
        key = (horizontal, number)
        if key not in self._matrices:
            axis = self.grid.horizontal if horizontal else self.grid.vertical
            made = self._upscaling.matrix(self._image.shape[horizontal], axis.length, *axis.window(number))
            if horizontal != self.grid.by_rows:  # of the direction in which bands follow each other the latest is kept
                self._matrices = {kept: one for kept, one in self._matrices.items() if kept[0] != horizontal}
            self._matrices[key] = made
        return self._matrices[key]


def samples(block_3HW: Tensor, dtype: npt.DTypeLike) -> Tensor:
    """Pixels (H, W, 3) in the type of the result, as ``resample.to_depth`` has it, on the device.

    Args:
        block_3HW: in [0, 1]; it may be changed afterwards.
        dtype: uint8, uint16 or float32.
    """
    kind = np.dtype(dtype)
    pixels = block_3HW.permute(1, 2, 0)
    if kind.kind != "f":
        pixels = (pixels.clamp(0, 1) * int(np.iinfo(kind).max) + 0.5).floor_()
    out: Tensor = pixels.to(_TENSOR_TYPES[kind], memory_format=torch.contiguous_format, copy=True)
    return out


def reflected(pixels: Tensor, sides: tuple[int, int], before: tuple[int, int] = (0, 0)) -> Tensor:
    """Continue (C, h, w) to these sides, by ``before`` at the top and left; the edge itself is not repeated."""
    (height, width), (above, left) = pixels.shape[1:], before
    below, right = max(0, sides[0] - height - above), max(0, sides[1] - width - left)
    if max(above, below) < height and max(left, right) < width:  # one operation where one reflection is enough
        return F.pad(pixels, (left, right, above, below), mode="reflect") if above + below + left + right else pixels
    for dim, side, first in ((1, sides[0], above), (2, sides[1], left)):
        last = pixels.shape[dim] - 1
        if side > last + 1:
            position = torch.arange(-first, side - first, device=pixels.device) % max(1, 2 * last)
            pixels = pixels.index_select(dim, last - (position - last).abs())
    return pixels
