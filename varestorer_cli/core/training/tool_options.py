"""Options of the commands around a training run: ``texts``, ``runs``, ``train average``, ``dial``, ``--show-config``.

Each field's help is the option's.
"""

import math
from dataclasses import MISSING, dataclass
from pathlib import Path

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import CheckedOptions, Option, option
from varestorer_cli.core.shared_options import (
    DEVICE,
    INPUT,
    MODEL,
    OUTPUT,
    QUIET,
    RUN,
    TEXT,
    THREADS,
    WEIGHTS,
)
from varestorer_cli.core.training.options import CONFIG, PRESET

_OUT = Option("File (*.safetensors), or folder that gets model.safetensors.", OUTPUT, flags=("--out", "-o"))
_LICENSE = Option("Licence to write into the file [default: the models' own].", OUTPUT, flags=("--license",))


@dataclass(frozen=True)
class TextsOptions(CheckedOptions):
    """Which photographs' captions ``texts`` encodes, and how."""

    data: Path = option(
        MISSING, "Photographs: a folder, a tar shard, or a text file with paths.", INPUT, positional=True
    )
    out: Path = option(MISSING, "Folder for the features.", OUTPUT, flags=("--out", "-o"))
    encoder: Path | None = option(
        None,
        "Folder of a T5 encoder [default: the first below the weights root].",
        TEXT,
        flags=("--text-encoder",),
    )
    captions: str | None = option(
        None, "CSV file or folder of text files; goes before files beside the photographs.", TEXT
    )
    prompt: str | None = option(
        None, "Text of photographs without a caption; goes into the model as its default.", TEXT
    )
    weights: Path | None = option(None, WEIGHTS)
    device: str = option("auto", DEVICE)
    threads: int | None = option(None, THREADS)
    quiet: bool = option(False, QUIET, help="No progress on stderr.")


@dataclass(frozen=True)
class RunsOptions(CheckedOptions):
    """Which runs ``runs`` compares, and how."""

    runs: tuple[Path, ...] = option(
        (), "Run folders, or folders that hold them.", INPUT, positional=True, metavar="RUN..."
    )
    figures: str | None = option(
        None,
        "Figures of validation in the table, separated by commas.",
        OUTPUT,
        metavar="LIST",
        default_text="the usual ones",
    )
    report: Path | None = option(None, "Page with table, settings and curves to write.", OUTPUT, metavar="FILE.html")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r}: give one number per model, for example --weights 0.5,0.5") from None


@dataclass(frozen=True)
class AverageOptions(CheckedOptions):
    """Models that ``train average`` mixes, and the file that it writes.

    Raises:
        UsageError: fewer than two models, or unusable weights.
    """

    models: tuple[Path, ...] = option(
        MISSING, "Models of the same layout: files, runs or names.", INPUT, metavar="A B...", positional=True
    )
    out: Path = option(MISSING, _OUT)
    shares: tuple[float, ...] | None = option(
        None,
        "Weight of each model [default: the mean].",
        MODEL,
        flags=("--weights",),
        metavar="W,W...",
        parse=_shares,
    )
    half: bool = option(False, "Store the model in float16, half the size.", OUTPUT)
    license_text: str | None = option(None, _LICENSE)

    def __post_init__(self) -> None:
        super().__post_init__()
        count, shares = len(self.models), self.shares
        if count < 2:
            raise UsageError(f"an average needs two models or more, {count} given")
        if shares is None:
            shares = (1 / count,) * count
        if len(shares) != count:
            raise UsageError(f"--weights: {len(shares)} numbers for {count} models; give one per model")
        if any(not 0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise UsageError(
                f"--weights {','.join(f'{share:g}' for share in shares)}: each must lie between 0 and 1, all together "
                f"must be 1; they are {sum(shares):g}"
            )
        object.__setattr__(self, "shares", shares)


@dataclass(frozen=True)
class DialOptions(CheckedOptions):
    """Two pre-restorers that ``train dial`` writes into one file.

    Raises:
        UsageError: a default outside 0 to below 1.
    """

    base: Path = option(
        MISSING, "Pre-restorer at the default point: file, run or name.", INPUT, metavar="BASE", positional=True
    )
    faithful: Path = option(MISSING, "Pre-restorer at --fidelity 1.", INPUT, metavar="FAITHFUL", positional=True)
    out: Path = option(MISSING, _OUT)
    default: float = option(0.25, "Fidelity that BASE stands for.", MODEL)
    license_text: str | None = option(None, _LICENSE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.default < 1:
            raise UsageError(f"--default {self.default:g}: 0 to below 1 (the faithful model) is possible")


@dataclass(frozen=True)
class ConfigOptions(CheckedOptions):
    """What ``train --show-config`` prints, without a stage."""

    show_config: bool = option(False, "Print a preset's sizes and recipes as TOML.", RUN)
    preset: str | None = option(None, PRESET)
    config: Path | None = option(None, CONFIG)
