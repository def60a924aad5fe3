"""Change of an image's pixel grid on its way to the output: turned upright, then resized; applied to coordinates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """What happens to the pixel grid of one image.

    Attributes:
        orientation: EXIF orientation of the input as stored, 1 to 8 (EXIF 2.32, tag 274).
        upright: (width, height) after turning, before resizing.
        size: (width, height) of the output.
    """

    orientation: int
    upright: tuple[int, int]
    size: tuple[int, int]

    @property
    def swaps(self) -> bool:
        """Whether rows become columns."""
        return self.orientation >= 5

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) as stored in the input."""
        return (self.upright[1], self.upright[0]) if self.swaps else self.upright

    @property
    def scale(self) -> tuple[float, float]:
        """Factors (x, y) from upright to output pixels."""
        return self.size[0] / self.upright[0], self.size[1] / self.upright[1]

    def turn(self, x: float, y: float, width: float, height: float) -> tuple[float, float]:
        """Upright place of a point of a stored image of this size, in the same unit."""
        if self.swaps:
            x, y, width, height = y, x, height, width
        if self.orientation in (2, 3, 6, 7):
            x = width - x
        if self.orientation in (3, 4, 7, 8):
            y = height - y
        return x, y

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Output pixel of a stored pixel."""
        x, y = self.turn(x, y, *self.stored)
        return x * self.scale[0], y * self.scale[1]

    def extent(self, width: float, height: float) -> tuple[float, float]:
        """Width and height in output pixels of a part of the stored image; pixels per unit of the sensor as well."""
        if self.swaps:
            width, height = height, width
        return width * self.scale[0], height * self.scale[1]

    def area(self, area: list[int]) -> list[int]:
        """A subject area as EXIF has it (2.32, tag 0x9214): centre; with a diameter; or with width and height."""
        if not 2 <= len(area) <= 4:
            return area
        after = [round(value) for value in self.point(area[0], area[1])]
        if len(area) == 3:
            after.append(round(area[2] * sum(self.scale) / 2))
        if len(area) == 4:
            after += [round(value) for value in self.extent(area[2], area[3])]
        return after

    def corner(self, left: float, top: float, size: tuple[float, float], whole: tuple[float, float]) -> tuple[int, int]:
        """Output (left, top) of a rectangle of ``size`` in a frame ``whole``, all in stored pixels."""
        first = self.turn(left, top, *whole)
        second = self.turn(left + size[0], top + size[1], *whole)
        x, y = min(first[0], second[0]), min(first[1], second[1])
        return round(x * self.scale[0]), round(y * self.scale[1])
