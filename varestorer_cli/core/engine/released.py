"""Bit-exact re-implementation of the released script's tiling and blending (``--compat``).

Everything here is 8 bit, as there: the image is resized by Pillow, every tile is truncated to 8 bits before it is
blended, and the blend is rounded. ``docs/differences.md`` shows what each habit does to a photograph; without
``--compat`` images are tiled by :class:`varestorer_cli.core.engine.blending.BlendedTiler`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from varestorer_cli.core.engine.blending import RestoredTiles, Tiler
from varestorer_cli.core.engine.tile_check import TileCheck, not_finite
from varestorer_cli.core.engine.tiling import Axis, Tile, TileGrid
from varestorer_cli.core.engine.transfers import Transfers
from varestorer_cli.core.image.resample import Floats, Pixels, to_depth, to_float

Bytes = npt.NDArray[np.uint8]


class ReleasedTiler:
    """The script with ``--tiled 1``: the image padded on all sides, tiles at a fixed stride, a Gaussian blend.

    Args:
        image: (h, w, 3) as decoded.
        size: (width, height) of the result.
        tile: side T of the tiles.
        overlap: pixels that neighbours share, and width of the padding.
        transfers: to the device; the image itself is resized and padded on the host.
    """

    def __init__(self, image: Pixels, size: tuple[int, int], tile: int, overlap: int, transfers: Transfers) -> None:
        upscaled = _resized(_eight_bit(image), size)
        self._margin, self._size = overlap, size
        self._padded: Bytes = np.pad(upscaled, ((overlap, overlap), (overlap, overlap), (0, 0)), mode="reflect")
        height, width = self._padded.shape[:2]
        self.grid = TileGrid(_axis(height, tile, overlap), _axis(width, tile, overlap))
        self.tiles = [tile for tiles in self.grid.rows() for tile in tiles]
        self._transfers = transfers
        self._window = transfers.to_device(_gaussian(tile))

    def cut(self, tile: Tile) -> Tensor:
        """Cut a tile from the padded image; one that sticks out is padded by reflection at the bottom and right."""
        part = self._padded[tile.top : tile.bottom, tile.left : tile.right]
        missing = (self.grid.vertical.side - part.shape[0], self.grid.horizontal.side - part.shape[1])
        square = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
        return _network_input(self._transfers.to_device(square))

    def blocks(self, restored: RestoredTiles) -> Iterator[tuple[int, int, Tensor]]:
        """See :class:`Tiler`; rows of tiles from top to bottom, each from left to right."""
        axis, width = self.grid.vertical, self.grid.horizontal.length
        depth = min(axis.side, axis.length)
        weighted = torch.zeros(3, depth, width, device=self._transfers.device)
        weights = torch.zeros(depth, width, device=self._transfers.device)
        for number, tiles in enumerate(self.grid.rows()):
            top = axis.starts[number]
            for tile, pixels in islice(restored, len(tiles)):
                rows, columns = slice(0, tile.bottom - tile.top), slice(tile.left, tile.right)
                weight = self._window[rows, : tile.right - tile.left]
                weighted[:, rows, columns] += _truncated(pixels).to(torch.float32) * weight
                weights[rows, columns] += weight
            final = axis.done_before(number) - top
            yield from self._cropped(top, weighted[:, :final], weights[:final])
            weighted, weights = (
                torch.cat([part[..., final:, :], torch.zeros_like(part[..., :final, :])], -2)
                for part in (weighted, weights)
            )

    def _cropped(self, top: int, weighted: Tensor, weights: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of the padded image from ``top`` on, rounded, without the padding."""
        width, height = self._size
        first, last = max(top, self._margin), min(top + len(weights), self._margin + height)
        if last > first:
            rows, columns = slice(first - top, last - top), slice(self._margin, self._margin + width)
            blend = torch.round(weighted[:, rows, columns] / weights[rows, columns].clamp_min(1e-8))
            yield first - self._margin, 0, _ratio(blend.clamp(0, 255))


