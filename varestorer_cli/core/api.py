"""The library: ``Restorer`` restores paths and arrays. The command ``restore`` is a thin skin over this module."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varestorer_cli import __version__
from varestorer_cli.core import vfx
from varestorer_cli.core.batch import run_batch
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import InputError, MissingDependencyError, UsageError, VarestorerError
from varestorer_cli.core.files import check_writable, remove_stale_parts
from varestorer_cli.core.imageio import probe
from varestorer_cli.core.options import DEFAULT_SCALE, Existing, Progress, RestoreOptions, Sizing
from varestorer_cli.core.outliers import outliers
from varestorer_cli.core.picture import Samples
from varestorer_cli.core.report import BatchReport, ReportFile, Row, report_name, write_failed_list
from varestorer_cli.core.restore_page import page_target, write_restore_page
from varestorer_cli.core.sources import Plan, make_plan
from varestorer_cli.core.stopping import stop_on_signals
from varestorer_cli.core.work import Setup

if TYPE_CHECKING:
    from varestorer_cli.core.engine import RestoreEngine
    from varestorer_cli.core.runtime import Runtime

_NAMED_AT_MOST = 10


@dataclass(frozen=True)
class Session:
    """A loaded model, ready to run."""

    engine: "RestoreEngine"
    runtime: "Runtime"
    model: str
    model_sha256: str

    def describe(self) -> str:
        """First line of a run: device and why, precision, threads, model, tiles."""
        engine = self.engine
        return (
            f"varestorer {__version__}: {self.runtime.describe()}; model {self.model} {self.model_sha256[:12]}; "
            f"tiles of {engine.tile} with overlap {engine.overlap}, {engine.batch_for((engine.tile,) * 2)} at a time"
        )


def load_model(model: str, device: str, weights: str | None = None) -> Any:
    """Load a restorer; apart so that tests can put a fake in its place."""
    from varestorer_cli.core.checkpoint import load_restorer

    return load_restorer(model, device, weights)


def open_session(options: RestoreOptions) -> Session:
    """Choose the device, load the model, build the engine.

    Raises:
        MissingDependencyError: torch, the device or the weights are missing.
        CheckpointError: the weights are damaged or do not fit.
        UsageError: the options do not fit the model.
    """
    try:
        from varestorer_cli.core import runtime as runtimes
        from varestorer_cli.core.engine import EngineOptions, RestoreEngine

        runtime = runtimes.choose(options.device, options.precision, options.threads)
    except ImportError as error:
        raise MissingDependencyError(f"torch cannot be imported ({error}); run varestorer doctor") from error
    loaded = load_model(options.model, runtime.device, options.weights)
    engine = RestoreEngine(
        loaded.restorer,
        EngineOptions(
            device=runtime.device,
            precision=runtime.precision,
            tile=options.tile,
            overlap=options.overlap,
            batch=options.batch,
            sampling=None if options.sampling == "auto" else options.sampling.value,
            color_fix=None if options.color_fix == "auto" else options.color_fix.value,
            fidelity=options.fidelity,
            seed=options.seed,
        ),
    )
    why = f" (auto{': ' if loaded.why else ''}{loaded.why})" if options.model == "auto" else ""
    return Session(engine, runtime, f"{loaded.name}{why}", str(loaded.sha256))


@dataclass(frozen=True)
class Job:
    """What ``restore`` was asked to do, beside the options that decide pixels.

    Attributes:
        inputs: files, folders, patterns, ``@list``, ``-``.
        output: folder, or file for a single file.
        metrics_csv: report file, None for ``metrics.csv`` in the output folder, ``none`` for no report.
        nul_lists: lists are separated by NUL.
        dry_run: only say what would be done.
        json: rows as JSON lines on stdout.
        page: HTML page of the report, None for none.
    """

    inputs: tuple[str, ...]
    output: str
    metrics_csv: str | None = None
    nul_lists: bool = False
    dry_run: bool = False
    json: bool = False
    page: Path | None = None


def run_restore(job: Job, options: RestoreOptions, console: Console) -> BatchReport:
    """Do everything ``restore`` does: plan, load, restore, report.

    Raises:
        VarestorerError: whatever ends a run before or while it works.
    """
    plan = make_plan(
        job.inputs,
        job.output,
        format=options.format,
        shard=options.shard,
        nul_lists=job.nul_lists,
        read_stdin=lambda: sys.stdin.buffer.read(),
    )
    if options.existing == Existing.ERROR:
        _refuse_existing(plan)
    report_file = ReportFile(_report_path(job, options, plan), _other_reports(plan))
    page = page_target(job.page, options.shard)
    on_row = (lambda row: console.out(_json(row))) if job.json and not job.dry_run else None
    if job.dry_run:
        return _dry_run(job, plan, options, console)
    if not plan.jobs and not plan.unreadable:
        console.info(_nothing(job, plan))
        return _only_ignored(plan, on_row)
    _refuse_without_vfx(plan)
    check_writable(plan.folder)
    remove_stale_parts({j.output.parent for j in plan.jobs} | {plan.folder})
    with stop_on_signals() as stop:
        console.start(len(plan.jobs), "loading the model")
        try:
            session = open_session(options)
        finally:
            console.finish()
        console.info(session.describe())
        console.info(_plan_line(plan, options))
        _say_ignored(plan, console)
        report_file.open()
        report = BatchReport()
        try:
            run_batch(
                plan, session.engine, _setup(session), options, report_file, console,
                stop=stop, on_row=on_row, report=report,
            )  # fmt: skip
        finally:
            report_file.close()
            _say_end(report, report_file, options, plan, console)
    if page is not None:
        write_restore_page(report_file.rows, plan.folder, page, options)
        console.info(f"page: {page}")
    return report


def _setup(session: Session) -> Setup:
    from varestorer_cli.core.runtime import peak_megabytes

    device = session.runtime.device
    return Setup(
        model=session.model.partition(" ")[0],
        model_sha256=session.model_sha256,
        device=device,
        precision=session.runtime.precision,
        peak_mb=lambda: peak_megabytes(device),
        encoders=max(1, min(4, session.runtime.threads // 2)),
    )


def _report_path(job: Job, options: RestoreOptions, plan: Plan) -> Path | None:
    if job.metrics_csv == "none":
        return None
    if job.metrics_csv is None:
        return plan.folder / report_name(options.shard)
    path = Path(job.metrics_csv)
    return path.with_name(report_name(options.shard, path.stem, path.suffix)) if options.shard else path


def _other_reports(plan: Plan) -> list[Path]:
    with suppress(OSError):
        return sorted(plan.folder.glob("metrics*.csv"))
    return []


def _refuse_without_vfx(plan: Plan) -> None:
    """A run that can do nothing without an extra says so at once; in a mixed run its pictures fail one by one."""
    kinds = set(vfx.KINDS.values())
    if plan.jobs and not vfx.available() and all(Path(job.input).suffix.lower() in kinds for job in plan.jobs):
        raise MissingDependencyError(f"all inputs are OpenEXR or DPX, which OpenImageIO reads; {vfx.INSTALL}")


def _refuse_existing(plan: Plan) -> None:
    there = [job.output for job in plan.jobs if os.path.lexists(job.output)]
    if there:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise UsageError(
            f"{', '.join(str(path) for path in there[:3])}{more} exist already (--existing error); nothing was done"
        )


# --- what is said ----------------------------------------------------------------------------------------------------


def _plan_line(plan: Plan, options: RestoreOptions) -> str:
    count = len(plan.jobs)
    sizing = options.sizing if options.sizing != Sizing() else Sizing(scale=DEFAULT_SCALE)
    text = f"plan: {count} picture{'s' if count != 1 else ''} -> {_target(plan)}, {sizing.describe()}"
    if sizing.scale not in (None, DEFAULT_SCALE):
        text += f" (the model is made for scale {DEFAULT_SCALE:g}; pictures are resized before it)"
    if options.shard is not None:
        text += f"; shard {options.shard}, {plan.elsewhere} for the others"
    return text + f"; existing outputs: {options.existing.value}"


def _target(plan: Plan) -> str:
    return str(plan.jobs[0].output) if len(plan.jobs) == 1 else f"{plan.folder}{os.sep}"


def _nothing(job: Job, plan: Plan) -> str:
    names = ", ".join(job.inputs[:3]) + (" ..." if len(job.inputs) > 3 else "")
    if plan.elsewhere:
        return f"nothing to do: the {plan.elsewhere} pictures of {names} belong to other shards"
    ignored = f" ({len(plan.ignored)} other files ignored)" if plan.ignored else ""
    return f"nothing to do: no picture in {names}{ignored}; PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF files are read"


def _say_ignored(plan: Plan, console: Console) -> None:
    if not plan.ignored:
        return
    shown = plan.ignored if console.verbose else plan.ignored[:_NAMED_AT_MOST]
    count = len(plan.ignored)
    console.info(f"ignored {count} path{'s' if count != 1 else ''}:")
    for aside in shown:
        console.info(f"  {aside.path}: {aside.reason}")
    if count > len(shown):
        console.info(f"  and {count - len(shown)} more (-v names all)")


def _only_ignored(plan: Plan, on_row: Callable[[Row], None] | None) -> BatchReport:
    report = BatchReport([Row(input=a.path, status="ignored", reason=a.reason) for a in plan.ignored])
    for row in report.rows:
        if on_row is not None:
            on_row(row)
    return report


def _say_end(
    report: BatchReport, report_file: ReportFile, options: RestoreOptions, plan: Plan, console: Console
) -> None:
    failed = report.failed_inputs
    listed = None
    with suppress(OSError):
        listed = write_failed_list(plan.folder / report_name(options.shard, "failed", ".txt"), failed)
    text = report.summary()
    if report_file.path is not None:
        text += f"; report: {report_file.path}"
    console.info(text)
    _say_outliers(report, console)
    if failed:
        names = [row for row in report.rows if row.status == "failed"]
        console.info(f"{len(failed)} failed:")
        for row in names[:_NAMED_AT_MOST]:
            console.info(f"  {row.input}: {row.reason}")
        if len(names) > _NAMED_AT_MOST:
            console.info(f"  and {len(names) - _NAMED_AT_MOST} more, all in the report")
        if listed is not None:
            console.info(f"to try only these again: give @{listed} as the input")


def _say_outliers(report: BatchReport, console: Console) -> None:
    found = outliers(report.rows)
    if not found:
        return
    console.info(f"{len(found)} came out unlike the rest of the run, worth a look (faces and text first):")
    for one in found[:_NAMED_AT_MOST]:
        console.info(f"  {one.row.output}: {one.reason}")
    if len(found) > _NAMED_AT_MOST:
        console.info(f"  and {len(found) - _NAMED_AT_MOST} more; sort the report by consistency_psnr")


def _json(row: Row) -> str:
    import json

    return json.dumps(row.values())


def _dry_run(job: Job, plan: Plan, options: RestoreOptions, console: Console) -> BatchReport:
    """Say what a run would do: every input with its output and size, on stdout."""
    report = BatchReport()
    megapixels = 0.0
    for one in plan.jobs:
        row = Row(input=one.input, output=str(one.output), status="would be done", shard=str(options.shard or ""))
        try:
            row.width, row.height = probe(one.input)
            row.out_width, row.out_height = options.sizing.target(row.width, row.height)
            row.scale = row.out_width / row.width
            megapixels += row.out_width * row.out_height / 1e6
            if options.existing != Existing.OVERWRITE and os.path.lexists(one.output):
                row.status = "would be checked"
                row.reason = "the output exists: kept where it is up to date or not ours"
        except InputError as error:
            row.status, row.reason = "would fail", str(error)
        report.rows.append(row)
        if job.json:
            console.out(_json(row))
        elif row.status == "would fail":
            console.out(f"{one.input}: would fail: {row.reason}")
        else:
            sizes = f"{row.width}x{row.height} -> {row.out_width}x{row.out_height}"
            console.out(f"{one.input} -> {one.output}  {sizes}{'  (exists)' if row.reason else ''}")
    for aside in plan.unreadable:
        console.out(f"{aside.path}: would fail: {aside.reason}")
    _say_ignored(plan, console)
    failing = report.count("would fail") + len(plan.unreadable)
    console.info(
        f"dry run: {len(plan.jobs) - report.count('would fail')} pictures would be restored, {failing} would fail, "
        f"{len(plan.ignored)} ignored; {megapixels:.1f} MP of output; nothing was written"
    )
    return report


# --- the library -----------------------------------------------------------------------------------------------------


class Restorer:
    """Restores pictures with one loaded model.

    Args:
        model: ``auto``, a model's name, or a model file; overrides the one in ``options``.
        options: everything else.

    Raises:
        VarestorerError: the device or the model is not usable; the message says what to do.

    Example:
        >>> from varestorer_cli import Restorer
        >>> Restorer().restore("scans", "restored").summary()  # doctest: +SKIP
    """

    def __init__(self, model: str = "auto", options: RestoreOptions | None = None) -> None:
        options = options or RestoreOptions()
        self.options = options if model == "auto" else replace(options, model=model)
        self._session = open_session(self.options)

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model's file."""
        return self._session.model_sha256

    def restore(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
    ) -> BatchReport:
        """Restore files and folders, as the command does; silent, one bad file raises nothing.

        Args:
            inputs: one or several files, folders or patterns.
            output: folder, or a file name for a single file.

        Returns:
            What happened to each input.

        Raises:
            VarestorerError: the run as a whole is impossible.
        """
        names = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        plan = make_plan(
            [os.fspath(name) for name in names],
            os.fspath(output),
            format=self.options.format,
            shard=self.options.shard,
        )
        if self.options.existing == Existing.ERROR:
            _refuse_existing(plan)
        check_writable(plan.folder)
        report_file = ReportFile(plan.folder / report_name(self.options.shard), _other_reports(plan))
        report_file.open()
        silent = Console(Progress.NONE, quiet=True)
        silent.warn = silent.error = lambda text: None  # type: ignore[method-assign]
        try:
            return run_batch(plan, self._session.engine, _setup(self._session), self.options, report_file, silent)
        finally:
            report_file.close()

    def restore_image(self, image: Samples | npt.NDArray[np.float32], key: str = "") -> npt.NDArray[Any]:
        """Restore one array.

        Args:
            image: (H, W, 3) RGB, or (H, W) gray; uint8, uint16, or float32 in [0, 1].
            key: seeds the noise where the model draws any.

        Returns:
            The restored array, of the same kind and type.

        Raises:
            VarestorerError: another shape or type, or the model's result is not usable.
        """
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise UsageError(f"samples of type {image.dtype} are not supported: uint8, uint16 or float32 is needed")
        gray = image.ndim == 2
        if image.size == 0 or not (gray or (image.ndim == 3 and image.shape[2] == 3)):
            raise UsageError(f"an array of shape {image.shape} is no picture: (H, W, 3) or (H, W) is needed")
        color = np.broadcast_to(image[..., None], (*image.shape, 3)) if gray else image
        size = self.options.sizing.target(image.shape[1], image.shape[0])
        result: npt.NDArray[Any] = self._session.engine.restore(color, size, key=key, dtype=image.dtype).image
        if not gray:
            return result
        flat: npt.NDArray[Any] = result.astype(np.float32).mean(axis=2)
        if image.dtype != np.float32:
            flat = np.floor(flat + 0.5).astype(image.dtype)
        return flat


__all__ = ["BatchReport", "Job", "Restorer", "VarestorerError", "open_session", "run_restore"]
