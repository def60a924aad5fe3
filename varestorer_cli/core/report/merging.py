"""``restore --merge OUTPUT``: the reports of all shards, or of all ranges of frames, become one."""

import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.report.csv_file import WRITING, BatchReport, ReportFile, read_rows
from varestorer_cli.core.report.report_files import failed_list_path, read_failed_list, report_name, write_failed_list


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
        UsageError: there is no report of a part, or ``metrics.csv`` is a file of another kind.
        OutputError: the report cannot be written.
    """
    count, shards = _newest_set(folder)
    parts = [path for _, path in sorted(shards.items())] or sorted(folder.glob("metrics*.frames-*.csv"))
    if not parts:
        raise UsageError(f"{folder}: holds no report of a shard (metrics.I-of-N.csv); name the OUTPUT of the shards")
    report = BatchReport()
    merged = ReportFile(folder / report_name(None))
    merged.open()
    for path in parts:
        for row in read_rows(path):
            if row.status != WRITING:
                report.rows.append(row)
                merged.add(row)
        report.failed_inputs += read_failed_list(failed_list_path(path))
    merged.close()
    with suppress(OSError):
        write_failed_list(folder / "failed.txt", report.failed_inputs)
    missing = sorted(set(range(count)) - set(shards)) if shards else []
    return Merged(report, folder / report_name(None), count if shards else len(parts), missing)


def _newest_set(folder: Path) -> tuple[int, dict[int, Path]]:
    sets: dict[int, dict[int, Path]] = defaultdict(dict)
    for path in folder.glob("metrics.*-of-*.csv"):
        found = re.fullmatch(r"metrics\.(\d+)-of-(\d+)\.csv", path.name)
        if found is not None and int(found[1]) < int(found[2]):
            sets[int(found[2])][int(found[1])] = path
    if not sets:
        return 0, {}
    return max(sets.items(), key=lambda item: max(path.stat().st_mtime for path in item[1].values()))
