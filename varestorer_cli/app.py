"""The command: registers the subcommands and turns every failure into an exit code, in one place."""

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer

from varestorer_cli.commands._help import WrappedGroup, help_width
from varestorer_cli.commands._usage_errors import show as show_usage_error
from varestorer_cli.core.errors import ExitCode, InterruptedRunError, VarestorerError
from varestorer_cli.core.phrases import visible
from varestorer_cli.version import __version__

# In the order of --help. Each module has register(app); none may import torch or another heavy package at its top.
COMMANDS = ("restore", "score", "train", "distill", "runs", "weights", "doctor", "texts")

_INTERRUPTED = "interrupted; run the same command again for the rest"
_EPILOG = (
    "Exit codes: 0 done, 1 some inputs failed, 2 bad usage, 3 something is not installed, 4 damaged model, "
    "5 output not writable, 6 out of memory, 70 a bug, 130/143 stopped (run again for the rest)."
)


def build_app() -> typer.Typer:
    """The Typer application with every subcommand."""
    app = typer.Typer(
        name="varestorer",
        cls=WrappedGroup,
        help="Restore folders of degraded photographs: one forward pass per tile, x4 by default.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": help_width()},
    )
    app.callback()(_root)
    for name in COMMANDS:
        import_module(f"varestorer_cli.commands.{name}").register(app)
    return app


def _version(value: bool) -> None:
    if not value:
        return
    typer.echo(f"varestorer {__version__}")
    try:
        import torch
    except ImportError as error:
        typer.echo(f"torch cannot be imported: {error}")
    else:
        typer.echo(f"torch {torch.__version__}, {'CUDA' if torch.cuda.is_available() else 'no CUDA'}")
    raise typer.Exit()


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and torch."),
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "-v" in words or "--verbose" in words
    _tolerant_streams()
    signals = _Signals()
    _quiet_libraries()
    try:
        code = build_app()(args=words, prog_name="varestorer", standalone_mode=False)
        if signals.interrupted and code == ExitCode.INTERRUPTED:  # the option parser took it, and says nothing
            return _failed(KeyboardInterrupt(), _INTERRUPTED, ExitCode.INTERRUPTED, verbose)
        return int(code) if isinstance(code, int) else ExitCode.OK
    except VarestorerError as error:
        return _failed(error, str(error), error.exit_code, verbose)
    except KeyboardInterrupt as error:
        return _failed(error, _INTERRUPTED, ExitCode.INTERRUPTED, verbose)
    except BrokenPipeError:
        _silence_stdout()
        return ExitCode.OK
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else ExitCode.OK
    except Exception as error:
        if signals.interrupted:  # a library made another error of it, as extension modules do while they are imported
            return _failed(error, _INTERRUPTED, ExitCode.INTERRUPTED, verbose)
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # the option parser's own errors
            return show_usage_error(error, words)
        if type(error).__name__ == "Abort":
            return _failed(error, _INTERRUPTED, ExitCode.INTERRUPTED, verbose)
        text = f"unexpected {type(error).__name__}: {error}; this is a bug, run again with -v and report the traceback"
        return _failed(error, text, ExitCode.INTERNAL, verbose)
    finally:
        signals.put_back()


def _failed(error: BaseException, text: str, code: ExitCode, verbose: bool) -> int:
    from varestorer_cli.core.console import write_stderr

    if verbose:
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            write_stderr(f"  {visible(line)}")  # indented, so that it is never taken for a message
    write_stderr(f"error: {visible(text)}", "red")
    return int(code)


def _tolerant_streams() -> None:
    """Escape what stdout and stderr cannot encode: a file name that is odd in this locale must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _quiet_libraries() -> None:
    """Silence decoders' warnings of damaged metadata (ours replace them); one thread for OpenCV and OpenBLAS."""
    import logging
    import os
    import platform
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # its threads spin beside the model, whatever --threads says
    if platform.machine().lower() in ("x86_64", "amd64"):
        # NumPy multiplies small matrices beside the model. Its own threads would spin and take the CPUs from model and
        # codecs: ten times slower folders were measured. torch uses another library here (on ARM it may be the same).
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _silence_stdout() -> None:
    import os

    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Signals:
    """Makes SIGTERM an exception, so that whatever runs can tidy up, and remembers that SIGINT came."""

    def __init__(self) -> None:
        self.interrupted = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_term)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and shells set it for background jobs
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        raise InterruptedRunError("told to stop; run the same command again for the rest", ExitCode.TERMINATED)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def put_back(self) -> None:
        """Restore the former handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