class SquareTiler:
    """The script's default, ``--tiled 0``: the whole image squashed to one square tile, and stretched back.

    Args:
        image: (h, w, 3) as decoded.
        size: (width, height) of the result.
        tile: side T of the tile.
        overlap: not used.
        transfers: to the device and back: the image is stretched on the host, by Pillow as in the script.
    """

    def __init__(self, image: Pixels, size: tuple[int, int], tile: int, overlap: int, transfers: Transfers) -> None:
        self._size = size
        self._transfers = transfers
        self._square = _resized(_resized(_eight_bit(image), size), (tile, tile))
        self.grid = TileGrid.cover(tile, tile, (tile, tile), 0)
        self.tiles = self.grid.rows()[0]

    def cut(self, tile: Tile) -> Tensor:
        """The squashed image."""
        return _network_input(self._transfers.to_device(self._square))

    def blocks(self, restored: RestoredTiles) -> Iterator[tuple[int, int, Tensor]]:
        """See :class:`Tiler`: one block, on the host."""
        for _, pixels in restored:
            square = self._transfers.to_host(_truncated(pixels).permute(1, 2, 0).contiguous()).array()
            yield 0, 0, torch.from_numpy(to_float(_resized(square, self._size))).permute(2, 0, 1)


class OneSequence:
    """Noise as the released evaluation draws it: one seeded sequence per image, tile after tile.

    Args:
        seed: of the sequence; every image of a run restarts it.
        shape: (L, d, 2) of one tile.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self._shape, self._seed = shape, seed
        self._next, self._last = 0, torch.empty(0)
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, tile: int) -> Tensor:
        """Noise of a tile; tiles must be asked for in order, the latest one any number of times."""
        if tile < self._next - 1:  # the image is begun again
            self._generator.manual_seed(self._seed)
            self._next = 0
        while self._next <= tile:
            self._last = torch.rand(self._shape, generator=self._generator)
            self._next += 1
        return self._last


@dataclass(frozen=True)
class CompatMode:
    """What one value of ``--compat`` fixes about how images are handled.

    Attributes:
        tiler: makes the tiler of an image from image, (width, height), tile, overlap and transfers.
        overlap_share: tile side divided by the default overlap.
        sampling: default sampling.
        color_fix: default colour fix.
        fault: check of a tile, see :mod:`.tile_check`; the script accepts everything that is finite.
    """

    tiler: Callable[[Pixels, tuple[int, int], int, int, Transfers], Tiler]
    overlap_share: int = 4
    sampling: str = "sample"
    color_fix: str = "none"
    fault: TileCheck = not_finite


COMPAT_MODES = {"released": CompatMode(ReleasedTiler), "released-square": CompatMode(SquareTiler)}
"""Compatibility modes by the value of ``--compat``."""


def _eight_bit(image: Pixels) -> Bytes:
    return image if image.dtype == np.uint8 else to_depth(to_float(image), np.uint8)


def _resized(image: Bytes, size: tuple[int, int]) -> Bytes:
    """Lanczos by Pillow, which rounds to 8 bits between the axes too; nothing happens at the same size."""
    if (image.shape[1], image.shape[0]) == tuple(size):
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.LANCZOS))


def _network_input(image: Tensor) -> Tensor:
    """8 bit (T, T, 3) -> [-1, 1] -> [0, 1] (3, T, T), rounded as by the script's conversions."""
    signed = _ratio(image.permute(2, 0, 1).to(torch.float32)) * 2 - 1
    return (signed + 1) / 2


def _ratio(values: Tensor) -> Tensor:
    """Values / 255, divided on the device: a GPU would multiply by the reciprocal of a host number, and round apart."""
    return values / values.new_full((), 255)


def _truncated(pixels: Tensor) -> Tensor:
    return (pixels * 255).to(torch.uint8)


def _axis(length: int, side: int, overlap: int) -> Axis:
    """Tiles at a fixed stride, and one more that ends at the edge where they do not."""
    last = max(0, length - side)
    return Axis(length, side, overlap, overlap, (*range(0, last, side - overlap), last))


def _gaussian(side: int) -> Floats:
    """Blend weights of a tile: deviation a tenth of its side around its middle, 1 at the largest."""
    position = np.arange(side, dtype=np.float64)
    profile = np.exp(-((position - (side - 1) / 2) ** 2) / side**2 / 0.02) / np.sqrt(2 * np.pi * 0.01)
    window = np.outer(profile, profile).astype(np.float32)
    out: Floats = window / window.max()
    return out
