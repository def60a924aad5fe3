"""The Slurm example under a real Slurm of one node (``-m slurm``); skipped where its programs are not installed."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fakes
import one_node_slurm
import pytest
from conftest import Ran, photo, rows, save, tree

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(one_node_slurm.missing()),
        reason=f"not installed: {', '.join(one_node_slurm.missing())} (Debian: slurmctld slurmd slurm-client munge)",
    ),
]
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "farm" / "slurm.sh"
COMMAND = """
import sys
sys.path.insert(0, {tests!r})
import fakes
from varestorer_cli.core.restore import session
from varestorer_cli.app import run
session.load_model = lambda *wanted: fakes.loaded(fakes.Slow(seconds={seconds}))
sys.exit(run(sys.argv[1:]))
"""
Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with one_node_slurm.one_node(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        save(Path(f"in/sub{i % 3}/{i:02}.png"), photo(9, 9, seed=i))
    return tmp_path


def program(here: Path, seconds: float = 0.0) -> str:
    """A command line that is the tool with a fake model behind it."""
    path = here / "tool.py"
    path.write_text(COMMAND.format(tests=str(ROOT / "tests"), seconds=seconds))
    return shlex.join([sys.executable, str(path)])


def submit(slurm: dict[str, str], *words: str, tool: str, **variables: str) -> str:
    """Submit; returns the job's number, with ``--wait`` after its end."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "models")))
    environment = {**slurm, "VARESTORER": tool, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}
    command = ["sbatch", "--parsable", "--gres=none", "--cpus-per-task=1", "--output=log-%j.txt", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    logs = "\n".join(path.read_text() for path in Path().glob("log-*.txt"))
    assert done.returncode == 0, f"{done.stderr}\n{logs}"
    return done.stdout.strip()


def images(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name.endswith(".png")}


def test_an_array_of_four_and_its_merge_do_what_one_run_does(slurm: dict[str, str], here: Path, cli: Cli) -> None:
    tool = program(here)
    array = submit(slurm, "--array=0-3", str(SCRIPT), "in", "out", tool=tool, PARTS="4")
    merge = f"{tool} restore --merge out"
    submit(slurm, "--wait", f"--dependency=afterany:{array}", f"--wrap={merge}", tool=tool)
    assert cli("restore", "in", "one").code == 0
    assert images(Path("out")) == images(Path("one")) and len(images(Path("one"))) == 12
    assert [row["output"] for row in rows(Path("out/metrics.csv"))] == [
        row["output"] for row in rows(Path("one/metrics.csv"))
    ]
    assert {row["shard"] for row in rows(Path("out/metrics.csv"))} == {"0/4", "1/4", "2/4", "3/4"}


def test_a_task_told_to_stop_is_put_back_and_goes_on(slurm: dict[str, str], here: Path, cli: Cli) -> None:
    job = submit(slurm, "--array=0-0", str(SCRIPT), "in", "out", tool=program(here, 0.4), PARTS="1")
    end = time.monotonic() + 120
    while not images(Path("out")) and time.monotonic() < end:
        time.sleep(0.05)
    # what --signal=TERM@120 does before the time limit: the steps are told, the batch script is not
    subprocess.run(["scancel", "--signal=TERM", f"{job}_0"], env=slurm, check=True)
    restarted = False
    while time.monotonic() < end:
        said = subprocess.run(["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=True)
        restarted |= "Restarts=1" in said.stdout
        if restarted and "JobState=COMPLETED" in said.stdout:
            break
        time.sleep(0.2)
    assert restarted, said.stdout
    assert "JobState=COMPLETED" in said.stdout
    assert cli("restore", "in", "one", model=fakes.FakeModel()).code == 0
    assert images(Path("out")) == images(Path("one"))


def test_the_step_gets_all_processors_of_its_task(slurm: dict[str, str], here: Path) -> None:
    """Since Slurm 22.05 ``srun`` does not take over ``--cpus-per-task`` by itself."""
    tool = here / "tool.sh"
    tool.write_text(
        '#!/bin/bash\nscontrol show step "$SLURM_JOB_ID.$SLURM_STEP_ID" > step\necho "$SRUN_CPUS_PER_TASK" > cpus\n'
    )
    tool.chmod(0o755)
    submit(slurm, "--wait", "--array=0-0", "--cpus-per-task=3", str(SCRIPT), "in", "out", tool=str(tool), PARTS="1")
    assert " CPUs=3 " in Path("step").read_text()
    assert Path("cpus").read_text() == "3\n"
