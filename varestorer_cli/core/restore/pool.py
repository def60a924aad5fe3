"""Several devices of one host: one process each on one queue.

The parent plans, reports and shows progress; each worker has its own model and runs the ordinary batch over images
that it asks for one by one, so that a quick device does more. Images are handed out over a pipe of their own per
worker: a worker that dies (the system's out-of-memory killer, a lost GPU) loses only the images it had, which the
others do. Workers leave signals to the parent and end when it dies.
"""

import multiprocessing
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varestorer_cli.core.errors import ExitCode, VarestorerError
from varestorer_cli.core.inputs.plan import RestorePlan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import count
from varestorer_cli.core.report.rows import FAILED, SKIPPED, Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore import session
from varestorer_cli.core.restore.fingerprint import UP_TO_DATE
from varestorer_cli.core.restore.item import Reporting, name_of
from varestorer_cli.core.restore.worker import WorkerConfig, work
from varestorer_cli.core.signals import StopFlag

if TYPE_CHECKING:
    from varestorer_cli.core.text.prepare import RunTexts

_TRIES = 3


@dataclass
class _Worker:
    device: str
    process: Any
    pipe: Connection
    in_hand: dict[int, None] = field(default_factory=dict)
    fraction: float = 0.0
    ready: bool = False
    over: bool = False


def run_pool(
    plan: RestorePlan,
    devices: tuple[str, ...],
    options: RestoreOptions,
    earlier_reports: list[Path],
    reporting: Reporting,
    *,
    prepared: "RunTexts | None" = None,
    stop: StopFlag,
) -> BatchReport:
    """Restore every job of a plan on several devices; see :func:`varestorer_cli.core.restore.batch.run_batch`.

    Args:
        plan: what to do.
        devices: torch device strings, one process for each; a device may be named twice.
        options: as given by the user.
        earlier_reports: report files of earlier runs, read by the workers.
        reporting: where rows and messages go.
        prepared: texts of the images, None gives all the model's own.
        stop: set from outside to stop.

    Raises:
        InterruptedRunError: told to stop.
        VarestorerError: the first error that ended a worker.
    """
    config = WorkerConfig(
        plan.folder, options, earlier_reports, session.load_model, reporting.console.verbose, len(devices), prepared
    )
    return _Pool(plan, devices, config, reporting, stop).run()


class _Pool:
    def __init__(
        self,
        plan: RestorePlan,
        devices: tuple[str, ...],
        config: WorkerConfig,
        reporting: Reporting,
        stop: StopFlag,
    ) -> None:
        self.plan = plan
        self.devices = devices
        self.reporting = reporting
        self.console, self.report = reporting.console, reporting.report
        self.stop = stop
        self.queue = deque(range(len(plan.jobs)))
        self.tries = [0] * len(plan.jobs)
        self.workers: list[_Worker] = []
        self.error: VarestorerError | None = None
        self.told = False
        self.config = config
        self.context = multiprocessing.get_context("spawn")

    def run(self) -> BatchReport:
        """Do all jobs."""
        started = time.monotonic()
        self.report.processes = len(self.devices)
        self.reporting.add_skipped(self.plan)
        self.console.start(len(self.plan.jobs), "loading the model")
        self.console.update(0, "loading the model")
        try:
            for device in self.devices[: max(1, len(self.plan.jobs))]:
                self._start(device)
            while any(not worker.over for worker in self.workers):
                self._turn()
        finally:
            for worker in self.workers:  # only after an error of our own: the others have ended by themselves
                if not worker.over:
                    worker.process.kill()
                worker.process.join()
                worker.pipe.close()
            self.report.seconds = time.monotonic() - started
            self.console.finish()
        if self.error is not None:
            raise self.error
        inputs = len(self.plan.jobs) + len(self.plan.unreadable)
        if self.stop.requested() and self.report.total < inputs:
            raise self.stop.error(self.report.stopped_text(inputs))
        return self.report

    def _start(self, device: str) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=work, args=(device, theirs, self.config), name=f"varestorer {device}")
        process.start()
        theirs.close()
        self.workers.append(_Worker(device, process, ours))

    def _turn(self) -> None:
        """Handle the messages of the workers, and those that died."""
        if (self.stop.requested() or self.error is not None) and not self.told:
            self.told = True
            for worker in self.workers:
                self._send(worker, ("stop", int(self.stop.code or ExitCode.INTERRUPTED)))
        living = [worker for worker in self.workers if not worker.over]
        ready = wait([worker.pipe for worker in living], timeout=0.2)
        for worker in living:
            if worker.pipe in ready:
                try:
                    self._hear(worker, *worker.pipe.recv())
                except (EOFError, OSError):
                    self._gone(worker)

    def _send(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        if not worker.over:
            try:
                worker.pipe.send(message)
            except OSError:
                self._gone(worker)

    def _hear(self, worker: _Worker, kind: str, *content: Any) -> None:
        if kind == "want":
            worker.ready = True
            if self.queue and not self.told:
                number = self.queue.popleft()
                worker.in_hand[number] = None
                self.tries[number] += 1
                self._send(worker, ("job", number, self.plan.jobs[number]))
            else:
                self._send(worker, ("end",))
        elif kind == "row":
            number, row = content
            worker.in_hand.pop(number, None)
            self.reporting.add(
                row, self.plan.jobs[number].feed, kept=row.status == SKIPPED and row.reason != UP_TO_DATE
            )
            worker.fraction = 0.0
            self._progress()
        elif kind == "announce":
            self.reporting.file.announce(content[0])
        elif kind == "say":
            getattr(self.console, content[0])(content[1])
        elif kind == "progress":
            worker.fraction = content[0]
            self._progress()
        elif kind == "internal":
            self.report.internal = True
        elif kind == "over":
            error, times = content
            self.report.times.add(times)
            worker.over = True
            if error is not None and self.error is None and not self.stop.requested():
                self.error = error

    def _progress(self) -> None:
        done = len(self.report.rows) - len(self.plan.ignored) - len(self.plan.unreadable)
        self.console.update(done + 0.95 * sum(min(1.0, worker.fraction) for worker in self.workers if not worker.over))

    def _gone(self, worker: _Worker) -> None:
        """Give the images of a dead worker to the others; an image with which several processes died fails."""
        worker.over = True
        worker.process.join()
        if self.told:
            return
        how = f"exit code {worker.process.exitcode}"
        if worker.process.exitcode is not None and worker.process.exitcode < 0:
            how = f"signal {-worker.process.exitcode}"
        if not worker.ready:
            self.error = self.error or VarestorerError(
                f"the process for {worker.device} died while it loaded the model ({how}); try --device {worker.device}"
            )
            return
        self.console.warn(
            f"the process for {worker.device} died ({how}); "
            f"{count(len(worker.in_hand), 'image')} of it will be done again"
        )
        for number in reversed(worker.in_hand):
            if self.tries[number] < _TRIES:
                self.queue.appendleft(number)
                continue
            job = self.plan.jobs[number]
            output = name_of(job.output, self.plan.folder)
            reason = f"{_TRIES} processes died while they worked on it or its neighbours ({how})"
            self._fail(Row(input=job.input, output=output, reason=reason), job.feed)
        if self.queue:
            self._start(worker.device)

    def _fail(self, row: Row, retry_as: str) -> None:
        row.status = FAILED
        self.console.error(f"{row.input}: {row.reason}")
        self.reporting.add(row, retry_as)
