import io
import os
import re
import sys
import threading

import pytest

from varestorer_cli.core import console as module
from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_plain_and_never_fall(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(Progress.LINES)
    console.start(40)
    for done in (0, 1, 3.5, 2, 20, 39.9, 40):
        console.update(done)
    console.finish()
    out, err = capsys.readouterr()
    assert out == ""
    percents = [int(p) for p in re.findall(r"^Progress: (\d+)%", err, re.MULTILINE)]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert "\x1b" not in err and "\r" not in err
    assert err.splitlines()[-1] == "Progress: 100% (40/40 images done)"


def test_auto_is_lines_off_a_terminal_and_a_bar_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Console()._mode == Progress.LINES
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert Console()._mode == Progress.BAR
    monkeypatch.setenv("TERM", "dumb")
    assert Console()._mode == Progress.LINES
    assert Console(Progress.BAR, quiet=True)._mode == Progress.NONE


def test_the_bar_goes_to_stderr_and_messages_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    console = Console(Progress.BAR)
    console.start(4)
    console.update(2)
    console.warn("in/[bold]x[/bold].png: " + "y" * 80)
    console.finish()
    assert capsys.readouterr().out == ""
    text = terminal.getvalue()
    assert "50%" in text and "2/4" in text
    assert "warning: in/[bold]x[/bold].png:" in text and "y" * 80 in text, "lines break between words only"


class Screen(Terminal):
    """A terminal whose text is read without its colours."""

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def screen_of(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Screen:
    """Not a fixture: pytest puts its own stderr back between set-up and test."""
    terminal = Screen()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", str(columns)), ("LINES", "40")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


def test_the_bar_says_what_is_loaded_then_the_file_the_speed_and_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = screen_of(monkeypatch)
    console = Console(Progress.BAR)
    console.start(4, "starting")
    console.stage("loading the model fine")
    console._bar.refresh()
    assert "loading the model fine" in screen.plain
    console.update(1.5, "0.25 MP/s", "in/a.png")
    console._bar.refresh()
    last = screen.plain.rpartition("\r")[2]
    assert re.search(r"in/a\.png .* 38% 1/4 0\.25 MP/s ETA", last), last
    console.finish()
    assert screen.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in screen.getvalue(), "the cursor is back"


def test_warnings_are_yellow_and_errors_red_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch)
    for mode in (Progress.NONE, Progress.BAR):
        console = Console(mode)
        console.start(1)
        console.warn("w")
        console.error("e")
        console.info("i")
        console.finish()
        assert "\x1b[33mwarning: w\x1b[0m" in screen.getvalue() and "\x1b[31merror: e\x1b[0m" in screen.getvalue()
        assert "m" + "i\x1b" not in screen.getvalue()
        screen.truncate(0)
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(Progress.NONE)
    console.warn("w")
    assert "\x1b" not in screen.getvalue()


def test_lines_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_of(monkeypatch, 40)
    console = Console(Progress.NONE)
    console.info("  in/a-long-name-of-a-file.png: the file ends before its image does; copy it again")
    lines = screen.getvalue().splitlines()
    assert len(lines) == 3 and all(line.startswith("  ") and len(line) <= 40 for line in lines)
    assert " ".join(line.strip() for line in lines).endswith("copy it again")


def test_a_bar_that_is_abandoned_leaves_the_line_and_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()

    class Real(Terminal):
        def fileno(self) -> int:
            return write

    monkeypatch.setattr(sys, "stderr", Real())
    console = Console(Progress.BAR)
    console.start(1)
    console.abandon()
    console.finish()
    console.abandon()
    os.close(write)
    assert os.read(read, 100) == b"\r\x1b[2K\x1b[?25h"
    os.close(read)


@pytest.mark.parametrize("mode", [Progress.BAR, Progress.NONE])
def test_names_of_files_are_neither_images_nor_orders_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, mode: Progress
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(mode)
    console.start(1)
    console.warn("in/a:cat:b.png\x1b]0;title\x07\x9b2J c\nd")
    console.finish()
    assert "warning: in/a:cat:b.png\\x1b]0;title\\x07\\x9b2J c\\x0ad\x1b[0m" in terminal.getvalue()


def test_quiet_leaves_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(Progress.LINES, quiet=True)
    console.start(1)
    console.info("i")
    console.update(1)
    console.warn("w")
    console.error("e")
    console.finish()
    assert capsys.readouterr().err == "warning: w\nerror: e\n"


def test_details_only_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    Console(verbose=False).detail("d")
    Console(verbose=True).detail("v")
    assert capsys.readouterr().err == "v\n"


def test_a_sign_of_life_without_news(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.02)
    console = Console(Progress.LINES)
    console.start(2, "loading the model")
    waiting = threading.Event()
    waiting.wait(0.3)
    console.finish()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"Progress: 0% (0/2 images done, loading the model)"}
    waiting.wait(0.1)
    assert capsys.readouterr().err == ""


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console = Console()
    console.info("x")
    console.out("y")


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    console = Console()
    console.out("x" * 100)
    console.out("y")
    stream.close()


