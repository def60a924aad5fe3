"""The files a run leaves beside its outputs: the CSV report, the list of failures, and their merging.

Rows are appended and flushed as work goes, so that a killed run loses none; the next run takes the last row of each
input and writes the file anew. The rows of earlier runs tell what an output is.
"""

import dataclasses
import hashlib
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.atomic import part_path
from varestorer_cli.core.errors import OutputError, UsageError
from varestorer_cli.core.phrases import FAILED_LIST_MARK, escaped, unescaped
from varestorer_cli.core.report.rows import COLUMNS, IGNORED, WRITING, Row, check_report, csv_line, read_rows
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.sharding import Shard

FAILED_LIST_HEADER = f"{FAILED_LIST_MARK}; give this file back as @failed.txt\n"


def report_name(shard: Shard | None, name: str = "metrics", suffix: str = ".csv", frames: str | None = None) -> str:
    """File name of a report; it carries the shard and the frames, so that tasks of a farm never share one."""
    part = f".{shard.index}-of-{shard.count}" if shard is not None else ""
    if frames is not None:
        spec = re.sub(r"[^\w,-]", "_", frames.strip())
        digest = hashlib.sha256(frames.encode()).hexdigest()[:12]
        part += f".frames-{spec if len(spec) <= 60 else spec[:40] + '_' + digest}"
    return f"{name}{part}{suffix}"


def free_report_path(folder: Path, shard: Shard | None = None, frames: str | None = None) -> Path:
    """The report's usual place in an output folder, or one beside it where a file of another kind has the name."""
    usual = folder / report_name(shard, frames=frames)
    try:
        check_report(usual)
    except UsageError:
        return folder / report_name(shard, "metrics.varestorer", frames=frames)
    return usual


def failed_list_path(report: Path) -> Path:
    """The list of failures that belongs to a report: ``failed.txt`` for ``metrics.csv``."""
    stem = report.stem
    name = "failed" + stem.removeprefix("metrics") if stem.startswith("metrics") else f"{stem}.failed"
    return report.with_name(f"{name}.txt")


def reports_in(folder: Path) -> list[Path]:
    """Report files of a folder, of all shards."""
    with suppress(OSError):
        return sorted(folder.glob("metrics*.csv"))
    return []


def write_failed_list(path: Path, inputs: list[str]) -> Path | None:
    """Write the list of failed inputs, or remove the one of an earlier run when there are none.

    Returns:
        the file, None where none was written (no failures, or a file that is not ours has the name).
    """
    try:
        with path.open("rb") as stream:
            ours = stream.read(len(FAILED_LIST_HEADER)) == FAILED_LIST_HEADER.encode()
        if not ours:
            return None
        if not inputs:
            path.unlink()
    except FileNotFoundError:
        pass
    if not inputs:
        return None
    # in a list, # begins a comment and a line ends a name
    names = [escaped(f"./{name}" if name.startswith("#") else name) for name in inputs]
    lines = "".join(f"{name}\n" for name in names)
    path.write_bytes(FAILED_LIST_HEADER.encode() + lines.encode("utf-8", "surrogateescape"))
    return path


def read_failed_list(path: Path) -> list[str]:
    """Inputs of a list of failures; none where the file is not one, or is not there."""
    with suppress(OSError):
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        if text.startswith(FAILED_LIST_HEADER):
            return [unescaped(name) for name in text.removeprefix(FAILED_LIST_HEADER).split("\n") if name]
    return []


