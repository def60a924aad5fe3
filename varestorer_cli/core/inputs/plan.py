"""Finds the inputs, plans every output, and refuses clashes before any work is done.

Nothing here opens an image beyond its first bytes. The structure below an input folder is mirrored below the output
folder; the relative path of an input (its *key*) also seeds its noise and chooses its shard, so both are the same
whatever the order, the machine and the other inputs.
"""

import os
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from varestorer_cli.core.choices import Existing, ImageFormat, Missing
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.archive import is_archive
from varestorer_cli.core.image.formats import SUFFIXES, UNWRITABLE, output_format, output_name
from varestorer_cli.core.inputs.discovery import FoundFile, InputOptions, NamedInput, SkippedPaths, find, read_entries
from varestorer_cli.core.inputs.frames import FramePattern
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import named
from varestorer_cli.core.sharding import Shard

_NAMED_AT_MOST = 5
_FIELDS = ("stem", "ext", "model", "size", "seed")


@dataclass(frozen=True)
class NameTemplate:
    """A file name template with fields whose values are known before work starts.

    ``{stem}`` is the output's usual name without its suffix, ``{ext}`` the input's suffix (at the end, behind a dot,
    the output's), ``{model}`` the name of the model, ``{size}`` the size rule (``x4``, ``long2048``), ``{seed}`` the
    seed. A slash makes folders below the mirrored one. A template that does not end with ``.{ext}`` gets the suffix.

    Attributes:
        text: the template.
        model, size, seed: values of the run.
    """

    text: str
    model: str = "auto"
    size: str = "x4"
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise UsageError(f"--name {self.text}: {error}; write {{{{ for a brace") from error
        for _, name, spec, conversion in parts:
            if name is not None and (name not in _FIELDS or spec or conversion):
                known = ", ".join(f"{{{field}}}" for field in _FIELDS)
                raise UsageError(f"--name {self.text}: {{{name}}} is not known; possible are {known}")
        path = PurePosixPath(self.text)
        if not self.text.strip("./") or path.is_absolute() or ".." in path.parts or "\0" in self.text:
            raise UsageError(f"--name {self.text}: a name below the output folder is needed, for example {{stem}}_x4")

    @classmethod
    def of(cls, text: str, options: RestoreOptions, model: str | None = None) -> "NameTemplate":
        """The template with the values of a run; ``model`` is the name of the one that ``auto`` took."""
        given = PurePosixPath(options.model.replace("\\", "/")).stem or "model"
        return cls(text, model or given, options.sizing.label(), options.seed)

    @classmethod
    def has_model(cls, text: str | None) -> bool:
        """Whether a template has the model's name in it."""
        return text is not None and "{model}" in text.replace("{{", "").replace("}}", "")

    def apply(self, name: str, input_name: str = "") -> str:
        """New name for an output's usual name.

        Args:
            name: the usual name.
            input_name: the input's, the same by default.
        """
        path = PurePosixPath(name)
        ext = path.suffix.lstrip(".")
        own = PurePosixPath(input_name or name).suffix.lstrip(".")
        values = {"stem": path.stem, "ext": own, "model": self.model, "size": self.size, "seed": self.seed}
        return f"{self.text.removesuffix('.{ext}').format(**values)}.{ext}"


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
class RestorePlan(SkippedPaths):
    """What a run will do, and what it skips.

    Attributes:
        folder: output folder; reports go there.
        jobs: in the order they are done.
        elsewhere: number of jobs that belong to other shards.
        single: one image goes to one file.
    """

    folder: Path = field(kw_only=True)
    jobs: list[Job] = field(default_factory=list)
    elsewhere: int = 0
    single: bool = False

    def refuse_existing(self) -> None:
        """Stop before any work where outputs exist.

        Raises:
            UsageError: names them.
        """
        there = [job.output for job in self.jobs if os.path.lexists(job.output)]
        if there:
            raise UsageError(f"{named(there)} exist already (--existing error); nothing was done")


def plan_for(
    inputs: Sequence[str],
    output: str,
    options: RestoreOptions,
    *,
    nul_lists: bool = False,
    read_stdin: Callable[[], bytes] | None = None,
    model: str | None = None,
) -> RestorePlan:
    """The plan of a run with these options, see :func:`make_plan`; ``model`` is the name of the one ``auto`` took.

    Raises:
        UsageError: the inputs, the outputs or the options do not go together.
    """
    plan = make_plan(
        inputs,
        output,
        format=options.format,
        shard=options.shard,
        template=NameTemplate.of(options.name, options, model) if options.name is not None else None,
        nul_lists=nul_lists,
        read_stdin=read_stdin,
        frames=options.frames,
        missing=options.missing,
    )
    if options.existing == Existing.ERROR:
        plan.refuse_existing()
    return plan


