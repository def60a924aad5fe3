"""Tile geometry in integers and the weights that blend tiles; knows no pixels and no model.

Tiles of one fixed size cover the image, are spread evenly, reach ``margin`` pixels beyond it (an image smaller than a
tile is one tile; the caller pads what is outside), and share at least ``overlap`` pixels with each neighbour. Weights
ramp linearly across what two neighbours share, up to ``ramp`` pixels, and are normalised per pixel, so they sum to one
whatever the geometry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the grid, its window in the image, and its running number.

    ``bottom`` and ``right`` are exclusive; the window is smaller than the tile's side where the tile reaches beyond the
    image, which it does by ``above`` and ``before`` pixels at the top and left.
    """

    index: int
    row: int
    column: int
    top: int
    left: int
    bottom: int
    right: int
    above: int = 0
    before: int = 0


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis.

    Attributes:
        length: pixels of the image.
        side: pixels of a tile.
        overlap: least number of pixels two neighbours share.
        ramp: most pixels over which the weight of one tile gives way to the next one's.
        starts: first pixel of each tile; below 0 where it lies before the image.
    """

    length: int
    side: int
    overlap: int
    ramp: int
    starts: tuple[int, ...]

    @classmethod
    def split(
        cls, length: int, side: int, overlap: int, ramp: int | None = None, step: int = 1, margin: int = 0
    ) -> "Axis":
        """Spread as few tiles as possible evenly over ``length`` pixels.

        Args:
            length: pixels of the image.
            side: pixels of a tile.
            overlap: least number of pixels two neighbours share.
            ramp: most pixels to blend over; as many as ``overlap`` if None.
            step: tiles begin at multiples of it, but for the last one, which ends with the image. Where it does not
                divide side - overlap, neighbours may share up to step - 1 pixels less.
            margin: pixels beyond the image, at both ends, that are covered too; a multiple of ``step``.

        Raises:
            ValueError: a length or side below 1, or an overlap outside 0 .. side // 2.
        """
        if length < 1 or side < 1 or not 0 <= overlap <= side // 2:
            raise ValueError(f"length {length}, side {side} and overlap {overlap} do not fit together")
        ramp = overlap if ramp is None else ramp
        covered = length + 2 * margin
        if covered <= side:
            return cls(length, side, overlap, ramp, (-margin,))
        count = -(-(covered - overlap) // (side - overlap))
        room = covered - side
        even = (i * room // (count - 1) for i in range(count - 1))
        starts = (min(room, -(-start // step) * step) for start in even)
        return cls(length, side, overlap, ramp, tuple(start - margin for start in (*starts, room)))

    def window(self, tile: int) -> tuple[int, int]:
        """First pixel and the one after the last of a tile, inside the image."""
        return max(0, self.starts[tile]), min(self.starts[tile] + self.side, self.length)

    def done_before(self, tile: int) -> int:
        """Pixels below this are final once tiles up to and including ``tile`` are in."""
        return max(0, self.starts[tile + 1]) if tile + 1 < len(self.starts) else self.length

    def weights(self, tile: int) -> Weights:
        """Blend weights of a tile's pixels along this axis; over all tiles they sum to one at every pixel."""
        start, stop = self.window(tile)
        total = np.zeros(stop - start, np.float64)
        for other in range(len(self.starts)):
            first, last = self.window(other)
            if first < stop and last > start:
                total += self._ramp(other, start, stop)
        return (self._ramp(tile, start, stop) / total).astype(np.float32)

    def _ramp(self, tile: int, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Height of a tile's trapezoid over the pixels start .. stop; 0 outside the tile."""
        first, last = self.starts[tile], self.starts[tile] + self.side
        position = np.arange(start, stop) + 0.5
        height = np.ones(stop - start)
        # At the image's own border there is nothing to blend with: no ramp.
        if tile > 0:
            height = np.minimum(height, (position - first) / self._blended(tile - 1))
        if tile + 1 < len(self.starts):
            height = np.minimum(height, (last - position) / self._blended(tile))
        height[(position < first) | (position > last)] = 0
        return np.clip(height, 0, 1)

    def _blended(self, tile: int) -> int:
        """Pixels over which a tile gives way to the next."""
        return max(1, min(self.starts[tile] + self.side - self.starts[tile + 1], self.ramp))


def fewest_tiles(length: int, sides: Sequence[int], overlap: int) -> int:
    """The shortest side with which the fewest tiles cover a length.

    Args:
        length: pixels of the image.
        sides: possible sides, shortest first.
        overlap: least number of pixels two neighbours share.
    """
    if length <= sides[0]:
        return sides[0]

    def count(side: int) -> int:
        return max(1, -(-(length - overlap) // (side - overlap)))

    return next(side for side in sides if count(side) == count(sides[-1]))


@dataclass(frozen=True)
class TileGrid:
    """Tiles over an image, in rows and columns."""

    vertical: Axis
    horizontal: Axis

    @classmethod
    def cover(
        cls, height: int, width: int, sides: tuple[int, int], overlap: int, ramp: int | None = None, step: int = 1
    ) -> "TileGrid":
        """Grid of tiles with these (vertical, horizontal) sides over an image.

        Raises:
            ValueError: see :meth:`Axis.split`, also for the other arguments.
        """
        return cls(Axis.split(height, sides[0], overlap, ramp, step), Axis.split(width, sides[1], overlap, ramp, step))

    @property
    def sides(self) -> tuple[int, int]:
        """(vertical, horizontal) side of every tile."""
        return self.vertical.side, self.horizontal.side

    def __len__(self) -> int:
        return len(self.vertical.starts) * len(self.horizontal.starts)

    @property
    def by_rows(self) -> bool:
        """Whether bands run along rows; they are laid across the image's shorter side, which bounds memory."""
        return self.vertical.length >= self.horizontal.length

    def bands(self) -> list[list[Tile]]:
        """Tiles grouped into bands across the shorter side, in the order they are finished.

        A tile's ``index`` is its number in row-major order, whatever the order of the bands.
        """
        rows = self.rows()
        return rows if self.by_rows else [list(column) for column in zip(*rows, strict=True)]

    def rows(self) -> list[list[Tile]]:
        """Tiles row by row, from the top; each row from the left."""
        rows, columns = range(len(self.vertical.starts)), range(len(self.horizontal.starts))
        return [[self._tile(row, column) for column in columns] for row in rows]

    def _tile(self, row: int, column: int) -> Tile:
        top, bottom = self.vertical.window(row)
        left, right = self.horizontal.window(column)
        index = row * len(self.horizontal.starts) + column
        above, before = top - self.vertical.starts[row], left - self.horizontal.starts[column]
        return Tile(index, row, column, top, left, bottom, right, above, before)
