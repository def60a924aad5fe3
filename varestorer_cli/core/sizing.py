"""Size of an output image: a factor, an exact size, one side, or a number of megapixels."""

import math
import re
from dataclasses import dataclass

from varestorer_cli.core.errors import UsageError

DEFAULT_SCALE = 4.0
LARGEST_SCALE = 64.0


@dataclass(frozen=True)
class Sizing:
    """Output size of a picture: a factor, or one target.

    Attributes:
        scale: factor on both sides; the default x4 when nothing else is given.
        size: exact (width, height).
        long_side: pixels of the longer side, the other follows.
        short_side: pixels of the shorter side, the other follows.
        megapixels: millions of pixels, the aspect ratio is kept.
    """

    scale: float | None = None
    size: tuple[int, int] | None = None
    long_side: int | None = None
    short_side: int | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("scale", "size", "long_side", "short_side", "megapixels")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            flags = " and ".join("--" + name.replace("_", "-") for name in given)
            raise UsageError(f"{flags} contradict each other: an output has one size; give only one of them")
        if self.scale is not None and not (math.isfinite(self.scale) and 0 < self.scale <= LARGEST_SCALE):
            raise UsageError(f"--scale {self.scale:g}: a factor above 0 and up to {LARGEST_SCALE:g} is needed")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"--size {self.size[0]}x{self.size[1]}: both sides must be at least 1 pixel")
        for name in ("long_side", "short_side"):
            pixels = getattr(self, name)
            if pixels is not None and pixels < 1:
                raise UsageError(f"--{name.replace('_', '-')} {pixels}: at least 1 pixel is needed")
        if self.megapixels is not None and not (math.isfinite(self.megapixels) and 0 < self.megapixels <= 4000):
            raise UsageError(f"--megapixels {self.megapixels:g}: a number above 0 and up to 4000 is needed")

    def target(self, width: int, height: int, *, half_to_even: bool = False) -> tuple[int, int]:
        """Output (width, height) of an upright picture; sides are rounded to the nearest, never below 1.

        Args:
            width: of the picture.
            height: of the picture.
            half_to_even: round halves as Python and the released script do; up otherwise.
        """
        if self.size is not None:
            return self.size
        if self.long_side is not None:
            factor = self.long_side / max(width, height)
        elif self.short_side is not None:
            factor = self.short_side / min(width, height)
        elif self.megapixels is not None:
            factor = math.sqrt(self.megapixels * 1e6 / (width * height))
        else:
            factor = self.scale or DEFAULT_SCALE
        if half_to_even:
            return max(1, round(width * factor)), max(1, round(height * factor))
        return max(1, math.floor(width * factor + 0.5)), max(1, math.floor(height * factor + 0.5))

    def describe(self) -> str:
        """The rule in words, for the plan line."""
        if self.size is not None:
            return f"size {self.size[0]}x{self.size[1]}"
        if self.long_side is not None:
            return f"long side {self.long_side}"
        if self.short_side is not None:
            return f"short side {self.short_side}"
        if self.megapixels is not None:
            return f"{self.megapixels:g} megapixels"
        return f"scale {self.scale or DEFAULT_SCALE:g}"

    def label(self) -> str:
        """The rule in a few characters, for file names: ``x4``, ``1920x1080``, ``long2048``, ``12mp``."""
        if self.size is not None:
            return f"{self.size[0]}x{self.size[1]}"
        if self.long_side is not None:
            return f"long{self.long_side}"
        if self.short_side is not None:
            return f"short{self.short_side}"
        if self.megapixels is not None:
            return f"{self.megapixels:g}mp"
        return f"x{self.scale or DEFAULT_SCALE:g}"


def parse_size(text: str) -> tuple[int, int]:
    """Read ``WxH``.

    Raises:
        UsageError: not two positive integers.
    """
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if found is None:
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT in pixels, for example 1920x1080")
    return int(found[1]), int(found[2])
