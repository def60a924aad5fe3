"""Size of an output image: a factor, an exact size, one side, or a number of megapixels."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import CheckedOptions, Range, Stale, declared, option, settings_of

DEFAULT_SCALE = 4.0
LARGEST_SCALE = 64.0
SIZE = "Size"
_PIXELS = Range(1, words="at least 1 pixel is needed")


@dataclass(frozen=True)
class PrintSize:
    """Size of a print; an image is fitted into it, turned as the image is, its aspect ratio kept.

    Attributes:
        width, height: in inches.
        text: as it was written, such as ``30x20cm``.
    """

    width: float
    height: float
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Sizing(CheckedOptions):
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
    size: tuple[int, int] | PrintSize | None = option(
        None,
        "Exact pixels, or a print to fit into: 30x20cm with --ppi.",
        SIZE,
        metavar="WxH[cm|mm|in]",
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

    ppi: int | None = option(
        None,
        "Pixels per inch of a print, written into the outputs.",
        SIZE,
        range=Range(1, 10_000),
        stale=Stale.WHEN_SET,
    )

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(given)} contradict each other: an output has one size; give only one of them"
            )
        super().__post_init__()
        if isinstance(self.size, PrintSize):
            if self.ppi is None:
                raise UsageError(f"--size {self.size}: a print needs --ppi, its pixels per inch (300 is usual)")
            if min(self.size.width, self.size.height) * self.ppi < 1:
                raise UsageError(f"--size {self.size}: a print of at least 1 pixel is needed")
        elif self.size is not None and min(self.size) < 1:
            raise UsageError(f"--size {self.size[0]}x{self.size[1]}: both sides must be at least 1 pixel")

    def _given(self) -> list[str]:
        return [one.flag for one in declared(type(self)) if one.name != "ppi" and getattr(self, one.name) is not None]

    def settings(self) -> list[Any]:
        """What of it decides pixels, for the settings hash; nothing given is the default scale."""
        rule = self if self._given() else replace(self, scale=DEFAULT_SCALE)
        found = settings_of(rule)
        if isinstance(rule.size, PrintSize):
            found["size"] = ["print", rule.size.width, rule.size.height]
        return [found[one.name] for one in declared(Sizing) if one.name in found]

    def target(self, width: int, height: int, *, half_to_even: bool = False) -> tuple[int, int]:
        """Output (width, height) of an upright image; sides are rounded to the nearest, never below 1.

        Args:
            width: of the image.
            height: of the image.
            half_to_even: round halves as Python and the released script do; up otherwise.
        """
        if isinstance(self.size, PrintSize):
            assert self.ppi is not None
            sides = sorted(side * self.ppi for side in (self.size.width, self.size.height))
            factor = min(sides[0] / min(width, height), sides[1] / max(width, height))
        elif self.size is not None:
            return self.size
        elif self.long_side is not None:
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
        if isinstance(self.size, PrintSize):
            return f"a print of {self.size} at {self.ppi} ppi"
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
        if isinstance(self.size, PrintSize):
            return str(self.size)
        if self.size is not None:
            return f"{self.size[0]}x{self.size[1]}"
        if self.long_side is not None:
            return f"long{self.long_side}"
        if self.short_side is not None:
            return f"short{self.short_side}"
        if self.megapixels is not None:
            return f"{self.megapixels:g}mp"
        return f"x{self.scale or DEFAULT_SCALE:g}"


def parse_size(text: str) -> tuple[int, int] | PrintSize:
    """Read ``WxH``: pixels, or a print in ``cm``, ``mm`` or ``in``.

    Raises:
        UsageError: not two positive numbers.
    """
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if found is not None:
        return int(found[1]), int(found[2])
    printed = re.fullmatch(r"(\d+(?:\.\d+)?)[xX×](\d+(?:\.\d+)?) ?(cm|mm|in)", text.strip())
    if printed is None or min(float(printed[1]), float(printed[2])) <= 0:
        raise UsageError(
            f"--size {text}: expected WIDTHxHEIGHT in pixels, for example 1920x1080, or the size of a print: 30x20cm "
            "with --ppi 300"
        )
    inch = {"cm": 2.54, "mm": 25.4, "in": 1.0}[printed[3]]
    return PrintSize(float(printed[1]) / inch, float(printed[2]) / inch, text.strip().replace(" ", ""))
