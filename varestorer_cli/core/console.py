"""What people and scripts see: messages and progress on stderr, data on stdout.

Progress is a bar on a terminal and plain percentage lines elsewhere (logs of farms and batch systems): flushed,
English, decimals with a point, never falling over the whole run, and at least one per minute as a sign of life.

Render managers have lines of their own: Deadline's command line plugins look for ``Progress: N%``; Open Job Description
for ``openjd_progress: N``, ``openjd_status: TEXT`` and ``openjd_fail: TEXT`` (How Jobs Are Run); Tractor for
``TR_PROGRESS N%`` and ``TR_EXIT_STATUS N``.
"""

import os
import shutil
import sys
import textwrap
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.phrases import clock, count, reason_of, visible

HEARTBEAT_SECONDS = 60.0


@dataclass(frozen=True)
class Dialect:
    """Lines that a program which reads the log looks for; fields are templates of whole lines, empty for none.

    Attributes:
        step: percent between two lines.
        progress: ``{percent}`` (an integer) and ``{status}``.
        status: ``{status}``, said beside the percentage.
        failure: ``{text}``, said when the run ends with another code than 0.
        end: ``{code}``, the last line.
        asked: said with ``--quiet`` too, since it was asked for by name.
    """

    step: int = 5
    progress: str = "Progress: {percent}% ({status})"
    status: str = ""
    failure: str = ""
    end: str = ""
    asked: bool = False


DIALECTS = {
    Progress.LINES: Dialect(),
    Progress.DEADLINE: Dialect(1, "Progress: {percent}%", asked=True),
    Progress.OPENJD: Dialect(
        1, "openjd_progress: {percent}", "openjd_status: {status}", "openjd_fail: {text}", asked=True
    ),
    Progress.TRACTOR: Dialect(1, "TR_PROGRESS {percent}%", end="TR_EXIT_STATUS {code}", asked=True),
}


