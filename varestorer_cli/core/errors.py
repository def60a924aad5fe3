"""Exit codes, the exceptions that carry them, and how their messages are shown.

Every failure a user can cause or meet is one exception class with one exit code; ``app.py`` is the only
place that turns an exception into a process exit. The code table is a stable interface: scripts and render
farms decide on retries by it.
"""

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Process exit codes; the comment says whether running the same command again makes sense."""

    OK = 0
    SOME_FAILED = 1  # no retry: the listed inputs will fail again
    USAGE = 2  # no retry
    MISSING_DEPENDENCY = 3  # no retry: weights, data set or optional package missing
    BAD_CHECKPOINT = 4  # no retry: wrong or damaged checkpoint
    OUTPUT_NOT_WRITABLE = 5  # retry once: disk full, permission
    OUT_OF_MEMORY = 6  # retry on a larger machine
    MORE_MEMORY = 33  # 6 in the words of OpenCue (--exit-codes opencue), which retries with more memory
    INTERNAL = 70  # no retry: our bug
    INTERRUPTED = 130  # retry: Ctrl-C
    TERMINATED = 143  # retry: told to stop (SIGTERM)


class ExitCodes(StrEnum):
    """Which table of exit codes is used; ``opencue`` asks for more memory with its code 33."""

    PLAIN = "plain"
    OPENCUE = "opencue"


def exit_code_for(code: ExitCode, table: ExitCodes) -> ExitCode:
    """The exit code that a render manager's table has for a code of ours; one without an entry stays."""
    if table == ExitCodes.OPENCUE and code == ExitCode.OUT_OF_MEMORY:
        return ExitCode.MORE_MEMORY
    return code


class VarestorerError(Exception):
    """Base of all expected failures. The message says what happened, why, and what to try."""

    exit_code: ExitCode = ExitCode.INTERNAL


class UsageError(VarestorerError):
    """The command line asks for something impossible or contradictory."""

    exit_code = ExitCode.USAGE


class MissingDependencyError(VarestorerError):
    """Weights, a data set or an optional package are not installed."""

    exit_code = ExitCode.MISSING_DEPENDENCY


class CheckpointError(VarestorerError):
    """A checkpoint is damaged, foreign or does not fit the model."""

    exit_code = ExitCode.BAD_CHECKPOINT


class OutputError(VarestorerError):
    """An output cannot be written: permission, read-only file system, disk full."""

    exit_code = ExitCode.OUTPUT_NOT_WRITABLE


class OutOfMemoryError(VarestorerError):
    """The model does not fit in memory even at the smallest batch and tile."""

    exit_code = ExitCode.OUT_OF_MEMORY


class InputError(VarestorerError):
    """One input cannot be read or restored; a batch goes on without it."""

    exit_code = ExitCode.SOME_FAILED


class InterruptedRunError(VarestorerError):
    """The run was told to stop; what was finished is safe."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
