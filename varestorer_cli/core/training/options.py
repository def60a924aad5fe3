"""What a training run is asked to do; the commands and the library fill in the same objects."""

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import CheckedOptions, Option, Range, choice, declared, option
from varestorer_cli.core.shared_options import COMPUTING, INPUT, MODEL, OUTPUT, QUIET, RECIPE, RUN, WEIGHTS

STAGES = ("tokenizer", "prerestorer", "teacher", "distill")
_LARGEST = sys.float_info.max
PRESET_NAMES = ("compact", "fine", "mini", "smoke", "2b")
PRESET = Option("Model size: compact, fine, mini, smoke or 2b.", RECIPE, default_text="compact", values=PRESET_NAMES)
CONFIG = Option("Other sizes and recipes; what the file leaves out is as in the preset.", RECIPE, metavar="FILE.toml")


class Parallel(StrEnum):
    """How several processes share a run; ``auto`` is what the preset's size wants."""

    AUTO = "auto"
    DDP = "ddp"
    FSDP = "fsdp"


class Degrade(StrEnum):
    """Where the degraded version of a crop comes from."""

    CACHE = "cache"
    FLY = "fly"


class TrainingPrecision(StrEnum):
    """Arithmetic of training; not fp16, whose range is too narrow. ``auto`` is what the device computes natively."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class Head(StrEnum):
    """What the student's head predicts: scores of bits, or latent values."""

    BITS = "bits"
    LATENT = "latent"


class Bits(StrEnum):
    """Which bits of a bits head the image losses are computed on."""

    SAMPLED = "sampled"
    GREEDY = "greedy"
    EXPECTED = "expected"


class Attention(StrEnum):
    """Which positions a position of the student attends to."""

    ALL = "all"
    CAUSAL = "causal"


class Positions(StrEnum):
    """Rotary coordinates of the student's extra block."""

    NEXT_SCALE = "next_scale"
    LAST_SCALE = "last_scale"


def loss_weights(entries: list[str]) -> dict[str, float]:
    """``["l1=1", "kl=0.1"]`` -> ``{"l1": 1.0, "kl": 0.1}``.

    Raises:
        UsageError: an entry of another form.
    """
    weights = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            raise UsageError(f"--loss {entry!r}: write NAME=WEIGHT, for example --loss l1=1.0") from None
    return weights


def part_names(names: str | list[str]) -> tuple[str, ...]:
    """``"body.4,conv_last"``, or a list -> ``("body.4", "conv_last")``.

    Raises:
        UsageError: an empty name.
    """
    found = tuple(name.strip() for name in (names.split(",") if isinstance(names, str) else names))
    if not found or not all(found):
        raise UsageError(f"--trainable {names!r}: write names with commas between them, for example body.4,conv_last")
    return found


def _from(least: float, most: float = _LARGEST) -> Range:
    words = f"from {least:g} to {most:g}" if most < _LARGEST else f"from {least:g} up"
    return Range(least, most, words=f"it must be a number {words}")


