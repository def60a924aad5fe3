"""Options of ``restore``, shared by the command and the library.

Each option is declared once, as a field: see :mod:`varestorer_cli.core.fields`. Everything here is plain data checked
on construction: the command line, :class:`varestorer_cli.Restorer` and the tests build the same object. Imports nothing
beyond the standard library, so that ``--help`` stays quick.
"""

import hashlib
import json
import re
from dataclasses import MISSING, dataclass, field
from pathlib import Path

from varestorer_cli.core.choices import (
    LOSSY,
    Captioning,
    ColorFix,
    Compat,
    Compile,
    EngineName,
    Existing,
    ImageFormat,
    Large,
    Missing,
    Precision,
    Sampling,
    Steps,
    Transfer,
)
from varestorer_cli.core.errors import ExitCodes, UsageError
from varestorer_cli.core.fields import CheckedOptions, Range, Stale, option, settings_of
from varestorer_cli.core.sharding import Shard
from varestorer_cli.core.shared_options import (
    COMPUTING,
    DEVICE,
    FARM,
    INPUT,
    MESSAGES,
    METADATA,
    MODEL,
    OUTPUT,
    QUALITY,
    SHARD,
    TEXT,
    THREADS,
    WEIGHTS,
)
from varestorer_cli.core.sizing import SIZE, Sizing

# Raised when the processing itself changes, so that finished files of older versions are redone.
PROCESSING_VERSION = 2


@dataclass(frozen=True)
class FailureLimit:
    """How many failed images still count as success: a number, or a share of the inputs in percent."""

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
            raise UsageError(f"--max-failed {text}: expected a number of images (3) or a share of them (5%)")
        return cls(float(found[2]), True) if found[2] is not None else cls(int(found[1]))

    def allows(self, failed: int, total: int) -> bool:
        """Whether ``failed`` of ``total`` images are still a success."""
        return failed <= (total * self.count / 100 if self.percent else self.count)

    def __str__(self) -> str:
        return f"{self.count:g}{'%' if self.percent else ''}"


