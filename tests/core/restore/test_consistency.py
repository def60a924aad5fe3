import numpy as np
import pytest
from conftest import photo

from varestorer_cli.core.image.resample import Resampler, to_depth
from varestorer_cli.core.restore.consistency import compare


def test_the_same_picture_is_perfect() -> None:
    picture = photo(70, 90)
    assert compare(picture, picture) == (0.0, 100.0)


@pytest.mark.parametrize("size", [(280, 360), (105, 135), (35, 45)])
def test_a_resized_picture_is_near(size: tuple[int, int]) -> None:
    picture = photo(70, 90)
    picture[:] = np.linspace(0, 255, 90)[None, :, None]
    other = to_depth(Resampler((70, 90), size).window(picture, 0, 0, *size), np.uint8)
    shift, psnr = compare(picture, other)
    assert shift < 0.5 and psnr > 40


def test_a_colour_shift_is_measured_in_steps_of_eight_bits() -> None:
    picture = np.full((20, 20, 3), 100, np.uint8)
    shifted = picture.copy()
    shifted[..., 1] += 5
    shift, psnr = compare(picture, shifted)
    assert shift == pytest.approx(5, abs=1e-3)
    assert psnr == pytest.approx(10 * np.log10(255**2 / (25 / 3)), abs=1e-3)
