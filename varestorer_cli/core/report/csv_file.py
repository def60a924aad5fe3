"""The report of a run: one row per input in a CSV file, the counts, the summary and the exit code.

Rows are appended and flushed as work goes, so that a killed run loses none; the next run takes the last row of each
input and writes the file anew. The rows of earlier runs are also the first witness of what an output is.
"""

import csv
import dataclasses
import io
import json
import math
import os
import platform
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from varestorer_cli.core.atomic import part_path
from varestorer_cli.core.errors import ExitCode, OutputError, UsageError
from varestorer_cli.core.options import FailureLimit
from varestorer_cli.core.phrases import clock

DONE, SKIPPED, FAILED, IGNORED = "done", "skipped", "failed", "ignored"
# Written before an output gets its name: where a process dies between the two, the next run knows the file as ours.
WRITING = "writing"


@dataclass
class Row:
    """One line of the report; None means not measured and is written as an empty cell.

    Attributes are the columns. ``retries`` counts tiles computed again; ``mean_colour_error`` is the largest shift of
    a channel's mean in 8-bit steps; ``consistency_psnr`` compares the output, reduced to the input's size, with the
    input, in dB and at most 100; ``oom_split`` says what an out-of-memory error changed; ``transfer`` how the
    values of an OpenEXR or DPX file met the model; ``caption`` is the text
    that the model was given.
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
        row = cls(host="")
        for column in dataclasses.fields(cls):
            text = cells.get(column.name) or ""
            value: str | int | float | None = text
            if column.type in (int | None, float | None):
                value = None
                with suppress(ValueError):
                    value = int(text) if column.type == (int | None) else float(text)
            setattr(row, column.name, value)
        return row


COLUMNS = tuple(column.name for column in dataclasses.fields(Row))


def _rounded(value: str | int | float | None) -> str | int | float | None:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _cell(value: str | int | float | None) -> str:
    value = _rounded(value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_rows(path: Path) -> list[Row]:
    """Rows of a report file; a last line that a killed process left half written is dropped.

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
        header, *lines = csv.reader(io.StringIO(whole, newline=""))
    except (csv.Error, ValueError):  # a field without end; not one line
        header, lines = [], []
    if header[:4] != list(COLUMNS[:4]):
        raise UsageError(f"{path}: exists and is not a varestorer report; move it, or choose another --metrics-csv")
    return [Row.from_cells(dict(zip(header, cells, strict=True))) for cells in lines if len(cells) == len(header)]


