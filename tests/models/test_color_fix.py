"""Colour fixes keep what they promise."""

import torch

from varestorer_models.color_fix import adain_fix, wavelet_fix, wavelet_low


def pixels(seed: int) -> torch.Tensor:
    return torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(seed))


def test_low_band_of_a_constant_is_the_constant() -> None:
    flat = torch.full((1, 3, 20, 20), 0.3)
    torch.testing.assert_close(wavelet_low(flat, 3), flat)


def test_wavelet_fix_takes_colour_from_the_source_and_detail_from_the_image() -> None:
    image, source = pixels(0), pixels(1) * 0.5
    fixed = wavelet_fix(image, source, levels=3)
    low = wavelet_low(source, 3)
    torch.testing.assert_close(fixed - low, image - wavelet_low(image, 3))


def test_a_colour_cast_is_removed() -> None:
    source = pixels(2)
    cast = source + torch.tensor([0.1, -0.05, 0.0]).view(1, 3, 1, 1)
    for fixed in (wavelet_fix(cast, source), adain_fix(cast, source)):
        torch.testing.assert_close(fixed, source, atol=1e-5, rtol=0)


def test_adain_matches_mean_and_deviation() -> None:
    image, source = pixels(3), pixels(4) * 0.3 + 0.2
    fixed = adain_fix(image, source)
    torch.testing.assert_close(fixed.mean((2, 3)), source.mean((2, 3)))
    torch.testing.assert_close(fixed.std((2, 3)), source.std((2, 3)))
