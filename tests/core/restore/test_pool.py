"""Several processes on one queue; CPU workers stand in for GPUs. Fakes die and fail, the bundled ``mini`` restores."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import fakes
import pytest
from conftest import photo, rows, save, tree

from varestorer_cli.core.choices import Progress, Sampling
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, MissingDependencyError, OutOfMemoryError, UsageError
from varestorer_cli.core.options import RestoreOptions, RestoreRequest
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore import session
from varestorer_cli.core.restore.run import run_restore
from varestorer_cli.core.runtime import several


class Deadly(fakes.FakeModel):
    """Kills its process at one image: while a marker file is there, or always where there is none to remove."""

    def restore(self, degraded: Any, settings: dict[str, Any]) -> Any:
        marker = Path(os.environ["DEADLY_MARKER"])
        if float(degraded.mean()) > 0.95 and (not marker.suffix or marker.exists()):
            if marker.suffix:
                marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return degraded


def load_hungry(model: str, device: str, weights: str | None) -> Any:
    return fakes.loaded(fakes.Hungry())


def load_deadly(model: str, device: str, weights: str | None) -> Any:
    return fakes.loaded(Deadly())


def load_nothing(model: str, device: str, weights: str | None) -> Any:
    os._exit(9)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        save(Path(f"in/{i}.png"), photo(8 + i, 9, seed=i))


def run(monkeypatch: pytest.MonkeyPatch, load: Any, out: str = "out", **options: Any) -> BatchReport:
    monkeypatch.setattr(session, "load_model", load)
    options.setdefault("gpus", "cpu,cpu")
    return run_restore(RestoreRequest(("in",), out), RestoreOptions(threads=2, **options), Console(Progress.LINES))


def test_two_processes_make_what_one_makes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/bad.png").write_text("no image")
    drawn = {"model": "mini", "sampling": Sampling.SAMPLE}
    report = run(monkeypatch, session.load_model, **drawn)
    err = capsys.readouterr().err
    assert (report.count("done"), report.count("failed")) == (6, 1)
    assert "error: in/bad.png: text, not an image" in err and "Progress: 100% (7/7 images" in err
    run(monkeypatch, session.load_model, out="one", gpus=None, **drawn)
    assert tree(Path("out")) == tree(Path("one"))
    pooled, alone = rows(Path("out/metrics.csv")), rows(Path("one/metrics.csv"))
    same = [name for name in pooled[0] if name not in ("seconds", "peak_mb")]
    assert [[row[n] for n in same] for row in pooled] == [[row[n] for n in same] for row in alone]
    again = run(monkeypatch, session.load_model, **drawn)
    assert (again.count("skipped"), again.count("failed")) == (6, 1)


@pytest.mark.slow
def test_a_dead_process_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("in/3.png"), photo(8, 9) // 255 + 254)
    marker = tmp_path / "once.marker"
    marker.touch()
    monkeypatch.setenv("DEADLY_MARKER", str(marker))
    report = run(monkeypatch, load_deadly, gpus="cpu,cpu")
    # what the dead process had written and not yet told is found up to date
    assert report.count("done") + report.count("skipped") == 6 and not marker.exists()
    assert "the process for cpu died (signal 9)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_image_that_kills_every_process_fails_and_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("in/3.png"), photo(8, 9) // 255 + 254)
    monkeypatch.setenv("DEADLY_MARKER", "always")
    report = run(monkeypatch, load_deadly)
    failed = [row for row in report.rows if row.status == "failed"]
    assert "in/3.png" in {row.input for row in failed}
    assert all("3 processes died" in row.reason for row in failed)
    assert report.total == 6


@pytest.mark.slow
def test_a_process_that_dies_at_its_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match=r"died while it loaded the model \(exit code 9\)"):
        run(monkeypatch, load_nothing)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemoryError, match="one tile of 32x32 does not fit") as error:
        run(monkeypatch, load_hungry)
    assert error.value.exit_code == ExitCode.OUT_OF_MEMORY
    assert tree(Path("out")).keys() <= {"failed.txt"}


def test_device_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert several("all") == ("cuda:0", "cuda:1", "cuda:2")
    assert several("2") == ("cuda:0", "cuda:1")
    assert several("0,2") == ("cuda:0", "cuda:2")
    assert several("cpu,cpu") == ("cpu", "cpu")
    with pytest.raises(MissingDependencyError, match="3 are visible"):
        several("4")
    for text in ("0", "two", "1;2", "-1", ""):
        with pytest.raises(UsageError, match="--gpus"):
            several(text)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(MissingDependencyError, match="leave --gpus out"):
        several("all")
    with pytest.raises(UsageError, match="contradict"):
        RestoreOptions(gpus="all", device="cpu")


@pytest.mark.slow
def test_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from varestorer_cli.core.errors import InterruptedRunError

    def stop_soon() -> None:
        end = time.monotonic() + 60
        while not list(Path("out").glob("*.png")) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    for i in range(6, 60):
        save(Path(f"in/{i}.png"), photo(30, 30, seed=i))
    threading.Thread(target=stop_soon).start()
    with pytest.raises(InterruptedRunError, match=r"stopped: \d+ of 60") as error:
        run(monkeypatch, load_slow)
    assert error.value.exit_code == ExitCode.TERMINATED
    finished = {path.name for path in Path("out").glob("*.png")}
    assert {row["output"] for row in rows(Path("out/metrics.csv"))} == finished
    assert not list(Path("out").glob(".*"))


def load_slow(model: str, device: str, weights: str | None) -> Any:
    return fakes.loaded(fakes.Slow(seconds=0.02))
