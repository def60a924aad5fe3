"""The one place where failures become exit codes, and what the top of the command shows."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from conftest import Ran

from varestorer_cli import __version__, app
from varestorer_cli.core import errors
from varestorer_cli.core.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]


def failing(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Replace the commands by one that does ``action``."""

    def fail(verbose: bool = typer.Option(False, "-v", "--verbose")) -> None:
        action()

    def build_failing() -> typer.Typer:
        made = typer.Typer(pretty_exceptions_enable=False)
        made.callback()(lambda: None)
        made.command("fail")(fail)
        return made

    monkeypatch.setattr(app, "build_app", build_failing)


def raiser(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("what, why, what to try"), 2),
        (errors.MissingDependencyError("what, why, what to try"), 3),
        (errors.CheckpointError("what, why, what to try"), 4),
        (errors.OutputError("what, why, what to try"), 5),
        (errors.OutOfMemoryError("what, why, what to try"), 6),
        (errors.InputError("what, why, what to try"), 1),
        (errors.InterruptedRunError("what, why, what to try"), 130),
        (errors.InterruptedRunError("what, why, what to try", ExitCode.TERMINATED), 143),
    ],
)
def test_every_cause_has_its_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    failing(monkeypatch, raiser(error))
    assert app.run(["fail"]) == code
    assert capsys.readouterr() == ("", "error: what, why, what to try\n")


def test_a_bug_is_70_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, raiser(ZeroDivisionError("division by zero")))
    assert app.run(["fail"]) == 70
    assert capsys.readouterr().err == (
        "error: unexpected ZeroDivisionError: division by zero; this is a bug, run again with -v and "
        "report the traceback\n"
    )


def test_tracebacks_only_with_v(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, raiser(errors.OutputError("full")))
    app.run(["fail"])
    assert "Traceback" not in capsys.readouterr().err
    assert app.run(["fail", "-v"]) == 5
    assert "Traceback" in capsys.readouterr().err


def test_interrupts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, raiser(KeyboardInterrupt()))
    assert app.run(["fail"]) == 130
    failing(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert app.run(["fail"]) == 143
    assert "told to stop" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_reader_that_went_away_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(app, "_silence_stdout", lambda: None)
    monkeypatch.setattr(app, "build_app", lambda: lambda **_: (_ for _ in ()).throw(BrokenPipeError()))
    assert app.run([]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["restore", "a", "b", "--bogus"], "No such option: --bogus"),
        (["restore", "only-one"], "an input and an output are needed"),
        (["restore", "a", "b", "--scale", "x"], "Invalid value for '--scale'"),
        (["restore", "a", "b", "--existing", "maybe"], "Invalid value for '--existing'"),
    ],
)
def test_usage_errors_are_2_and_go_to_stderr(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"varestorer {__version__}"
    assert app.run(["-V"]) == 0


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["-h"]) == 0
    text = capsys.readouterr().out
    assert "restore" in text and "doctor" in text
    assert "Exit codes: 0 done" in text


def test_the_modules_entry_point() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "varestorer_cli", "restore"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(redirect: str) -> None:
    line = f"{sys.executable} -m varestorer_cli restore none out {redirect}"
    assert subprocess.run(line, shell=True, cwd=ROOT, check=False, capture_output=True).returncode == 2


def test_strange_names_in_messages_are_no_crash(cli: Callable[..., Ran]) -> None:
    ran = cli("restore", os.fsdecode(b"no\xffne.png"), "out")
    assert ran.code == 2
    assert "no such file or folder" in ran.err


INTERRUPTIONS = {
    "before a module loads": "signal.signal = lambda *a, real=signal.signal: (real(*a), INT())[0]",
    "while one loads": """
class Finder:
    def find_spec(self, name, *rest):
        if name == 'typer':
            INT()
sys.meta_path.insert(0, Finder())""",
    "in the command": "import varestorer_cli.app as app; app.build_app = INT",
    "in a library that makes another error of it": """
import varestorer_cli.app as app
def build():
    try:
        INT()
    except KeyboardInterrupt:
        raise ImportError('initialization failed') from None
app.build_app = build""",
    "once more at the end": """
import atexit
import varestorer_cli.app as app
app.build_app = INT
atexit.register(INT)""",
}


@pytest.mark.parametrize("moment", INTERRUPTIONS)
def test_ctrl_c_in_the_first_second_ends_with_its_message_and_130(moment: str, tmp_path: Path) -> None:
    program = (
        f"import os, signal, sys\nINT = lambda: os.kill(os.getpid(), signal.SIGINT)\n{INTERRUPTIONS[moment]}\n"
        "from varestorer_cli.__main__ import main\nmain()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "error: interrupted; run the same command again for the rest"


def test_an_interrupt_that_the_option_parser_hears_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = typer.Typer()
    parser.command()(lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(app, "build_app", lambda: parser)
    assert app.run([]) == 130
    assert capsys.readouterr().err == "error: interrupted; run the same command again for the rest\n"


def test_opencv_starts_no_threads_of_its_own(tmp_path: Path) -> None:
    program = "from varestorer_cli import app; app.run(['--version']); import cv2; print(cv2.getNumThreads())"
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_FOR_THREADS_NUM"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.split()[-1] == "1", done.stderr
