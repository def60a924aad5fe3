"""Finds the inputs, plans every output, and refuses clashes before any work is done.

Nothing here opens a picture beyond its first bytes. The structure below an input folder is mirrored below the output
folder; the relative path of an input (its *key*) also seeds its noise and chooses its shard, so both are the same
whatever the order, the machine and the other inputs.
"""

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.formats import (
    HEAD_BYTES,
    SUFFIXES,
    UNWRITABLE,
    describe_unknown,
    output_format,
    output_name,
    sniff,
)
from varestorer_cli.core.options import ImageFormat, Shard

REPORT_HEADER = "input,output,status,reason"
_FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Job:
    """One input and where its result goes.

    Attributes:
        input: path as given by the user (joined with what was found below it).
        key: relative path with forward slashes; decides mirroring, noise and shard.
        output: file to be written.
        feed: the input's path in the form ``root/./key`` that ``@list`` files understand.
    """

    input: str
    key: str
    output: Path
    feed: str


@dataclass(frozen=True)
class Aside:
    """A path that is no job, and why."""

    path: str
    reason: str


@dataclass
class Plan:
    """What a run will do.

    Attributes:
        folder: output folder; reports go there.
        jobs: in the order they are done.
        ignored: foreign files and folders, with the reason.
        unreadable: folders and links that cannot be followed: reported as failures.
        elsewhere: number of jobs that belong to other shards.
    """

    folder: Path
    jobs: list[Job] = field(default_factory=list)
    ignored: list[Aside] = field(default_factory=list)
    unreadable: list[Aside] = field(default_factory=list)
    elsewhere: int = 0


@dataclass(frozen=True)
class _Found:
    path: str
    key: str


@dataclass(frozen=True)
class _Entry:
    """One thing the user named: a path, the key it is mirrored under ("" = contents go to the top), its origin."""

    path: str
    key: str
    pattern: bool = False


def make_plan(
    inputs: Sequence[str],
    output: str,
    *,
    format: ImageFormat | None = None,
    shard: Shard | None = None,
    nul_lists: bool = False,
    read_stdin: Callable[[], bytes] | None = None,
) -> Plan:
    """Find inputs and plan outputs.

    Args:
        inputs: files, folders, glob patterns, ``@list.txt``, or ``-`` for a list on stdin.
        output: a folder, or a file name for a single file.
        format: chosen output format, None keeps suffixes.
        shard: part of the inputs to keep.
        nul_lists: lists are separated by NUL bytes instead of newlines.
        read_stdin: reads the list for ``-``.

    Raises:
        UsageError: a named input does not exist, outputs clash, or an output would replace an input.
    """
    if not inputs:
        raise UsageError("no input given; expected: restore INPUT... OUTPUT")
    entries = _entries(inputs, nul_lists, read_stdin)
    lone = len(inputs) == 1 and len(entries) == 1 and Path(entries[0].path).is_file() and entries[0].path == inputs[0]
    target = _file_target(output, lone, format)
    plan = Plan(target.parent if target else Path(output))
    if not target and plan.folder.exists() and not plan.folder.is_dir():
        raise UsageError(f"{output}: is a file, and a folder is needed for these inputs; name another output")
    found = list(_walk_entries(entries, plan, lone))
    if target:
        plan.jobs = [Job(f.path, f.key, target, _feed(f)) for f in found]
    else:
        plan.jobs = [Job(f.path, f.key, plan.folder / _renamed(f.key, format), _feed(f)) for f in found]
    plan.jobs = _checked(plan.jobs, entries, plan.folder)
    if shard is not None:
        mine = [job for job in plan.jobs if shard.holds(job.key)]
        plan.elsewhere = len(plan.jobs) - len(mine)
        plan.jobs = mine
        if shard.index != 0:  # said once, by the first shard
            plan.ignored, plan.unreadable = [], []
    return plan


def _feed(found: _Found) -> str:
    path = found.path.replace(os.sep, "/")
    if path.endswith("/" + found.key) and "/./" not in path:
        return f"{path[: -len(found.key)]}./{found.key}"
    return path


