"""Finds inputs: what the user named, and what lies below named folders. Opens no file beyond its first bytes."""

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.formats import HEAD_BYTES, SUFFIXES, sniff
from varestorer_cli.core.inputs.frames import FramePattern, choose, read_range
from varestorer_cli.core.options import Missing

REPORT_HEADER = "input,output,status,reason"
_FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


@dataclass(frozen=True)
class Aside:
    """A path that is no job, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """An input file, the relative path it is mirrored under, and its number in a frame sequence."""

    path: str
    key: str
    frame: int | None = None


@dataclass(frozen=True)
class Entry:
    """One thing the user named: a path, the key it is mirrored under ("" = contents go to the top), its origin."""

    path: str
    key: str
    pattern: bool = False
    frame: int | None = None


@dataclass
class Findings:
    """What was met beside inputs.

    Attributes:
        ignored: foreign files and folders, with the reason.
        unreadable: folders and links that cannot be followed, missing frames: reported as failures.
        notes: what should be said about gaps in frame sequences.
    """

    ignored: list[Aside] = field(default_factory=list)
    unreadable: list[Aside] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """How arguments are read.

    Attributes:
        nul_lists: lists are separated by NUL bytes instead of newlines.
        read_stdin: reads the list for ``-``.
        frames: frames of a sequence to do, None does those that are there.
        missing: what a frame means that was asked for and is not there.
    """

    nul_lists: bool = False
    read_stdin: Callable[[], bytes] | None = None
    frames: str | None = None
    missing: Missing = Missing.ERROR


# --- what the user named ---------------------------------------------------------------------------------------------


def read_entries(inputs: Sequence[str], reading: Reading, findings: Findings) -> list[Entry]:
    """Everything the user named, lists included.

    Args:
        inputs: the arguments.
        reading: how they are read.
        findings: filled with gaps of frame sequences.

    Raises:
        UsageError: something named does not exist, or a list cannot be read.
    """
    entries: list[Entry] = []
    several = len(inputs) > 1
    for text in inputs:
        if text == "-":
            if reading.read_stdin is None:
                raise UsageError("-: there is no list to read on stdin")
            entries += _listed(reading.read_stdin(), reading.nul_lists)
        elif text.startswith("@"):
            try:
                entries += _listed(Path(text[1:]).read_bytes(), reading.nul_lists)
            except OSError as error:
                raise UsageError(f"{text[1:]}: the list cannot be read ({error.strerror})") from error
        elif (pattern := FramePattern.parse(text)) is not None and not os.path.lexists(text):
            entries += _sequence(text, pattern, reading, findings)
        else:
            entries += _named(text, several)
    if reading.frames is not None and not any(entry.frame is not None for entry in entries) and not findings.notes:
        raise UsageError(
            f"--frames {reading.frames}: no input is a frame sequence; name one such as plate.####.png, plate.%04d.png"
        )
    return entries


def _sequence(text: str, pattern: FramePattern, reading: Reading, findings: Findings) -> list[Entry]:
    """Frames of a sequence, mirrored as single files are."""
    wanted = read_range(reading.frames) if reading.frames is not None else None
    chosen = choose(text, pattern, wanted, reading.missing)
    findings.notes += chosen.notes
    findings.unreadable += [Aside(path, "the frame is missing") for path in chosen.absent]
    return [Entry(path, Path(path).name, frame=frame) for frame, path in chosen.paths.items()]


def _named(text: str, several: bool) -> list[Entry]:
    """An argument: an existing path, or a pattern that the shell left to us."""
    _, dot, rest = text.replace(os.sep, "/").partition("/./")
    if dot and rest:
        return [Entry(text, _below(rest))]
    path = Path(text)
    if path.is_dir():
        # One folder: its contents go to the top of the output. Several inputs: each folder keeps its name.
        return [Entry(text, Path(os.path.realpath(text)).name if several else "")]
    if path.exists() or path.is_symlink():
        return [Entry(text, path.name)]
    if not glob.has_magic(text):
        raise UsageError(f"{text}: no such file or folder; check the spelling and the current folder")
    fixed = []
    for part in Path(text).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    base = Path(*fixed) if fixed else Path()
    found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  (Path.glob finds hidden files)
    if "**" in text:
        found = [f for f in found if not Path(f).is_dir()]
    return [Entry(f, Path(f).relative_to(base).as_posix(), pattern=True) for f in found]


def _listed(data: bytes, nul_lists: bool) -> list[Entry]:
    """Entries of a list. Relative paths are mirrored as written, or from ``/./`` on where they hold it."""
    if nul_lists:
        lines = [os.fsdecode(line) for line in data.split(b"\0")]
    else:
        text = data.removeprefix(b"\xef\xbb\xbf")
        lines = [os.fsdecode(line.rstrip(b"\r")) for line in text.split(b"\n")]
        lines = [line for line in lines if not line.startswith("#")]
    lines = [line for line in lines if line]
    absolute = [os.path.realpath(Path(line).parent) for line in lines if Path(line).is_absolute()]
    common = os.path.commonpath(absolute) if absolute else ""
    return [Entry(line, _listed_key(line, common), pattern=False) for line in lines]


def _listed_key(line: str, common: str) -> str:
    posix = line.replace(os.sep, "/")
    root, dot, rest = posix.partition("/./")
    if dot and rest and root not in ("", "."):
        return _below(rest)
    if Path(line).is_absolute():
        return (Path(os.path.realpath(Path(line).parent)) / Path(line).name).relative_to(common).as_posix()
    return _below(posix)


def _below(path: str) -> str:
    """A relative path as a key: leading ``..`` or ``/`` would lead out of the output folder."""
    parts = [part for part in PurePosixPath(os.path.normpath(path)).parts if part not in ("..", "/", "//")]
    return PurePosixPath(*parts).as_posix() if parts else ""


# --- what is found below ---------------------------------------------------------------------------------------------


def find(entries: Sequence[Entry], folder: Path, lone: bool, findings: Findings) -> Iterator[Found]:
    """Input files of all entries, in order.

    Args:
        entries: from :func:`read_entries`.
        folder: output folder, never an input itself.
        lone: the only entry is a file, which is taken whatever it holds.
        findings: filled with what is no input.

    Raises:
        UsageError: output and input are the same folder.
    """
    roots = {os.path.realpath(e.path) for e in entries if Path(e.path).is_dir()}
    own = os.path.realpath(folder)
    if own in roots:
        raise UsageError(
            f"{folder}: output and input are the same folder, so results would replace their inputs; "
            "name another folder"
        )
    visited: set[str] = set()
    for entry in entries:
        path = Path(entry.path)
        if path.is_dir():
            yield from _walk(entry.path, entry.key, own, roots, visited, findings)
            continue
        reason = _foreign_name(path.name)
        if reason is None and (path.is_file() or not path.exists()):
            yield Found(entry.path, entry.key, entry.frame)  # a missing path fails as a picture, with its name
        elif not path.is_file():
            findings.ignored.append(Aside(entry.path, "not a regular file"))
        elif not entry.pattern and (lone or _is_picture(path)):
            yield Found(entry.path, entry.key)
        else:
            findings.ignored.append(Aside(entry.path, reason or "not a picture"))


def _walk(folder: str, key: str, own: str, roots: set[str], visited: set[str], findings: Findings) -> Iterator[Found]:
    """Pictures below a folder, depth first, in name order."""
    real = os.path.realpath(folder)
    if real in visited:
        findings.ignored.append(Aside(folder, "a folder that was visited already"))
        return
    visited.add(real)
    try:
        with os.scandir(folder) as listing:
            items = sorted(listing, key=lambda item: os.fsencode(item.name))
    except OSError as error:
        findings.unreadable.append(Aside(folder, f"the folder cannot be read: {error.strerror}"))
        return
    for item in items:
        inner = f"{key}/{item.name}" if key else item.name
        try:
            mode = item.stat().st_mode
        except OSError as error:  # a dangling link, a loop of links, a folder without permission
            if _foreign_name(item.name) is None:
                findings.unreadable.append(Aside(item.path, f"cannot be opened: {error.strerror}"))
            else:
                findings.ignored.append(Aside(item.path, "a link that leads nowhere"))
            continue
        if stat.S_ISDIR(mode):
            reason = _foreign_folder(item, own, roots, visited)
            if reason:
                findings.ignored.append(Aside(item.path, reason))
            else:
                yield from _walk(item.path, inner, own, roots, visited, findings)
        elif not stat.S_ISREG(mode):
            findings.ignored.append(Aside(item.path, "not a regular file"))
        elif reason := _foreign_name(item.name):
            findings.ignored.append(Aside(item.path, reason))
        else:
            yield Found(item.path, inner)


def _foreign_folder(item: "os.DirEntry[str]", own: str, roots: set[str], visited: set[str]) -> str | None:
    """Why a folder inside an input folder is left out, or None."""
    real = os.path.realpath(item.path)
    if real == own:
        return "the output folder"
    if item.name.startswith(".") or item.name in _FOREIGN_FOLDERS:
        return "a hidden or system folder"
    if item.is_symlink() and (
        real in visited
        or any(
            real == r or real.startswith(r.rstrip(os.sep) + os.sep) or r.startswith(real.rstrip(os.sep) + os.sep)
            for r in roots
        )
    ):
        return "a link to a folder that is an input already"
    if _has_report(Path(real)):
        return "outputs of an earlier run (it holds a varestorer report)"
    return None


def _has_report(folder: Path) -> bool:
    try:
        for path in folder.glob("metrics*.csv"):
            with path.open("rb") as stream:
                if stream.read(len(REPORT_HEADER)) == REPORT_HEADER.encode():
                    return True
    except OSError:
        pass
    return False


def _foreign_name(name: str) -> str | None:
    """Why a file is not taken for a picture by its name, or None."""
    if name.startswith("._"):
        return "macOS metadata"
    if name.endswith(".part"):
        return "a temporary file"
    if name.startswith("."):
        return "a hidden file"
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        return f"not a type that is read ({suffix})" if suffix else "not a type that is read (no suffix)"
    return None


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(HEAD_BYTES)) is not None
    except OSError:
        return True  # fails later, with its reason
