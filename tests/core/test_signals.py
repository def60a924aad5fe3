import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.signals import stop_on_signals


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED, "stopping after this tile; Ctrl-C again leaves at once"),
        (signal.SIGTERM, ExitCode.TERMINATED, "stopping after this tile"),
    ],
)
def test_the_first_signal_asks_and_says_so(number: int, code: ExitCode, said: str) -> None:
    before, told = signal.getsignal(number), []
    with stop_on_signals(told.append) as flag:
        assert not flag.requested()
        os.kill(os.getpid(), number)
        for _ in range(1000):
            if flag.requested():
                break
            time.sleep(0.001)
        assert flag.requested() and flag.error("x").exit_code is code
    assert told == [said]
    assert signal.getsignal(number) == before


def test_the_second_signal_leaves_at_once() -> None:
    program = (
        "import os, signal, time\n"
        "from varestorer_cli.core.signals import stop_on_signals\n"
        "with stop_on_signals(lambda text: None, lambda: os.write(1, b'left')):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.INTERRUPTED, b"left")


def test_outside_the_main_thread_nothing_changes() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def body() -> None:
        with stop_on_signals() as flag:
            seen.extend([flag.requested(), signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False, before]
