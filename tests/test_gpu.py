"""On a CUDA device: the images of a CPU, the same bytes twice, memory that stays, nothing the host waits for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo

from varestorer_cli.bench.gpu import build, sizes_of
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def first_stage(device: str) -> Any:
    torch.manual_seed(0)
    net = RRDBNet(RRDBConfig(width=16, growth=8, blocks=2))
    return FirstStageRestorer(RestorerConfig(tile=64, largest_tile=96), net).eval().to(device)


def restored(device: str, **options: Any) -> Any:
    engine = RestoreEngine(first_stage(device), EngineOptions(device=device, **options))
    return engine.restore(ImageTask(photo(40, 50), (200, 160), dtype=np.uint8)).image.astype(int)


@pytest.mark.parametrize(("precision", "levels"), [("fp32", 1), ("bf16", 4)])
def test_a_gpu_makes_the_image_of_a_cpu(precision: str, levels: int) -> None:
    assert np.abs(restored("cuda", precision=precision) - restored("cpu")).max() <= levels


def test_the_whole_restorer_agrees_with_a_cpu() -> None:
    sizes = sizes_of("tiny")
    torch.manual_seed(0)
    model = build(sizes, torch.device("cpu"))
    tiles = torch.rand(2, 3, model.tile, model.tile)
    with torch.inference_mode():
        here = model(tiles, sampling="expected").image_B3TT
        there = model.to("cuda")(tiles.cuda(), sampling="expected").image_B3TT.cpu()
    assert (here - there).abs().mean() < 1e-3


def test_the_same_bytes_twice() -> None:
    np.testing.assert_array_equal(
        restored("cuda", precision="bf16", batch=4), restored("cuda", precision="bf16", batch=4)
    )


def test_a_compiled_model_agrees() -> None:
    engines = [
        RestoreEngine(first_stage("cuda"), EngineOptions(device="cuda", batch=2, compile=mode))
        for mode in ("off", "on")
    ]
    for _ in range(2):
        task = ImageTask(photo(40, 50), (200, 160), dtype=np.uint8)
        plain, compiled = (one.restore(task).image.astype(int) for one in engines)
    assert engines[1].take_warning() == "" and np.abs(plain - compiled).max() <= 1


def test_memory_does_not_grow() -> None:
    engine = RestoreEngine(first_stage("cuda"), EngineOptions(device="cuda", batch=4))
    engine.restore(ImageTask(photo(40, 50), (200, 160)))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(5):
        engine.restore(ImageTask(photo(40, 50), (200, 160)))
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert torch.cuda.max_memory_allocated() < before + 2**30


def test_a_pass_waits_for_nothing() -> None:
    torch.manual_seed(0)
    model = build(sizes_of("tiny"), torch.device("cuda"))
    tiles = torch.rand(2, 3, model.tile, model.tile, device="cuda")
    with torch.inference_mode():
        condition = model.condition()
        model(tiles, condition=condition)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(tiles, condition=condition)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_image_on_its_way_waits_for_nothing_but_finished_calls(dtype: Any) -> None:
    """Cutting, checks, blending and rounding begin operations only; PyTorch reports every implicit wait as an error."""
    engine = RestoreEngine(first_stage("cuda"), EngineOptions(device="cuda", batch=4))
    task = ImageTask(photo(40, 50, depth=8 if dtype == np.uint8 else 16), (200, 160), dtype=dtype)
    task = replace(task, image=task.image / np.float32(65535)) if dtype == np.float32 else task
    expected = engine.restore(task).image
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = engine.restore(task).image
    finally:
        torch.cuda.set_sync_debug_mode("default")
    np.testing.assert_array_equal(expected, again)
    cpu = RestoreEngine(first_stage("cpu"), EngineOptions()).restore(task).image
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    assert np.abs(again.astype(float) - cpu.astype(float)).max() / largest < 1 / 255 + 1e-6
