"""One row of the report per input, as CSV cells and as JSON, and the reading of a report file."""

import csv
import dataclasses
import io
import json
import math
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.phrases import from_cell, to_cell

DONE, SKIPPED, FAILED, IGNORED = "done", "skipped", "failed", "ignored"
# What the reason of a skipped input begins with that is larger than --only-below.
LARGE = "large already"
# Written before an output gets its name: where a process dies between the two, the next run knows the file as ours.
WRITING = "writing"


@dataclass(slots=True)  # a third of the memory: a run keeps one per image
class Row:
    """One line of the report; None means not measured and is written as an empty cell.

    Attributes are the columns. ``retries`` counts tiles computed again; ``mean_colour_error`` is the largest shift of
    a channel's mean in 8-bit steps; ``consistency_psnr`` compares the output, reduced to the input's size, with the
    input, in dB and at most 100; ``oom_split`` says what an out-of-memory error changed; ``transfer`` how the
    values of an OpenEXR or DPX file met the model; ``caption`` is the text
    that the model was given; ``calls`` says how many tiles shared a call of the model ("8", or "8+1" where the rest
    came one by one).
    """

    input: str = ""
    output: str = ""
    status: str = ""
    reason: str = ""
    width: int | None = None
    height: int | None = None
    out_width: int | None = None
    out_height: int | None = None
    depth: int | None = None
    icc: str = ""
    alpha: str = ""
    scale: float | None = None
    tile: int | None = None
    tiles: int | None = None
    retries: int | None = None
    device: str = ""
    precision: str = ""
    seconds: float | None = None
    peak_mb: float | None = None
    mean_colour_error: float | None = None
    consistency_psnr: float | None = None
    input_sha256: str = ""
    output_sha256: str = ""
    model_sha256: str = ""
    settings_sha256: str = ""
    seed: int | None = None
    version: str = ""
    host: str = field(default_factory=platform.node)
    shard: str = ""
    warnings: str = ""
    oom_split: str = ""
    transfer: str = ""
    model: str = ""
    caption: str = ""
    calls: str = ""

    @property
    def key(self) -> str:
        """What identifies a row: the output, which is unique in a folder; ignored files have none."""
        return self.output or self.input

    def cells(self) -> list[str]:
        """The row as CSV cells."""
        return [_cell(getattr(self, name)) for name in COLUMNS]

    def values(self) -> dict[str, str | int | float | None]:
        """The row for JSON: numbers as numbers, what was not measured as null."""
        found = {name: getattr(self, name) for name in COLUMNS}
        return {name: None if value == "" else _rounded(value) for name, value in found.items()}

    def json(self) -> str:
        """The row as one line of JSON."""
        return json.dumps(self.values())

    def text(self) -> dict[str, str]:
        """The row as CSV cells by column, for :meth:`from_cells`."""
        return dict(zip(COLUMNS, self.cells(), strict=True))

    @classmethod
    def from_cells(cls, cells: dict[str, str]) -> "Row":
        """Read a row back. Cells that are no number where one belongs become empty."""
        return cls(**{name: _value(cells.get(name), number) for name, number in _NUMBERS.items()})


_NUMBERS: dict[str, Callable[[str], Any] | None] = {
    column.name: int if column.type == (int | None) else float if column.type == (float | None) else None
    for column in dataclasses.fields(Row)
}
"""Column -> what reads a number of it, None where it is text."""
COLUMNS = tuple(_NUMBERS)


def _value(text: str | None, number: Callable[[str], Any] | None) -> Any:
    if number is None:
        return from_cell(text) if text else ""
    try:
        return number(text) if text else None
    except ValueError:
        return None


def _rounded(value: str | int | float | None) -> str | int | float | None:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _cell(value: str | int | float | None) -> str:
    if isinstance(value, str):
        return to_cell(value) if value else ""
    value = _rounded(value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def csv_line(cells: Iterable[str]) -> bytes:
    """Cells as one line of a CSV file; names that are no valid Unicode keep their bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_rows(path: Path) -> list[Row]:
    """Rows of a report file; a last line that a killed process left half written is dropped.

    Raises:
        UsageError: the file is not a report.
    """
    header, *lines = _lines(path) or [[]]
    return [Row.from_cells(dict(zip(header, cells, strict=True))) for cells in lines if len(cells) == len(header)]


def check_report(path: Path) -> None:
    """See to it that a file, where there is one, is a report.

    Raises:
        UsageError: it is not.
    """
    _lines(path)


def _lines(path: Path) -> list[list[str]]:
    """Whole lines of a report file, the header first; none where there is no file.

    Raises:
        UsageError: the file is not a report.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{path}: the report cannot be read ({error.strerror})") from error
    if not data.strip():
        return []
    whole = data[: data.rfind(b"\n") + 1].decode("utf-8", "surrogateescape")
    try:
        lines = list(csv.reader(io.StringIO(whole, newline="")))
    except csv.Error:  # a field without end
        lines = []
    if not lines or lines[0][:4] != list(COLUMNS[:4]):
        raise UsageError(f"{path}: exists and is not a varestorer report; move it, or choose another --metrics-csv")
    return lines
