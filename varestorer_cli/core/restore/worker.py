"""A process of :mod:`varestorer_cli.core.restore.pool`: one device, one model, images asked for one by one."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, InterruptedRunError, VarestorerError
from varestorer_cli.core.inputs.plan import Job, RestorePlan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import Reporting, name_of
from varestorer_cli.core.signals import StopFlag

if TYPE_CHECKING:
    from varestorer_cli.core.text.prepare import RunTexts


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to begin.

    Attributes:
        folder: output folder.
        options: as given by the user.
        earlier_reports: report files of earlier runs.
        load: loads a model by name, device and weights folder.
        verbose: whether details are wanted.
        processes: that share this host's CPUs.
        prepared: texts of the images, None gives all the model's own.
    """

    folder: Path
    options: RestoreOptions
    earlier_reports: list[Path]
    load: Callable[..., Any]
    verbose: bool
    processes: int
    prepared: "RunTexts | None" = None


class ParentPipe:
    """Sends to the parent from any thread; a parent that died is no error, the end is near anyway."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        """Send a message; ends this process where the parent is gone."""
        with self._lock:
            try:
                self._pipe.send(message)
            except OSError:
                os._exit(ExitCode.INTERRUPTED)


class ForwardingConsole(Console):
    """Hands messages and progress to the parent."""

    def __init__(self, parent: ParentPipe, verbose: bool) -> None:
        super().__init__(Progress.NONE, verbose=verbose)
        self._parent = parent

    def _write(self, text: str, colour: str = "") -> None:
        self._parent.send("say", "info", text)

    def warn(self, text: str) -> None:
        """Have the parent warn."""
        self._parent.send("say", "warn", text)

    def error(self, text: str) -> None:
        """Have the parent say what went wrong."""
        self._parent.send("say", "error", text)

    def update(self, done: float, note: str = "", current: str = "") -> None:
        """Tell the parent how much of the current image is done."""
        self._parent.send("progress", done % 1)


class ForwardingReport(ReportFile):
    """Keeps what earlier runs wrote; announcements go to the parent, who owns the file."""

    def __init__(self, earlier_reports: list[Path], parent: ParentPipe) -> None:
        super().__init__(None, earlier_reports)
        self._parent = parent

    def announce(self, row: Row) -> None:
        """Have the parent note what an output will be."""
        self._parent.send("announce", row)


def work(device: str, pipe: Connection, config: WorkerConfig) -> None:
    """Body of the process.

    Args:
        device: torch device string.
        pipe: to the parent.
        config: the rest.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent hears it too, and says what to do
    parent, stop = ParentPipe(pipe), StopFlag()
    inbox: queue.Queue[tuple[int, Job] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(pipe, inbox, stop), daemon=True).start()
    report, error = BatchReport(), None
    try:
        _restore(device, parent, inbox, stop, config, report)
    except InterruptedRunError:
        pass
    except VarestorerError as found:
        error = found
    except BaseException as found:
        error = VarestorerError(f"unexpected {type(found).__name__} in the process for {device}: {found}")
    if report.internal:
        parent.send("internal")
    parent.send("over", error, report.times)


def _listen(pipe: Connection, inbox: "queue.Queue[tuple[int, Job] | None]", stop: StopFlag) -> None:
    while True:
        try:
            kind, *content = pipe.recv()
        except (EOFError, OSError):  # the parent died
            kind, content = "stop", [int(ExitCode.INTERRUPTED)]
        if kind == "job":
            inbox.put((content[0], content[1]))
            continue
        if kind == "stop":
            stop.request(ExitCode(content[0]))
        inbox.put(None)
        if kind == "stop":
            return


def _restore(
    device: str,
    parent: ParentPipe,
    inbox: "queue.Queue[tuple[int, Job] | None]",
    stop: StopFlag,
    config: WorkerConfig,
    report: BatchReport,
) -> None:
    from varestorer_cli.core.restore.session import open_session
    from varestorer_cli.core.runtime import default_threads

    threads = max(1, (config.options.threads or default_threads()) // config.processes)
    options = replace(config.options, device=device, threads=threads)
    session = open_session(options, config.load, config.prepared)
    if session.runtime.warning:
        parent.send("say", "warn", session.runtime.warning)
    if config.verbose:
        parent.send("say", "info", session.describe())
    if session.warning:
        parent.send("say", "warn", session.warning)
    numbers: dict[str, int] = {}

    def jobs() -> Iterator[Job]:
        while True:
            parent.send("want")
            message = inbox.get()
            if message is None:
                return
            numbers[name_of(message[1].output, config.folder)] = message[0]
            yield message[1]

    def on_row(row: Row) -> None:
        parent.send("row", numbers[row.output], row)

    console = ForwardingConsole(parent, config.verbose)
    report_file = ForwardingReport(config.earlier_reports, parent)
    plan = RestorePlan(folder=config.folder)
    run_batch(
        plan, session.engine, session.context(), options, Reporting(report_file, console, on_row, report),
        stop=stop, jobs=jobs(),
    )  # fmt: skip
