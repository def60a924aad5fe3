"""``restore --watch``: files that come while it runs, and its two ways to end."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, load, photo, rows, save, tree

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, InterruptedRunError, UsageError
from varestorer_cli.core.inputs.plan import Job, RestorePlan
from varestorer_cli.core.report.rows import DONE, Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore import watch
from varestorer_cli.core.signals import StopFlag

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_STEP", 0.005)


def test_what_is_there_is_restored_and_idle_time_ends_it(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    Path("in/bad.png").write_bytes(b"text")
    before = tree(Path("in"))
    ran = cli("restore", "in", "out", "--watch", "--idle", "0.1")
    assert ran.code == 1 and "1 restored, 1 failed; watching" in ran.err
    assert "1 image restored, 1 failed" in ran.err
    assert load(Path("out/a.png")).shape == (32, 32, 3)
    assert {row["input"]: row["status"] for row in rows(Path("out/metrics.csv"))} == {
        "in/a.png": "done",
        "in/bad.png": "failed",
    }
    assert tree(Path("in")) == before, "nothing is deleted"


def test_an_empty_folder_is_waited_for(cli: Cli) -> None:
    Path("in").mkdir()
    ran = cli("restore", "in", "out", "--watch", "--idle", "0.05")
    assert ran.code == 0 and "0 images restored, 0 failed" in ran.err


class Folder:
    """A run without images: what each look finds is a list of names; the last one stays."""

    def __init__(self, looks: list[dict[str, bytes]], stop: StopFlag | None = None) -> None:
        self.looks, self.number, self.stop = looks, 0, stop or StopFlag()
        self.restored: list[list[str]] = []
        self.report = BatchReport()

    def look(self) -> RestorePlan:
        files = self.looks[min(self.number, len(self.looks) - 1)]
        self.number += 1
        for name, data in files.items():
            path = Path(name)
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
                os.utime(path, ns=(0, self.number))
        if self.number > 30 and self.stop.code is None and self.idle is None:
            self.stop.request(ExitCode.TERMINATED)
        return RestorePlan(folder=Path("out"), jobs=[Job(name, name, Path("out") / name, name) for name in files])

    def restore(self, plan: RestorePlan) -> None:
        self.restored.append([job.input for job in plan.jobs])
        self.report.rows += [Row(input=job.input, status=DONE) for job in plan.jobs]

    def run(self, idle: float | None = 0.1) -> "Folder":
        self.idle = idle
        watch.watch_folders(self.look, self.restore, self.report, Console(Progress.NONE, quiet=True), self.stop, idle)
        return self


def test_files_that_come_later_are_restored_once() -> None:
    looks = [{"a": b"1"}] * 4 + [{"a": b"1", "b": b"2"}]
    assert Folder(looks).run().restored == [["a"], ["b"]]


def test_a_file_that_still_grows_is_left_to_the_next_look() -> None:
    looks: list[dict[str, bytes]] = [{"a": b"x" * size} for size in range(1, 6)]
    folder = Folder(looks).run()
    assert folder.restored == [["a"]] and folder.number > 5


def test_a_changed_file_is_restored_again() -> None:
    looks = [{"a": b"1"}] * 4 + [{"a": b"22"}]
    assert Folder(looks).run().restored == [["a"], ["a"]]


def test_a_signal_ends_it_with_its_code() -> None:
    folder = Folder([{"a": b"1"}])
    with pytest.raises(InterruptedRunError, match="stopped watching: 1 image restored") as caught:
        folder.run(idle=None)
    assert caught.value.exit_code is ExitCode.TERMINATED and folder.restored == [["a"]]


def test_a_look_that_fails_is_said_once_and_does_not_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder([{"a": b"1"}])
    fail = iter([True, True, False, False, False, False])
    whole = folder.look

    def look() -> RestorePlan:
        if next(fail, False):
            raise UsageError("a.png and a.jpg would both become a.png")
        return whole()

    folder.look = look  # type: ignore[method-assign]
    assert folder.run().restored == [["a"]]
    assert capsys.readouterr().err.count("would both become") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in", "out", "--watch", "--dry-run"], "--dry-run"),
        (["in", "out", "--watch", "--existing", "error"], "--existing error"),
        (["in/a.png", "b.png", "--watch"], "--watch looks into folders"),
        (["in", "out", "--idle", "3"], "add --watch"),
        (["in", "out", "--watch", "--idle", "-1"], "--idle -1"),
    ],
)
def test_what_cannot_be_watched_is_refused(cli: Cli, words: list[str], said: str) -> None:
    save(Path("in/a.png"), photo(8, 8))
    ran = cli("restore", *words)
    assert ran.code == 2 and said in ran.err and not Path("out").exists()
