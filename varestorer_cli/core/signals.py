"""SIGINT and SIGTERM during a run: the first one ends it in order, the second one ends the process at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from varestorer_cli.core.atomic import remove_open_parts
from varestorer_cli.core.errors import ExitCode, InterruptedRunError

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class StopFlag:
    """Flag that a run is to stop, with the exit code of the reason.

    Args:
        asked: also asked whether to stop, from any thread; a yes stays.
    """

    def __init__(self, asked: Callable[[], bool] | None = None) -> None:
        self.code: ExitCode | None = None
        self._asked = asked

    def requested(self) -> bool:
        """Whether a signal came."""
        if self.code is None and self._asked is not None and self._asked():
            self.request()
        return self.code is not None

    def request(self, code: ExitCode = ExitCode.INTERRUPTED) -> None:
        """Ask for the stop."""
        self.code = self.code or code

    def error(self, text: str) -> InterruptedRunError:
        """The exception that ends the run with the signal's exit code."""
        return InterruptedRunError(text, self.code or ExitCode.INTERRUPTED)


@contextmanager
def stop_on_signals(
    say: Callable[[str], None] = lambda text: None, leave: Callable[[], None] = lambda: None
) -> Iterator[StopFlag]:
    """Turn SIGINT and SIGTERM into a flag for the length of the block; outside the main thread nothing is changed.

    Args:
        say: called when the run will stop soon, in a thread of its own: a handler may interrupt a line being written.
        leave: called before the second signal ends the process.
    """
    flag = StopFlag()
    sayers: list[threading.Thread] = []
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        code = _CODES[signal.Signals(number)]
        if flag.requested():
            leave()
            remove_open_parts()
            os._exit(code)
        flag.request(code)
        again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
        sayers.append(threading.Thread(target=say, args=(f"stopping after this tile{again}",), daemon=True))
        sayers[-1].start()

    before = {number: signal.signal(number, on_signal) for number in _CODES}
    try:
        yield flag
    finally:
        for sayer in sayers:
            sayer.join(timeout=1)
        for number, handler in before.items():
            signal.signal(number, handler)
