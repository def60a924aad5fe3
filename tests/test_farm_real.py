"""The examples on a real Ray (``-m ray``) and under the Open Job Description's runner (``-m openjd``).

Skipped where ``ray[data]`` or ``openjd-cli`` is not installed: ``pip install 'ray[data]' openjd-cli``.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, photo, rows, save, tree

ROOT = Path(__file__).resolve().parent.parent
FARM = ROOT / "examples" / "farm"
OPENJD = shutil.which("openjd", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
COMMAND = """
import sys
sys.path.insert(0, {tests!r})
import fakes
from varestorer_cli.core.restore import session
from varestorer_cli.app import run
session.load_model = lambda *wanted: fakes.loaded(fakes.FakeModel())
sys.exit(run(sys.argv[1:]))
"""
Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "models"))))
    for i in range(5):
        save(Path(f"in/sub{i % 2}/{i}.png"), photo(9, 9, seed=i))
    return tmp_path


def images(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name.endswith(".png")}


def status(report: Path) -> dict[str, str]:
    return {row["input"].rpartition("/")[2]: row["status"] for row in rows(report)}


@pytest.mark.ray
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (pip install 'ray[data]')")
def test_ray_writes_what_the_command_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in/bad.png").write_text("no image")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    words = ["in", "out", "--model", "compact", "--actors", "1", "--batch", "2"]
    example = [sys.executable, str(FARM / "ray_rows.py"), *words]
    done = subprocess.run(example, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "6 images, 1 failed" in done.stderr
    single = [sys.executable, "-m", "varestorer_cli", "restore", "in", "one", "--model", "compact"]
    assert subprocess.run(single, capture_output=True, check=False, timeout=300).returncode == 1
    assert images(Path("out")) == images(Path("one")) and len(images(Path("one"))) == 5
    assert status(Path("out/metrics.csv")) == {**{f"{i}.png": "done" for i in range(5)}, "bad.png": "failed"}


@pytest.mark.openjd
@pytest.mark.skipif(OPENJD is None, reason="openjd is not installed (pip install openjd-cli)")
def test_openjd_runs_the_template(cli: Cli, here: Path) -> None:
    (here / "tool.py").write_text(COMMAND.format(tests=str(ROOT / "tests")))
    tool = shlex.join([sys.executable, str(here / "tool.py")])
    template, out = str(FARM / "openjd.yaml"), here / "o ut"
    parameters = {"Input": str(here / "in"), "Output": str(out), "Shards": "2", "Command": tool}
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    done = subprocess.run(
        [str(OPENJD), "run", template, *words], capture_output=True, text=True, check=False, timeout=300
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    # the runner marks lines of the dialect that it does not understand
    assert "openjd_progress: 100" in said and "openjd_status: " in said and "-- ERROR" not in said
    assert cli("restore", "in", "one").code == 0
    assert images(out) == images(Path("one")) and len(images(out)) == 5
    assert len(rows(out / "metrics.csv")) == 5


@pytest.mark.openjd
@pytest.mark.skipif(OPENJD is None, reason="openjd is not installed (pip install openjd-cli)")
def test_openjd_sees_a_failed_task(here: Path) -> None:
    Path("in/bad.png").write_text("no image")
    (here / "tool.py").write_text(COMMAND.format(tests=str(ROOT / "tests")))
    tool = shlex.join([sys.executable, str(here / "tool.py")])
    command = [str(OPENJD), "run", str(FARM / "openjd.yaml"), "-p", f"Input={here / 'in'}", "-p", f"Output={here}/out"]
    done = subprocess.run(
        [*command, "-p", "Shards=1", "-p", f"Command={tool}"], capture_output=True, text=True, check=False, timeout=300
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "openjd_fail: " in said and "-- ERROR" not in said
