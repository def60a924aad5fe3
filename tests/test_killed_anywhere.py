"""A run is killed (SIGKILL) before each single operation on the output folder: nothing is lost, half, or left for ever.

The operations are the audit events of Python (open, rename, remove, mkdir, truncate ...) and ``os.fsync``; so every
place between the temporary file, its rename and the row of the report is one of them. One process imports the program
and forks a child for each kill and for each run after it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import photo, save
from safetensors import safe_open

OF_THE_RUN = (".csv", ".txt", ".html")
ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import json, os, signal, sys
sys.path.insert(0, {tests!r})
import fakes
import torch
torch.set_num_threads(1)
from varestorer_cli import app
from varestorer_cli.core import api
from varestorer_cli.core.image import reader, writer
from varestorer_cli.core.restore import batch, session
session.load_model = lambda *wanted: fakes.loaded(fakes.FakeModel())
events, kill_at, target = [], None, None

def meet(event, path):
    if target is None or not os.path.abspath(os.fsdecode(path)).startswith(target):
        return
    events.append([event, os.path.basename(os.fsdecode(path))])
    if len(events) - 1 == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate") and arguments:
        if isinstance(arguments[0], (str, bytes)):
            meet(event, arguments[0])
        if event == "os.rename":
            meet(event + " to", arguments[1])

def fsync(handle, real=os.fsync):
    meet("fsync", os.readlink(f"/proc/self/fd/{{handle}}"))
    real(handle)

sys.addaudithook(hook)
os.fsync = fsync
for line in sys.stdin:
    words, folder, at = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        target, kill_at = os.path.abspath(folder), at
        code = app.run(words)
        os.write(write, json.dumps([code, events]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    print(said or "[-9, []]", flush=True)
"""


class Server:
    """Runs of the command, each in a fork of one process that has imported it."""

    def __init__(self) -> None:
        Path("program.py").write_text(PROGRAM.format(tests=str(ROOT / "tests")))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "models")])}
        self.process = subprocess.Popen(
            [sys.executable, "program.py"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=Path("err").open("ab"),  # noqa: SIM115
            text=True,
        )

    def run(self, words: list[str], folder: str, kill_at: int | None = None) -> tuple[int, list[list[str]]]:
        """Exit code (-9 where it was killed), and operations on the folder with the names of their files."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([words, folder, kill_at]) + "\n")
        self.process.stdin.flush()
        code, events = json.loads(self.process.stdout.readline() or "[70, []]")
        return code, events


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    server = Server()
    yield server
    server.process.communicate()


def images(folder: Path) -> dict[str, bytes]:
    """Files that a user sees, without what the run writes about them."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.suffix not in OF_THE_RUN}


def check(server: Server, first: list[str], then: list[str], *, only_around: str = "") -> None:
    """Kill a run before each of its operations (those around one rename), look at what is there, and run it again.

    Args:
        server: runs the command.
        first: options of a run before.
        then: options of the run that is killed.
        only_around: name of the output around whose rename it is killed; "" kills everywhere.
    """
    Path("in/bad.png").write_text("no image")

    def words(out: str, more: list[str]) -> list[str]:
        return ["restore", "in", out, "-q", "--threads", "1", *(word.format(out=out) for word in more)]

    def prepare(out: str) -> dict[str, bytes]:
        if first:
            assert server.run(words(out, first), out)[0] == 1
        return images(Path(out))

    before = prepare("one")
    code, events = server.run(words("one", then), "one")
    assert code == 1, Path("err").read_text()
    after = images(Path("one"))
    numbers = range(len(events))
    if only_around:
        place = events.index(["os.rename to", only_around])
        assert [event for event, _ in events[place - 2 : place + 2]] == ["fsync", "os.rename", "os.rename to", "open"]
        numbers = range(place - 3, place + 4)
    for number in numbers:
        out, where = f"out{number}", (number, events[number])
        prepare(out)
        assert server.run(words(out, then), out, number)[0] == -9, where
        left = images(Path(out))
        assert before.keys() <= left.keys(), where
        for name, data in left.items():
            assert data in (before.get(name), after[name]), (where, name)
        code, _ = server.run(words(out, then), out)
        assert code == 1, (where, Path("err").read_text()[-2000:])
        assert images(Path(out)) == after, where
        assert not list(Path(out).rglob(".*")), where
        assert (Path(out) / "metrics.csv").read_bytes().count(b"\n") == len(after) + 2
        assert (Path(out) / "failed.txt").read_text().splitlines()[1:] == ["in/./bad.png"]


def test_a_kill_around_the_rename_loses_nothing(server: Server) -> None:
    save(Path("in/a.png"), photo(9, 12))
    check(server, [], [], only_around="a.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([], []),  # into an empty folder
        (["--fidelity", "0.5"], []),  # over outputs of other settings
        (["--fidelity", "0.5"], ["--existing", "overwrite", "--report", "{out}/page.html"]),
    ],
)
def test_a_kill_before_any_operation_loses_nothing(server: Server, first: list[str], then: list[str]) -> None:
    save(Path("in/a.png"), photo(9, 12))
    save(Path("in/sub/b.jpg"), photo(8, 9, seed=1))
    save(Path("in/c.tif"), photo(8, 9, seed=2))
    check(server, first, then)


def weights_hash(run: str) -> str:
    with safe_open(Path(run, "model.safetensors"), "np") as file:
        return str(file.metadata()["data_sha256"])


@pytest.mark.slow
def test_a_kill_before_any_operation_of_a_training_run_costs_steps_at_most(server: Server) -> None:
    """With a checkpoint per step: resumed, it ends with the very weights of the run that nobody killed."""
    for number in range(3):
        save(Path(f"photos/{number}.png"), photo(160, 200, seed=number))
    words = (
        "train prerestorer photos --preset smoke --steps 2 --crops 8 --cache cache --sample-every 2 --log-every 1 -q"
    )
    words += " --checkpoint-minutes 0.0001 --threads 1 --device cpu --resume --out"

    code, events = server.run([*words.split(), "whole"], "whole")
    assert code == 0, Path("err").read_text()
    names, weights = {path.name for path in Path("whole").iterdir()}, weights_hash("whole")
    assert len([event for event in events if event[0] == "os.rename"]) >= 2 + 2
    for number, event in enumerate(events):
        if event[1].startswith("events.out"):  # written by a thread of tensorboard
            continue
        out, where = f"out{number}", (number, event)
        assert server.run([*words.split(), out], out, number)[0] in (-9, 0), where
        assert server.run([*words.split(), out], out)[0] == 0, (where, Path("err").read_text()[-2000:])
        assert weights_hash(out) == weights, where
        left = {path.name for path in Path(out).iterdir() if not path.name.startswith("events.out")}
        assert left == {name for name in names if not name.startswith("events.out")}, where
        steps = [line.split(",")[1] for line in Path(out, "log.csv").read_text().splitlines() if ",loss," in line]
        assert steps == ["1", "2"], where
