"""Options of the command ``score``."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from varestorer_cli.core.choices import Steps
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import CheckedOptions, Range, option
from varestorer_cli.core.sharding import Shard
from varestorer_cli.core.shared_options import COMPUTING, FARM, INPUT, MODEL, OUTPUT, SCORES, SHARD, WEIGHTS

DEFAULT_MODEL = "fine"
SYNTHETIC = "div2k-synth"
"""Name of the test set whose degraded images are made from given photographs."""


class Codes(StrEnum):
    """Where the codes that the decoder gets come from."""

    PREDICTED = "predicted"
    INPUT = "input"
    REFERENCE = "reference"
    NOISE = "noise"
    ZEROS = "zeros"


class ProtocolName(StrEnum):
    """Names of the protocols; ``metrics/protocols.py`` says what they mean."""

    BOTH = "both"
    OSEDIFF = "osediff"
    PAPER = "paper"
    RGB = "rgb"


class TableStyle(StrEnum):
    """How tables are printed."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"


@dataclass(frozen=True)
class ScoreOptions(CheckedOptions):
    """Options of ``score``. Each field's help is the option's.

    Attributes:
        target: the command's argument: becomes ``restored``, or ``photos`` with div2k-synth.
        photos: photographs that div2k-synth makes its pairs from.

    Raises:
        UsageError: a value is impossible, or two contradict each other.
    """

    target: Path | None = option(
        None, "Folder of restored images, or one image.", INPUT, metavar="RESTORED", positional=True
    )
    restored: Path | None = option(
        None,
        "The same as an option; with --model it is restored to. [default: scores/DATASET-MODEL]",
        INPUT,
        metavar="DIR",
    )
    reference: Path | None = option(
        None,
        "What they should look like: a folder, or one image.",
        INPUT,
        flags=("--reference", "-r"),
        metavar="GT",
    )
    dataset: str | None = option(
        None,
        "div2k, realsr, drealsr, dped; a folder with gt and lq (or test_HR and test_LR); a CSV of lq,gt; div2k-synth: "
        "pairs made from the folder of photographs given as argument.",
        INPUT,
        metavar="NAME|PATH",
        values=("div2k", "realsr", "drealsr", "dped", "div2k-synth"),
    )
    photos: Path | None = None
    data_root: Path | None = option(
        None, "Where the known test sets lie.", INPUT, metavar="DIR", environment="VARESTORER_DATA"
    )
    model: str | None = option(
        None,
        "Restore the data set with this model first; what is done is kept. [default: fine]",
        MODEL,
        flags=("--model", "-m"),
    )
    weights: Path | None = option(None, WEIGHTS)
    codes: Codes = option(
        Codes.PREDICTED,
        "What the model's decoder gets while the set is restored, to see what the codes do: those predicted; the "
        "encoder's own of the input or of the reference; noise (coin flips); zeros.",
        MODEL,
    )
    steps: Steps = option(Steps.AUTO, "Passes of the transformer while the set is restored, as of restore.", MODEL)
    compare: tuple[Path, Path] | None = option(
        None, "Two restored folders: paired differences and sign test.", INPUT, metavar="A B"
    )
    protocol: ProtocolName = option(
        ProtocolName.BOTH,
        "osediff: PSNR and SSIM on Y, MANIQA of PIPAL. paper: PSNR on RGB, SSIM on Y of YIQ, MANIQA of KonIQ. rgb: "
        "PSNR and SSIM on RGB.",
        SCORES,
    )
    metrics: str | None = option(
        None,
        "Comma list: psnr, ssim, psnr_y, ...; full: all of the protocol's tables; other names are pyiqa's (extra "
        "'score').",
        SCORES,
        metavar="LIST",
        values=("psnr", "ssim", "psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb", "ssim_yiq", "full"),
    )
    crop_border: int = option(0, "Pixels to cut off each side first.", SCORES, range=Range(0))
    partial: bool = option(False, "Go on with the pairs there are although files have no partner.", SCORES)
    shard: Shard | None = option(None, SHARD, help="Restore and score this part only, from 0; auto: array job.")
    merge: bool = option(False, "Join the scores that shards left in RESTORED; computes nothing.", FARM)
    csv: Path | None = option(None, "One line per pair. [default: RESTORED/scores.csv]", OUTPUT, metavar="FILE")
    json: Path | None = option(None, "The whole report. [default: RESTORED/scores.json]", OUTPUT, metavar="FILE")
    sheet: Path | None = option(
        None, "Contact sheet to look at, a .jpg or .png: restored, reference.", OUTPUT, metavar="FILE"
    )
    degraded: Path | None = option(
        None, "Degraded inputs, shown first on the sheet and on the page.", OUTPUT, metavar="DIR"
    )
    page: Path | None = option(
        None,
        "A page to look at: sliders, scores to sort by, how they spread.",
        OUTPUT,
        flags=("--report",),
        metavar="FILE.html",
    )
    page_folder: Path | None = option(
        None, "That page as a folder of small files, all images on it.", OUTPUT, flags=("--report-dir",), metavar="DIR"
    )
    also: tuple[Path, ...] = option(
        (), "A further folder to show on the page; up to four times.", OUTPUT, metavar="DIR"
    )
    table: TableStyle = option(TableStyle.TEXT, "How the table is printed.", OUTPUT)
    device: str = option("auto", "Where model and pyiqa compute: auto, cpu, cuda, cuda:N.", COMPUTING)
    seed: int = option(0, "Seed of the intervals, of div2k-synth and of the model's noise.", SCORES, range=Range(0))
    cache: str | None = option(
        None,
        "Where scores are kept for the next run, or none. [default: the user's cache folder]",
        SCORES,
        metavar="DIR",
        environment="VARESTORER_CACHE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.page is not None and self.page_folder is not None:
            raise UsageError("--report is one file, --report-dir a folder; give one of them")
        if self.target is not None:
            synthetic = self.dataset is not None and self.dataset.lower() == SYNTHETIC
            if self.restored is not None and not synthetic:
                raise UsageError(
                    f"{self.target} and --restored {self.restored} both name the restored images: leave one out"
                )
            object.__setattr__(self, "photos" if synthetic else "restored", self.target)
            object.__setattr__(self, "target", None)
        if self.steps is not Steps.AUTO and (self.dataset is None or self.codes is not Codes.PREDICTED):
            why = "nothing is restored" if self.dataset is None else "the transformer is not asked"
            raise UsageError(f"--steps {self.steps}: {why} here; leave it out, or restore a set with --dataset")
        if self.merge and self.restored is None:
            raise UsageError("--merge joins the scores of shards: name their folder, as in: score RESTORED --merge")
