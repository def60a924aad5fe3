"""Captions of images: read from a table or from text files, written to a table."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import OutputError, UsageError
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.options import TextOptions
from varestorer_cli.core.phrases import named

BESIDE = "beside"
"""Value of ``--captions`` for text files beside the images."""
HEADER = ("path", "caption")
_PATH_COLUMNS = ("path", "input")  # "input" is the report's name for it
LARGEST_SIDECAR = 1 << 16
"""Size in bytes above which a text file beside an image is not taken for a caption."""


@dataclass(frozen=True)
class Texts:
    """Text of each image of a run.

    Attributes:
        by_key: caption of an image by its key.
        default: text of all other images, None for the model's learned null condition.
        encoder: fingerprint of the text encoder, "" if none was needed.
        stored: text whose features came with the model.
    """

    by_key: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    encoder: str = ""
    stored: str | None = None

    def of(self, key: str) -> str | None:
        """Text of one image."""
        return self.by_key.get(key, self.default)

    def identity(self, key: str) -> tuple[str, str] | None:
        """Encoder and text, on which the output's bytes depend; None without a text."""
        text = self.of(key)
        return None if text is None else ("" if text == self.stored else self.encoder, text)


@dataclass
class FoundCaptions:
    """Captions found for some images.

    Attributes:
        source: their origin, for messages.
        by_key: caption by the image's key.
        files: text files that were read, so that they are not listed as foreign files.
        problems: files that could not be used, with the reason.
        unused: paths of a table that are not an image of this run.
    """

    source: str
    by_key: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def report(self, console: Console, owners: str) -> None:
        """Warn of files that could not be used, and name captions that belong to none of ``owners`` ("photograph")."""
        for problem in self.problems:
            console.warn(problem)
        if self.unused:
            text = f"{len(self.unused)} captions of {self.source} belong to no {owners}: {named(self.unused, 5)}"
            console.info(text)


def find_captions(source: str, jobs: Sequence[Job]) -> FoundCaptions:
    """Find the captions of images.

    Args:
        source: ``beside`` for a text file beside each image (``a.txt`` for ``a.jpg``), a folder with such files in
            the folders of the inputs (``sub/a.txt`` for the key ``sub/a.jpg``), or a CSV file with the columns
            ``path`` and ``caption``.
        jobs: the images.

    Raises:
        UsageError: there is no such file, or it is not a table of captions.
    """
    if source == BESIDE:
        return _from_files("text files beside the images", jobs, lambda job: Path(job.input).with_suffix(".txt"))
    path = Path(source)
    if path.is_dir():
        return _from_files(source, jobs, lambda job: path / PurePosixPath(job.key).with_suffix(".txt"))
    table = read_table(path)
    found = FoundCaptions(source)
    used = set()
    for job in jobs:
        for name in (_normal(job.key), _normal(job.input), os.path.realpath(job.input)):
            if name in table:
                used.add(name)
                found.by_key[job.key] = table[name]
                break
    found.unused = [name for name in table if name not in used]
    return found


def captions_of(jobs: Sequence[Job], text: TextOptions, console: Console) -> FoundCaptions:
    """Captions of ``--captions``; unusable files and unused rows are reported on the console.

    Raises:
        UsageError: they cannot be read.
    """
    if text.captions is None:
        return FoundCaptions("")
    found = find_captions(text.captions, jobs)
    found.report(console, "image of this run")
    return found


def clean(text: str) -> str:
    """Text as one line: control characters and runs of white space become single spaces."""
    printable = (char if char.isprintable() else " " for char in text.encode("utf-8", "replace").decode())
    return " ".join("".join(printable).split())


def read_table(path: Path, option: str = "--captions") -> dict[str, str]:
    """Captions of a CSV file by normalised path; rows without a caption are left out.

    Cells are separated by commas, semicolons or tabs, in UTF-8. A path is the image's path below the input folder, the
    path as given, or an absolute one. The report of a run is such a table too.

    Args:
        path: the file.
        option: option that named it, for messages.

    Raises:
        UsageError: the file cannot be read, lacks a column, or gives a path two different captions.
    """
    return _parse(path, option)[0]


@dataclass(frozen=True)
class _Layout:
    """Layout of a table: separator, number of columns, and the indices of path and caption."""

    delimiter: str = ","
    columns: int = 2
    path: int = 0
    caption: int = 1

    def line(self, path: str, caption: str) -> bytes:
        cells = [""] * self.columns
        cells[self.path], cells[self.caption] = path, caption
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")


def _parse(path: Path, option: str) -> tuple[dict[str, str], _Layout]:
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror}); check the path") from error
    head = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    table: dict[str, str] = {}
    lines: dict[str, int] = {}
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        at = next((names.index(name) for name in _PATH_COLUMNS if name in names), None)
        if at is None or "caption" not in names:
            raise UsageError(
                f"{option} {path}: its first line is {head[:80].strip()!r}, a header with the columns path and "
                "caption is needed"
            )
        layout = _Layout(delimiter, len(names), at, names.index("caption"))
        for cells in reader:
            if len(cells) <= max(at, layout.caption) or not (caption := clean(cells[layout.caption])):
                continue
            name = _normal(cells[at].strip())
            if not name:
                continue
            if table.setdefault(name, caption) != caption:
                raise UsageError(
                    f"{option} {path}: lines {lines[name]} and {reader.line_num} give {cells[at].strip()} two "
                    "different captions; delete one of them"
                )
            lines.setdefault(name, reader.line_num)
    except csv.Error as error:
        raise UsageError(f"{option} {path}: line {reader.line_num} is no CSV ({error})") from error
    return table, layout


def _normal(path: str) -> str:
    if Path(path).is_absolute():
        return os.path.realpath(path)
    return PurePosixPath(os.path.normpath(path).replace(os.sep, "/")).as_posix() if path else ""


def _from_files(source: str, jobs: Sequence[Job], place: Callable[[Job], Path]) -> FoundCaptions:
    found = FoundCaptions(source)
    for job in jobs:
        path = place(job)
        try:
            with path.open("rb") as stream:
                data = stream.read(LARGEST_SIDECAR + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            found.problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        found.files.add(os.path.realpath(path))
        if len(data) > LARGEST_SIDECAR:
            found.problems.append(f"{path}: above {LARGEST_SIDECAR} bytes, that is no caption")
        elif caption := clean(data.decode("utf-8-sig", "replace")):
            found.by_key[job.key] = caption
    return found


class CaptionsFile:
    """The table that a captioner writes: rows are appended one by one, existing rows are never changed.

    Args:
        path: CSV file; it need not exist.

    Raises:
        UsageError: the file is not a table of captions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._exists = path.exists()
        self.known, self._layout = _parse(path, "--captions-file") if self._exists else ({}, _Layout())

    def of(self, job: Job) -> str | None:
        """Caption of an image in the file, None if it has none."""
        return self.known.get(_normal(job.key))

    def add(self, key: str, caption: str) -> None:
        """Append a row; it is in the file when this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        line = self._layout.line(key, caption)
        try:
            if not self._exists:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                line = self._layout.line(*HEADER) + line
            elif not self.path.read_bytes().endswith(b"\n"):
                line = b"\n" + line
            with self.path.open("ab") as stream:
                stream.write(line)
        except OSError as error:
            raise OutputError(
                f"{self.path}: captions cannot be written ({error.strerror}); name another place with --captions-file"
            ) from error
        self._exists = True
