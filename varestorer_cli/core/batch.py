"""Files to files: the only loop over paths. Decodes ahead, restores, encodes behind; one bad file stops nothing.

A picture passes three stages. :meth:`_Batch._prepare` runs in one thread ahead of the engine (read, hash, decide,
decode), the engine runs in the caller's thread, :meth:`_Batch._finish` runs in threads behind it (encode, write,
compare). Rows are reported in the order of the jobs.
"""

import hashlib
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from varestorer_cli import __version__
from varestorer_cli.core import provenance
from varestorer_cli.core.budget import PixelBudget
from varestorer_cli.core.consistency import compare
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import InputError, InterruptedRunError, VarestorerError
from varestorer_cli.core.files import allocate, atomic_file, hash_of
from varestorer_cli.core.formats import output_format
from varestorer_cli.core.imageio import decode, read_bytes
from varestorer_cli.core.imagewrite import Output, check_side, losses_of, write_picture
from varestorer_cli.core.metadata import upright_xmp
from varestorer_cli.core.options import Existing, ImageFormat, RestoreOptions
from varestorer_cli.core.picture import Picture, Samples
from varestorer_cli.core.report import DONE, FAILED, IGNORED, SKIPPED, BatchReport, ReportFile, Row
from varestorer_cli.core.resample import Resampler
from varestorer_cli.core.sources import Job, Plan
from varestorer_cli.core.stopping import StopFlag

_AHEAD = 4
_BUDGET_PIXELS = 300_000_000


