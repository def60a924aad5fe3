"""Training in several processes: the curve of one, whatever their number; stops and restarts."""

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist

from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.distributed import World, meeting, read_world
from varestorer_cli.core.training.run_folder import checkpoints

ROOT = Path(__file__).parents[3]
STAGES = ("prerestorer", "tokenizer", "teacher", "distill")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(5):
        coarse = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, (160, 128), interpolation=cv2.INTER_CUBIC))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(stage: str, photos: Path, run: Path, **options: Any) -> list[str]:
    named = {"preset": "smoke", "crops": 12, "threads": 1, "steps": 5, "log-every": 1, "device": "cpu"}
    named |= {"precision": "fp32"} | options  # in bf16, the default of some CPUs, shares of a batch round differently
    words = ["distill"] if stage == "distill" else ["train", stage]
    words += [str(photos), "--out", str(run / stage)]
    for name, value in named.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return [sys.executable, "-m", "varestorer_cli", *words]


def start(words: list[str], size: int, restarts: tuple[int, ...] = (0, 0, 0)) -> list["subprocess.Popen[str]"]:
    """The processes that torchrun would start, without it: its import alone takes seconds."""
    port = str(free_port())
    processes = []
    for rank in range(size):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if size > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RESTART_COUNT": str(restarts[rank]),
            }
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(words, cwd=ROOT, env=environment, text=True, stderr=pipe, stdout=pipe))
    return processes


