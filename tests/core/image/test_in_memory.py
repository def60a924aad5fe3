import numpy as np
import pytest
from PIL import Image

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.in_memory import from_array, from_pillow, shaped_like, to_pillow


@pytest.mark.parametrize(
    ("shape", "channels", "alpha"),
    [((4, 5), 1, False), ((4, 5, 1), 1, False), ((4, 5, 2), 1, True), ((4, 5, 3), 3, False), ((4, 5, 4), 3, True)],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays(shape: tuple[int, ...], channels: int, alpha: bool, dtype: type) -> None:
    pixels = from_array(np.ones(shape, dtype))
    assert pixels.color.shape == (4, 5, channels) and pixels.color.dtype == dtype
    assert (pixels.alpha is not None) == alpha
    assert pixels.alpha is None or pixels.alpha.shape == (4, 5)


@pytest.mark.parametrize("shape", [(4,), (0, 4, 3), (4, 4, 5), (1, 4, 4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="is no image"):
        from_array(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("value", [255.0, -1.0, np.nan, np.inf])
def test_floats_outside_the_range_are_refused(value: float) -> None:
    array = np.full((4, 4, 3), 0.5, np.float32)
    array[1, 2, 0] = value
    with pytest.raises(UsageError, match=r"must be in \[0, 1\]"):
        from_array(array)


def test_overshoots_of_resampling_are_clipped() -> None:
    assert from_array(np.array([[-0.05, 1.05]], np.float32)).color.ravel().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("mode", "channels", "alpha", "dtype"),
    [
        ("1", 1, False, np.uint8),
        ("L", 1, False, np.uint8),
        ("LA", 1, True, np.uint8),
        ("P", 3, False, np.uint8),
        ("RGB", 3, False, np.uint8),
        ("RGBA", 3, True, np.uint8),
        ("I;16", 1, False, np.uint16),
    ],
)
def test_pillow_modes(mode: str, channels: int, alpha: bool, dtype: type) -> None:
    pixels = from_pillow(Image.new(mode, (5, 4), 1))
    assert pixels.color.shape == (4, 5, channels) and pixels.color.dtype == dtype
    assert (pixels.alpha is not None) == alpha


def test_a_palette_with_transparency_has_alpha() -> None:
    image = Image.new("P", (5, 4), 1)
    image.info["transparency"] = 1
    alpha = from_pillow(image).alpha
    assert alpha is not None and not alpha.any()


@pytest.mark.parametrize("mode", ["CMYK", "I", "F", "LAB"])
def test_other_pillow_modes_are_refused_with_advice(mode: str) -> None:
    with pytest.raises(UsageError, match=rf"mode {mode} is not supported: convert"):
        from_pillow(Image.new(mode, (5, 4)))


def test_the_profile_goes_along() -> None:
    like = Image.new("RGB", (5, 4))
    like.info["icc_profile"] = b"profile"
    assert to_pillow(np.zeros((8, 10, 3), np.uint8), like).info["icc_profile"] == b"profile"
    assert to_pillow(np.zeros((8, 10), np.uint16), Image.new("I;16", (5, 4))).mode == "I;16"


def test_shaped_like() -> None:
    assert shaped_like(np.zeros((4, 4, 1)), np.zeros((1, 1))).shape == (4, 4)
    assert shaped_like(np.zeros((4, 4, 1)), np.zeros((1, 1, 1))).shape == (4, 4, 1)