class Engine(Protocol):
    """What the batch needs of an engine; :class:`core.engine.RestoreEngine` has it."""

    sampling: str

    @property
    def overlap(self) -> int:
        """Least overlap of tiles."""

    def restore(
        self,
        picture: Samples,
        size: tuple[int, int],
        *,
        key: str,
        dtype: Any,
        allocate: Callable[[tuple[int, ...], Any], Any],
        on_tiles: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> Any:
        """A :class:`core.engine.Restored`."""


@dataclass(frozen=True)
class Setup:
    """What a run has in common for all pictures.

    Attributes:
        model: name of the model.
        model_sha256: of its file.
        device: torch device string, for the report.
        precision: for the report.
        peak_mb: largest memory use since it was asked last, or None.
        encoders: threads that encode.
    """

    model: str
    model_sha256: str
    device: str = "cpu"
    precision: str = "fp32"
    peak_mb: Callable[[], float | None] = lambda: None
    encoders: int = 1


@dataclass
class _Item:
    """One picture on its way."""

    job: Job
    row: Row
    identity: provenance.Identity | None = None
    picture: Picture | None = None
    size: tuple[int, int] = (0, 0)
    format: ImageFormat = ImageFormat.PNG
    pixels: int = 0
    error: BaseException | None = None
    kept: bool = False
    warnings: list[str] = field(default_factory=list)


def run_batch(
    plan: Plan,
    engine: Engine,
    setup: Setup,
    options: RestoreOptions,
    report_file: ReportFile,
    console: Console,
    *,
    stop: StopFlag | None = None,
    on_row: Callable[[Row], None] | None = None,
    report: BatchReport | None = None,
) -> BatchReport:
    """Restore every job of a plan.

    Args:
        plan: from :func:`core.sources.make_plan`.
        engine: restores arrays.
        setup: model and device.
        options: as given by the user.
        report_file: open; rows go there as pictures are finished.
        console: for warnings, failures and progress.
        stop: set from outside to stop.
        on_row: told each row.
        report: filled while the run goes on, so that a caller has it when this raises.

    Raises:
        InterruptedRunError: told to stop; what was finished is written and reported.
        OutputError: nothing more can be written.
        OutOfMemoryError: the model does not fit.
    """
    batch = _Batch(plan, engine, setup, options, report_file, console, stop or StopFlag(), on_row, report)
    return batch.run()


class _Batch:
    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        setup: Setup,
        options: RestoreOptions,
        report_file: ReportFile,
        console: Console,
        stop: StopFlag,
        on_row: Callable[[Row], None] | None,
        report: BatchReport | None,
    ) -> None:
        self.plan = plan
        self.engine = engine
        self.setup = setup
        self.options = options
        self.report_file = report_file
        self.console = console
        self.stop = stop
        self.on_row = on_row
        self.report = report if report is not None else BatchReport()
        self.budget = PixelBudget(_BUDGET_PIXELS, stop.requested)
        self.settings = options.settings_sha256(overlap=engine.overlap, sampling=engine.sampling)

    def run(self) -> BatchReport:
        """Do all jobs."""
        started = time.monotonic()
        self._asides()
        self.console.start(len(self.plan.jobs))
        decoder = ThreadPoolExecutor(1, "decode")
        encoder = ThreadPoolExecutor(self.setup.encoders, "encode")
        behind: deque[Future[_Item]] = deque()
        try:
            for number, item in enumerate(self._prepared(decoder)):
                if self.stop.requested():
                    break
                behind.append(self._restored(item, number, encoder))
                while behind and (behind[0].done() or len(behind) > self.setup.encoders + 1):
                    self._record(behind.popleft().result())
                self.console.update(number + 1, self._note(started))
        except InterruptedRunError:
            pass  # the flag is set; said below, when everything is tidied up
        finally:
            # Also after an error: what the encoders have begun is finished and reported.
            self.budget.close()
            decoder.shutdown(wait=True, cancel_futures=True)
            self._drain(behind)
            encoder.shutdown(wait=True)
            self.report.seconds = time.monotonic() - started
            self.console.finish()
        if self.stop.requested():
            left = len(self.plan.jobs) + len(self.plan.unreadable) - self.report.total
            raise self.stop.error(
                f"stopped: {self.report.total} of {self.report.total + left} pictures are dealt with, nothing is half "
                "written; run the same command again for the rest"
            )
        return self.report

    def _drain(self, behind: "deque[Future[_Item]]") -> None:
        for future in behind:
            try:
                item = future.result()
            except VarestorerError:
                continue  # the first one is being raised already, or is the same full disk
            with suppress(VarestorerError):
                self._record(item)

    def _asides(self) -> None:
        for aside in self.plan.ignored:
            self._add(Row(input=aside.path, status=IGNORED, reason=aside.reason))
        for aside in self.plan.unreadable:
            self._add(Row(input=aside.path, status=FAILED, reason=aside.reason))
            self.report.failed_inputs.append(aside.path)
            self.console.error(f"{aside.path}: {aside.reason}")

    def _note(self, started: float) -> str:
        elapsed = time.monotonic() - started
        return f"{self.report.megapixels / elapsed:.2f} MP/s" if self.report.megapixels and elapsed > 1 else ""

    # --- ahead of the engine

    def _prepared(self, pool: ThreadPoolExecutor) -> Iterator[_Item]:
        waiting: deque[Future[_Item]] = deque()
        jobs = iter(self.plan.jobs)
        while True:
            while len(waiting) < _AHEAD and (job := next(jobs, None)) is not None:
                waiting.append(pool.submit(self._prepare, job))
            if not waiting:
                return
            yield waiting.popleft().result()

    def _prepare(self, job: Job) -> _Item:
        """Read, hash, decide what to do, decode. Never raises: the error travels with the item."""
        row = Row(
            input=job.input,
            output=self._name(job.output),
            model_sha256=self.setup.model_sha256,
            settings_sha256=self.settings,
            seed=self.options.seed,
            version=__version__,
            shard=str(self.options.shard or ""),
        )
        item = _Item(job, row)
        if self.stop.requested():
            return item
        started = time.monotonic()
        try:
            self._decide(item)
        except BaseException as error:
            item.error = error
        row.seconds = time.monotonic() - started
        return item

    def _decide(self, item: _Item) -> None:
        job, row, options = item.job, item.row, self.options
        data = read_bytes(job.input)
        row.input_sha256 = hashlib.sha256(data).hexdigest()
        item.identity = provenance.Identity(row.input_sha256, self.setup.model_sha256, self.settings)
        if options.existing != Existing.OVERWRITE:
            reason = provenance.verdict(job.output, item.identity, lambda: self.report_file.witness(row.output))
            if reason is not None:
                self._skip(item, reason)
                return
        picture = decode(data)
        del data
        item.format = output_format(job.output.name) or ImageFormat.PNG
        item.size = options.sizing.target(picture.width, picture.height)
        row.width, row.height = picture.width, picture.height
        row.out_width, row.out_height = item.size
        row.depth = picture.depth
        row.icc, row.alpha = _yes(bool(picture.extras.icc)), _yes(picture.alpha is not None)
        row.scale = item.size[0] / picture.width
        check_side(item.format, *item.size)
        losses = picture.losses + losses_of(
            item.format,
            depth=picture.depth,
            alpha=picture.alpha is not None,
            source=picture.source,
            extras=picture.extras,
        )
        row.warnings = "; ".join(f"{loss.name}: {loss.text}" for loss in losses)
        hard = [loss.text for loss in losses if loss.strict]
        if options.strict and hard:
            raise InputError(f"{'; '.join(hard)} (--strict)")
        item.warnings = [loss.text for loss in losses]
        item.picture = picture
        item.pixels = self.budget.take(picture.width * picture.height + item.size[0] * item.size[1])

    def _skip(self, item: _Item, reason: str) -> None:
        """A finished output: its measurements of the earlier run stay in the report."""
        known = self.report_file.witness(item.row.output)
        item.kept = reason != provenance.UP_TO_DATE
        if known is not None and not item.kept:
            item.row = replace(known, input=item.job.input)
        item.row.status, item.row.reason = SKIPPED, reason

    def _name(self, path: Path) -> str:
        with suppress(ValueError):
            return path.relative_to(self.plan.folder).as_posix()
        return str(path)

    # --- the engine

    def _restored(self, item: _Item, number: int, pool: ThreadPoolExecutor) -> "Future[_Item]":
        """Restore one picture and hand it to the encoders; what needs neither is done at once."""
        finished: Future[_Item] = Future()
        if item.picture is None:
            finished.set_result(item)
            return finished
        picture, row = item.picture, item.row
        started = time.monotonic()
        try:
            source = picture.model_input()
            result = self.engine.restore(
                source,
                item.size,
                key=item.job.key,
                dtype=picture.color.dtype if _deep(item.format) else np.uint8,
                allocate=lambda shape, dtype: allocate(shape, dtype, item.job.output.parent),
                on_tiles=lambda done, all_: self.console.update(number + 0.95 * done / all_),
                should_stop=self.stop.requested,
            )
        except MemoryError:
            item.error = InputError(f"there is not enough memory for a result of {item.size[0]}x{item.size[1]}")
        except (VarestorerError, KeyboardInterrupt) as error:
            if not isinstance(error, InputError):
                self.budget.give(item.pixels)
                if isinstance(error, InterruptedRunError):
                    self.stop.request(error.exit_code)
                raise
            item.error = error
        except Exception as error:
            item.error = error
        row.seconds = (row.seconds or 0) + time.monotonic() - started
        if item.error is not None:
            self.budget.give(item.pixels)
            finished.set_result(item)
            return finished
        row.tile, row.tiles, row.retries, row.oom_split = (
            result.tile,
            result.tiles,
            result.retries,
            result.split,
        )
        row.device, row.precision, row.peak_mb = self.setup.device, self.setup.precision, self.setup.peak_mb()
        return pool.submit(self._finish, item, source, result.image)

    # --- behind the engine

    def _finish(self, item: _Item, source: Samples, image: Samples) -> _Item:
        """Encode, write and compare.

        Raises:
            OutputError: the output cannot be written.
        """
        started = time.monotonic()
        picture, row = item.picture, item.row
        assert picture is not None and item.identity is not None
        try:
            output = Output(image, picture.gray, _alpha_rows(picture, item.size), _upright_extras(picture, item.size))
            software = provenance.software_text(
                item.identity,
                model=self.setup.model,
                scale=row.scale or 1,
                tile=row.tile or 0,
                seed=self.options.seed,
            )
            row.mean_colour_error, row.consistency_psnr = compare(source, image)
            with atomic_file(item.job.output) as stream:
                write_picture(stream, output, item.format, self.options.quality, software)
                row.output_sha256 = hash_of(stream)
            row.status = DONE
        except InputError as error:
            item.error = error
        except MemoryError:
            item.error = InputError("there is not enough memory to encode the result")
        except VarestorerError:
            raise
        except Exception as error:
            item.error = error
        finally:
            item.picture = None
            self.budget.give(item.pixels)
        row.seconds = (row.seconds or 0) + time.monotonic() - started
        return item

    # --- the report

    def _record(self, item: _Item) -> None:
        row, job = item.row, item.job
        if item.error is not None:
            self._fail(item, item.error)
        elif not row.status:
            return  # the run was stopped before this one's turn
        self._add(row)
        if row.status == DONE:
            self.report.megapixels += (row.out_width or 0) * (row.out_height or 0) / 1e6
            for text in item.warnings:
                self.console.warn(f"{job.input}: {text}")
            if row.oom_split:
                self.console.warn(f"{job.input}: out of memory, went on with a smaller {row.oom_split}")
            self.console.detail(f"{job.input} -> {job.output} ({row.out_width}x{row.out_height}, {row.seconds:.1f} s)")
        elif item.kept:
            self.report.kept.append(row)
            self.console.warn(f"{job.output}: {row.reason}")

    def _fail(self, item: _Item, error: BaseException) -> None:
        row, job = item.row, item.job
        row.status, row.output_sha256 = FAILED, ""
        if isinstance(error, VarestorerError):
            row.reason = str(error)
        else:
            row.reason = f"unexpected {type(error).__name__}: {error}"
            self.report.internal = True
        self.report.failed_inputs.append(job.feed)
        self.console.error(f"{job.input}: {row.reason}")
        if self.console.verbose:
            self.console.detail("".join(traceback.format_exception(error)).rstrip())

    def _add(self, row: Row) -> None:
        self.report.rows.append(row)
        self.report_file.add(row)
        if self.on_row is not None:
            self.on_row(row)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _deep(format: ImageFormat) -> bool:
    return format in (ImageFormat.PNG, ImageFormat.TIFF)


def _upright_extras(picture: Picture, size: tuple[int, int]) -> Any:
    extras = picture.extras
    exif = extras.exif.upright(*size) if extras.exif else None
    return replace(extras, exif=exif, xmp=upright_xmp(extras.xmp))


def _alpha_rows(picture: Picture, size: tuple[int, int]) -> Callable[[int, int], Any] | None:
    """Alpha of the result, resized by the filter that the colours are upscaled with."""
    alpha = picture.alpha
    if alpha is None:
        return None
    resampler = Resampler((picture.height, picture.width), (size[1], size[0]))
    width, step = size[0], 512

    def rows(top: int, bottom: int) -> Any:
        parts = [
            resampler.window(alpha[..., None], top, left, bottom, min(left + step, width))[..., 0]
            for left in range(0, width, step)
        ]
        return np.concatenate(parts, axis=1)

    return rows