def run(words: list[str], size: int, restarts: tuple[int, ...] = (0, 0, 0)) -> str:
    """Run to the end; returns what all processes said."""
    processes = start(words, size, restarts)
    said = [process.communicate(timeout=600)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * size, "\n".join(
        f"process {rank}: {code}\n{text}" for rank, (code, text) in enumerate(zip(codes, said, strict=True))
    )
    return "".join(said)


def curve(folder: Path) -> dict[tuple[str, str, int], float]:
    """Every logged figure that does not measure time; a step written again after a restart counts once."""
    with (folder / "log.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if not row["name"].endswith("per_second")]
    return {(row["kind"], row["name"], int(row["step"])): float(row["value"]) for row in rows}


def assert_same_curve(folder: Path, other: Path) -> None:
    ours, theirs = curve(folder), curve(other)
    assert ours.keys() == theirs.keys() and len(ours) > 5
    for key, value in ours.items():
        assert theirs[key] == pytest.approx(value, rel=2e-3, abs=1e-5), key


LEFT = """
import sys
from pathlib import Path
from varestorer_cli.app import run
from varestorer_cli.core.errors import InterruptedRunError
from varestorer_cli.core.training import trainer

outcome, *words = sys.argv[1:]
finish = trainer.Trainer.run
def broken(self):
    raise ValueError("the frame of this call holds the trainer")
def interrupted(self):
    finish(self)
    try:
        broken(self)
    except ValueError as error:
        raise InterruptedRunError("stopped by the test", 143) from error
if outcome == "interrupted":
    trainer.Trainer.run = interrupted
code = run(words)
threads = sorted(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
print(code, [name for name in threads if "gloo" in name])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux only")
@pytest.mark.parametrize(
    ("outcome", "stage", "parallel"),
    [
        ("done", "prerestorer", "auto"),
        ("interrupted", "prerestorer", "auto"),
        pytest.param("done", "teacher", "fsdp", marks=pytest.mark.slow),
    ],
)
def test_no_thread_of_the_connection_outlives_the_run(
    photos: Path, tmp_path: Path, outcome: str, stage: str, parallel: str
) -> None:
    options = {"batch": 2, "steps": 2, "crops": 6, "cache": tmp_path / "cache", "parallel": parallel}
    if stage == "teacher":
        run(command("tokenizer", photos, tmp_path, **options | {"parallel": "auto"}), 1)
    words = command(stage, photos, tmp_path, **options)[3:]
    processes = start([sys.executable, "-c", LEFT, outcome, *words], 2)
    ended = [process.communicate(timeout=600) for process in processes]
    for printed, said in ended:
        assert printed == f"{0 if outcome == 'done' else 143} []\n", said


def test_the_launcher_says_who_this_process_is() -> None:
    assert read_world({}) == World() and World().main
    place = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert read_world(place) == World(3, 4, 1, 2) and not read_world(place).main


def test_parts_of_a_batch_draw_the_numbers_of_the_whole() -> None:
    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    batch = PairBatch(images, images, torch.arange(7))

    def numbers(part: PairBatch) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return part.drawn(lambda whole: torch.rand(whole, 2, generator=generator))

    parts = [piece for part in batch.parts(2) for piece in part.parts(2)]
    assert [len(part) for part in parts] == [1, 2, 2, 2]
    assert torch.equal(torch.cat([part.hq for part in parts]), images)
    assert torch.equal(torch.cat([numbers(part) for part in parts]), numbers(batch))


def test_two_processes_follow_the_curve_of_one(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 3, "steps": 3, "cache": tmp_path / "cache"}  # one process has one sample, the other two
    run(command("prerestorer", photos, tmp_path / "1", **shared), 1)
    run(command("prerestorer", photos, tmp_path / "2", **shared), 2)
    assert_same_curve(tmp_path / "1" / "prerestorer", tmp_path / "2" / "prerestorer")


def meet(store: dist.Store, size: int, first: float = 0.0) -> list[str]:
    """What the processes of one start agree on; number 0 comes ``first`` seconds after the others, or before them."""
    names: dict[int, str] = {}

    def come(rank: int) -> None:
        time.sleep(max(first, 0) if rank == 0 else max(-first, 0))
        names[rank] = meeting(store, World(rank, size), timedelta(seconds=60))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [names[rank] for rank in range(size)]


@pytest.mark.parametrize("first", [0.2, -0.2], ids=["number 0 last", "number 0 first"])
def test_each_start_has_a_name_of_its_own_in_the_same_store(first: float) -> None:
    store = dist.HashStore()
    store.set("hello/1", "a process that died before it was answered")
    starts = [meet(store, size, first) for size in (3, 3, 2)]
    assert all(len(set(names)) == 1 for names in starts)
    assert len({names[0] for names in starts}) == 3


def test_processes_that_do_not_come_are_named() -> None:
    with pytest.raises(dist.DistStoreError, match=r"processes \[1, 2\] did not start within 0:00:00"):
        meeting(dist.HashStore(), World(0, 3), timedelta(microseconds=1))


@pytest.mark.slow
def test_any_number_of_processes_follows_the_curve_of_one_in_every_stage(photos: Path, tmp_path: Path) -> None:
    runs: dict[int, dict[str, Any]] = {1: {}, 2: {"accumulate": 2}, 3: {}}
    for size, changes in runs.items():
        for stage in STAGES:
            options = {"batch": 5, "cache": tmp_path / "cache", **changes}
            if stage == "tokenizer":
                options.pop("accumulate", None)  # its batch statistics are those of the part
            if stage in ("teacher", "distill"):  # all from the same earlier stages: only this stage is compared
                options |= {"teacher" if stage == "distill" else "tokenizer": tmp_path / "1" / earlier(stage)}
            if stage == "distill":
                options |= {"prerestorer": tmp_path / "1" / "prerestorer"}
            run(command(stage, photos, tmp_path / str(size), **options), size)
            assert_same_curve(tmp_path / "1" / stage, tmp_path / str(size) / stage)


def earlier(stage: str) -> str:
    return "teacher" if stage == "distill" else "tokenizer"


@pytest.mark.slow
def test_divided_weights_follow_the_curve_and_go_on_whole_and_divided(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 4, "steps": 6, "cache": tmp_path / "cache", "recompute": True}
    run(command("tokenizer", photos, tmp_path, cache=tmp_path / "cache"), 1)
    shared["tokenizer"] = tmp_path / "tokenizer"
    run(command("teacher", photos, tmp_path / "whole", **shared), 1)
    torn = command("teacher", photos, tmp_path / "torn", resume=True, **shared)
    folder = tmp_path / "torn" / "teacher"
    for size, checkpoint in ((1, "checkpoint_00000001.pt"), (2, "checkpoint_00000002"), (3, "checkpoint_00000003")):
        run([*torn, "--parallel", "fsdp", "--stop-after", "0"], size)  # one step each
        assert checkpoints(folder)[0].name == checkpoint and len(checkpoints(folder)) <= 2
    run(torn, 1)
    assert_same_curve_but_pauses(tmp_path / "whole" / "teacher", folder)
    ours, theirs = (load_file(tmp_path / name / "teacher" / "model.safetensors") for name in ("whole", "torn"))
    for key, tensor in ours.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_distillation_with_divided_student_and_teacher_follows_the_curve(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 4, "steps": 3, "cache": tmp_path / "cache"}
    for stage in STAGES[:3]:
        run(command(stage, photos, tmp_path, **shared), 1)
    shared |= {stage: tmp_path / stage for stage in ("prerestorer", "teacher")}
    run(command("distill", photos, tmp_path / "whole", **shared), 1)
    said = run(command("distill", photos, tmp_path / "divided", parallel="fsdp", accumulate=2, **shared), 2)
    assert "Warning" not in said
    assert_same_curve(tmp_path / "whole" / "distill", tmp_path / "divided" / "distill")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 4, "steps": 6, "cache": tmp_path / "cache"}
    run(command("tokenizer", photos, tmp_path / "whole", **shared), 1)
    torn = command("tokenizer", photos, tmp_path / "torn", resume=True, **shared)
    for size in (2, 3):
        run([*torn, "--stop-after", "0"], size)  # one step each
    run(torn, 1)
    assert_same_curve_but_pauses(tmp_path / "whole" / "tokenizer", tmp_path / "torn" / "tokenizer")


def assert_same_curve_but_pauses(whole: Path, torn: Path) -> None:
    """A pause validates, so the torn run has figures the whole one lacks."""
    expected, found = curve(whole), curve(torn)
    assert expected.keys() <= found.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2e-3, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_process_writes_a_checkpoint(rank: int, photos: Path, tmp_path: Path) -> None:
    processes = start(command("prerestorer", photos, tmp_path, batch=4, steps=100000), 2)
    wait_for_step(tmp_path / "prerestorer", 3)
    processes[rank].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    assert checkpoints(tmp_path / "prerestorer")
    assert not list((tmp_path / "prerestorer").glob(".*.part"))
    assert "a checkpoint was written" in said[rank] and "Traceback" not in said[rank]


def wait_for_step(folder: Path, step: int) -> None:
    for _ in range(3000):
        if (folder / "log.csv").exists() and ("train", "loss", step) in curve(folder):
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was never logged in {folder}")


@pytest.mark.slow
def test_killed_process_is_noticed_and_torchrun_starts_all_again(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 4, "steps": 40, "cache": tmp_path / "cache", "checkpoint-minutes": 0}
    run(command("prerestorer", photos, tmp_path / "whole", **shared), 1)
    words = command("prerestorer", photos, tmp_path / "torn", **shared)[1:]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*torchrun, "--max-restarts=1", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(tmp_path / "torn" / "prerestorer", 3)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    assert_same_curve(tmp_path / "whole" / "prerestorer", tmp_path / "torn" / "prerestorer")


@pytest.mark.slow
def test_a_restart_that_one_machine_counts_is_one_for_all(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 4, "steps": 4, "cache": tmp_path / "cache"}
    words = command("prerestorer", photos, tmp_path, **shared)
    run([*words, "--stop-after", "0"], 2)  # one step
    refused = [(p, p.communicate(timeout=600)[1]) for p in start(words, 2)]
    assert refused[0][0].returncode == 2 and "holds a run already" in refused[0][1]
    assert refused[1][0].returncode == 143  # told that the other is gone
    run(words, 2, restarts=(0, 1))
    assert ("train", "loss", 4) in curve(tmp_path / "prerestorer")


@pytest.mark.slow
def test_a_process_killed_on_one_machine_restarts_those_of_another(photos: Path, tmp_path: Path) -> None:
    shared = {"batch": 4, "steps": 40, "cache": tmp_path / "cache", "checkpoint-minutes": 0}
    run(command("prerestorer", photos, tmp_path / "whole", **shared), 1)
    words = command("prerestorer", photos, tmp_path / "torn", **shared)[1:]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=test"]
    machines = [
        subprocess.Popen(
            [*torchrun, *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    wait_for_step(tmp_path / "torn" / "prerestorer", 3)
    last = next(child for machine in machines for child in children(machine.pid) if b"\0RANK=1\0" in environment(child))
    os.kill(last, signal.SIGKILL)
    said = [machine.communicate(timeout=600)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert_same_curve(tmp_path / "whole" / "prerestorer", tmp_path / "torn" / "prerestorer")


def environment(pid: int) -> bytes:
    """The environment a process was started with (Linux)."""
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


def children(pid: int) -> list[int]:
    """Processes that a process started (Linux)."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
