"""Between the copy to the device and the one back nothing leaves it, and what is copied is small."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo
from fakes import FakeModel
from torch import Tensor

from varestorer_cli.bench.gpu import build, sizes_of
from varestorer_cli.core.engine.blending import BlendedTiler
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.engine.transfers import HostCopy, Transfers
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet


@pytest.fixture(autouse=True)
def no_autocast_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch knows no autocast for tensors without values."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda kind, *rest, **more: nullcontext() if kind == "meta" else autocast(kind, *rest, **more),
    )


class NoValues(Transfers):
    """A device whose tensors have no values: ``.cpu()``, ``.numpy()``, ``.item()``, ``bool()`` and mixing them with
    tensors of the host raise. What comes back is zeros."""

    def __init__(self) -> None:
        super().__init__("meta")
        self.given: list[tuple[int, ...]] = []
        self.taken: list[tuple[tuple[int, ...], torch.dtype]] = []

    @property
    def waits(self) -> bool:
        return False

    def to_device(self, values: Any) -> Tensor:
        host = torch.stack(list(values)) if isinstance(values, list) else torch.from_numpy(np.array(values))
        self.given.append(tuple(host.shape))
        return torch.empty(host.shape, dtype=host.dtype, device="meta")

    def to_host(self, tensor: Tensor) -> HostCopy:
        assert tensor.device.type == "meta"
        self.taken.append((tuple(tensor.shape), tensor.dtype))
        return HostCopy(torch.zeros(tensor.shape, dtype=tensor.dtype))


def first_stage() -> Any:
    net = RRDBNet(RRDBConfig(width=8, growth=4, blocks=1))
    return FirstStageRestorer(RestorerConfig(tile=64, largest_tile=96, input_color_levels=2), net).eval()


def whole() -> Any:
    return build(sizes_of("tiny"), torch.device("cpu"))


def on_no_values(model: Any, **options: Any) -> tuple[RestoreEngine, NoValues]:
    engine, device = RestoreEngine(model.to("meta"), EngineOptions(**options)), NoValues()
    engine.inference.transfers = device
    engine.conditions._device = "meta"
    return engine, device


@pytest.mark.parametrize("options", [{}, {"sampling": "sample", "color_fix": "wavelet"}, {"color_fix": "adain"}])
@pytest.mark.parametrize("scale", [1, 4])
def test_nothing_leaves_the_device_on_the_way(scale: int, options: dict[str, Any]) -> None:
    model = whole()
    side = model.tile
    engine, device = on_no_values(model, batch=2, **options)
    small = photo(side * 2 // scale, side // scale)
    result = engine.restore(ImageTask(small, (side, 2 * side), dtype=np.uint8))
    assert (result.tiles, result.calls) == (3, "2+1")
    bands = [(shape, dtype) for shape, dtype in device.taken if len(shape) == 3]
    assert sum(shape[0] for shape, _ in bands) == 2 * side and {shape[1:] for shape, _ in bands} == {(side, 3)}
    assert len(bands) == 3 and {dtype for _, dtype in bands} == {torch.uint8}
    assert [shape for shape, dtype in device.taken if dtype == torch.bool] == [
        (2, 4 + (side >= 128)),
        (1, 4 + (side >= 128)),
    ]
    assert len(device.taken) == 5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("size", [(40, 30), (200, 160), (300, 70)])
def test_any_image_of_any_type(size: tuple[int, int], dtype: Any) -> None:
    engine, device = on_no_values(first_stage(), batch=4)
    pixels = photo(size[1] // 2, size[0] // 2, depth=16) if dtype == np.uint16 else photo(size[1] // 2, size[0] // 2)
    image = engine.restore(ImageTask(pixels, size, dtype=dtype)).image
    assert (image.shape, image.dtype) == ((size[1], size[0], 3), dtype)
    assert sum(np.prod(shape) for shape, kind in device.taken if kind != torch.bool) == image.size


def test_the_released_blend_stays_on_the_device_too() -> None:
    engine, device = on_no_values(whole(), compat="released", batch=2)
    side = engine.model.tile
    assert engine.restore(ImageTask(photo(side // 4, side // 4), (side, side), dtype=np.uint8)).tiles == 4
    assert sum(shape[0] for shape, _ in device.taken if len(shape) == 3) == side


def test_a_check_of_its_values_would_be_seen() -> None:
    engine, _ = on_no_values(first_stage())
    engine.inference.fault = lambda got, given: torch.tensor([[bool(got.isnan().any())]])
    with pytest.raises(Exception, match="meta"):
        engine.restore(ImageTask(photo(16, 16), (64, 64)))


class OwnMemory(Transfers):
    """A device with memory of its own."""

    @property
    def on_host(self) -> bool:
        return False


def test_a_band_that_does_not_fit_is_kept_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, made = BlendedTiler.blocks, []

    def cramped(tiler: BlendedTiler, restored: Any) -> Any:
        made.append(tiler)
        for number, block in enumerate(blocks(tiler, restored)):
            if number == 1 and len(made) == 1:
                raise torch.cuda.OutOfMemoryError("out of memory")
            yield block

    monkeypatch.setattr(BlendedTiler, "blocks", cramped)
    engine = RestoreEngine(FakeModel(), EngineOptions())
    engine.inference.transfers = OwnMemory("cpu")
    pixels = photo(20, 20)
    image = engine.restore(ImageTask(pixels, (80, 80))).image
    np.testing.assert_array_equal(
        image, RestoreEngine(FakeModel(), EngineOptions()).restore(ImageTask(pixels, (80, 80))).image
    )
    engine.restore(ImageTask(pixels, (80, 80)))
    assert [tiler._blend_on.type for tiler in made[1:]] == ["cpu"] * 3 and len(made) == 4
    assert engine.blend_on_host() is False


def test_a_device_is_the_host_or_not() -> None:
    assert Transfers("cpu").on_host and Transfers("cpu").waits
    assert not Transfers("cuda:1").on_host and not Transfers("cuda:1").waits
    assert not Transfers("mps").on_host and Transfers("mps").waits


def test_what_is_copied_may_be_changed_afterwards() -> None:
    given = np.arange(6, dtype=np.uint16).reshape(2, 3)
    copied = Transfers("cpu").to_device(given)
    given[:] = 0
    assert copied.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert Transfers("cpu").to_device([torch.ones(2), torch.zeros(2)]).tolist() == [[1, 1], [0, 0]]
