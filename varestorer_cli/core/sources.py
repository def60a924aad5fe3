"""Finds the inputs, plans every output, and refuses clashes before any work is done.

Nothing here opens a picture beyond its first bytes. The structure below an input folder is mirrored below the output
folder; the relative path of an input (its *key*) also seeds its noise and chooses its shard, so both are the same
whatever the order, the machine and the other inputs.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from varestorer_cli.core.discovery import Entry, Findings, Found, find, read_entries
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.formats import SUFFIXES, UNWRITABLE, output_format, output_name
from varestorer_cli.core.options import ImageFormat, Shard

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


@dataclass
class Plan(Findings):
    """What a run will do, and what it leaves aside.

    Attributes:
        folder: output folder; reports go there.
        jobs: in the order they are done.
        elsewhere: number of jobs that belong to other shards.
    """

    folder: Path = field(kw_only=True)
    jobs: list[Job] = field(default_factory=list)
    elsewhere: int = 0


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
    entries = read_entries(inputs, nul_lists, read_stdin)
    lone = len(inputs) == 1 and len(entries) == 1 and Path(entries[0].path).is_file() and entries[0].path == inputs[0]
    target = _file_target(output, lone, format)
    plan = Plan(folder=target.parent if target else Path(output))
    if not target and plan.folder.exists() and not plan.folder.is_dir():
        raise UsageError(f"{output}: is a file, and a folder is needed for these inputs; name another output")
    found = list(find(entries, plan.folder, lone, plan))
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


def _feed(found: Found) -> str:
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


# --- clashes ---------------------------------------------------------------------------------------------------------


def _checked(jobs: list[Job], entries: Sequence[Entry], folder: Path) -> list[Job]:
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
