import numpy as np
import pytest
from conftest import photo

from varestorer_cli.core.image.resample import Resampler, to_depth
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.restore import consistency
from varestorer_cli.core.restore.consistency import compare, outliers


def test_the_same_image_is_perfect() -> None:
    pixels = photo(70, 90)
    assert compare(pixels, pixels) == (0.0, 100.0)


@pytest.mark.parametrize("size", [(280, 360), (105, 135), (35, 45)])
def test_a_resized_image_is_near(size: tuple[int, int]) -> None:
    pixels = photo(70, 90)
    pixels[:] = np.linspace(0, 255, 90)[None, :, None]
    other = to_depth(Resampler((70, 90), size).window(pixels, 0, 0, *size), np.uint8)
    shift, psnr = compare(pixels, other)
    assert shift < 0.5 and psnr > 40


def test_a_colour_shift_is_measured_in_steps_of_eight_bits() -> None:
    pixels = np.full((20, 20, 3), 100, np.uint8)
    shifted = pixels.copy()
    shifted[..., 1] += 5
    shift, psnr = compare(pixels, shifted)
    assert shift == pytest.approx(5, abs=1e-3)
    assert psnr == pytest.approx(10 * np.log10(255**2 / (25 / 3)), abs=1e-3)


@pytest.mark.parametrize("size", [(400, 520), (200, 260), (150, 195), (100, 97), (601, 260)])
def test_strips_say_what_the_whole_says(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image, result = photo(100, 130), photo(*size, seed=1)
    whole = compare(image, result)
    monkeypatch.setattr(consistency, "_ROWS", 7)
    assert compare(image, result) == pytest.approx(whole, rel=1e-5)


def made(psnr: list[float | None], shift: list[float | None] | None = None) -> list[Row]:
    shift = shift or [0.3] * len(psnr)
    return [
        Row(output=f"{i}.png", consistency_psnr=p, mean_colour_error=s)
        for i, (p, s) in enumerate(zip(psnr, shift, strict=True))
    ]


def named(rows: list[Row]) -> list[str]:
    return [one.row.output for one in outliers(rows)]


def test_images_far_below_the_rest_are_named_worst_first() -> None:
    rows = made([34, 35, 36, 33, 20, 34.5, 35.5, 36.5, 12, 35])
    assert named(rows) == ["8.png", "4.png"]
    assert outliers(rows)[0].reason == "12.0 dB against its input, the median is 34.8"


def test_many_bad_images_do_not_hide_each_other() -> None:
    assert named(made([34, 35, 36, 33, 34, 35, 36, 10, 11, 12, 13])) == ["7.png", "8.png", "9.png", "10.png"]


def test_a_colour_shift_stands_out_once() -> None:
    rows = made([34, 35, 36, 33, 34, 35, 36, 20], [0.2, 0.3, 0.1, 0.4, 0.2, 0.3, 0.2, 9.0])
    assert named(rows) == ["7.png"]
    assert "9.0 8-bit steps" in outliers(rows)[0].reason


def test_better_than_the_rest_alike_and_few_are_quiet() -> None:
    assert named(made([34, 35, 36, 33, 34, 35, 36, 60])) == []
    assert named(made([34.0, 34.01, 34.02, 34.0, 34.01, 34.0, 34.02, 32.5])) == []
    assert named(made([34, 35, 5])) == []
    assert named(made([None] * 20)) == []