def _renamed(key: str, format: ImageFormat | None) -> str:
    path = PurePosixPath(key)
    return str(path.with_name(output_name(path.name, format)))


def _file_target(output: str, lone: bool, format: ImageFormat | None) -> Path | None:
    """OUTPUT as a file name, or None where it is a folder."""
    path = Path(output)
    suffix = path.suffix.lower()
    if output.endswith(("/", os.sep)) or path.is_dir() or suffix not in (SUFFIXES.keys() | UNWRITABLE):
        return None
    kind = output_format(path.name)
    if not lone:
        raise UsageError(f"{output}: is a file name, and there may be several outputs; name a folder (or add a slash)")
    if kind is None:
        known = ", ".join(s for s, f in SUFFIXES.items() if f)
        raise UsageError(f"{output}: {suffix} cannot be written; possible suffixes are {known}")
    if format is not None and format != kind:
        raise UsageError(f"{output}: its suffix says {kind.value}, --format says {format.value}; leave one out")
    return path


# --- what the user named ---------------------------------------------------------------------------------------------


def _entries(inputs: Sequence[str], nul_lists: bool, read_stdin: Callable[[], bytes] | None) -> list[_Entry]:
    entries: list[_Entry] = []
    several = len(inputs) > 1
    for text in inputs:
        if text == "-":
            if read_stdin is None:
                raise UsageError("-: there is no list to read on stdin")
            entries += _listed(read_stdin(), nul_lists, "stdin")
        elif text.startswith("@"):
            try:
                entries += _listed(Path(text[1:]).read_bytes(), nul_lists, text[1:])
            except OSError as error:
                raise UsageError(f"{text[1:]}: the list cannot be read ({error.strerror})") from error
        else:
            entries += _named(text, several)
    return entries


def _named(text: str, several: bool) -> list[_Entry]:
    """An argument: an existing path, or a pattern that the shell left to us."""
    _, dot, rest = text.replace(os.sep, "/").partition("/./")
    if dot and rest:
        return [_Entry(text, str(PurePosixPath(rest)))]
    path = Path(text)
    if path.is_dir():
        # One folder: its contents go to the top of the output. Several inputs: each folder keeps its name.
        return [_Entry(text, Path(os.path.realpath(text)).name if several else "")]
    if path.exists() or path.is_symlink():
        return [_Entry(text, path.name)]
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
    return [_Entry(f, Path(f).relative_to(base).as_posix(), pattern=True) for f in found]


def _listed(data: bytes, nul_lists: bool, name: str) -> list[_Entry]:
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
    return [_Entry(line, _listed_key(line, common), pattern=False) for line in lines]


def _listed_key(line: str, common: str) -> str:
    posix = line.replace(os.sep, "/")
    root, dot, rest = posix.partition("/./")
    if dot and rest and root not in ("", "."):
        return str(PurePosixPath(rest))
    if Path(line).is_absolute():
        return (Path(os.path.realpath(Path(line).parent)) / Path(line).name).relative_to(common).as_posix()
    # Leading ".." would climb out of the output folder.
    parts = [part for part in Path(os.path.normpath(line)).parts if part != ".."]
    return PurePosixPath(*parts).as_posix() if parts else ""


# --- what is found below ---------------------------------------------------------------------------------------------


def _walk_entries(entries: Sequence[_Entry], plan: Plan, lone: bool) -> Iterator[_Found]:
    roots = {os.path.realpath(e.path) for e in entries if Path(e.path).is_dir()}
    own = os.path.realpath(plan.folder)
    if own in roots:
        raise UsageError(
            f"{plan.folder}: output and input are the same folder, so results would replace their inputs; "
            "name another folder"
        )
    visited: set[str] = set()
    for entry in entries:
        path = Path(entry.path)
        if path.is_dir():
            yield from _walk(entry.path, entry.key, own, roots, visited, plan)
            continue
        reason = _foreign_name(path.name)
        if reason is None and (path.is_file() or not path.exists()):
            yield _Found(entry.path, entry.key)  # a path that is missing fails as a picture, with its name
        elif not path.is_file():
            plan.ignored.append(Aside(entry.path, "not a regular file"))
        elif not entry.pattern and (lone or _is_picture(path)):
            yield _Found(entry.path, entry.key)
        else:
            plan.ignored.append(Aside(entry.path, reason or "not a picture"))