def make_plan(
    inputs: Sequence[str],
    output: str,
    *,
    format: ImageFormat | None = None,
    shard: Shard | None = None,
    template: NameTemplate | None = None,
    nul_lists: bool = False,
    read_stdin: Callable[[], bytes] | None = None,
    frames: str | None = None,
    missing: Missing = Missing.ERROR,
) -> RestorePlan:
    """Find inputs and plan outputs.

    Args:
        inputs: files, folders, glob and frame patterns, ``@list.txt``, or ``-`` for a list on stdin.
        output: a folder, a file name for a single file, or a frame pattern for a frame pattern.
        format: chosen output format, None keeps suffixes.
        shard: part of the inputs to keep.
        template: names of outputs.
        nul_lists: lists are separated by NUL bytes instead of newlines.
        read_stdin: reads the list for ``-``.
        frames: frames of a sequence to do.
        missing: what to do about a frame that was asked for and does not exist.

    Raises:
        UsageError: a named input or a frame does not exist, outputs clash, or an output would replace an input.
    """
    if not inputs:
        raise UsageError("no input given; expected: restore INPUT... OUTPUT")
    skipped = SkippedPaths()
    entries = read_entries(inputs, InputOptions(nul_lists, read_stdin, frames, missing), skipped)
    lone = len(inputs) == 1 and len(entries) == 1 and Path(entries[0].path).is_file() and entries[0].path == inputs[0]
    lone = lone and not is_archive(Path(inputs[0]))
    sequence = None if lone and entries[0].frame is None else _frame_target(output, inputs, entries, format)
    target = None if sequence else _file_target(output, lone, format)
    if template is not None and (target or sequence):
        raise UsageError(f"{output} is a file name and --name names files too; name a folder, or leave --name out")
    folder = target.parent if target else Path(sequence.folder or ".") if sequence else Path(output)
    plan = RestorePlan(skipped.ignored, skipped.unreadable, skipped.notes, folder=folder, single=target is not None)
    if not target and os.path.exists(plan.folder) and not plan.folder.is_dir():  # noqa: PTH110  (too long a name: False)
        raise UsageError(f"{output}: is a file, and a folder is needed for these inputs; name another output")
    found = list(find(entries, plan.folder, lone, plan))

    def output_of(one: FoundFile) -> Path:
        if target:
            return target
        if sequence:
            return folder / sequence.name(one.frame or 0)
        return folder / _renamed(one.key, format, template)

    plan.jobs = [Job(one.path, one.key, output_of(one), _feed(one)) for one in found]
    plan.jobs = _without_clashes(plan.jobs, entries, plan.folder)
    if shard is not None:
        mine = [job for job in plan.jobs if shard.holds(job.key)]
        plan.elsewhere = len(plan.jobs) - len(mine)
        plan.jobs = mine
        if shard.index != 0:  # said once, by the first shard
            plan.ignored, plan.unreadable = [], []
    return plan


def _renamed(key: str, format: ImageFormat | None, template: NameTemplate | None) -> str:
    """Relative path of an output for the relative path of an input."""
    path = PurePosixPath(key)
    name = output_name(path.name, format)
    return str(path.with_name(name) if template is None else path.parent / template.apply(name, path.name))


def _feed(found: FoundFile) -> str:
    path = found.path.replace(os.sep, "/")
    if path.endswith("/" + found.key) and "/./" not in path:
        return f"{path[: -len(found.key)]}./{found.key}"
    return path


def _frame_target(
    output: str, inputs: Sequence[str], entries: Sequence[NamedInput], format: ImageFormat | None
) -> FramePattern | None:
    """OUTPUT as a frame pattern, or None where it is a folder or a file."""
    pattern = FramePattern.parse(output)
    if pattern is None or Path(output).suffix.lower() not in (SUFFIXES.keys() | UNWRITABLE):
        return None
    if len(inputs) != 1 or any(entry.frame is None for entry in entries):
        raise UsageError(f"{output}: is a frame pattern, and the input is none; name a folder, or one pattern as input")
    _writable_kind(output, format)
    return pattern


def _writable_kind(output: str, format: ImageFormat | None) -> ImageFormat:
    suffix = Path(output).suffix.lower()
    kind = output_format(Path(output).name)
    if kind is None:
        known = ", ".join(s for s, f in SUFFIXES.items() if f)
        raise UsageError(f"{output}: {suffix} cannot be written; possible suffixes are {known}")
    if format is not None and format != kind:
        raise UsageError(f"{output}: its suffix says {kind.value}, --format says {format.value}; leave one out")
    return kind


def _file_target(output: str, lone: bool, format: ImageFormat | None) -> Path | None:
    """OUTPUT as a file name, or None where it is a folder."""
    path = Path(output)
    suffix = path.suffix.lower()
    is_folder = output.endswith(("/", os.sep)) or os.path.isdir(output)  # noqa: PTH112  (too long a name: False)
    if is_folder or suffix not in (SUFFIXES.keys() | UNWRITABLE):
        return None
    if not lone:
        raise UsageError(f"{output}: is a file name, and there may be several outputs; name a folder (or add a slash)")
    _writable_kind(output, format)
    return path


# --- clashes ---------------------------------------------------------------------------------------------------------


def _without_clashes(jobs: list[Job], entries: Sequence[NamedInput], folder: Path) -> list[Job]:
    """Drop inputs named twice; refuse outputs that clash with each other or with an input."""
    places: dict[str, str] = {}

    def place(path: str | Path) -> str:
        parent = str(Path(path).parent)
        if parent not in places:
            places[parent] = os.path.realpath(parent)
        return os.path.join(places[parent], Path(path).name)  # noqa: PTH118  (surrogates and speed)

    kept: dict[str, Job] = {}
    clashes: list[str] = []
    differ = True
    inputs = {place(job.input): job for job in jobs}
    for job in jobs:
        where = place(job.output)
        if where in kept:
            if place(kept[where].input) != place(job.input):
                clashes.append(f"{kept[where].input} and {job.input} would both become {job.output}")
                suffixes = Path(kept[where].input).suffix, Path(job.input).suffix
                differ = differ and suffixes[0] != suffixes[1]
            continue
        kept[where] = job
    if clashes:
        more = f" (and {len(clashes) - _NAMED_AT_MOST} more)" if len(clashes) > _NAMED_AT_MOST else ""
        other_names = "add --name '{stem}_{ext}', leave out --format to keep the suffixes, or " if differ else ""
        advice = f"{other_names}restore their folders apart"
        raise UsageError("; ".join(clashes[:_NAMED_AT_MOST]) + more + f"; nothing was done: {advice}")
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
