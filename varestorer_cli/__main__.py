"""``python -m varestorer_cli`` and the command ``varestorer``."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command and end the process with its exit code."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as nohup and shells set it for background jobs
    if not ignored:
        signal.signal(signal.SIGINT, _leave)
    from varestorer_cli.app import run

    code = run()
    if not ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said and done: the exit code stands
    sys.exit(code)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process on a signal that comes while the program is loading; 130 is ``ExitCode.INTERRUPTED``."""
    os.write(2, b"error: interrupted; run the same command again for the rest\n")
    os._exit(130)


if __name__ == "__main__":
    main()
