"""Size of an output image: a factor, an exact size, one side, or a number of megapixels."""

import math
import re
from dataclasses import dataclass
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import Range, Stale, check_fields, declared, option, settings_of

DEFAULT_SCALE = 4.0
LARGEST_SCALE = 64.0
SIZE = "Size"
_PIXELS = Range(1, words="at least 1 pixel is needed")


@dataclass(frozen=True)
class Sizing:
    """Output size of an image: a factor, or one target; x4 when nothing is given. The fields' help says more.

    Raises:
        UsageError: two of them are given, or one is out of range.
    """

    scale: float | None = option(
        None,
        "Factor on both sides, 4 by default.",
        SIZE,
        flags=("--scale", "-s"),
        range=Range(0, LARGEST_SCALE, above=True, words=f"a factor above 0 and up to {LARGEST_SCALE:g} is needed"),
        stale=Stale.ALWAYS,
    )
    size: tuple[int, int] | None = option(
        None,
        "Exact output size in pixels.",
        SIZE,
        metavar="WxH",
        parse=lambda text: parse_size(text),
        stale=Stale.ALWAYS,
    )
    long_side: int | None = option(None, "Pixels of the output's longer side.", SIZE, range=_PIXELS, stale=Stale.ALWAYS)
    short_side: int | None = option(None, "Pixels of its shorter side.", SIZE, range=_PIXELS, stale=Stale.ALWAYS)
    megapixels: float | None = option(
        None,
        "Millions of output pixels.",
        SIZE,
        range=Range(0, 4000, above=True, words="a number above 0 and up to 4000 is needed"),
        stale=Stale.ALWAYS,
    )

    def __post_init__(self) -> None:
        given = [one.flag for one in declared(type(self)) if getattr(self, one.name) is not None]
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(given)} contradict each other: an output has one size; give only one of them"
            )
        check_fields(self)
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"--size {self.size[0]}x{self.size[1]}: both sides must be at least 1 pixel")

    def settings(self) -> list[Any]:
        """What of it decides pixels, for the settings hash; nothing given is the default scale."""
        rule = self if self != Sizing() else Sizing(scale=DEFAULT_SCALE)
        return [settings_of(rule)[one.name] for one in declared(Sizing)]

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
