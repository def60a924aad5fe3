"""Cutting, blending and rounding on the device: what NumPy makes of the same image, in bounded memory."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo
from fakes import FakeModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from varestorer_cli.core.engine import blending
from varestorer_cli.core.engine.blending import BlendedTiler, Upscaling, reflected, samples
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.engine.tiling import TileGrid
from varestorer_cli.core.engine.transfers import Transfers
from varestorer_cli.core.image.resample import Resampler, taps, to_depth


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("size", [(140, 212), (35, 53), (70, 53), (18, 200), (51, 10)])
@pytest.mark.parametrize("name", ["bicubic", "lanczos"])
def test_tiles_are_cut_from_the_upscaled_image(size: tuple[int, int], dtype: Any, name: str) -> None:
    """To 3e-7: products round in another order than NumPy's."""
    pixels = photo(35, 53, depth=8 if dtype == np.uint8 else 16)
    pixels = pixels / np.float32(65535) if dtype == np.float32 else pixels
    whole = Resampler((35, 53), size, name).window(pixels, 0, 0, *size).clip(0, 1)
    tiler = BlendedTiler(pixels, TileGrid.cover(*size, (32, 48), 8, step=4), Upscaling(name, Transfers("cpu")))
    for tile in tiler.tiles:
        part = whole[tile.top : tile.bottom, tile.left : tile.right]
        missing = (32 - part.shape[0], 48 - part.shape[1])
        expected = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect").transpose(2, 0, 1)
        np.testing.assert_allclose(tiler.cut(tile).numpy(), expected, rtol=0, atol=3e-7)


def test_an_image_that_keeps_its_size_reaches_the_model_untouched() -> None:
    pixels = photo(35, 53)
    tiler = BlendedTiler(pixels, TileGrid.cover(35, 53, (32, 32), 8), Upscaling("lanczos", Transfers("cpu")))
    for tile in tiler.tiles:
        expected = pixels[tile.top : tile.bottom, tile.left : tile.right].astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(tiler.cut(tile).permute(1, 2, 0).numpy(), expected)


def test_images_of_one_size_share_their_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(*given: Any) -> Any:
        asked.append(1)
        return taps(*given)

    monkeypatch.setattr(blending, "taps", counted)
    engine, results = RestoreEngine(FakeModel(), EngineOptions()), []
    for number in range(3):
        results.append(engine.restore(ImageTask(photo(20, 20) // (number + 1), (80, 80))).image)
    assert len(asked) == 3, "columns of a square are its rows"
    engine.restore(ImageTask(photo(20, 21), (84, 80)))
    assert len(asked) > 3, "another width needs others"
    alone = RestoreEngine(FakeModel(), EngineOptions()).restore(ImageTask(photo(20, 20) // 3, (80, 80))).image
    np.testing.assert_array_equal(results[2], alone)


@pytest.mark.parametrize("before", [(0, 0), (3, 5)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (9, 8), (13, 16), (16, 21)])
def test_reflection_is_that_of_numpy(shape: tuple[int, int], before: tuple[int, int]) -> None:
    image, sides = torch.rand(4, *shape), (16 + before[0], 21 + before[1])
    behind = [side - length - first for side, length, first in zip(sides, shape, before, strict=True)]
    expected = np.pad(image.numpy(), ((0, 0), *zip(before, behind, strict=True)), mode="reflect")
    np.testing.assert_array_equal(reflected(image, sides, before).numpy(), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_rounding_is_that_of_numpy(dtype: Any) -> None:
    block = torch.cat([torch.linspace(-0.1, 1.1, 300_000), torch.arange(65536) / 65535]).expand(3, 1, -1)
    before = block.clone()
    rounded = samples(block, dtype)
    assert rounded.is_contiguous()
    np.testing.assert_array_equal(rounded.numpy(), to_depth(before.numpy().transpose(1, 2, 0), dtype))


def test_rounded_floats_are_not_the_band() -> None:
    band = torch.rand(3, 1, 1)
    rounded = samples(band, np.float32)
    band.zero_()
    assert rounded.min() > 0


class Largest(TorchDispatchMode):
    """Remembers the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("size", [(8000, 40), (40, 8000)])
@pytest.mark.parametrize("scale", [1, 4])
def test_no_tensor_is_larger_than_a_band_or_the_weights_of_an_axis(size: tuple[int, int], scale: int) -> None:
    pixels = photo(size[1] // scale, size[0] // scale)
    with Largest() as largest:
        RestoreEngine(FakeModel(), EngineOptions()).restore(ImageTask(pixels, size, dtype=np.uint8))
    band, weights = 40 * 32 * 3 * 4, 286 * 32 * 4
    assert band < largest.bytes <= weights < 8000 * 40 * 3 * 4 / 100
