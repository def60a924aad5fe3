"""What a render farm does to a batch: full disks, closed streams, strange surroundings, many processes at once.

The table in docs/farm.md says which test covers which promise; those that need a whole process or a file system of
their own are here.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from conftest import Ran, photo, rows, save, tree

ROOT = Path(__file__).resolve().parent.parent
Cli = Callable[..., Ran]

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import fakes
from varestorer_cli.core.restore import session
from varestorer_cli.app import run
session.load_model = lambda *wanted: fakes.loaded(fakes.Slow(seconds={seconds}))
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(count: int) -> None:
    for i in range(count):
        save(Path(f"in/{i:02}.png"), photo(8 + i % 5, 9, seed=i))


def command(*words: str, seconds: float = 0.0) -> str:
    """A shell command: the tool with a fake model in a process of its own."""
    program = Path("program.py")
    program.write_text(PROGRAM.format(tests=str(ROOT / "tests"), seconds=seconds))
    return shlex.join([sys.executable, str(program), "restore", "in", "out", "--threads", "1", *words])


def shell(line: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)


def test_strange_surroundings_and_a_reader_that_went_away() -> None:
    folder(3)
    Path("in/03.png").write_text("no image")
    surroundings = {
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "de_DE.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "HOME": "/proc/none",
    }
    line = f"umask 027; {command('--json')} | head -c 0; exit ${{PIPESTATUS[0]}}"
    done = shell(line, **surroundings)
    assert done.returncode == 1, done.stderr
    assert "\x1b" not in done.stderr and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert "Progress: 100% (4/4 images" in done.stderr
    assert {path.stat().st_mode & 0o777 for path in Path("out").iterdir()} == {0o640}
    assert len(rows(Path("out/metrics.csv"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_closed_streams_lose_nothing(redirect: str) -> None:
    folder(3)
    assert shell(f"{command('--json', '-v')} {redirect}").returncode == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["00.png", "01.png", "02.png", "metrics.csv"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A file system of 200 kB at ``out``; call it to mount it anew with other options."""
    point = tmp_path / "out"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(point)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems can be mounted by root only")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(point)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(point)], check=False)


def test_a_full_disk_and_a_read_only_one(cli: Cli, small_disk: Callable[[str], None]) -> None:
    for i in range(12):
        save(Path(f"in/{i:02}.png"), photo(60, 60, seed=i))
    ran = cli("restore", "in", "out")
    assert ran.code == 5
    assert "No space left on device" in ran.err and "free some space" in ran.err and "Traceback" not in ran.err
    finished = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    assert 0 < len(finished) < 12 and not list(Path("out").glob(".*"))
    small_disk("size=50m,ro")
    ran = cli("restore", "in", "out")
    assert ran.code == 5 and "out: nothing can be written there (Read-only file system)" in ran.err
    small_disk("size=50m,rw")
    ran = cli("restore", "in", "out")
    assert ran.code == 0 and f"{len(finished)} already up to date" in ran.err
    assert cli("restore", "in", "one").code == 0
    assert tree(Path("out")) == tree(Path("one"))
    assert finished.items() <= tree(Path("one")).items()


def test_a_killed_process_between_name_and_row_is_no_riddle_for_other_settings(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that got its name while the process died is ours: a changed setting redoes it."""
    from varestorer_cli.core.report.csv_file import ReportFile

    folder(2)
    assert cli("restore", "in", "out").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(ReportFile, "add", lambda self, row: None)
        patch.setattr(ReportFile, "close", lambda self: None)
        cli("restore", "in", "out", "--fidelity", "0.5")
    ran = cli("restore", "in", "out", "--fidelity", "0.25")
    assert "2 images restored, 0 failed" in ran.err and "kept" not in ran.err
    assert cli("restore", "in", "one", "--fidelity", "0.25").code == 0
    assert tree(Path("out")) == tree(Path("one"))


@pytest.mark.slow
def test_sixteen_shards_at_once(cli: Cli) -> None:
    folder(60)
    Path("in/notes.txt").write_text("x")
    line = command("-q")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    tasks = [
        subprocess.Popen([*shlex.split(line), "--shard", f"{i}/16"], env=environment, stderr=subprocess.PIPE)
        for i in range(16)
    ]
    for task in tasks:
        assert (task.communicate()[1], task.returncode) == (b"", 0)
    reports = sorted(Path("out").glob("metrics.*-of-16.csv"))
    assert len(reports) == 16
    touched = [row["output"] for report in reports for row in rows(report) if row["status"] == "done"]
    assert sorted(touched) == [f"{i:02}.png" for i in range(60)]
    assert not list(Path("out").glob(".*"))
    assert cli("restore", "--merge", "out").code == 0
    assert cli("restore", "in", "one", "--threads", "1").code == 0
    assert tree(Path("out")) == tree(Path("one"))
    differ = ("seconds", "peak_mb", "shard")
    merged, one = ([{k: v for k, v in row.items() if k not in differ} for row in rows(Path(name, "metrics.csv"))]
                   for name in ("out", "one"))  # fmt: skip
    assert merged == one


@pytest.mark.slow
@pytest.mark.parametrize("size", [(20000, 300), (300, 20000)])
def test_memory_does_not_grow_with_the_image(size: tuple[int, int]) -> None:
    """72 MB of output in 8 bit would be 288 MB as floats: no such copy of the whole is ever made."""

    def peak() -> float:
        """MB of the command alone."""
        done = shell(command("--scale", "2", "--tile", "32", "--overlap", "4", "--batch", "64"))
        assert done.returncode == 0, done.stderr
        return max(float(row["peak_mb"]) for row in rows(Path("out/metrics.csv")))

    save(Path("in/small.png"), photo(8, 8))
    small = peak()
    image: Any = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = photo(1, 50)[0, 7]
    image[::7, ::5] = 90
    save(Path("in/long.png"), image)
    assert peak() - small < 200


def test_the_table_of_promises_names_tests_that_exist() -> None:
    import re

    text = (ROOT / "docs" / "farm.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 25
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_the_model_of_the_fakes_is_deterministic(cli: Cli) -> None:
    """What the tests above compare would prove nothing otherwise."""
    folder(1)
    assert cli("restore", "in", "a", model=fakes.FakeModel()).code == 0
    assert cli("restore", "in", "b", "--fidelity", "0.5", model=fakes.FakeModel()).code == 0
    assert tree(Path("a")) != tree(Path("b"))  # the fingerprint differs, so files of other settings are told apart
