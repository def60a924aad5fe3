"""The example scripts under a stub scheduler: it sets the variables, fills in the tokens and sends the signals."""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fakes
import pytest
from conftest import Ran, photo, rows, save, tree

ROOT = Path(__file__).resolve().parent.parent
FARM = ROOT / "examples" / "farm"
Cli = Callable[..., Ran]

# Notes its arguments and ends with the code it is told.
RECORDER = """#!/bin/bash
printf '%s\\0' "$@" >> words
exit ${CODE:-0}
"""
VICTIM = """
import sys
sys.path.insert(0, {tests!r})
import fakes
from varestorer_cli.core.restore import session
from varestorer_cli.app import run
session.load_model = lambda *wanted: fakes.loaded(fakes.Slow(seconds=0.03))
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the programs of a scheduler's node."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("varestorer", RECORDER),
        ("srun", '#!/bin/bash\nexec "$@"\n'),
        ("scontrol", '#!/bin/bash\necho "$@" >> scontrol.log\n'),
    ):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


def submit(script: str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(FARM / script), *words], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def recorded() -> list[str]:
    words = Path("words").read_bytes().decode().split("\0")[:-1]
    Path("words").unlink()
    return words


def slurm_task(index: int, count: int) -> dict[str, str]:
    return {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(index), "PARTS": str(count)}


def test_slurm_tasks_do_the_whole_and_merge(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        save(Path(f"in/{i}.png"), photo(5, 6, seed=i))
    for index in range(3):
        assert submit("slurm.sh", "in", "out", **slurm_task(index, 3)).returncode == 0
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        assert cli(*recorded()).code == 0
    assert cli("restore", "--merge", "out").code == 0
    assert [row["output"] for row in rows(Path("out/metrics.csv"))] == [f"{i}.png" for i in range(8)]


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (143, 3, True), (5, 0, True), (5, 1, False), (6, 0, False)],
)
def test_slurm_requeues_what_is_worth_it(code: int, restarts: int, requeued: bool) -> None:
    task = {**slurm_task(4, 32), "SLURM_RESTART_COUNT": str(restarts), "CODE": str(code)}
    assert submit("slurm.sh", "in", "out", **task).returncode == code
    assert Path("scontrol.log").exists() == requeued
    if requeued:
        assert Path("scontrol.log").read_text() == "requeue 77_4\n"


def test_slurms_directives_are_read_by_slurm() -> None:
    """Directives end at the first command."""
    lines = (FARM / "slurm.sh").read_text().splitlines()
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(directives) >= 6
    assert all(line.startswith("#") for line in lines[: directives[-1]])


def frames() -> None:
    for frame in (1, 2, 3, 5):
        save(Path(f"plates/plate.{frame:04}.png"), photo(5, 6, seed=frame))


def test_deadline_tasks(cli: Cli) -> None:
    frames()
    for start, end in ((1, 3), (4, 6)):  # the last chunk reaches beyond the shot, and frame 4 is missing
        submit("deadline.sh", str(start), str(end), "plates/plate.####.png", "up/plate.####.png")
        ran = cli(*recorded())
        assert ran.code == 0, ran.err
        percents = [line for line in ran.err.splitlines() if line.startswith("Progress: ")]
        assert percents[0] == "Progress: 0%" and percents[-1] == "Progress: 100%"
    assert "frames 4 are missing and left out" in ran.err and "frames 6 are left out" in ran.err
    assert sorted(path.name for path in Path("up").glob("*.png")) == [f"plate.{i:04}.png" for i in (1, 2, 3, 5)]
    assert sorted(path.name for path in Path("up").glob("*.csv")) == [
        "metrics.frames-1-3.csv",
        "metrics.frames-4-6.csv",
    ]
    assert cli("restore", "--merge", "up").code == 0
    assert len(rows(Path("up/metrics.csv"))) == 4


def test_opencue_frames_and_memory(cli: Cli) -> None:
    frames()
    submit("opencue.sh", "1-3", "plates/plate.%04d.png", "restored")
    words = recorded()
    ran = cli(*words, model=fakes.Hungry())
    assert ran.code == 33 and "does not fit" in ran.err
    assert cli(*words).code == 0
    assert len(list(Path("restored").glob("*.png"))) == 3


@pytest.mark.slow
def test_a_preempted_slurm_task_goes_on_after_its_requeue(cli: Cli, tmp_path: Path) -> None:
    for i in range(30):
        save(Path(f"in/{i:02}.png"), photo(9, 9, seed=i))
    program = tmp_path / "victim.py"
    program.write_text(VICTIM.format(tests=str(ROOT / "tests")))
    command = shlex.join([sys.executable, str(program)])
    variables = {**os.environ, **slurm_task(0, 2), "VARESTORER": command, "PYTHONPATH": str(ROOT)}
    # Slurm signals the steps, not the batch script: find the step by its own session.
    process = subprocess.Popen([str(FARM / "slurm.sh"), "in", "out"], env=variables, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while len(list(Path("out").glob("*.png"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert Path("scontrol.log").read_text() == "requeue 77_0\n"
    assert subprocess.run([str(FARM / "slurm.sh"), "in", "out"], env=variables, check=False).returncode == 0
    for index in range(2):
        assert cli("restore", "in", "out", "--shard", f"{index}/2", model=fakes.FakeModel()).code == 0
    assert cli("restore", "in", "one", model=fakes.FakeModel()).code == 0
    assert {n: d for n, d in tree(Path("out")).items() if n.endswith(".png")} == tree(Path("one"))


# --- Ray


class Rows:
    """As much of a Ray data set as the example uses."""

    def __init__(self, items: list[dict[str, str]]) -> None:
        self.items = items

    def map_batches(
        self, actor: Any, *, fn_constructor_args: tuple[Any, ...], batch_size: int, **resources: Any
    ) -> "Rows":
        assert set(resources) == {"concurrency", "num_gpus"}
        called = actor(*fn_constructor_args)
        found: list[dict[str, str]] = []
        for at in range(0, len(self.items), batch_size):
            columns = called({"path": [item["path"] for item in self.items[at : at + batch_size]]})
            found += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return Rows(found)

    def iter_rows(self) -> Iterator[dict[str, str]]:
        return iter(self.items)


def test_ray_rows(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from varestorer_cli.core.restore import session

    ray, data = ModuleType("ray"), ModuleType("ray.data")
    data.from_items = Rows  # type: ignore[attr-defined]
    ray.data = data  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(session, "load_model", lambda *wanted: fakes.loaded(fakes.FakeModel()))
    spec = importlib.util.spec_from_file_location("ray_rows", FARM / "ray_rows.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for i in range(5):
        save(Path(f"in/sub{i % 2}/{i}.png"), photo(5, 6, seed=i))
    Path("in/bad.png").write_text("no image")
    assert example.main(["in", "out", "--batch", "2"]) == 1
    assert "6 images, 1 failed" in capsys.readouterr().err
    assert cli("restore", "in", "one").code == 1
    assert {n: d for n, d in tree(Path("out")).items() if n.endswith("png")} == {
        n: d for n, d in tree(Path("one")).items() if n.endswith("png")
    }
    status = {row["input"].rpartition("/")[2]: row["status"] for row in rows(Path("out/metrics.csv"))}
    assert status == {**{f"{i}.png": "done" for i in range(5)}, "bad.png": "failed"}
