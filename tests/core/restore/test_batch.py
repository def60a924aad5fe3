"""Files to files: faults, resuming, and processes killed at any moment.

The subject is files, so fakes stand where the result of the model does not matter, and a slow one where a process must
be met at work; what is drawn from the seed is drawn for the bundled ``mini``.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from conftest import Ran, load, photo, rows, save, tree

from varestorer_cli.core.console import Console
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.errors import ExitCode, InterruptedRunError, OutOfMemoryError, OutputError
from varestorer_cli.core.image import reader
from varestorer_cli.core.inputs.plan import make_plan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore import batch, encode_stage
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import BatchContext, PixelBudget, Reporting
from varestorer_cli.core.signals import StopFlag
from varestorer_cli.core.weights.model_file import load_restorer

ROOT = Path(__file__).resolve().parents[3]


def folder(path: Path, count: int = 5) -> Path:
    for i in range(count):
        save(path / f"{i:02}.png", photo(8 + i, 9, seed=i))
    return path


def run(source: Path, out: Path, model: Any = None, **settings: Any) -> BatchReport:
    """Restore a folder in this process; returns the report."""
    options = settings.pop("options", RestoreOptions())
    plan = make_plan([str(source)], str(out), format=options.format, shard=options.shard)
    engine = settings.pop("engine", None) or RestoreEngine(model or fakes.FakeModel(), EngineOptions())
    file = ReportFile(out / "metrics.csv")
    file.open()
    own = {name: settings.pop(name) for name in ("on_row", "report") if name in settings}
    reporting = Reporting(file, Console(quiet=True), **own)
    try:
        return run_batch(plan, engine, BatchContext("fake", "0" * 64), options, reporting, **settings)
    finally:
        file.close()


def test_every_image_once_in_order(tmp_path: Path) -> None:
    seen: list[Row] = []
    report = run(folder(tmp_path / "in"), tmp_path / "out", on_row=seen.append)
    assert [row.output for row in seen] == [f"{i:02}.png" for i in range(5)]
    assert report.count("done") == 5
    assert load(tmp_path / "out" / "03.png").shape == (44, 36, 3)
    assert report.megapixels == pytest.approx(sum((8 + i) * 9 * 16 for i in range(5)) / 1e6)


def test_rows_are_complete(tmp_path: Path) -> None:
    run(folder(tmp_path / "in", 1), tmp_path / "out")
    (row,) = rows(tmp_path / "out" / "metrics.csv")
    empty = {name for name, value in row.items() if value == ""}
    assert empty == {"reason", "peak_mb", "shard", "warnings", "oom_split", "transfer", "caption"}
    assert (row["width"], row["height"], row["out_width"], row["out_height"]) == ("9", "8", "36", "32")
    assert (row["tile"], row["tiles"], row["retries"], row["scale"]) == ("32", "2", "0", "4")
    assert float(row["consistency_psnr"]) > 25 and float(row["mean_colour_error"]) < 2
    assert len(row["input_sha256"]) == len(row["output_sha256"]) == 64


def test_a_bug_in_the_model_fails_its_images_and_is_said(tmp_path: Path) -> None:
    report = run(folder(tmp_path / "in", 2), tmp_path / "out", fakes.Broken())
    assert [row.reason for row in report.rows] == ["unexpected ZeroDivisionError: division by zero"] * 2
    assert report.exit_code() == ExitCode.INTERNAL
    assert tree(tmp_path / "out") == {}


def test_out_of_memory_ends_the_run_and_writes_nothing(tmp_path: Path) -> None:
    report = BatchReport()
    with pytest.raises(OutOfMemoryError):
        run(folder(tmp_path / "in"), tmp_path / "out", fakes.Hungry(), report=report)
    assert tree(tmp_path / "out") == {}


def test_what_was_finished_before_is_reported(tmp_path: Path) -> None:
    class Later(fakes.Hungry):
        def restore(self, degraded: Any, settings: Any) -> Any:
            return degraded if len(self.calls) < 8 else super().restore(degraded, settings)

    report = BatchReport()
    with pytest.raises(OutOfMemoryError):
        run(folder(tmp_path / "in"), tmp_path / "out", Later(), report=report)
    done = [row.output for row in report.rows if row.status == "done"]
    assert done and sorted(tree(tmp_path / "out")) == sorted(done)
    assert [row["output"] for row in rows(tmp_path / "out" / "metrics.csv")] == sorted(done)


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encode_stage.write_image

    def full(stream: Any, output: Any, *more: Any) -> None:
        plain(stream, output, *more)
        if output.height == 40:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode_stage, "write_image", full)
    with pytest.raises(OutputError, match=r"02.png: cannot be written \(No space left on device\)"):
        run(folder(tmp_path / "in"), tmp_path / "out")
    assert {"00.png", "01.png"} <= set(tree(tmp_path / "out"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_disk_that_is_full_only_for_the_last_image_ends_the_run_too(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encode_stage.write_image

    def full(stream: Any, output: Any, *more: Any) -> None:
        plain(stream, output, *more)
        if output.height == 4 * (8 + count - 1):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode_stage, "write_image", full)
    with pytest.raises(OutputError, match=f"0{count - 1}.png: cannot be written"):
        run(folder(tmp_path / "in", count), tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {f"{i:02}.png" for i in range(count - 1)}


def test_stopping_rolls_the_current_image_back(tmp_path: Path) -> None:
    stop = StopFlag()

    class Stopping(fakes.FakeModel):
        def restore(self, degraded: Any, settings: Any) -> Any:
            if len(self.calls) == 6:
                stop.request(ExitCode.TERMINATED)
            return degraded

    report = BatchReport()
    with pytest.raises(
        InterruptedRunError, match=r"stopped: \d of 5 images are dealt with.*run the same command"
    ) as error:
        run(folder(tmp_path / "in"), tmp_path / "out", Stopping(), stop=stop, report=report)
    assert error.value.exit_code == ExitCode.TERMINATED
    done = sorted(tree(tmp_path / "out"))
    assert 1 <= len(done) < 5
    assert [row.output for row in report.rows] == done


def test_the_budget_lets_one_large_image_through_and_blocks_the_next() -> None:
    budget = PixelBudget(10, lambda: False)
    budget.take(50)
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (budget.take(1), passed.set()))
    thread.start()
    assert not passed.wait(0.05)
    budget.give(50)
    assert passed.wait(2)
    thread.join()


def test_a_tiny_budget_only_slows_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BUDGET_PIXELS", 1)
    assert run(folder(tmp_path / "in"), tmp_path / "out").count("done") == 5


# --- resuming


def test_a_second_run_does_nothing_and_touches_nothing(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in"), tmp_path / "out"
    run(source, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    model = fakes.FakeModel()
    report = run(source, out, model)
    assert report.count("skipped") == 5 and not model.calls
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")} == before
    measured = rows(out / "metrics.csv")
    assert [row["status"] for row in measured] == ["skipped"] * 5
    assert all(row["consistency_psnr"] and row["seconds"] for row in measured)  # of the first run


@pytest.mark.parametrize("with_report", [True, False])
def test_only_what_is_stale_is_redone(tmp_path: Path, with_report: bool) -> None:
    source, out = folder(tmp_path / "in"), tmp_path / "out"
    run(source, out)
    save(source / "01.png", photo(9, 9, seed=77))
    (out / "02.png").unlink()
    (out / "03.png").write_bytes((out / "03.png").read_bytes()[:-40])
    (out / "04.png").write_bytes(b"")
    if not with_report:
        (out / "metrics.csv").unlink()
    report = run(source, out)
    assert {row.output: row.status for row in report.rows} == {
        "00.png": "skipped",
        "01.png": "done",
        "02.png": "done",
        "03.png": "done",
        "04.png": "done",
    }
    undisturbed = tmp_path / "new"
    run(source, undisturbed)
    assert tree(out) == tree(undisturbed)


@pytest.mark.parametrize("with_report", [True, False])
@pytest.mark.parametrize("changed", [{"fidelity": 0.5}, {"strip": True}])
def test_changed_settings_redo(tmp_path: Path, with_report: bool, changed: dict[str, Any]) -> None:
    source, out = folder(tmp_path / "in", 2), tmp_path / "out"
    run(source, out)
    if not with_report:
        (out / "metrics.csv").unlink()
    assert run(source, out, options=RestoreOptions(**changed)).count("done") == 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_files_of_every_format_are_recognised_without_a_report(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "in" / f"a{suffix}", photo())
    out = tmp_path / "out"
    run(tmp_path / "in", out)
    (out / "metrics.csv").unlink()
    assert run(tmp_path / "in", out).count("skipped") == 1


def test_a_changed_file_too_large_to_be_decoded_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of photographs of 17 megapixels are: what cannot be looked at is not damaged."""
    monkeypatch.setattr(reader, "MOST_PIXELS", 500)
    source, out = folder(tmp_path / "in", 2), tmp_path / "out"
    run(source, out)
    mine = save(out / "00.png", photo(30, 30))
    report = run(source, out)
    assert "changed after it was written" in report.rows[0].reason
    assert load(mine).shape == (30, 30, 3)
    (out / "metrics.csv").unlink()
    (out / "00.png").unlink()
    assert [row.status for row in run(source, out).rows] == ["done", "skipped"]
    (out / "metrics.csv").unlink()
    (out / "01.png").write_bytes((out / "01.png").read_bytes()[:-30])  # a file that was cut off is done again
    assert [row.status for row in run(source, out).rows] == ["skipped", "done"]


