"""The compiled model: when it is used, what it changes, and that a machine without a compiler loses nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from conftest import photo, save

from varestorer_cli.bench.gpu import build, sizes_of
from varestorer_cli.core.choices import Compile, Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.engine.compiled import CompiledModel
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions, TileInference
from varestorer_cli.core.inputs.plan import make_plan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import BatchContext, Reporting


class Compiler:
    """Stands for torch.compile: marks what it was asked for, and what ran compiled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.settings: list[dict[str, Any]] = []
        self.ran: list[tuple[int, ...]] = []
        self.error = error

    def __call__(self, model: Any, **settings: Any) -> Any:
        self.settings.append(settings)

        def run(tiles: torch.Tensor, **words: Any) -> Any:
            if self.error is not None:
                raise self.error
            self.ran.append(tuple(tiles.shape))
            return model(tiles, **words)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(torch, "compile", made)
    monkeypatch.setattr("varestorer_cli.core.engine.compiled.cache_folder", lambda: tmp_path)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return made


@pytest.mark.parametrize(
    ("device", "mode", "triton", "wanted"),
    [
        ("cpu", "auto", True, False),
        ("cpu", "on", False, True),
        ("cuda", "off", True, False),
        ("cuda:1", "auto", True, True),
        ("cuda:1", "auto", False, False),
        ("mps", "auto", True, False),
    ],
)
def test_when_it_is_compiled(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, device: str, mode: str, triton: bool, wanted: bool
) -> None:
    monkeypatch.setattr("varestorer_cli.core.engine.compiled.find_spec", lambda name: object() if triton else None)
    one = CompiledModel(fakes.FakeModel(), device, mode)
    assert one.is_compiled is wanted and len(compiler.settings) == wanted
    if wanted:
        graphs = "reduce-overhead" if device.startswith("cuda") else None
        assert compiler.settings[0] == {"fullgraph": True, "dynamic": False, "mode": graphs}


def test_results_outlive_the_next_call_of_a_graph(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A CUDA graph writes every result to the same place."""
    place = torch.empty(1, 3, 32, 32)

    class Graph(fakes.FakeModel):
        def restore(self, degraded: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
            return place.copy_(degraded)

    monkeypatch.setattr(TileInference, "calls_ahead", 2)
    task = ImageTask(photo(20, 20), (80, 80))
    made = RestoreEngine(Graph(), EngineOptions(compile="on")).restore(task).image
    np.testing.assert_array_equal(made, RestoreEngine(fakes.FakeModel(), EngineOptions()).restore(task).image)


def test_a_shape_is_compiled_when_it_comes_back(compiler: Compiler) -> None:
    one = RestoreEngine(fakes.FakeModel(), EngineOptions(batch=4, compile="on"))
    one.restore(ImageTask(photo(20, 20), (80, 80)))  # 4, 4 and 1 tiles
    assert compiler.ran == [(4, 3, 32, 32)]
    one.restore(ImageTask(photo(20, 20), (80, 80)))
    assert compiler.ran == [(4, 3, 32, 32)] * 3 + [(1, 3, 32, 32)]


def test_the_released_way_stays_plain(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varestorer_cli.core.engine.compiled.find_spec", lambda name: object())
    options = EngineOptions(device="cuda", compat="released", compile="auto")
    assert not RestoreEngine(fakes.FakeModel(), options).inference.compiled.is_compiled


def test_a_failure_goes_on_uncompiled_with_one_warning(
    compiler: Compiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler.error = RuntimeError("Failed to find C compiler.\nsecond line")
    for number in range(4):
        save(tmp_path / f"in/{number}.png", photo(8, 8, seed=number))
    engine = RestoreEngine(fakes.FakeModel(), EngineOptions(compile="on"))
    file = ReportFile(tmp_path / "out/metrics.csv")
    file.open()
    plan = make_plan([str(tmp_path / "in")], str(tmp_path / "out"))
    reporting = Reporting(file, Console(Progress.NONE))
    report = run_batch(plan, engine, BatchContext("fake", "0" * 64), RestoreOptions(), reporting)
    file.close()
    assert report.count("done") == 4 and report.count("failed") == 0
    said = capsys.readouterr().err
    assert said.count("Failed to find C compiler.") == 1 and "second line" not in said
    assert "goes on uncompiled (--compile off)" in said


def test_a_shortage_of_memory_is_no_failure_of_the_compiler(compiler: Compiler) -> None:
    compiler.error = RuntimeError("CUDA out of memory.")
    one = CompiledModel(fakes.FakeModel(), "cpu", "on")
    tiles = torch.rand(1, 3, 32, 32)
    one(tiles)
    with pytest.raises(RuntimeError, match="out of memory"):
        one(tiles)
    assert one.is_compiled and one.failure == ""


def test_the_option_reaches_the_engine(compiler: Compiler) -> None:
    assert RestoreOptions(compile="on").compile is Compile.ON  # type: ignore[arg-type]
    assert RestoreOptions().compile is Compile.AUTO


@pytest.mark.slow
def test_the_whole_restorer_compiles_in_one_graph_and_stays_equal() -> None:
    """The full-size layout at a small width, traced without a break."""
    torch.manual_seed(0)
    restorer = build(sizes_of("tiny"), torch.device("cpu"))
    tiles = torch.rand(1, 3, restorer.tile, restorer.tile)
    with torch.inference_mode():
        condition = restorer.condition()
        plain = restorer(tiles, condition=condition).image_B3TT
        explained = torch._dynamo.explain(restorer)(tiles, condition=condition)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)
        torch._dynamo.reset()
        traced = torch.compile(restorer, fullgraph=True, dynamic=False, backend="aot_eager")
        difference = (traced(tiles, condition=condition).image_B3TT - plain).abs()
    assert difference.mean() < 1e-4 and (difference > 1e-3).float().mean() < 0.01, "a bit near zero may flip"


@pytest.mark.slow
def test_a_compiled_first_stage_differs_by_rounding(tmp_path: Path) -> None:
    """By the compiler of this machine, in a process of its own, since it changes global settings."""
    code = """
import sys; sys.path[:0] = ["tests/core/engine", "tests"]
import numpy as np
from test_shared_calls import network, small, photo
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
images = [RestoreEngine(network(), EngineOptions(compile=mode)) for mode in ("off", "on")]
for one in images:
    one.restore(ImageTask(photo(16, 16), (64, 64)))
plain, compiled = (one.restore(ImageTask(photo(16, 16), (64, 64), dtype=np.uint8)).image.astype(int) for one in images)
assert images[1].take_warning() == "", "no fallback"
assert images[1].inference.compiled.is_compiled
print(abs(plain - compiled).max())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    if "C compiler" in ran.stderr + ran.stdout:
        pytest.skip("this machine has no C++ compiler")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout.split()[-1]) <= 1


def test_inputs_are_not_changed_by_it(compiler: Compiler) -> None:
    one = RestoreEngine(fakes.FakeModel(), EngineOptions(compile="on"))
    plain = RestoreEngine(fakes.FakeModel(), EngineOptions())
    for _ in range(2):
        first, second = (
            each.restore(ImageTask(photo(20, 20), (80, 80), dtype=np.uint8)).image for each in (one, plain)
        )
        np.testing.assert_array_equal(first, second)