@dataclass(frozen=True)
class TextOptions(CheckedOptions):
    """Text about the images, for models that take one.

    Raises:
        UsageError: a value is impossible, or two contradict each other.
    """

    prompt: str | None = option(
        None,
        "What the images show, for models that take a text (2b).",
        TEXT,
        metavar="TEXT",
        stale=Stale.OTHER_HASH,
    )
    captions: str | None = option(
        None,
        "A CSV file with path and caption, a folder of .txt files like the inputs, or beside: a .txt file beside each "
        "image.",
        TEXT,
        metavar="FILE|DIR|beside",
        stale=Stale.OTHER_HASH,
    )
    captioning: Captioning = option(
        Captioning.NONE,
        "auto: a captioner describes the images without a caption.",
        TEXT,
        flags=("--caption",),
        stale=Stale.OTHER_HASH,
    )
    encoder: str | None = option(
        None,
        "Folder of the T5 encoder [default: below the weights root].",
        TEXT,
        flags=("--text-encoder",),
        metavar="DIR",
        stale=Stale.OTHER_HASH,
    )
    captioner: str | None = option(
        None,
        "Folder of the BLIP captioner [default: below the weights root].",
        TEXT,
        metavar="DIR",
        stale=Stale.OTHER_HASH,
    )
    captions_file: str | None = option(
        None, "Where it writes them [default: OUTPUT/captions.csv].", TEXT, metavar="FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("--prompt is empty; leave it out for the model's default, or describe the images")
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
class RestoreOptions(CheckedOptions):
    """How ``restore`` works on images; :class:`RestoreRequest` says on which. Each field's help is the option's.

    Raises:
        UsageError: a value is impossible, or two contradict each other.
    """

    model: str = option(
        "auto",
        "auto (the best installed), fine, compact, 2b, or a model file.",
        MODEL,
        flags=("--model", "-m"),
        stale=Stale.OTHER_HASH,
    )
    weights: Path | None = option(None, WEIGHTS)
    sizing: Sizing = field(default_factory=Sizing)
    only_below: int | None = option(
        None, "Restore only images whose longer side is below this.", SIZE, metavar="PIXELS", range=Range(1)
    )
    large: Large = option(Large.SKIP, "What --only-below does with larger ones.", SIZE)
    tile: int | None = option(
        None,
        "Tile side in output pixels [default: the model's].",
        COMPUTING,
        range=Range(1),
        stale=Stale.ALWAYS,
    )
    overlap: int | None = option(
        None,
        "Pixels that tiles share [default: 1/16 or 1/8 of the tile].",
        COMPUTING,
        range=Range(0),
        stale=Stale.ALWAYS,
    )
    batch: int | None = option(None, "Tiles per model call [default: by the device].", COMPUTING, range=Range(1))
    device: str = option("auto", DEVICE)
    gpus: str | None = option(None, "Several GPUs of this host, one process each.", COMPUTING, metavar="all|N|0,1")
    precision: Precision = option(
        Precision.AUTO,
        "Arithmetic; auto: what the device computes natively.",
        COMPUTING,
        stale=Stale.ALWAYS,
    )
    threads: int | None = option(None, THREADS)
    compile: Compile = option(
        Compile.AUTO,
        "Compile the model (minutes once, kept in the cache folder); auto: models with tokens on a CUDA device.",
        COMPUTING,
    )
    engine: EngineName = option(
        EngineName.TORCH,
        "What computes the model; openvino (extra openvino): models without tokens on a CPU.",
        COMPUTING,
    )
    color_fix: ColorFix = option(
        ColorFix.AUTO, "Source of colours, auto is the model's own.", QUALITY, stale=Stale.ALWAYS
    )
    fidelity: float | None = option(
        None,
        "0 the sharpest, 1 the most faithful [default: the model's own].",
        QUALITY,
        range=Range(0, 1, words="0 (sharpest) to 1 (most faithful) is possible"),
        stale=Stale.ALWAYS,
    )
    text: TextOptions = field(default_factory=TextOptions)
    sampling: Sampling = option(
        Sampling.AUTO,
        "From bits to image, auto is the model's own.",
        QUALITY,
        stale=Stale.ALWAYS,
    )
    steps: Steps = option(
        Steps.AUTO,
        "all: scale after scale, for models that can (mini, runs of train teacher --degraded); a slow reference.",
        QUALITY,
        stale=Stale.WHEN_SET,
    )
    seed: int = option(0, "Seed of the noise that --sampling sample draws.", QUALITY, stale=Stale.ALWAYS)
    compat: Compat = option(
        Compat.NONE,
        "As the released script does, tiled or squashed, for comparison.",
        QUALITY,
        stale=Stale.ALWAYS,
    )
    format: ImageFormat | None = option(
        None,
        "png, jpg, webp, tif, bmp, exr, dpx [default: each input's own].",
        OUTPUT,
        given_as=str,
        values=tuple(one.value for one in ImageFormat),
        stale=Stale.ALWAYS,
    )
    quality: int = option(95, "Of JPEG and WebP, 1 to 100.", OUTPUT, range=Range(1, 100), stale=Stale.ALWAYS)
    transfer: Transfer = option(
        Transfer.AUTO,
        "Values of EXR and DPX; auto: EXR linear light, DPX as it says.",
        INPUT,
        stale=Stale.ALWAYS,
    )
    layer: str | None = option(
        None,
        "Layer or part of EXR files [default: the colour layer].",
        INPUT,
        metavar="NAME",
        stale=Stale.WHEN_SET,
    )
    pages: str = option(
        "first",
        "Pages of a TIFF; all: as many go into its output.",
        INPUT,
        metavar="first|all|N",
        values=("first", "all"),
        stale=Stale.WHEN_SET,
    )
    keep_hidden: bool = option(
        False,
        "Keep colours under full transparency, do not fill them in.",
        QUALITY,
        stale=Stale.WHEN_SET,
    )
    name: str | None = option(
        None,
        "From {stem} {ext} {model} {size} {seed}, as '{stem}_{size}'.",
        OUTPUT,
        metavar="TEMPLATE",
    )
    frames: str | None = option(
        None, "Frames of plate.####.png, %04d, @@@@ or $F4: 1-100x2,205.", INPUT, metavar="RANGE"
    )
    missing: Missing = option(Missing.ERROR, "Missing frames: stop before work, leave out, count as failed.", INPUT)
    existing: Existing = option(
        Existing.SKIP,
        "Outputs that exist: skip those up to date and foreign ones and redo stale ones, overwrite all, or stop with "
        "an error.",
        OUTPUT,
    )
    shard: Shard | None = option(None, SHARD)
    max_failed: FailureLimit = option(
        FailureLimit(),
        "Failed images that still end with exit code 0.",
        FARM,
        metavar="N|P%",
        parse=FailureLimit.parse,
    )
    strict: bool = option(False, "Lost depth, alpha, profile or metadata makes an image fail.", METADATA)
    strip: bool = option(
        False,
        "Leave out EXIF, XMP, IPTC, comments; not profile, resolution.",
        METADATA,
        stale=Stale.ALWAYS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch("first|all|[1-9][0-9]{0,8}", self.pages):
            raise UsageError(f"--pages {self.pages}: first, all, or the number of a page from 1 is possible")
        if self.gpus is not None and self.device != "auto":
            raise UsageError(f"--gpus {self.gpus} and --device {self.device} contradict each other; give only one")

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Output (width, height) of an upright image."""
        return self.sizing.target(width, height, half_to_even=self.compat is not Compat.NONE)

    def settings_sha256(
        self, *, overlap: int, sampling: str, format: ImageFormat, text: tuple[str, str] | None = None
    ) -> str:
        """Hash of what decides an output's bytes beside input and model.

        Device, engine, batch and threads are left out: they change at most the last bit of rounding, and a folder begun
        on one machine must go on elsewhere.

        Args:
            overlap: resolved overlap.
            sampling: resolved sampling; only ``sample`` depends on the seed.
            format: format of the output; only JPEG and WebP depend on the quality.
            text: fingerprint of the text encoder and text of the image, None without a text.
        """
        settings = settings_of(self) | {
            "processing": PROCESSING_VERSION,
            "size": self.sizing.settings(),
            "overlap": overlap,
            "sampling": sampling,
            "format": format.value,
        }
        if sampling != "sample":
            settings["seed"] = None
        if format not in LOSSY:
            settings["quality"] = None
        if text is not None:
            settings["text"] = text
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RestoreRequest(CheckedOptions):
    """What ``restore`` was asked to do, beside the options that decide pixels. Each field's help is the option's."""

    inputs: tuple[str, ...] = option(
        MISSING,
        "Files, folders, 'patterns*', frames.####.png, @list.txt, - (list on stdin); last a folder, or a file name for "
        "one image.",
        INPUT,
        metavar="INPUT... OUTPUT",
        positional=True,
    )
    output: str = option(
        "",
        "Folder, or file for a single image; all arguments are inputs.",
        OUTPUT,
        flags=("--output", "-o"),
        metavar="OUTPUT",
    )
    metrics_csv: str | None = option(
        None,
        "Report [default: OUTPUT/metrics.csv, none for a single image].",
        OUTPUT,
        metavar="FILE|none",
    )
    nul_lists: bool = option(False, "Lists are separated by NUL, not newlines.", INPUT, flags=("--null", "-0"))
    watch: bool = option(False, "Go on with images that come later, until Ctrl-C or --idle.", INPUT)
    idle: float | None = option(
        None,
        "End --watch after so long without a new image.",
        INPUT,
        metavar="SECONDS",
        range=Range(0, words="a number of seconds from 0 up is needed"),
    )
    dry_run: bool = option(False, "Only say what would be done.", MESSAGES)
    json: bool = option(False, "One JSON object per image on stdout.", MESSAGES)
    page: Path | None = option(
        None,
        "A page to look at: before and after, failures, settings.",
        OUTPUT,
        flags=("--report",),
        metavar="FILE.html",
    )
    page_folder: Path | None = option(
        None, "That page as a folder of small files, all images on it.", OUTPUT, flags=("--report-dir",), metavar="DIR"
    )
    exit_codes: ExitCodes = option(ExitCodes.PLAIN, "opencue: out of memory ends with 33 (asks for more).", FARM)
    merge: bool = option(False, "Only join the reports of all shards in OUTPUT, the argument.", FARM)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.page is not None and self.page_folder is not None:
            raise UsageError("--report is one file, --report-dir a folder; give one of them")
        if self.idle is not None and not self.watch:
            raise UsageError(f"--idle {self.idle:g}: it says when --watch ends; add --watch, or leave it out")
        if self.output:
            return
        if self.merge:
            if len(self.inputs) != 1:
                raise UsageError("--merge takes one argument, the OUTPUT of the shards")
        elif len(self.inputs) < 2:
            raise UsageError(f"{self.inputs[0]}: an input and an output are needed: restore INPUT... OUTPUT")
        object.__setattr__(self, "output", self.inputs[-1])
        object.__setattr__(self, "inputs", self.inputs[:-1])
