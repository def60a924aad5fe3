"""Finds inputs: what the user named, and what lies below named folders. Opens no file beyond its first bytes."""

import codecs
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from varestorer_cli.core.choices import Missing
from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.image import archive
from varestorer_cli.core.image.formats import HEAD_BYTES, RAW_SUFFIXES, SUFFIXES, sniff
from varestorer_cli.core.inputs.frames import FramePattern, read_range, select_frames
from varestorer_cli.core.phrases import FAILED_LIST_MARK, REPORT_HEADER, count, unescaped

_MARKS = {  # that of UTF-32 begins as that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_NAMED_IN_NOTES = 3
_NOT_REGULAR = "not a regular file; write a pipe's or device's content to a file first"
LARGEST_LIST = 1 << 28  # bytes: more than a million long paths
_FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


@dataclass(frozen=True)
class SkippedPath:
    """A path that is not restored, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class FoundFile:
    """An input file: its path, the relative path (key) it is mirrored under, its number in a frame sequence."""

    path: str
    key: str
    frame: int | None = None


@dataclass(frozen=True)
class NamedInput:
    """One path the user named, or that a list or pattern stands for.

    Attributes:
        path: as written.
        key: relative path it is mirrored under; "" puts the contents of a folder at the top of the output.
        pattern: a glob pattern found it, so that other files are passed over, not refused.
        frame: its number in a frame sequence.
    """

    path: str
    key: str
    pattern: bool = False
    frame: int | None = None


@dataclass
class SkippedPaths:
    """Paths that were found and are not restored, and what should be said about them.

    Attributes:
        ignored: foreign files and folders, with the reason.
        unreadable: folders and links that cannot be followed, missing frames: reported as failures.
        notes: what should be said about gaps in frame sequences, and about archives.
    """

    ignored: list[SkippedPath] = field(default_factory=list)
    unreadable: list[SkippedPath] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class InputOptions:
    """How INPUT arguments are interpreted.

    Attributes:
        nul_lists: lists are separated by NUL bytes instead of newlines.
        read_stdin: reads the list for ``-``.
        frames: frames of a sequence to do, None does those that are there.
        missing: how a frame that was asked for and does not exist is treated.
    """

    nul_lists: bool = False
    read_stdin: Callable[[], bytes] | None = None
    frames: str | None = None
    missing: Missing = Missing.ERROR


# --- what the user named ---------------------------------------------------------------------------------------------


def read_entries(inputs: Sequence[str], options: InputOptions, skipped: SkippedPaths) -> list[NamedInput]:
    """Everything the user named, lists included.

    Args:
        inputs: the arguments.
        options: how they are read.
        skipped: filled with gaps of frame sequences.

    Raises:
        UsageError: something named does not exist, or a list cannot be read.
    """
    entries: list[NamedInput] = []
    several = len(inputs) > 1
    for place, text in enumerate(inputs):
        if text == "-":
            if options.read_stdin is None:
                raise UsageError("-: there is no list to read on stdin")
            entries += _listed(options.read_stdin(), options.nul_lists, comments=False)
        elif text.startswith("@") and not os.path.lexists(text):
            try:
                entries += _listed(_read_list(text[1:]), options.nul_lists)
            except OSError as error:
                raise UsageError(f"{text[1:]}: the list cannot be read ({error.strerror})") from error
        elif (pattern := FramePattern.parse(text)) is not None and not os.path.lexists(text):
            entries += _sequence(text, pattern, options, skipped)
        else:
            entries += _named(text, several, _hint(inputs, place))
    if options.frames is not None and not any(entry.frame is not None for entry in entries) and not skipped.notes:
        raise UsageError(
            f"--frames {options.frames}: no input is a frame sequence; name one such as plate.####.png, plate.%04d.png"
        )
    return entries


def _read_list(name: str) -> bytes:
    """Content of a list file, which may be a pipe.

    Raises:
        UsageError: it is larger than any list of paths.
    """
    with Path(name).open("rb") as stream:
        data = stream.read(LARGEST_LIST + 1)
    if len(data) > LARGEST_LIST:
        raise UsageError(f"{name}: the list is larger than {LARGEST_LIST >> 20} MB; is it a list of paths?")
    return data


def _sequence(text: str, pattern: FramePattern, options: InputOptions, skipped: SkippedPaths) -> list[NamedInput]:
    """Frames of a sequence, mirrored as single files are."""
    wanted = read_range(options.frames) if options.frames is not None else None
    chosen = select_frames(text, pattern, wanted, options.missing)
    skipped.notes += chosen.notes
    skipped.unreadable += [SkippedPath(path, "the frame is missing") for path in chosen.absent]
    return [NamedInput(path, Path(path).name, frame=frame) for frame, path in chosen.paths.items()]


def _hint(inputs: Sequence[str], place: int) -> str:
    """Why an argument may not exist: a name with spaces without quotes, or backslashes that are no separators here."""
    words, text = [inputs[place]], inputs[place]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return "; addresses are not read: download it first, and name the file"
    for word in inputs[place + 1 :]:
        words.append(word)
        if Path(" ".join(words)).exists():
            return f"; a name with spaces needs quotes: '{' '.join(words)}'"
    if "\\" in text and os.sep == "/":
        return f"; write / for \\ here: {text.replace(chr(92), '/')}"
    if re.match(r"[A-Za-z]:[^\\/]", text):
        return "; a path with backslashes needs quotes, or / in their place"
    return "; check the spelling and the current folder"


def _named(text: str, several: bool, hint: str) -> list[NamedInput]:
    """An argument: an existing path, or a pattern that the shell left to us."""
    _, dot, rest = text.replace(os.sep, "/").partition("/./")
    if dot and rest:
        return [NamedInput(text, _below(rest))]
    path = Path(text)
    if path.is_dir():
        # One folder: its contents go to the top of the output. Several inputs: each folder keeps its name.
        return [NamedInput(text, Path(os.path.realpath(text)).name if several else "")]
    if archive.is_archive(path):
        return [NamedInput(text, path.stem if several else "")]
    if path.exists() or path.is_symlink() or archive.split(path) is not None:
        return [NamedInput(text, path.name)]
    if not glob.has_magic(text):
        raise UsageError(f"{text}: no such file or folder{hint}")
    fixed = []
    for part in Path(text).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    base = Path(*fixed) if fixed else Path()
    if not base.is_dir():
        raise UsageError(f"{text}: there is no folder {base}{hint}")
    found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  (Path.glob finds hidden files)
    if "**" in text:
        found = [f for f in found if not Path(f).is_dir()]
    return [NamedInput(f, Path(f).relative_to(base).as_posix(), pattern=True) for f in found]


def _listed(data: bytes, nul_lists: bool, *, comments: bool = True) -> list[NamedInput]:
    """Entries of a list. Relative paths are mirrored as written, or from ``/./`` on where they hold it.

    Args:
        data: the list.
        nul_lists: NUL bytes separate its entries, not newlines.
        comments: lines that begin with ``#`` are comments, as in files people write; what a program lists has none.

    Raises:
        UsageError: its mark says UTF-16 or UTF-32, and it is none.
    """
    text = _utf8(data)
    if nul_lists:
        lines = [os.fsdecode(line) for line in text.split(b"\0")]
    else:
        lines = [os.fsdecode(line.rstrip(b"\r")) for line in text.split(b"\n")]
        if comments:
            ours = lines[0].startswith(FAILED_LIST_MARK)
            lines = [unescaped(line) if ours else line for line in lines if not line.startswith("#")]
    lines = [line for line in lines if line]
    absolute = [os.path.realpath(Path(line).parent) for line in lines if Path(line).is_absolute()]
    common = os.path.commonpath(absolute) if absolute else ""
    return [NamedInput(line, _listed_key(line, common), pattern=False) for line in lines]


def _utf8(data: bytes) -> bytes:
    """A list in UTF-8 without its mark; one in UTF-16 or UTF-32 is known by its mark, as Windows writes it."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).removeprefix("\ufeff").encode()
            except UnicodeError as error:
                raise UsageError(f"the list begins as {encoding} and is none ({error}); save it as UTF-8") from error
    return data.removeprefix(codecs.BOM_UTF8)


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


def find(entries: Sequence[NamedInput], folder: Path, lone: bool, skipped: SkippedPaths) -> Iterator[FoundFile]:
    """Input files of all entries, in order.

    Args:
        entries: from :func:`read_entries`.
        folder: output folder, never an input itself.
        lone: the only entry is a file, which is taken whatever it holds.
        skipped: filled with what is no input.

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
            yield from _walk(entry.path, entry.key, own, roots, visited, skipped)
            continue
        if archive.is_archive(path):
            yield from _walk_archive(path, entry, skipped)
            continue
        reason = _foreign_name(path.name)
        if reason is None and (path.is_file() or not path.exists()):
            yield FoundFile(entry.path, entry.key, entry.frame)  # a missing path fails as an input, with its name
        elif not path.is_file():
            if entry.pattern:
                skipped.ignored.append(SkippedPath(entry.path, "not a regular file"))
            else:
                skipped.unreadable.append(SkippedPath(entry.path, _NOT_REGULAR))
        elif not entry.pattern and (lone or _is_image(path)):
            yield FoundFile(entry.path, entry.key)
        else:
            skipped.ignored.append(SkippedPath(entry.path, reason or "not an image"))


def _walk(
    folder: str, key: str, own: str, roots: set[str], visited: set[str], skipped: SkippedPaths
) -> Iterator[FoundFile]:
    """Images below a folder, depth first, in name order."""
    real = os.path.realpath(folder)
    if real in visited:
        skipped.ignored.append(SkippedPath(folder, "a folder that was visited already"))
        return
    visited.add(real)
    try:
        with os.scandir(folder) as listing:
            items = sorted(listing, key=lambda item: os.fsencode(item.name))
    except OSError as error:
        skipped.unreadable.append(SkippedPath(folder, f"the folder cannot be read: {error.strerror}"))
        return
    for item in items:
        inner = f"{key}/{item.name}" if key else item.name
        try:
            mode = item.stat().st_mode
        except OSError as error:  # a dangling link, a loop of links, a folder without permission
            if _foreign_name(item.name) is None:
                skipped.unreadable.append(SkippedPath(item.path, f"cannot be opened: {error.strerror}"))
            else:
                skipped.ignored.append(SkippedPath(item.path, "a link that leads nowhere"))
            continue
        if stat.S_ISDIR(mode):
            reason = _foreign_folder(item, own, roots, visited)
            if reason:
                skipped.ignored.append(SkippedPath(item.path, reason))
            else:
                yield from _walk(item.path, inner, own, roots, visited, skipped)
        elif not stat.S_ISREG(mode):
            skipped.ignored.append(SkippedPath(item.path, "not a regular file"))
        elif reason := _foreign_name(item.name):
            skipped.ignored.append(SkippedPath(item.path, reason))
        else:
            yield FoundFile(item.path, inner)


def _walk_archive(path: Path, entry: NamedInput, skipped: SkippedPaths) -> Iterator[FoundFile]:
    """Images in an archive, in name order, mirrored below a folder of its name."""
    try:
        names, repeated = archive.members(path), archive.repeated(path)
    except InputError as error:
        skipped.unreadable.append(SkippedPath(entry.path, str(error)))
        return
    several: list[str] = []
    folder = entry.key[: -len(path.suffix)] if entry.key.lower().endswith(path.suffix.lower()) else entry.key
    for name in names:
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith(".") or part in _FOREIGN_FOLDERS for part in parts[:-1])
        reason = "a hidden or system folder" if hidden else _foreign_name(parts[-1]) if parts else "no name"
        if not archive.is_inside(name):
            reason = "its name leads out of the archive"
        if reason:
            skipped.ignored.append(SkippedPath(f"{entry.path}/{name}", reason))
            continue
        if name in repeated:
            several.append(name)
        below = PurePosixPath(name).as_posix()
        yield FoundFile(f"{entry.path}/{name}", f"{folder}/{below}" if folder else below)
    if several:
        named = ", ".join(several[:_NAMED_IN_NOTES]) + (" and others" if len(several) > _NAMED_IN_NOTES else "")
        skipped.notes.append(
            f"{entry.path}: {count(len(several), 'name')} occur{'s' * (len(several) == 1)} several times in it "
            f"({named}); the last file of each is read"
        )


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
    """Why a file is not taken for an image by its name, or None."""
    if name.startswith("._"):
        return "macOS metadata"
    if name.endswith(".part"):
        return "a temporary file"
    if name.startswith("."):
        return "a hidden file"
    suffix = Path(name).suffix.lower()
    if suffix in RAW_SUFFIXES:
        return None if is_installed("raw") else "a camera raw file, which needs the extra raw (package rawpy)"
    if suffix not in SUFFIXES:
        if suffix in archive.SUFFIXES:
            return "an archive inside a folder; name it to restore what it holds"
        return f"not a type that is read ({suffix})" if suffix else "not a type that is read (no suffix)"
    return None


def _is_image(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(HEAD_BYTES)) is not None
    except OSError:
        return True  # fails later, with its reason
