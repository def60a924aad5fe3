"""Options of ``restore``, shared by the command and the library.

Everything here is plain data checked on construction: the command line, :class:`varestorer_cli.Restorer` and the
tests build the same object. Imports nothing beyond the standard library, so that ``--help`` stays quick.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.sharding import Shard
from varestorer_cli.core.sizing import DEFAULT_SCALE, Sizing

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


class Captioning(StrEnum):
    """Who describes pictures that have no caption."""

    NONE = "none"
    AUTO = "auto"


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


def _choice(kind: type[StrEnum], value: str, name: str) -> StrEnum:
    """One of the values of an option.

    Raises:
        UsageError: it is none of them; the message names them.
    """
    try:
        return kind(value)
    except ValueError:
        *known, last = list(kind)
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} {value}: possible are {', '.join(known)} and {last}") from None


@dataclass(frozen=True)
class TextOptions:
    """What a model that takes a text is told about the pictures.

    Attributes:
        prompt: text of all pictures without a caption; None is the model's default.
        captions: CSV file, folder of text files, or ``beside``; see :func:`core.captions.find_captions`.
        captioning: who describes the pictures that have no caption.
        encoder: folder of the text encoder; None looks below the weights root.
        captioner: folder of the captioner; None looks below the weights root.
        captions_file: table the captioner writes; None is ``captions.csv`` in the output folder.
    """

    prompt: str | None = None
    captions: str | None = None
    captioning: Captioning = Captioning.NONE
    encoder: str | None = None
    captioner: str | None = None
    captions_file: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "captioning", _choice(Captioning, self.captioning, "caption"))
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("--prompt is empty; leave it out for the model's default, or describe the pictures")
        for flag, value in (("--captioner", self.captioner), ("--captions-file", self.captions_file)):
            if value is not None and self.captioning == Captioning.NONE:
                raise UsageError(f"{flag} {value}: no captions are made without --caption auto; add it")

    @property
    def asked_by(self) -> str:
        """The option that asks for a text, "" where none does."""
        if self.prompt is not None:
            return "--prompt"
        if self.captions is not None:
            return "--captions"
        return "--caption auto" if self.captioning == Captioning.AUTO else ""


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
        fidelity: 0 = the sharpest image the model makes, 1 = the most faithful one; None = the model's own default.
        sampling: the way from predicted bits to codes.
        seed: of the noise that ``sample`` draws.
        format: output format; None keeps each input's suffix.
        quality: of JPEG and lossy WebP, 1 to 100.
        transfer: what the values of OpenEXR and DPX files mean.
        layer: name of the layer or part of OpenEXR files; None chooses the colour layer.
        keep_hidden: colours under full transparency go to the model as they are, not filled in from the visible parts.
        name: template of output names, see :class:`core.inputs.plan.NameTemplate`; None keeps names.
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
    fidelity: float | None = None
    sampling: Sampling = Sampling.AUTO
    seed: int = 0
    format: ImageFormat | None = None
    quality: int = 95
    transfer: Transfer = Transfer.AUTO
    layer: str | None = None
    keep_hidden: bool = False
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
        for one in fields(self):  # values from Python may be plain text
            kind: Any = ImageFormat if one.name == "format" else type(one.default)
            value = getattr(self, one.name)
            if value is not None and issubclass(kind, StrEnum):
                object.__setattr__(self, one.name, _choice(kind, value, one.name))
        if self.fidelity is not None and not (math.isfinite(self.fidelity) and 0 <= self.fidelity <= 1):
            raise UsageError(f"--fidelity {self.fidelity:g}: 0 (sharpest) to 1 (most faithful) is possible")
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
            "fidelity": None if self.fidelity is None else float(self.fidelity),
            "sampling": sampling,
            "seed": self.seed if sampling == "sample" else None,
            "format": format.value,
            "quality": self.quality if format in LOSSY else None,
            "strip": self.strip,
            "transfer": self.transfer.value,
            "compat": self.compat.value,
        }
        if self.layer is not None:
            settings["layer"] = self.layer
        if self.keep_hidden:
            settings["keep_hidden"] = True
        if text is not None:
            settings["text"] = text
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
