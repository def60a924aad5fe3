"""Options of ``restore``, shared by the command and the library.

Everything here is plain data checked on construction: the command line, :class:`varestorer_cli.Restorer` and the
tests build the same object. Imports nothing beyond the standard library, so that ``--help`` stays quick.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.text_options import TextOptions

DEFAULT_SCALE = 4.0
LARGEST_SCALE = 64.0
# Raised when the processing itself changes, so that finished files of older versions are redone.
PROCESSING_VERSION = 1


class Precision(StrEnum):
    """Arithmetic of the model; ``auto`` takes the fastest the device computes natively."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class ColorFix(StrEnum):
    """Where the colours of the result come from; ``auto`` is the model's own setting."""

    AUTO = "auto"
    WAVELET = "wavelet"
    ADAIN = "adain"
    NONE = "none"


class Sampling(StrEnum):
    """The way from predicted bits to codes; ``auto`` is the model's own setting."""

    AUTO = "auto"
    ARGMAX = "argmax"
    SAMPLE = "sample"
    EXPECTED = "expected"
    CONSISTENT = "consistent"


class Existing(StrEnum):
    """What happens to an output that exists already."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    ERROR = "error"


class Missing(StrEnum):
    """What a frame means that was asked for and is not there."""

    ERROR = "error"
    SKIP = "skip"
    FAIL = "fail"


class Compat(StrEnum):
    """Whose way with pictures: this project's, or the released script's tiled or squashing one, faults included."""

    NONE = "none"
    RELEASED = "released"
    RELEASED_SQUARE = "released-square"


class Progress(StrEnum):
    """How progress is shown on stderr; ``auto`` is a bar on a terminal and lines elsewhere.

    ``deadline``, ``openjd`` and ``tractor`` are the lines that these render managers look for.
    """

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    DEADLINE = "deadline"
    OPENJD = "openjd"
    TRACTOR = "tractor"
    NONE = "none"


class Transfer(StrEnum):
    """What the values of OpenEXR and DPX files mean; ``auto``: OpenEXR linear light, DPX what it says, else encoded."""

    AUTO = "auto"
    LINEAR = "linear"
    ENCODED = "encoded"


class ExitCodes(StrEnum):
    """Which table of exit codes is used; ``opencue`` asks for more memory with its code 33."""

    PLAIN = "plain"
    OPENCUE = "opencue"


class ImageFormat(StrEnum):
    """Formats that can be written; the value is the suffix given to outputs."""

    PNG = "png"
    JPEG = "jpg"
    WEBP = "webp"
    TIFF = "tif"
    BMP = "bmp"
    EXR = "exr"
    DPX = "dpx"


LOSSY = frozenset({ImageFormat.JPEG, ImageFormat.WEBP})  # their bytes depend on --quality


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


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``; counting starts at 0, as array job indices do."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UsageError(
                f"--shard {self.index}/{self.count}: shards count from 0, so {self.count} shards are "
                f"0/{self.count} to {max(self.count - 1, 0)}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``I/N``.

        Raises:
            UsageError: not two integers, or outside 0 <= I < N.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None:
            raise UsageError(f"--shard {text}: expected I/N with 0 <= I < N, for example 0/16")
        return cls(int(found[1]), int(found[2]))

    def holds(self, key: str) -> bool:
        """Whether the picture with this relative path belongs here. Adding files never moves others."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class FailureLimit:
    """How many failed pictures still count as success: a number, or a share of the inputs in percent."""

    count: float = 0
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read ``N`` or ``P%``.

        Raises:
            UsageError: neither.
        """
        found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
        if found is None or (found[2] is not None and float(found[2]) > 100):
            raise UsageError(f"--max-failed {text}: expected a number of pictures (3) or a share of them (5%)")
        return cls(float(found[2]), True) if found[2] is not None else cls(int(found[1]))

    def allows(self, failed: int, total: int) -> bool:
        """Whether ``failed`` of ``total`` pictures are still a success."""
        return failed <= (total * self.count / 100 if self.percent else self.count)


def parse_size(text: str) -> tuple[int, int]:
    """Read ``WxH``.

    Raises:
        UsageError: not two positive integers.
    """
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if found is None:
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT in pixels, for example 1920x1080")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class RestoreOptions:
    """Everything ``restore`` can be told, beside its inputs and its output.

    Attributes:
        model: ``auto``, a model's name, or a model file.
        sizing: output size rule.
        tile: side of the square tile in output pixels; None is the model's.
        overlap: pixels that neighbouring tiles share; None chooses by the model, see ``EngineOptions``.
        batch: tiles per model call; None chooses by device.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        gpus: several devices of this host, one process each: ``all``, a number, or a list such as ``0,1``.
        precision: arithmetic of the model.
        color_fix: where colours come from.
        fidelity: 0 = the pre-restored picture, 1 = the model's.
        sampling: the way from predicted bits to codes.
        seed: of the noise that ``sample`` draws.
        format: output format; None keeps each input's suffix.
        quality: of JPEG and lossy WebP, 1 to 100.
        transfer: what the values of OpenEXR and DPX files mean.
        name: template of output names, see :class:`core.naming.NameTemplate`; None keeps names.
        frames: frames of a sequence to do, such as ``1-100x2``; None does those that are there.
        missing: what a frame means that was asked for and is not there.
        existing: what happens to outputs that exist.
        shard: the part of the inputs this process does.
        max_failed: failures that still end with exit code 0.
        strict: a named loss (depth, alpha, profile ...) makes the picture fail.
        strip: leave out EXIF, XMP, IPTC, comments and text; profile and resolution stay.
        threads: CPU threads; None asks the environment.
        weights: folder of installed models; None asks the environment.
        compat: pictures are handled as the released script does, for comparisons with its files.
        text: prompt and captions.
    """

    model: str = "auto"
    sizing: Sizing = field(default_factory=Sizing)
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    device: str = "auto"
    gpus: str | None = None
    precision: Precision = Precision.AUTO
    color_fix: ColorFix = ColorFix.AUTO
    fidelity: float = 1.0
    sampling: Sampling = Sampling.AUTO
    seed: int = 0
    format: ImageFormat | None = None
    quality: int = 95
    transfer: Transfer = Transfer.AUTO
    name: str | None = None
    frames: str | None = None
    missing: Missing = Missing.ERROR
    existing: Existing = Existing.SKIP
    shard: Shard | None = None
    max_failed: FailureLimit = field(default_factory=FailureLimit)
    strict: bool = False
    strip: bool = False
    threads: int | None = None
    weights: str | None = None
    compat: Compat = Compat.NONE
    text: TextOptions = field(default_factory=TextOptions)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fidelity) and 0 <= self.fidelity <= 1):
            raise UsageError(f"--fidelity {self.fidelity:g}: 0 (pre-restored) to 1 (model) is possible")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: 1 to 100 is possible")
        if self.gpus is not None and self.device != "auto":
            raise UsageError(f"--gpus {self.gpus} and --device {self.device} contradict each other; give only one")
        for name in ("tile", "batch", "threads"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"--{name} {number}: at least 1 is needed")
        if self.overlap is not None and self.overlap < 0:
            raise UsageError(f"--overlap {self.overlap}: at least 0 is needed")

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Output (width, height) of an upright picture."""
        return self.sizing.target(width, height, half_to_even=self.compat is not Compat.NONE)

    def settings_sha256(
        self, *, overlap: int, sampling: str, format: ImageFormat, text: tuple[str, str] | None = None
    ) -> str:
        """Hash of what decides an output's bytes beside input and model.

        Device, batch and threads are left out: they change at most the last bit of rounding, and a folder begun
        on one machine must go on elsewhere.

        Args:
            overlap: resolved overlap.
            sampling: resolved sampling; only ``sample`` depends on the seed.
            format: format of the output; only JPEG and WebP depend on the quality.
            text: fingerprint of the text encoder and text of the picture, None without a text.
        """
        rule = self.sizing if self.sizing != Sizing() else Sizing(scale=DEFAULT_SCALE)
        settings = {
            "processing": PROCESSING_VERSION,
            "size": [
                rule.scale and float(rule.scale),
                rule.size,
                rule.long_side,
                rule.short_side,
                rule.megapixels,
            ],
            "tile": self.tile,
            "overlap": overlap,
            "precision": self.precision.value,
            "color_fix": self.color_fix.value,
            "fidelity": float(self.fidelity),
            "sampling": sampling,
            "seed": self.seed if sampling == "sample" else None,
            "format": format.value,
            "quality": self.quality if format in LOSSY else None,
            "strip": self.strip,
            "transfer": self.transfer.value,
            "compat": self.compat.value,
        }
        if text is not None:
            settings["text"] = text
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