@dataclass(frozen=True)
class TrainOptions(CheckedOptions):
    """One training run. Each field's help is the option's; ``only`` names the stages that have a use for it.

    Attributes:
        stage: one of ``STAGES``.
        variant: changes of the recipe's ``Variant`` by field name, see :class:`VariantOptions`.

    Raises:
        UsageError: a value is impossible.
    """

    stage: str
    data: Path = option(
        MISSING, "Folder of photographs, or a text file with one path per line.", INPUT, positional=True
    )
    out: Path = option(MISSING, "Folder of the run: checkpoints, logs, images, model.", OUTPUT, flags=("--out", "-o"))
    preset: str | None = option(None, PRESET)
    config: Path | None = option(None, CONFIG)
    steps: int | None = option(
        None,
        "Optimiser steps instead of the preset's; 0 writes the model that a run starts with.",
        RECIPE,
        range=_from(0),
    )
    batch: int | None = option(None, "Images per step, of all processes together.", RECIPE, range=_from(1))
    patch: int | None = option(
        None,
        "Side of the training patches in pixels instead of the preset's, a multiple of the scale.",
        RECIPE,
        range=_from(32),
        only=("prerestorer",),
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate instead of the preset's.",
        RECIPE,
        flags=("--lr",),
        range=Range(0, _LARGEST, above=True, words="the learning rate must be a number above 0"),
    )
    losses: Mapping[str, float] = option(
        dict,
        "Weight of a loss term; repeat for several, 0 drops one.",
        RECIPE,
        flags=("--loss",),
        metavar="NAME=WEIGHT",
        given_as=list[str],
        parse=loss_weights,
    )
    head: str | None = option(
        None, "bits (the paper's) or latent, instead of the preset's.", RECIPE, given_as=Head, only=("distill",)
    )
    seed: int = option(
        0,
        "Seed of initialisation, data order and noise.",
        RECIPE,
        range=Range(0, 2**31 - 1, words=f"a seed is a whole number from 0 to {2**31 - 1}"),
    )
    resume: bool = option(False, "Go on exactly from the run's last checkpoint.", RUN)
    init: Path | None = option(None, "Run folder or model file whose weights to start from.", MODEL)
    trainable: tuple[str, ...] | None = option(
        None,
        "Weights to train, the others stay as they start: names or their first parts, by commas (body.4,conv_last) "
        "[default: all].",
        RECIPE,
        metavar="NAMES",
        parse=part_names,
        only=("prerestorer",),
    )
    weights: Path | None = option(None, WEIGHTS)
    tokenizer: Path | None = option(
        None, "Tokenizer run, file or model name [default: 'tokenizer' beside --out].", MODEL, only=("teacher",)
    )
    prerestorer: Path | None = option(
        None,
        "Pre-restorer run, file or model name [default: 'prerestorer' beside --out].",
        MODEL,
        only=("teacher", "distill"),
    )
    teacher: Path | None = option(
        None, "Teacher run, file or model name [default: 'teacher' beside --out].", MODEL, only=("distill",)
    )
    texts: Path | None = option(
        None,
        "Folder of text features, one file per photograph; varestorer texts makes them.",
        INPUT,
        metavar="DIR",
        only=("teacher", "distill"),
    )
    variant: Mapping[str, Any] = field(default_factory=dict)
    label: Path | None = option(
        None,
        "Model, run or file to learn from: its result is the target (or --keep's share of it), and a smaller network "
        "starts from its weights [default: Real-ESRGAN x4plus].",
        MODEL,
        metavar="MODEL",
        only=("prerestorer",),
    )
    label_share: float | None = option(
        None,
        "Share of a sharper image in the target: the --label model's (prerestorer), the pre-restored (distill).",
        RECIPE,
        flags=("--keep",),
        range=_from(0, 1),
        default_text="the preset's",
        only=("prerestorer", "distill"),
    )
    decoder: float | None = option(
        None,
        "Train the decoder at this fraction of the learning rate; 0 keeps it.",
        RECIPE,
        range=_from(0),
        only=("distill",),
    )
    cache: Path | None = option(None, "Folder for crop caches [default: 'cache' beside the run].", INPUT)
    recipe: str = option(
        "moderate",
        "moderate, realesrgan, mild, released, or a file with the known keys.",
        RECIPE,
        flags=("--degradation",),
    )
    degrade: str = option(
        "cache",
        "Degraded versions: two per crop, made with the cache, or new at each draw (fly).",
        INPUT,
        given_as=Degrade,
    )
    crops: int | None = option(None, "Training crops to cut instead of the preset's number.", INPUT, range=_from(1))
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.", COMPUTING)
    precision: str = option("auto", "auto, fp32 or bf16.", COMPUTING)
    threads: int | None = option(None, "CPU threads [default: what the machine gives].", COMPUTING, range=_from(1))
    checkpoint_minutes: float = option(5.0, "Minutes between checkpoints.", RUN, range=_from(0))
    keep_checkpoints: int = option(2, "Checkpoints that stay, the newest ones.", RUN, range=_from(1))
    best: str | None = option(
        None, "Validation figure (psnr_y, kl ...) whose best checkpoint and model stay.", RUN, metavar="FIGURE"
    )
    log_every: int = option(20, "Steps between log lines.", RUN, range=_from(1))
    sample_every: int = option(500, "Steps between validations with sample images.", RUN, range=_from(1))
    metrics: str | None = option(
        None, "Metrics of validation, as of score [default: those that need no weights].", RUN, metavar="LIST"
    )
    stop_after: float | None = option(None, "Pause with a checkpoint after so many minutes.", RUN, range=_from(0))
    license_text: str = option("", "Licence to write into the model file.", OUTPUT, flags=("--license",))
    accumulate: int = option(
        1, "Parts in which a process computes its share of a batch, to save memory.", COMPUTING, range=_from(1)
    )
    parallel: str = option(
        "auto",
        "Under torchrun: ddp, each process holds all weights; fsdp, transformers are divided.",
        COMPUTING,
        given_as=Parallel,
    )
    recompute: bool | None = option(
        None,
        "Compute transformer blocks twice to save memory [default: with --preset 2b].",
        COMPUTING,
        flags=("--recompute/--no-recompute",),
    )
    half: bool = option(False, "Store the model in float16, half the size.", OUTPUT)
    dry_run: bool = option(False, "Print weights, memory per GPU, arithmetic and hours; do nothing.", RUN)
    show_config: bool = option(False, "Print the effective sizes and recipes for --config; do nothing.", RUN)
    processes: int = option(1, "GPUs that --dry-run plans for.", RUN, range=_from(1))
    quiet: bool = option(False, QUIET, help="No progress on stderr.")

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(TrainingPrecision, self.precision, "--precision")
        for name, weight in self.losses.items():
            if not 0 <= weight <= _LARGEST:
                raise UsageError(f"--loss {name}={weight:g}: a weight must be a number from 0 up; 0 drops the term")
        VariantOptions(**self.variant)

    def check(self) -> None:
        """Refuse options that the stage has no use for.

        Raises:
            UsageError: the first one, with its name and what it may be.
        """
        if self.stage not in STAGES:
            raise UsageError(f"there is no stage {self.stage!r}; choose one of {', '.join(STAGES)}")
        for one in declared(TrainOptions):
            stages = one.option.only or STAGES
            if getattr(self, one.name) is not None and self.stage not in stages:
                raise UsageError(
                    f"{one.flag}: stage {self.stage} has no use for it; it belongs to {' and '.join(stages)}"
                )
        for one in declared(VariantOptions):
            if one.name in self.variant and self.stage not in one.option.only:
                raise UsageError(f"{one.flag}: stage {self.stage} has no use for it")
        if "text_drop" in self.variant and self.texts is None:
            raise UsageError("--text-drop: there are no texts to drop; give --texts DIR, or leave it out")
        if self.stage in ("prerestorer", "tokenizer") and (self.recompute or self.parallel == "fsdp"):
            given = "--recompute" if self.recompute else "--parallel fsdp"
            raise UsageError(f"{given}: stage {self.stage} has no transformer; leave it out")