class Console:
    """Messages, data and progress of one run.

    Args:
        progress: how progress is shown.
        quiet: no information, and no progress unless a render manager's dialect was asked for; warnings and errors
            remain.
        verbose: details and tracebacks.
    """

    def __init__(self, progress: Progress = Progress.AUTO, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._mode = _resolved(progress)
        self._dialect = DIALECTS.get(self._mode)
        if quiet and not (self._dialect and self._dialect.asked):
            self._mode, self._dialect = Progress.NONE, None
        self._lock = threading.RLock()
        self._bar: Any = None
        self._task: Any = None
        self._total = 0
        self._done = 0.0
        self._note, self._unit = "", "image"
        self._started = time.monotonic()
        self._last_line = self._started
        self._last_percent = -1
        self._beat: threading.Timer | None = None
        self._stdout_open = True

    # --- messages

    def info(self, text: str) -> None:
        """Say something that is not a problem."""
        if not self.quiet:
            self._write(text)

    def detail(self, text: str) -> None:
        """Say something only with ``-v``."""
        if self.verbose:
            self._write(text)

    def trace(self, error: BaseException) -> None:
        """Say where an error came from, only with ``-v``; indented, so that no name in it begins a line."""
        if self.verbose:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._write(f"  {line}")

    def warn(self, text: str) -> None:
        """Say something that should be known in any case."""
        self._write(f"warning: {text}", "yellow")

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self._write(f"error: {text}", "red")

    def out(self, text: str) -> None:
        """One line of data on stdout. A reader that went away or a full disk is no error: the work goes on."""
        if sys.stdout is None or not self._stdout_open:
            return
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            self._stdout_open = False
            if not isinstance(error, BrokenPipeError | ValueError):
                self.warn(f"standard output cannot be written ({reason_of(error)}); the rest is left out there")
            # Python would complain about the pipe again when it flushes stdout at exit.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _write(self, text: str, colour: str = "") -> None:
        text = visible(text)
        with self._lock:
            if self._bar is not None:
                screen = self._bar.console
                text = _folded(text, screen.width)
                screen.print(text, style=colour or None, markup=False, emoji=False, highlight=False, soft_wrap=True)
                return
            write_stderr(text, colour)

    # --- progress

    def start(self, total: int, note: str = "", done: float = 0.0, *, unit: str = "image", lines: bool = True) -> None:
        """Begin to show progress over ``total`` images, or steps of training.

        Args:
            total: number of images.
            note: what is done, beside the bar.
            done: number that an earlier start has finished.
            unit: what is counted, in the singular.
            lines: whether logs hear of it; False shows a bar only.
        """
        with self._lock:
            self._total, self._done, self._note, self._unit = total, done, note, unit
            self._started = time.monotonic()
            self._last_percent = -1
            if self._mode == Progress.BAR and self._bar is None:
                self._bar = _bar()
                self._bar.start()
                self._task = self._bar.add_task(visible(note), total=total, completed=done, speed="")
            elif self._dialect is not None and self._beat is None and lines:
                self._schedule()

    def stage(self, note: str) -> None:
        """Show what is done before the first image, such as a model that is loaded; lines hear of it with the next."""
        with self._lock:
            self._note = note
            if self._bar is not None:
                self._bar.update(self._task, description=visible(note), total=None)

    def update(self, done: float, note: str = "", current: str = "") -> None:
        """Show that ``done`` images (with the fraction of the current one) are finished.

        Args:
            done: number of images.
            note: speed, or what is done.
            current: file at work, beside the bar.
        """
        with self._lock:
            self._done, self._note = max(self._done, done), note
            if self._bar is not None:
                # A count such as 3/20 beside the bar must not run ahead of the files on the disk.
                self._bar.update(self._task, completed=self._done, total=self._total)
                if current:
                    self._bar.update(self._task, description=visible(current))
                if note:
                    self._bar.update(self._task, speed=note)
            elif self._dialect is not None:
                percent = self._percent()
                first, last = self._last_percent < 0, percent == 100 and self._last_percent < 100
                if first or last or percent >= self._last_percent + self._dialect.step:
                    self._line()

    def abandon(self) -> None:
        """Take the bar from the screen at once, for a process that is about to be left; asks for no lock."""
        if self._bar is not None:
            with suppress(OSError, ValueError, AttributeError):
                os.write(sys.stderr.fileno(), b"\r\x1b[2K\x1b[?25h")

    def finish(self) -> None:
        """Take the bar away and end the sign of life."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
            if self._beat is not None:
                self._beat.cancel()
                self._beat = None

    def ended(self, code: int, text: str) -> None:
        """Say how the run ended, where a render manager wants to know.

        Args:
            code: of the process.
            text: why, in one line.
        """
        with self._lock:
            if self._dialect is None:
                return
            if code == 0 and self._dialect.asked and self._last_percent < 100:
                self._total = self._done = 1
                self._line()
            if code != 0 and self._dialect.failure:
                self._write(self._dialect.failure.format(text=" ".join(text.split())))
            if self._dialect.end:
                self._write(self._dialect.end.format(code=code))

    def _percent(self) -> int:
        return max(self._last_percent, int(100 * self._done / self._total)) if self._total else 0

    def _line(self) -> None:
        percent = self._percent()
        self._last_percent = percent
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._started
        assert self._dialect is not None
        text = f"{int(self._done)}/{count(self._total, self._unit)} done"
        if 0 < self._done < self._total and elapsed > 1:
            text += f", ETA {clock(elapsed / self._done * (self._total - self._done))}"
        if self._note:
            text += f", {self._note}"
        self._write(self._dialect.progress.format(percent=percent, status=text))
        if self._dialect.status:
            self._write(self._dialect.status.format(status=text))

    def _schedule(self) -> None:
        self._beat = threading.Timer(HEARTBEAT_SECONDS / 2, self._on_beat)
        self._beat.daemon = True
        self._beat.start()

    def _on_beat(self) -> None:
        with self._lock:
            if self._beat is None:
                return
            if time.monotonic() - self._last_line >= HEARTBEAT_SECONDS / 2:
                self._line()
            self._schedule()


def write_stderr(text: str, colour: str = "") -> None:
    """One line on stderr; on a terminal in colour and folded between words.

    Args:
        text: without control characters.
        colour: red, yellow, or "" for none.
    """
    if sys.stderr is None:
        return
    if is_terminal():
        text = _folded(text, shutil.get_terminal_size().columns)
        if colour and not os.environ.get("NO_COLOR"):
            text = f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
    with suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


_COLOURS = {"red": 31, "yellow": 33}


def _folded(text: str, width: int) -> str:
    """Text in lines that break between words; a word longer than a line stays whole, and so do its blanks."""
    if len(text) <= width:
        return text
    wrapper = textwrap.TextWrapper(
        width,
        subsequent_indent=" " * (len(text) - len(text.lstrip())),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return "\n".join(wrapper.wrap(text))


def _bar() -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    name = Column(ratio=2, no_wrap=True, overflow="ellipsis")
    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(None, table_column=Column(ratio=1)),
        TextColumn("{task.percentage:>3.0f}%"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=RichConsole(stderr=True),
        transient=True,
        expand=True,
    )


def is_terminal() -> bool:
    """Whether messages go to a terminal that can draw a bar."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "")


def _resolved(progress: Progress) -> Progress:
    if progress != Progress.AUTO:
        return progress
    return Progress.BAR if is_terminal() else Progress.LINES
