"""What ``score`` was asked to do."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from varestorer_cli.core.sharding import Shard

DEFAULT_MODEL = "fine"


class Codes(StrEnum):
    """Where the codes that the decoder gets come from."""

    PREDICTED = "predicted"
    INPUT = "input"
    REFERENCE = "reference"
    NOISE = "noise"
    ZEROS = "zeros"


class ProtocolName(StrEnum):
    """Names of the protocols; :mod:`core.metrics.protocols` says what they mean."""

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
class ScoreOptions:
    """Options of ``score``.

    Attributes:
        restored: folder or file to judge; with ``model`` or ``codes`` it is restored to first.
        reference: folder or file it should look like.
        dataset: name, folder or manifest; brings degraded images and references.
        photos: photographs that div2k-synth makes its pairs from.
        data_root: where the known sets lie.
        model: restores the set's degraded images before scoring.
        weights: folder of the released files, for models that need them.
        codes: what the model's decoder gets while the set is restored.
        compare: two restored folders.
        merge: join the scores of shards in this folder.
        shard: score (and restore) this part only.
        protocol: name of the protocol.
        metrics: comma list, None for the protocol's.
        crop_border: pixels cut off each side.
        partial: go on although files have no partner, or shards are missing.
        csv: file for one line per pair; None beside the restored files.
        json: file for the whole report; None beside the restored files.
        sheet: contact sheet to write.
        degraded: inputs to show on it, and on the page.
        page: HTML page to write.
        also: further folders to show on the page.
        table: how the table is printed.
        device: where model and pyiqa compute.
        seed: of the bootstrap, of div2k-synth, of the model's noise and of ``Codes.NOISE``.
        cache: folder of kept scores, ``none``, or None for the user's.
    """

    restored: Path | None = None
    reference: Path | None = None
    dataset: str | None = None
    photos: Path | None = None
    data_root: Path | None = None
    model: str | None = None
    weights: Path | None = None
    codes: Codes = Codes.PREDICTED
    compare: tuple[Path, Path] | None = None
    merge: Path | None = None
    shard: Shard | None = None
    protocol: ProtocolName = ProtocolName.BOTH
    metrics: str | None = None
    crop_border: int = 0
    partial: bool = False
    csv: Path | None = None
    json: Path | None = None
    sheet: Path | None = None
    degraded: Path | None = None
    page: Path | None = None
    also: tuple[Path, ...] = ()
    table: TableStyle = TableStyle.TEXT
    device: str = "auto"
    seed: int = 0
    cache: str | None = None