@dataclass(frozen=True)
class VariantOptions(CheckedOptions):
    """Research options: changes of the recipe's ``Variant``, by field name; None leaves the recipe's own.

    Raises:
        UsageError: a value is impossible.
    """

    encoder: float | None = option(
        None,
        "Train the encoder on degraded images, at this fraction of the rate.",
        RECIPE,
        range=_from(0),
        only=("distill",),
    )
    bits: str | None = option(
        None, "Bits that image losses see; sampled is the paper's.", RECIPE, given_as=Bits, only=("distill",)
    )
    extra_positions: str | None = option(
        None,
        "Place of the extra block; last_scale is where it belongs.",
        RECIPE,
        given_as=Positions,
        only=("distill",),
    )
    flips: float | None = option(
        None,
        "Largest probability of flipped bits in the student's input.",
        RECIPE,
        range=_from(0, 1),
        only=("distill",),
    )
    attention: str | None = option(
        None,
        "causal: positions see coarser scales only, no extra block.",
        RECIPE,
        given_as=Attention,
        only=("distill",),
    )
    degraded: float | None = option(
        None,
        "Share of the batches in which the teacher sees the degraded image too; a teacher trained above 0 restores "
        "scale after scale (restore --steps all; mini: 0.75), and its KL may see it.",
        RECIPE,
        range=_from(0, 1),
        only=("teacher", "distill"),
    )
    guidance: float | None = option(
        None, "Guidance of the teacher by --texts; 1 is none.", RECIPE, range=_from(0), only=("distill",)
    )
    text_drop: float | None = option(
        None,
        "Probability of training an image without its text.",
        RECIPE,
        range=_from(0, 1),
        only=("teacher", "distill"),
    )

    def given(self) -> dict[str, Any]:
        """What is set, by field name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}