def _walk(folder: str, key: str, own: str, roots: set[str], visited: set[str], plan: Plan) -> Iterator[_Found]:
    """Pictures below a folder, depth first, in name order."""
    real = os.path.realpath(folder)
    if real in visited:
        plan.ignored.append(Aside(folder, "a folder that was visited already"))
        return
    visited.add(real)
    try:
        with os.scandir(folder) as listing:
            items = sorted(listing, key=lambda item: os.fsencode(item.name))
    except OSError as error:
        plan.unreadable.append(Aside(folder, f"the folder cannot be read: {error.strerror}"))
        return
    for item in items:
        inner = f"{key}/{item.name}" if key else item.name
        try:
            mode = item.stat().st_mode
        except OSError as error:  # a dangling link, a loop of links, a folder without permission
            if _foreign_name(item.name) is None:
                plan.unreadable.append(Aside(item.path, f"cannot be opened: {error.strerror}"))
            else:
                plan.ignored.append(Aside(item.path, "a link that leads nowhere"))
            continue
        if stat.S_ISDIR(mode):
            reason = _foreign_folder(item, own, roots, visited)
            if reason:
                plan.ignored.append(Aside(item.path, reason))
            else:
                yield from _walk(item.path, inner, own, roots, visited, plan)
        elif not stat.S_ISREG(mode):
            plan.ignored.append(Aside(item.path, "not a regular file"))
        elif reason := _foreign_name(item.name):
            plan.ignored.append(Aside(item.path, reason))
        else:
            yield _Found(item.path, inner)


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


def first_bytes_reason(path: Path) -> str | None:
    """Why a file's first bytes are no picture, or None where they are.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    return None if sniff(head) else describe_unknown(head)


# --- clashes ---------------------------------------------------------------------------------------------------------


def _checked(jobs: list[Job], entries: Sequence[_Entry], folder: Path) -> list[Job]:
    """Drop inputs named twice; refuse outputs that clash with each other or with an input."""
    places: dict[str, str] = {}

    def place(path: str | Path) -> str:
        parent = str(Path(path).parent)
        if parent not in places:
            places[parent] = os.path.realpath(parent)
        return os.path.join(places[parent], Path(path).name)  # noqa: PTH118  (surrogates and speed)

    kept: dict[str, Job] = {}
    clashes: list[str] = []
    inputs = {place(job.input): job for job in jobs}
    for job in jobs:
        where = place(job.output)
        if where in kept:
            if place(kept[where].input) != place(job.input):
                clashes.append(f"{kept[where].input} and {job.input} would both become {job.output}")
            continue
        kept[where] = job
    if clashes:
        more = f" (and {len(clashes) - _NAMED_AT_MOST} more)" if len(clashes) > _NAMED_AT_MOST else ""
        raise UsageError(
            "; ".join(clashes[:_NAMED_AT_MOST]) + more + "; nothing was done: leave out --format to keep the suffixes, "
            "rename one, or restore their folders apart"
        )
    for where, job in kept.items():
        if where in inputs:
            raise UsageError(f"{job.output}: the output would replace the input {inputs[where].input}; name another")
    roots = [os.path.realpath(e.path) for e in entries if Path(e.path).is_dir()]
    own = os.path.realpath(folder)
    if not any(own.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        for where, job in kept.items():
            for root in roots:
                if where.startswith(root.rstrip(os.sep) + os.sep):
                    raise UsageError(
                        f"{job.output}: the output would lie among the inputs in {root} and be taken for one by the "
                        "next run; name another output folder"
                    )
    return list(kept.values())
