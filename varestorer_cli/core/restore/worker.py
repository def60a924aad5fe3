"""A process of :mod:`core.pool`: one device, one model, pictures asked for one by one."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, InterruptedRunError, VarestorerError
from varestorer_cli.core.inputs.plan import Job, RestorePlan
from varestorer_cli.core.options import Progress, RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import name_of
from varestorer_cli.core.signals import StopFlag

if TYPE_CHECKING:
    from varestorer_cli.core.text.prepare import RunTexts


@dataclass(frozen=True)
class Brief:
    """What a worker is told at its start.

    Attributes:
        folder: output folder.
        options: as given by the user.
        witnesses: report files of earlier runs.
        load: loads a model by name, device and weights folder.
        verbose: whether details are wanted.
        processes: that share this host's CPUs.
        prepared: texts of the pictures, None gives all the model's own.
    """

    folder: Path
    options: RestoreOptions
    witnesses: list[Path]
    load: Callable[..., Any]
    verbose: bool
    processes: int
    prepared: "RunTexts | None" = None


class _Line:
    """Sends to the parent from any thread; a parent that died is no error, the end is near anyway."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        with self._lock:
            try:
                self._pipe.send(message)
            except OSError:
                os._exit(ExitCode.INTERRUPTED)


class _FarConsole(Console):
    """Hands messages and progress to the parent."""

    def __init__(self, line: _Line, verbose: bool) -> None:
        super().__init__(Progress.NONE, verbose=verbose)
        self._line_out = line

    def _write(self, text: str) -> None:
        self._line_out.send("say", "info", text)

    def warn(self, text: str) -> None:
        self._line_out.send("say", "warn", text)

    def error(self, text: str) -> None:
        self._line_out.send("say", "error", text)

    def update(self, done: float, note: str = "") -> None:
        self._line_out.send("progress", done % 1)


class _FarReport(ReportFile):
    """Keeps what earlier runs wrote; promises go to the parent, who owns the file."""

    def __init__(self, witnesses: list[Path], line: _Line) -> None:
        super().__init__(None, witnesses)
        self._line_out = line

    def announce(self, row: Row) -> None:
        self._line_out.send("promise", row)


def work(device: str, pipe: Connection, brief: Brief) -> None:
    """Body of the process.

    Args:
        device: torch device string.
        pipe: to the parent.
        brief: the rest.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent hears it too, and says what to do
    line, stop = _Line(pipe), StopFlag()
    inbox: queue.Queue[tuple[int, Job] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(pipe, inbox, stop), daemon=True).start()
    report, error = BatchReport(), None
    try:
        _restore(device, line, inbox, stop, brief, report)
    except InterruptedRunError:
        pass
    except VarestorerError as found:
        error = found
    except BaseException as found:
        error = VarestorerError(f"unexpected {type(found).__name__} in the process for {device}: {found}")
    if report.internal:
        line.send("internal")
    line.send("over", error, report.times)


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
    line: _Line,
    inbox: "queue.Queue[tuple[int, Job] | None]",
    stop: StopFlag,
    brief: Brief,
    report: BatchReport,
) -> None:
    from varestorer_cli.core.api import open_session
    from varestorer_cli.core.runtime import default_threads

    threads = max(1, (brief.options.threads or default_threads()) // brief.processes)
    options = replace(brief.options, device=device, threads=threads)
    session = open_session(options, brief.load, brief.prepared)
    if session.runtime.warning:
        line.send("say", "warn", session.runtime.warning)
    line.send("say", "info", session.describe())
    if session.warning:
        line.send("say", "warn", session.warning)
    numbers: dict[str, int] = {}

    def jobs() -> Iterator[Job]:
        while True:
            line.send("want")
            message = inbox.get()
            if message is None:
                return
            numbers[name_of(message[1].output, brief.folder)] = message[0]
            yield message[1]

    def on_row(row: Row) -> None:
        line.send("row", numbers[row.output], row)

    run_batch(
        RestorePlan(folder=brief.folder), session.engine, session.setup(), options, _FarReport(brief.witnesses, line),
        _FarConsole(line, brief.verbose), stop=stop, on_row=on_row, report=report, jobs=jobs(),
    )  # fmt: skip