# --- the lines that render managers parse

# What each system's parser looks for.
PARSERS = {
    Progress.LINES: r"^Progress: (\d+)% \(",
    Progress.DEADLINE: r"^Progress: (\d+)%$",
    Progress.OPENJD: r"^openjd_progress: (\d+)$",
    Progress.TRACTOR: r"^TR_PROGRESS (\d+)%$",
}


def talk(mode: Progress, code: int, **settings: bool) -> None:
    console = Console(mode, **settings)
    console.start(8, "loading the model")
    console.finish()
    console.start(8)
    for done in (0, 0.5, 3, 2, 7.9):
        console.update(done)
    if code == 0:
        console.update(8)
    console.finish()
    console.ended(code, "in/a.png:\nno room")


@pytest.mark.parametrize("mode", PARSERS)
def test_percentages_never_fall_and_reach_the_end(mode: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    talk(mode, 0)
    out, err = capsys.readouterr()
    found = [int(number) for number in re.findall(PARSERS[mode], err, re.MULTILINE)]
    assert out == ""
    assert found == sorted(found) and len(set(found)) == len(found)
    assert found[0] == 0 and found[-1] == 100 and len(found) >= 4


@pytest.mark.parametrize(
    ("mode", "code", "last"),
    [
        (Progress.OPENJD, 0, "openjd_status: 8/8 images done"),
        (Progress.OPENJD, 5, "openjd_fail: in/a.png: no room"),
        (Progress.TRACTOR, 0, "TR_EXIT_STATUS 0"),
        (Progress.TRACTOR, 33, "TR_EXIT_STATUS 33"),
        (Progress.DEADLINE, 0, "Progress: 100%"),
        (Progress.DEADLINE, 5, "Progress: 98%"),
    ],
)
def test_the_end(mode: Progress, code: int, last: str, capsys: pytest.CaptureFixture[str]) -> None:
    talk(mode, code)
    assert capsys.readouterr().err.splitlines()[-1] == last


def test_nothing_to_do_is_a_whole_job(capsys: pytest.CaptureFixture[str]) -> None:
    Console(Progress.DEADLINE).ended(0, "")
    assert capsys.readouterr().err == "Progress: 100%\n"
    Console(Progress.LINES).ended(0, "")
    assert capsys.readouterr().err == ""


def test_a_dialect_asked_for_by_name_is_spoken_quietly_too(capsys: pytest.CaptureFixture[str]) -> None:
    talk(Progress.TRACTOR, 0, quiet=True)
    assert "TR_PROGRESS 100%" in capsys.readouterr().err
    talk(Progress.LINES, 0, quiet=True)
    assert capsys.readouterr().err == ""


def test_the_sign_of_life_is_a_line_the_parser_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.02)
    console = Console(Progress.DEADLINE)
    console.start(3, "loading the model")
    threading.Event().wait(0.3)
    console.finish()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and set(lines) == {"Progress: 0%"}
