import numpy as np
import pytest
import torch
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from varestorer_cli.core.image.resample import Resampler, to_depth, to_float


@pytest.mark.parametrize("filter", ["bicubic", "lanczos"])
@pytest.mark.parametrize("target", [(96, 128), (37, 111), (24, 32), (11, 9), (1, 1), (25, 33)])
def test_equals_pillow(filter: str, target: tuple[int, int]) -> None:
    pixels = photo(24, 32).astype(np.float32) / 255
    kind = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}[filter]
    ours = Resampler((24, 32), target, filter).window(pixels, 0, 0, *target)
    for channel in range(3):
        theirs = np.asarray(Image.fromarray(pixels[..., channel]).resize((target[1], target[0]), kind))
        np.testing.assert_allclose(ours[..., channel], theirs, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.2, 9), st.data())
def test_windows_are_cut_from_the_whole(height: int, width: int, factor: float, data: st.DataObject) -> None:
    pixels = photo(height, width)
    target = (max(1, round(height * factor)), max(1, round(width * factor)))
    resampler = Resampler((height, width), target)
    whole = resampler.window(pixels, 0, 0, *target)
    top = data.draw(st.integers(0, target[0] - 1))
    left = data.draw(st.integers(0, target[1] - 1))
    bottom = data.draw(st.integers(top + 1, target[0]))
    right = data.draw(st.integers(left + 1, target[1]))
    part = resampler.window(pixels, top, left, bottom, right)
    np.testing.assert_allclose(part, whole[top:bottom, left:right], atol=2e-6)


def test_scale_one_changes_nothing() -> None:
    pixels = photo(13, 17, depth=16)
    same = Resampler((13, 17), (13, 17)).window(pixels, 0, 0, 13, 17)
    np.testing.assert_array_equal(to_depth(same, np.uint16), pixels)


def test_constant_stays_constant_at_the_border() -> None:
    pixels = np.full((5, 7, 3), 200, np.uint8)
    large = Resampler((5, 7), (20, 28)).window(pixels, 0, 0, 20, 28)
    np.testing.assert_allclose(large, 200 / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_depth_round_trip_is_exact_and_rounds(kind: type) -> None:
    every = np.arange(np.iinfo(kind).max + 1, dtype=kind)
    np.testing.assert_array_equal(to_depth(to_float(every), kind), every)
    assert to_depth(np.float32([1.7, -0.2]), kind).tolist() == [np.iinfo(kind).max, 0]
    assert to_depth(np.float32([0.5 / 255 + 1e-4]), np.uint8)[0] == 1


@pytest.mark.parametrize(("name", "antialias"), [("bicubic_sharp", False), ("bicubic", True)])
def test_the_two_cubics_are_those_of_the_libraries(name: str, antialias: bool) -> None:
    pixels = np.random.default_rng(0).random((12, 17, 3), dtype=np.float32)
    ours = Resampler((12, 17), (48, 68), name).window(pixels, 0, 0, 48, 68)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(batch, size=(48, 68), mode="bicubic", antialias=antialias)
    inside = (slice(8, 40), slice(8, 60))  # borders are treated differently
    np.testing.assert_allclose(ours[inside], theirs[0].permute(1, 2, 0).numpy()[inside], atol=1e-5)
