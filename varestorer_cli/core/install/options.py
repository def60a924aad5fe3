"""Options of ``weights pull``, ``import``, ``text`` and ``verify``; plain data, imports nothing heavy."""

from dataclasses import MISSING, dataclass
from enum import StrEnum
from pathlib import Path

from varestorer_cli.core.fields import CheckedOptions, Option, option
from varestorer_cli.core.shared_options import INPUT, OUTPUT, QUIET, TEXT, WEIGHTS


class Pulled(StrEnum):
    """What can be pulled."""

    STUDENT = "2b"
    TEACHER = "teacher"
    TEXT = "text"
    CAPTIONER = "captioner"


class Stored(StrEnum):
    """How the large matrices are stored."""

    BF16 = "bf16"
    FP32 = "fp32"


_STORE = Option("Type of the transformer's large matrices; fp32 doubles the file and is exact.", OUTPUT)
_ENCODER = Option(
    "Folder of the text encoder, Flan-T5-XL: stores the default text's features in the model, so that restore needs no "
    "encoder (extra 'text'). By default the one below the weights root.",
    TEXT,
    metavar="DIR",
)


@dataclass(frozen=True)
class PullOptions(CheckedOptions):
    """What ``weights pull`` fetches, and where it goes. Each field's help is the option's."""

    names: tuple[Pulled, ...] = option(
        MISSING,
        "2b, teacher, text (the text encoder), captioner; weights list tells more.",
        INPUT,
        metavar="NAME...",
        positional=True,
    )
    weights: Path | None = option(None, WEIGHTS)
    to: Path | None = option(None, "Make a bundle in DIR instead of installing it here.", OUTPUT, metavar="DIR")
    store: Stored = option(Stored.BF16, _STORE)
    text_encoder: Path | None = option(None, _ENCODER)
    force: bool = option(False, "Also what is there already.", OUTPUT)
    quiet: bool = option(False, QUIET)


@dataclass(frozen=True)
class ImportOptions(CheckedOptions):
    """What ``weights import`` makes models of. Each field's help is the option's."""

    files: tuple[Path, ...] = option(
        MISSING,
        "Published .pth, .ckpt or .safetensors; folders of text networks; or a bundle.",
        INPUT,
        metavar="FILE...",
        positional=True,
    )
    weights: Path | None = option(None, WEIGHTS)
    store: Stored = option(Stored.BF16, _STORE)
    text_encoder: Path | None = option(None, _ENCODER)
    quiet: bool = option(False, QUIET)


@dataclass(frozen=True)
class StoreTextOptions(CheckedOptions):
    """Models that ``weights text`` stores the default text in. Each field's help is the option's."""

    models: tuple[str, ...] = option(
        (),
        "Names or files; all installed models that take a text by default.",
        INPUT,
        metavar="MODEL...",
        positional=True,
    )
    weights: Path | None = option(None, WEIGHTS)
    text_encoder: Path | None = option(None, _ENCODER)
    quiet: bool = option(False, QUIET)


@dataclass(frozen=True)
class VerifyOptions(CheckedOptions):
    """What ``weights verify`` compares with known hashes. Each field's help is the option's."""

    names: tuple[str, ...] = option(
        (), "Models and networks; all by default.", INPUT, metavar="NAME...", positional=True
    )
    weights: Path | None = option(None, WEIGHTS)
