"""Published rows of the known test sets, from ``data/published.csv``, each with convention and source.

PSNR, SSIM and MANIQA mean different things under different conventions (see ``metrics/protocols.py``), so a row's
values are keyed by the metric that they are under its convention. Values are kept as printed.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CONVENTION_TEXT = {
    "osediff": "PSNR and SSIM on Y of YCbCr, MANIQA of PIPAL (OSEDiff's script and the papers that follow it)",
    "paper": "PSNR on RGB, SSIM on Y of YIQ, MANIQA of KonIQ (VARestorer's tables; found by recomputing OSEDiff's row)",
}
_METRICS_OF = {
    "osediff": {"psnr": "psnr_y", "ssim": "ssim_y", "maniqa": "maniqa-pipal"},
    "paper": {"psnr": "psnr_rgb", "ssim": "ssim_yiq", "maniqa": "maniqa"},
}
_ABOUT = ("set", "convention", "method", "steps", "source", "certainty")
_FILE = Path(__file__).resolve().parents[2] / "data" / "published.csv"


@dataclass(frozen=True)
class PublishedRow:
    """One method's row in one published table.

    Attributes:
        method: its name.
        steps: sampling steps, empty where not known.
        convention: ``osediff`` or ``paper``.
        source: the table it was read from.
        second_hand: it was read in a summary, not in the table itself.
        values: metric name under this convention -> the number as printed.
    """

    method: str
    steps: str
    convention: str
    source: str
    second_hand: bool
    values: Mapping[str, str]

    @property
    def label(self) -> str:
        """Method and steps, as tables name it."""
        return f"{self.method}-{self.steps}" if self.steps else self.method


@cache
def published_rows(benchmark: str) -> tuple[PublishedRow, ...]:
    """Rows of a test set (``div2k``, ``realsr``, ``drealsr``); none for another name."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_row(cells) for cells in csv.DictReader(file) if cells["set"] == benchmark)


def _row(cells: Mapping[str, str]) -> PublishedRow:
    names = _METRICS_OF[cells["convention"]]
    values = {names.get(name, name): text for name, text in cells.items() if name not in _ABOUT and text}
    return PublishedRow(
        cells["method"],
        cells["steps"],
        cells["convention"],
        cells["source"],
        cells["certainty"] != "read",
        values,
    )
