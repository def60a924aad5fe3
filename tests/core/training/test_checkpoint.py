"""Checkpoints and logs of a run: what stays, what is refused, what a killed or full-disk run leaves."""

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import CheckpointError, OutputError
from varestorer_cli.core.training import checkpoint as module
from varestorer_cli.core.training.checkpoint import RunState, weights_sha256
from varestorer_cli.core.training.distributed import World
from varestorer_cli.core.training.ema import WeightAverage
from varestorer_cli.core.training.fsdp import DamagedError
from varestorer_cli.core.training.log import RunLog
from varestorer_cli.core.training.run_folder import checkpoints, remove_remains

IDENTITY: dict[str, Any] = {
    "stage": "teacher",
    "recipe": {"steps": 6, "learning_rate": 0.1, "losses": {"cross_entropy": 1.0}, "betas": [0.9, 0.97]},
    "frozen": {"tokenizer": "aa"},
}


QUIET = Console(Progress.NONE, quiet=True)


def state(keep: int = 2, **identity: Any) -> RunState:
    trained = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([{"params": list(trained.parameters()), "scale": 1.0}])
    return RunState(trained, optimizer, WeightAverage(trained, 0.9), {**IDENTITY, **identity}, keep=keep)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_checkpoints_stay(keep: int, tmp_path: Path) -> None:
    made = state(keep)
    for step in (9, 10, 100, 1000):
        made.save(tmp_path, step, World())
    assert [int(path.name[11:19]) for path in checkpoints(tmp_path)] == [1000, 100, 10][:keep]
    assert state().load(checkpoints(tmp_path)[0]) == (1000, {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": {**IDENTITY["recipe"], "losses": {"cross_entropy": 0.5}}},
         r"started with recipe.losses.cross_entropy = 1.0, now it is 0.5; repeat"),
        ({"frozen": {"tokenizer": "bb"}}, r"started with frozen.tokenizer = 'aa', now it is 'bb'; repeat"),
        ({"stage": "distill", "extra": 1}, r"started with extra = None, now it is 1 \(and 1 more\)"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_one_value_that_changed(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    state().save(tmp_path, 3, World())
    with pytest.raises(CheckpointError, match=message):
        state(**changed).load(checkpoints(tmp_path)[0])


def test_another_learning_rate_is_taken_and_named(tmp_path: Path) -> None:
    state().save(tmp_path, 3, World())
    other = state(recipe={**IDENTITY["recipe"], "learning_rate": 0.01})
    assert other.load(checkpoints(tmp_path)[0]) == (3, {"recipe.learning_rate": 0.1})


def test_weights_have_a_hash_of_their_own() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    before = weights_sha256(net)
    assert weights_sha256(net) == before
    with torch.no_grad():
        net.bias[0] += 1e-6
    assert weights_sha256(net) != before


def test_a_damaged_checkpoint_is_told_from_one_of_another_run(tmp_path: Path) -> None:
    state().save(tmp_path, 3, World())
    path = checkpoints(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DamagedError, match="damaged"):
        state().load(path)


def test_a_full_disk_is_an_error_that_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = state()
    made.save(tmp_path, 1, World())

    def full(values: object, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OutputError, match=r"cannot be written.*No space left.*--resume"):
        made.save(tmp_path, 2, World())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_00000001.pt"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from varestorer_cli.core.atomic import part_path\n"
        "folder = Path(sys.argv[1]); part_path(folder / 'checkpoint_00000002.pt').write_bytes(b'half')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    (tmp_path / ".checkpoint_00000003.part").mkdir()
    (tmp_path / ".checkpoint_00000003.part" / "__0_0.distcp").write_bytes(b"half")
    (tmp_path / "checkpoint_00000001.pt").write_bytes(b"whole")
    assert len(list(tmp_path.iterdir())) == 3
    remove_remains(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_00000001.pt"]


def rows(folder: Path) -> list[tuple[str, int, str]]:
    with (folder / "log.csv").open(newline="") as stream:
        return [(row["kind"], int(row["step"]), row["name"]) for row in csv.DictReader(stream)]


def test_steps_that_are_done_again_stand_once_in_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, 6, "tiles", QUIET) as log:
        for step in (1, 2, 3, 4):
            log.scalars(step, {"loss": float(step)}, 1)
            log.validation(step, {"psnr": 20.0})
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write("train,5,lo")  # killed within a line
    with RunLog(tmp_path, 2, 6, "tiles", QUIET) as log:
        log.validation(2, {"psnr": 20.0})
        for step in (3, 4):
            log.scalars(step, {"loss": -1.0}, 1)
    found = [(kind, step) for kind, step, name in rows(tmp_path) if name in ("loss", "psnr")]
    assert found == [
        ("train", 1), ("validation", 1), ("train", 2), ("validation", 2), ("train", 3), ("train", 4),
    ]  # fmt: skip


def test_tensorboard_drops_them_too(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    starts = (0, 1.0), (0, 2.0), (2, 3.0)  # the first was killed before its first checkpoint
    for start, (first, value) in enumerate(starts):
        with RunLog(tmp_path, first, 6, "tiles", QUIET) as log:
            log.validation(first, {"psnr": value})
            for step in range(first + 1, 5):
                log.scalars(step, {"loss": value}, 1)
                log.validation(step, {"psnr": value})
        # readers go by the second in the name, which these share
        newest = max(tmp_path.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
        newest.rename(tmp_path / f"events.out.tfevents.{1_700_000_000 + start}")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    trained, validated = (
        [(event.step, event.value) for event in events.Scalars(name)] for name in ("train/loss", "validation/psnr")
    )
    assert trained == [(1, 2), (2, 2), (3, 3), (4, 3)]
    assert validated == [(0, 2), (1, 2), (2, 3), (3, 3), (4, 3)]


def test_quiet_is_quiet_but_for_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, 0, 6, "tiles", QUIET) as log:
        log.scalars(1, {"loss": 1.0}, 1)
        log.validation(1, {"psnr": 20.0})
        assert capsys.readouterr().err == ""
        log.validation(2, {"psnr_over_noise": 0.01})
        log.validation(3, {"psnr_over_noise": 0.01})
    said = capsys.readouterr().err
    assert said.count("warning: step 2: random codes in place of the predicted ones cost the result 0.01 dB") == 1
    assert "step 3" not in said


def test_codes_that_count_are_no_reason_to_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, 0, 6, "tiles", QUIET) as log:
        log.validation(0, {"psnr_over_noise": 0.0})  # nothing is trained yet
        log.validation(2, {"psnr_over_noise": 1.5})
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, 6, "tiles", QUIET)
    (tmp_path / "log.csv").mkdir()
    with log, pytest.raises(OutputError, match=r"log\.csv: cannot be written.*--resume"):
        log.scalars(1, {"loss": 1.0}, 1)


def test_the_record_of_a_run_tells_how_it_was_started(tmp_path: Path) -> None:
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.presets import preset
    from varestorer_cli.core.training.record import write_record

    options = TrainOptions("prerestorer", tmp_path, tmp_path, seed=4)
    for rate in (0.1, 0.01):
        write_record(
            options, preset("smoke"), {"stage": "prerestorer", "recipe": {"learning_rate": rate}}, "cpu, fp32", 1
        )
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["stage"] == "prerestorer" and record["recipe"]["learning_rate"] == 0.01
    assert [start["learning_rate"] for start in record["starts"]] == [0.1, 0.01]
    assert record["config"]["recipes"]["distill"]["losses"] == preset("smoke").recipes["distill"].losses
    start = record["starts"][0]
    assert start["command"] == sys.argv and start["versions"]["torch"] == torch.__version__
    assert start["options"]["seed"] == 4 and start["device"] == "cpu, fp32" and "commit" in start


def test_a_size_limit_is_code_5_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    (tmp_path / "photos").mkdir()
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), image)
    words = f"{sys.executable} -m varestorer_cli train prerestorer photos -o run --preset smoke --crops 8 --steps 3 -q"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        ["bash", "-c", f"ulimit -f 24; {words} --cache cache --checkpoint-minutes 0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 5, ran.stderr
    assert "bug" not in ran.stderr and "cannot be written" in ran.stderr.lower().replace(
        "cannot write", "cannot be written"
    )
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert not left
    assert not (tmp_path / "run" / "run.json").exists() or json.loads((tmp_path / "run" / "run.json").read_text())
