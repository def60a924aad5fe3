"""The lines that render managers parse."""

import re

import pytest

from varestorer_cli.core import console as module
from varestorer_cli.core.console import Console
from varestorer_cli.core.options import Progress

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
        (Progress.OPENJD, 0, "openjd_status: 8/8 pictures"),
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
    import threading

    threading.Event().wait(0.3)
    console.finish()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and set(lines) == {"Progress: 0%"}
