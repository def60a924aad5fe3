"""Files to files: the only loop over paths. Decodes ahead, restores, encodes behind; one bad file stops nothing.

An image passes three stages. ``DecodeStage`` works in one thread ahead of the engine (read, hash,
decide, decode), the engine runs in the caller's thread, ``EncodeStage`` works in threads behind it
(encode, write, compare). Rows are reported in the order of the jobs.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from varestorer_cli.core.atomic import allocate, release
from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.errors import InputError, InterruptedRunError, VarestorerError
from varestorer_cli.core.image.image_data import DecodedImage, Samples
from varestorer_cli.core.image.writer import DEEP, SCENE
from varestorer_cli.core.inputs.plan import Job, RestorePlan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import speed
from varestorer_cli.core.report.rows import DONE, FAILED
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.decode_stage import DecodeStage
from varestorer_cli.core.restore.encode_stage import EncodeStage
from varestorer_cli.core.restore.item import BatchContext, PixelBudget, Reporting, RestoreItem
from varestorer_cli.core.signals import StopFlag

_AHEAD = 4
BUDGET_PIXELS = 300_000_000


class Engine(Protocol):
    """What the batch needs of an engine; :class:`varestorer_cli.core.engine.engine.RestoreEngine` has it."""

    @property
    def sampling(self) -> str:
        """The sampling in effect."""

    @property
    def model_seconds(self) -> float:
        """Seconds spent in calls of the model so far."""

    @property
    def overlap(self) -> int:
        """Least overlap of tiles."""

    def take_warning(self) -> str:
        """What the user should know and was not told yet."""

    def queue(self, more: Callable[[], bool] | None, should_stop: Callable[[], bool] | None) -> Any:
        """A :class:`varestorer_cli.core.engine.engine.ImageQueue`."""


def run_batch(
    plan: RestorePlan,
    engine: Engine,
    context: BatchContext,
    options: RestoreOptions,
    reporting: Reporting,
    *,
    stop: StopFlag | None = None,
    jobs: Iterable[Job] | None = None,
) -> BatchReport:
    """Restore every job of a plan.

    Args:
        plan: from :func:`varestorer_cli.core.inputs.plan.make_plan`.
        engine: restores arrays.
        context: model and device.
        options: as given by the user.
        reporting: where rows and messages go.
        stop: set from outside to stop.
        jobs: in place of the plan's, for a queue shared with other processes.

    Raises:
        InterruptedRunError: told to stop; what was finished is written and reported.
        OutputError: nothing more can be written.
        OutOfMemoryError: the model does not fit.
    """
    todo = plan.jobs if jobs is None else jobs
    return _Batch(plan, todo, engine, context, options, reporting, stop or StopFlag()).run()


class _Batch:
    def __init__(
        self,
        plan: RestorePlan,
        jobs: Iterable[Job],
        engine: Engine,
        context: BatchContext,
        options: RestoreOptions,
        reporting: Reporting,
        stop: StopFlag,
    ) -> None:
        self.plan = plan
        self.engine = engine
        self.context = context
        self.options = options
        self.reporting = reporting
        self.console, self.report = reporting.console, reporting.report
        self.stop = stop
        self.jobs = jobs
        self.recorded = 0
        self._hashes: dict[tuple[ImageFormat, tuple[str, str] | None], str] = {}
        self.started = time.monotonic()
        self.budget = PixelBudget(BUDGET_PIXELS, stop.requested)
        self.decode_stage = DecodeStage(
            plan.folder, context, options, self._settings, reporting.file, self.budget, stop.requested
        )
        self.encode_stage = EncodeStage(context, options, self.budget, reporting.file.announce)

    def run(self) -> BatchReport:
        """Do all jobs."""
        self.started, model_before = time.monotonic(), self.engine.model_seconds
        times = self.report.times
        self.reporting.add_skipped(self.plan)
        self.console.start(len(self.plan.jobs))
        self.console.update(0)
        decoder = ThreadPoolExecutor(1, "decode")
        encoder = ThreadPoolExecutor(self.context.encoders, "encode")
        behind: deque[Future[RestoreItem]] = deque()
        try:
            for item, queued in self._queued(decoder, lambda: len(behind)):
                if self.stop.requested():
                    break
                behind.append(self._restored(item, queued, encoder))
                waited = time.monotonic()
                while behind and (behind[0].done() or len(behind) > self.context.encoders + 1):
                    self._record(behind.popleft().result())
                times.encode += time.monotonic() - waited
                self.console.update(self._done(len(behind)), self._note())
        except InterruptedRunError:
            pass  # the flag is set; said below, when everything is tidied up
        finally:
            # Also after an error: what the encoders have begun is finished and reported.
            self.budget.close()
            decoder.shutdown(wait=True, cancel_futures=True)
            waited = time.monotonic()
            lost = self._drain(behind)
            encoder.shutdown(wait=True)
            times.encode += time.monotonic() - waited
            times.model += self.engine.model_seconds - model_before
            self.report.seconds = time.monotonic() - self.started
            self.console.finish()
        all_done = bool(self.plan.jobs) and self.recorded == len(self.plan.jobs)  # a worker knows of no jobs
        if self.stop.requested() and not all_done:
            raise self.stop.error(self.report.stopped_text(len(self.plan.jobs) + len(self.plan.unreadable)))
        if lost is not None:
            raise lost
        return self.report

    def _drain(self, behind: "deque[Future[RestoreItem]]") -> VarestorerError | None:
        """Record what the encoders had begun.

        Returns:
            the first error that ends a run; an error that ended it before goes first.
        """
        lost: VarestorerError | None = None
        for future in behind:
            try:
                self._record(future.result())
                self.console.update(self._done(0))
            except VarestorerError as error:
                lost = lost or error
        return lost

    def _done(self, behind: int, fraction: float = 0.0) -> float:
        """Images that are dealt with; those being encoded count for less, since they are not on the disk yet."""
        return self.recorded + 0.95 * (behind + fraction)

    def _settings(self, format: ImageFormat, key: str) -> str:
        text = self.context.texts.identity(key)
        if (format, text) not in self._hashes:  # the same for most images of a run
            self._hashes[format, text] = self.options.settings_sha256(
                overlap=self.engine.overlap, sampling=self.engine.sampling, format=format, text=text
            )
        return self._hashes[format, text]

    def _note(self) -> str:
        elapsed = time.monotonic() - self.started
        if not self.report.megapixels or elapsed <= 1:
            return ""
        return f"{speed(self.report.megapixels / elapsed)} MP/s"

    # --- ahead of the engine

    def _queued(
        self, pool: ThreadPoolExecutor, behind: Callable[[], int]
    ) -> Iterator[tuple[RestoreItem, "_QueuedPages | None"]]:
        """Items in the order of the jobs, decoded, with their place in the engine's queue where they need one.

        Args:
            pool: decodes.
            behind: images that are being encoded.
        """
        decoding: deque[Future[RestoreItem]] = deque()
        ready: deque[tuple[RestoreItem, _QueuedPages | None]] = deque()
        jobs = iter(self.jobs)

        def next_item(*, ahead: bool) -> bool:
            """Move one image from the decoder to the engine's queue."""
            while len(decoding) < _AHEAD and (job := next(jobs, None)) is not None:
                decoding.append(pool.submit(self.decode_stage.prepare, job))
            if not decoding:
                return False
            waited = time.monotonic()
            # The decoder may wait for room that only the image at work can give back.
            while ahead and not decoding[0].done():
                if self.budget.is_short() or self.stop.requested():
                    return False
                wait(list(decoding)[:1], timeout=0.02)
            item = decoding.popleft().result()
            self.report.times.decode += time.monotonic() - waited
            ready.append((item, self._enqueue(queue, item, behind)))
            return True

        queue = self.engine.queue(lambda: next_item(ahead=True), self.stop.requested)
        while ready or next_item(ahead=False):
            yield ready.popleft()

    # --- the engine

    def _enqueue(self, queue: Any, item: RestoreItem, behind: Callable[[], int]) -> "_QueuedPages | None":
        """Put a decoded image into the engine's queue; None where there is nothing to restore."""
        image = item.image
        if image is None:
            return None
        results: list[Any] = []
        sources: list[Samples] = []
        queued: list[Any] = []

        def new_result(shape: tuple[int, ...], dtype: Any) -> Any:
            results.append(allocate(shape, dtype, item.job.output.parent))
            return results[-1]

        def on_tiles(done: int, all_: int) -> None:
            release(results[-1])
            page = (len(results) - 1 + done / all_) / len(image.pages)
            self.console.update(self._done(behind(), page), self._note(), item.job.key)

        try:
            for number, (page, size) in enumerate(zip(image.pages, item.sizes, strict=True)):
                sources.append(page.model_input())
                queued.append(
                    queue.add(
                        ImageTask(
                            sources[-1],
                            size,
                            key=f"{item.job.key}#{number + 1}" if number else item.job.key,
                            text=self.context.texts.of(item.job.key),
                            dtype=_samples(page, item.format),
                            allocate=new_result,
                            on_tiles=on_tiles,
                        )
                    )
                )
        except Exception as error:
            item.error = _without_memory(error, item)
            return None
        return _QueuedPages(sources, queued)

    def _restored(
        self, item: RestoreItem, queued: "_QueuedPages | None", pool: ThreadPoolExecutor
    ) -> "Future[RestoreItem]":
        """Restore one image and hand it to the encoders; what needs neither is done at once."""
        finished: Future[RestoreItem] = Future()
        if queued is None:
            if item.image is not None:
                self.budget.give(item.pixels)
            finished.set_result(item)
            return finished
        row = item.row
        started = time.monotonic()
        try:
            results = [page.result() for page in queued.pages]
        except (VarestorerError, KeyboardInterrupt) as error:
            if not isinstance(error, InputError):
                self.budget.give(item.pixels)
                if isinstance(error, InterruptedRunError):
                    self.stop.request(error.exit_code)
                raise
            item.error = error
        except Exception as error:
            item.error = _without_memory(error, item)
        row.seconds = (row.seconds or 0) + time.monotonic() - started
        if warning := self.engine.take_warning():
            self.console.warn(warning)
        if item.error is not None:
            self.budget.give(item.pixels)
            finished.set_result(item)
            return finished
        result = results[0]
        row.tile, row.oom_split, row.calls = result.tile, result.split, result.calls
        row.tiles, row.retries = (sum(getattr(one, name) for one in results) for name in ("tiles", "retries"))
        if result.unverified:
            text = (
                "the model spoils even a plain test image (is it trained?): its tiles were not held against the input"
            )
            item.warnings.append(text)
            row.warnings = "; ".join(filter(None, (row.warnings, f"unchecked: {text}")))
        row.device, row.precision, row.peak_mb = self.context.device, result.precision, self.context.peak_mb()
        pages = [(source, one.image) for source, one in zip(queued.sources, results, strict=True)]
        return pool.submit(self.encode_stage.finish, item, pages)

    # --- the report

    def _record(self, item: RestoreItem) -> None:
        row, job = item.row, item.job
        if item.error is not None:
            self._fail(item, item.error)
        elif not row.status:
            return  # the run was stopped before this one's turn
        self.recorded += 1
        self.reporting.add(row, job.feed, kept=item.kept)
        if row.status == DONE:
            for text in item.warnings:
                self.console.warn(f"{job.input}: {text}")
            if row.oom_split:
                self.console.warn(f"{job.input}: out of memory, went on with a smaller {row.oom_split}")
            self.console.detail(f"{job.input} -> {job.output} ({row.out_width}x{row.out_height}, {row.seconds:.1f} s)")
        elif item.kept:
            self.console.warn(f"{job.output}: {row.reason}")

    def _fail(self, item: RestoreItem, error: BaseException) -> None:
        row, job = item.row, item.job
        row.status, row.output_sha256 = FAILED, ""
        if isinstance(error, VarestorerError):
            row.reason = str(error)
        else:
            row.reason = f"unexpected {type(error).__name__}: {error}"
            self.report.internal = True
        self.console.error(f"{job.input}: {row.reason}")
        self.console.trace(error)


@dataclass(frozen=True)
class _QueuedPages:
    """The pages of an image in the engine's queue: the samples that the model gets, and their places in the queue."""

    sources: list[Samples]
    pages: list[Any]


def _without_memory(error: Exception, item: RestoreItem) -> Exception:
    if isinstance(error, MemoryError):
        return InputError(f"there is not enough memory for a result of {item.size[0]}x{item.size[1]}")
    return error


def _samples(image: DecodedImage, format: ImageFormat) -> Any:
    """Type of the result: that of the input as far as the format holds it."""
    if format in SCENE:
        return np.float32
    return np.uint16 if format in DEEP and image.depth > 8 else np.uint8