def test_foreign_and_changed_files_are_never_replaced(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in", 3), tmp_path / "out"
    run(source, out)
    mine = save(out / "00.png", photo(3, 3))
    report = run(source, out, options=RestoreOptions(fidelity=0.5))
    assert [row.status for row in report.rows] == ["skipped", "done", "done"]
    assert "changed after it was written; kept (--existing overwrite replaces it)" in report.rows[0].reason
    assert load(mine).shape == (3, 3, 3)
    assert report.kept == [report.rows[0]]
    other = tmp_path / "other"
    theirs = save(other / "00.png", photo(5, 5))
    report = run(source, other)
    assert "was not made by varestorer" in report.rows[0].reason
    assert load(theirs).shape == (5, 5, 3)


# --- killed at any moment

_VICTIM = """
import sys
sys.path.insert(0, {tests!r})
import fakes
from varestorer_cli.core.restore import session
from varestorer_cli.app import run
session.load_model = lambda model, device, weights: fakes.loaded(fakes.Slow(sampling="sample", seconds={seconds}))
print("ready", flush=True)
sys.exit(run(sys.argv[1:]))
"""


def victim(source: Path, out: Path, seconds: float = 0.01) -> "subprocess.Popen[str]":
    program = _VICTIM.format(tests=str(ROOT / "tests"), seconds=seconds)
    words = [sys.executable, "-c", program, "restore", str(source), str(out), "--batch", "1", "--threads", "1"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def check_resumed(source: Path, out: Path, cli: Callable[..., Ran]) -> None:
    ran = cli("restore", source, out, "--threads", "1", model=fakes.FakeModel(sampling="sample"))
    assert ran.code == 0, ran.err
    undisturbed = out.with_name("undisturbed")
    assert cli("restore", source, undisturbed, "--threads", "1", model=fakes.FakeModel(sampling="sample")).code == 0
    assert tree(out) == tree(undisturbed)
    assert len(rows(out / "metrics.csv")) == len(list(source.rglob("*.png")))
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("finished", [0, 2])
def test_killed_and_started_again(tmp_path: Path, cli: Callable[..., Ran], finished: int) -> None:
    source, out = folder(tmp_path / "in", 8), tmp_path / "out"
    process = victim(source, out)
    wait_for(lambda: (out / "metrics.csv").exists() and len(list(out.glob("*.png"))) >= finished)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    check_resumed(source, out, cli)


@pytest.mark.slow
def test_killed_at_fifty_random_moments(tmp_path: Path, cli: Callable[..., Ran]) -> None:
    source, out = folder(tmp_path / "in", 60), tmp_path / "out"
    dice = random.Random(0)
    for _ in range(50):
        process = victim(source, out, seconds=0.002)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.uniform(0, 3))
        process.kill()
        process.communicate()
    check_resumed(source, out, cli)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop(tmp_path: Path, cli: Callable[..., Ran], number: signal.Signals, code: int) -> None:
    source, out = folder(tmp_path / "in", 12), tmp_path / "out"
    process = victim(source, out, seconds=0.03)
    wait_for(lambda: len(list(out.glob("*.png"))) >= 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "stopping after this tile" in err and "run the same command again for the rest" in err
    assert "Traceback" not in err
    assert not list(out.rglob("*.part"))
    finished = {path.name for path in out.glob("*.png")}
    assert {row["output"] for row in rows(out / "metrics.csv")} == finished
    assert 1 <= len(finished) < 12
    check_resumed(source, out, cli)


def test_noise_is_the_same_whatever_the_order_and_the_company(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 4)

    def noisy(out: str, *names: str, reverse: bool = False) -> dict[str, bytes]:
        plan = make_plan(
            ["-"], str(tmp_path / out), read_stdin=lambda: "\n".join(f"{source}/./{n}" for n in names).encode()
        )
        if reverse:
            plan.jobs.reverse()
        file = ReportFile(None)
        engine = RestoreEngine(load_restorer("mini").restorer, EngineOptions(sampling="sample"))
        reporting = Reporting(file, Console(quiet=True))
        run_batch(plan, engine, BatchContext("fake", "0" * 64), RestoreOptions(), reporting)
        return tree(tmp_path / out)

    names = [f"{i:02}.png" for i in range(4)]
    together = noisy("a", *names)
    assert together == noisy("b", *names, reverse=True)
    assert {"02.png": together["02.png"]} == noisy("c", "02.png")
    assert len({np.asarray(load(tmp_path / "a" / n)).mean() for n in names}) == 4


def test_images_share_calls_and_fail_alone(tmp_path: Path) -> None:
    """Eleven images of one tile, four tiles per call; the sixth file is broken."""
    source = tmp_path / "in"
    for number in range(11):
        save(source / f"{number:02}.png", photo(8, 8, seed=number))
    (source / "05.png").write_bytes(b"no image")
    model = fakes.FakeModel()
    report = run(source, tmp_path / "out", model, engine=RestoreEngine(model, EngineOptions(batch=4)))
    assert [call["shape"][0] for call in model.calls] == [4, 4, 1, 1]
    found = {row.output: row for row in report.rows}
    assert found["05.png"].status == "failed" and report.count("done") == 10
    assert [found[f"{n:02}.png"].calls for n in (0, 8, 9, 10)] == ["4", "4", "1", "1"]
    for number in (0, 6, 10):
        expected = RestoreEngine(fakes.FakeModel(), EngineOptions()).restore(
            ImageTask(photo(8, 8, seed=number), (32, 32), dtype=np.uint8)
        )
        np.testing.assert_array_equal(load(tmp_path / f"out/{number:02}.png"), expected.image)


def test_looking_ahead_never_waits_for_room_that_only_the_image_at_work_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BUDGET_PIXELS", 2000)  # one image of 8x8 -> 32x32 is 1088
    source = tmp_path / "in"
    for number in range(6):
        save(source / f"{number}.png", photo(8, 8, seed=number))
    model = fakes.FakeModel()
    report = run(source, tmp_path / "out", model, engine=RestoreEngine(model, EngineOptions(batch=4)))
    assert report.count("done") == 6