class ReportFile:
    """The CSV file of one process.

    Args:
        path: the file; None keeps rows in memory only.
        others: further report files of the folder (of other shards), whose rows count as earlier ones.

    Raises:
        UsageError: ``path`` is a file of another kind.
    """

    def __init__(self, path: Path | None, others: Iterable[Path] = ()) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._announced: dict[str, list[Row]] = {}
        self._earlier: dict[str, list[Row]] = {}
        self._settled = False  # one row per input
        for other in others:
            if path is None or other.resolve() != path.resolve():
                with suppress(UsageError):
                    self._remember(read_rows(other))
        if path is not None:
            earlier = read_rows(path)
            self._remember(earlier)
            for row in earlier:
                if row.status == WRITING:
                    self._announced.setdefault(row.key, []).append(row)
                elif row.status != IGNORED:
                    self._rows[row.key] = row
                    self._announced.pop(row.key, None)
            self._settled = len(earlier) == len(self._rows)

    def _remember(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.output_sha256:
                self._earlier.setdefault(row.key, []).append(row)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The last row of every input, of this run and of earlier ones."""
        return tuple(self._rows.values())

    def earlier_rows(self, output: str) -> list[Row]:
        """Every row that says what an output file is, the newest of this report last."""
        with self._lock:
            return list(self._earlier.get(output, ()))

    def announce(self, row: Row) -> None:
        """Append a ``writing`` row before the atomic rename, so that a crash in between is recognised. Thread-safe.

        Raises:
            OutputError: the file cannot be written.
        """
        announced = dataclasses.replace(row, status=WRITING)
        with self._lock:
            self._announced.setdefault(row.key, []).append(announced)
            self._append(announced)

    def open(self) -> None:
        """Write the rows of earlier runs anew, without doubles, unless the file is that already.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self._is_settled():
            self._rewrite()

    def _is_settled(self) -> bool:
        """Whether rows can be appended to the file as it is."""
        if self.path is None or not self._settled:
            return False
        try:
            with self.path.open("r+b") as stream:
                header = stream.readline()
                stream.seek(-1, os.SEEK_END)
                return header == csv_line(COLUMNS) and stream.read() == b"\n"
        except OSError:
            return False

    def add(self, row: Row) -> None:
        """Append a row; it is in the file when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._lock:
            self._rows.pop(row.key, None)
            self._rows[row.key] = row
            self._announced.pop(row.key, None)
            self._remember([row])
            self._append(row)

    def _append(self, row: Row) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as stream:
                stream.write(csv_line(row.cells()))
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
                stream.write(csv_line(COLUMNS))
                stream.writelines(csv_line(row.cells()) for row in self._rows.values())
                stream.writelines(csv_line(row.cells()) for rows in self._announced.values() for row in rows)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: the report cannot be written ({error.strerror})") from error


# --- merging


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes:
        report: the rows of all parts.
        path: the file they were written to.
        count: number of parts there should be.
        missing: shards that left no report.
    """

    report: BatchReport
    path: Path
    count: int
    missing: list[int]


def merge_reports(folder: Path) -> Merged:
    """Join ``metrics.I-of-N.csv`` into ``metrics.csv`` and the lists of failures into ``failed.txt``.

    The reports of the parts stay: shards that run again need them. Where a folder holds reports of several numbers
    of shards, the newest set counts. Reports of ranges of frames are joined where there is none of a shard.

    Raises:
        UsageError: there is no report of a part.
        OutputError: the report cannot be written.
    """
    count, shards = _newest_set(folder)
    parts = [part for _, part in sorted(shards.items())] or sorted(folder.glob("metrics*.frames-*.csv"))
    if not parts:
        raise UsageError(f"{folder}: holds no report of a shard (metrics.I-of-N.csv); name the OUTPUT of the shards")
    report = BatchReport()
    path = free_report_path(folder)
    merged = ReportFile(path)
    merged.open()
    for part in parts:
        for row in read_rows(part):
            if row.status != WRITING:
                report.rows.append(row)
                merged.add(row)
        report.failed_inputs += read_failed_list(failed_list_path(part))
    merged.close()
    with suppress(OSError):
        write_failed_list(folder / "failed.txt", report.failed_inputs)
    missing = sorted(set(range(count)) - set(shards)) if shards else []
    return Merged(report, path, count if shards else len(parts), missing)


def _newest_set(folder: Path) -> tuple[int, dict[int, Path]]:
    sets: dict[int, dict[int, Path]] = defaultdict(dict)
    for path in folder.glob("metrics.*-of-*.csv"):
        found = re.fullmatch(r"metrics\.(\d+)-of-(\d+)\.csv", path.name)
        if found is not None and int(found[1]) < int(found[2]):
            sets[int(found[2])][int(found[1])] = path
    if not sets:
        return 0, {}
    return max(sets.items(), key=lambda item: max(path.stat().st_mtime for path in item[1].values()))