class ReportFile:
    """The CSV file of one process.

    Args:
        path: the file; None keeps rows in memory only.
        others: further report files of the folder (of other shards), read as witnesses.

    Raises:
        UsageError: ``path`` is a file of another kind.
    """

    def __init__(self, path: Path | None, others: Iterable[Path] = ()) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._promised: dict[str, list[Row]] = {}
        self._witnesses: dict[str, list[Row]] = {}
        for other in others:
            if path is None or other.resolve() != path.resolve():
                with suppress(UsageError):
                    self._remember(read_rows(other))
        if path is not None:
            earlier = read_rows(path)
            self._remember(earlier)
            for row in earlier:
                if row.status == WRITING:
                    self._promised.setdefault(row.key, []).append(row)
                elif row.status != IGNORED:
                    self._rows[row.key] = row
                    self._promised.pop(row.key, None)

    def _remember(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.output_sha256:
                self._witnesses.setdefault(row.key, []).append(row)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The last row of every input, of this run and of earlier ones."""
        return tuple(self._rows.values())

    def witnesses(self, output: str) -> list[Row]:
        """Every row that says what an output file is, the newest of this report last."""
        with self._lock:
            return list(self._witnesses.get(output, ()))

    def promise(self, row: Row) -> None:
        """Note what an output will be, before it gets its name; any thread may call.

        Raises:
            OutputError: the file cannot be written.
        """
        note = dataclasses.replace(row, status=WRITING)
        with self._lock:
            self._promised.setdefault(row.key, []).append(note)
            self._append(note)

    def open(self) -> None:
        """Write the rows of earlier runs anew, without doubles.

        Raises:
            OutputError: the file cannot be written.
        """
        self._rewrite()

    def add(self, row: Row) -> None:
        """Append a row; it is in the file when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._lock:
            self._rows.pop(row.key, None)
            self._rows[row.key] = row
            self._promised.pop(row.key, None)
            self._remember([row])
            self._append(row)

    def _append(self, row: Row) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as stream:
                stream.write(_line(row.cells()))
        except OSError as error:
            raise OutputError(f"{self.path}: the report cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Write the file anew, one row per input, sorted by input.

        Raises:
            OutputError: the file cannot be written.
        """
        self._rows = {row.key: row for row in sorted(self._rows.values(), key=lambda row: (row.input, row.output))}
        self._rewrite()

    def _rewrite(self) -> None:
        if self.path is None:
            return
        part = part_path(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                stream.write(_line(COLUMNS))
                stream.writelines(_line(row.cells()) for row in self._rows.values())
                stream.writelines(_line(row.cells()) for notes in self._promised.values() for row in notes)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: the report cannot be written ({error.strerror})") from error


@dataclass
class Times:
    """Where the time of a run went, in seconds of its main thread.

    Attributes:
        model: in calls of the model.
        decode: waiting for pictures to be read and decoded.
        encode: waiting for results to be encoded and written.
    """

    model: float = 0.0
    decode: float = 0.0
    encode: float = 0.0

    def add(self, other: "Times") -> None:
        """Join the times of another process."""
        self.model += other.model
        self.decode += other.decode
        self.encode += other.encode

    def shares(self, seconds: float) -> str:
        """Shares of ``seconds`` of main threads, such as ``model 91 %, decode 3 %, encode 5 %, rest 1 %``."""
        parts = {"model": self.model, "decode": self.decode, "encode": self.encode}
        percent = {name: round(100 * part / seconds) for name, part in parts.items()}
        percent["rest"] = max(0, 100 - sum(percent.values()))
        return ", ".join(f"{name} {share} %" for name, share in percent.items())


@dataclass
class BatchReport:
    """What happened to each input of a run.

    Attributes:
        rows: in the order of completion.
        megapixels: of all outputs written.
        seconds: wall time of the run.
        failed_inputs: failed inputs in the form that ``@list`` files understand.
        kept: existing files that were left as they are and are not this run's.
        internal: whether a failure was our own bug.
        times: where the time went.
        processes: that worked at the same time.
    """

    rows: list[Row] = field(default_factory=list)
    megapixels: float = 0.0
    seconds: float = 0.0
    failed_inputs: list[str] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    internal: bool = False
    times: Times = field(default_factory=Times)
    processes: int = 1

    def count(self, status: str) -> int:
        """Rows of a status."""
        return sum(row.status == status for row in self.rows)

    @property
    def total(self) -> int:
        """Inputs, without the ignored files."""
        return len(self.rows) - self.count(IGNORED)

    def exit_code(self, limit: FailureLimit | None = None) -> ExitCode:
        """Code of the run: failures beyond the limit, or a bug, are no success."""
        if self.internal:
            return ExitCode.INTERNAL
        allowed = (limit or FailureLimit()).allows(self.count(FAILED), self.total)
        return ExitCode.OK if allowed else ExitCode.SOME_FAILED

    def summary(self) -> str:
        """One sentence: counts and speed."""
        done, skipped, failed = self.count(DONE), self.count(SKIPPED), self.count(FAILED)
        parts = [f"{done} picture{'s' if done != 1 else ''} restored"]
        if skipped - len(self.kept):
            parts.append(f"{skipped - len(self.kept)} already up to date")
        if self.kept:
            parts.append(f"{len(self.kept)} existing file{'s' if len(self.kept) != 1 else ''} kept")
        parts.append(f"{failed} failed")
        if self.count(IGNORED):
            parts.append(f"{self.count(IGNORED)} ignored")
        text = ", ".join(parts)
        if done and self.seconds > 0:
            rate = f"{done / self.seconds:.2f} images/s, {self.megapixels / self.seconds:.2f} MP/s"
            text += f" in {clock(self.seconds)} ({rate}; {self.times.shares(self.seconds * self.processes)})"
        return text
