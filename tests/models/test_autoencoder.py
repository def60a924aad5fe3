"""Autoencoder: sizes, linear path, guide, no dependence on the tile without normalisation."""

from dataclasses import replace

import pytest
import torch

from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig, GroupNorm, set_norms

SMALL = AutoencoderConfig(
    latent_channels=6,
    width=8,
    multipliers=(1, 2),
    encoder_blocks=(1, 1),
    decoder_blocks=(2, 1),
    mid_blocks=0,
    unshuffle=2,
    norm="none",
    residual_scale=0.3,
    narrow_upsample=True,
    linear_path=True,
)


def build(config: AutoencoderConfig) -> Autoencoder:
    module = Autoencoder(config)
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module.eval()


def test_released_layout_has_the_released_number_of_parameters() -> None:
    with torch.device("meta"):
        module = Autoencoder()
    assert sum(p.numel() for p in module.encoder.parameters()) == 45_025_696
    assert sum(p.numel() for p in module.decoder.parameters()) == 65_092_355
    assert module.config.stride == 16


@pytest.mark.parametrize(
    "changes", [{}, {"norm": "group", "mid_blocks": 2}, {"unshuffle": 1}, {"narrow_upsample": False}]
)
def test_round_trip_keeps_the_size(changes: dict[str, object]) -> None:
    module = build(replace(SMALL, **changes))
    stride = module.config.stride
    image = torch.rand(2, 3, 4 * stride, 2 * stride) * 2 - 1
    latent = module.encode(image)
    assert latent.shape == (2, 6, 4, 2)
    decoded = module.decode(latent)
    assert decoded.shape == image.shape
    assert decoded.abs().max() <= 1


def test_sizes_that_do_not_fit_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"30x16.*multiples of 4"):
        build(SMALL).encode(torch.zeros(1, 3, 16, 30))


def test_linear_path_reproduces_images_of_its_basis() -> None:
    module = build(replace(SMALL, latent_channels=3 * 16, width=8))
    for branch in (module.encoder, module.decoder):
        branch.conv_out.weight.data.zero_()
    basis = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(1))).Q
    # a full orthonormal basis with a mean that is flat in each channel loses nothing
    mean = torch.tensor([0.1, -0.2, 0.3]).repeat_interleave(16)
    module.set_linear_basis(basis, mean)
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(module.decode(module.encode(image)), image, atol=1e-5, rtol=0)


def test_without_normalisation_a_crop_sees_the_same_values_inside() -> None:
    module = build(SMALL)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    whole, left = module.encode(image), module.encode(image[..., :32])
    torch.testing.assert_close(whole[..., :2], left[..., :2], atol=1e-5, rtol=0)


def test_no_difference_gives_the_guide_bit_for_bit() -> None:
    module = build(replace(SMALL, guided=True))
    for parameter in module.decoder.parameters():  # whatever it has learnt
        torch.nn.init.normal_(parameter, std=0.5)
    guide = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(module.decode(torch.zeros(1, 6, 4, 4), guide), guide)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.decode(torch.zeros(1, 6, 4, 4), guide), guide)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_a_guided_decoder_listens_to_codes_of_any_size(size: float) -> None:
    """Codes that differ a little give images that differ, and a gradient, wherever they are."""
    module = build(replace(SMALL, guided=True))
    guide = torch.rand(1, 3, 16, 16) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    codes = (torch.randn(1, 6, 4, 4, generator=generator) * size).requires_grad_()
    image = module.decode(codes, guide, clamp=False)
    other = module.decode(torch.randn(1, 6, 4, 4, generator=generator) * size, guide, clamp=False)
    assert (image - other).abs().median() > 0.01 * size
    (image - guide).square().sum().backward()
    assert codes.grad is not None and codes.grad.abs().median() > 0.001 * size


def test_the_guide_gates_the_codes() -> None:
    module = build(replace(SMALL, guided=True))
    codes, guide = torch.randn(1, 6, 4, 4), torch.rand(1, 3, 16, 16) * 2 - 1
    difference = [module.decode(codes, g, clamp=False) - g for g in (guide, -guide)]
    assert (difference[0] - difference[1]).abs().max() > 1e-3


def test_a_guided_decoder_has_no_normalisation() -> None:
    with pytest.raises(ValueError, match='a guided decoder needs norm="none"'):
        AutoencoderConfig(guided=True)


def test_guided_decoder_needs_its_guide() -> None:
    with pytest.raises(ValueError, match="needs a guide"):
        build(replace(SMALL, guided=True)).decode(torch.zeros(1, 6, 4, 4))


def test_unguided_decoder_refuses_a_guide() -> None:
    with pytest.raises(ValueError, match="takes no guide"):
        build(SMALL).decode(torch.zeros(1, 6, 4, 4), torch.zeros(1, 3, 16, 16))


def test_levels_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry per level"):
        AutoencoderConfig(multipliers=(1, 2), encoder_blocks=(1,), decoder_blocks=(1, 1))


def test_norms_keep_half_precision_under_autocast() -> None:
    module, image = build(replace(SMALL, norm="group", linear_path=False)), torch.rand(1, 3, 16, 16) * 2 - 1
    exact = module.encode(image).detach()
    kinds: list[torch.dtype] = []
    for part in module.modules():
        if isinstance(part, GroupNorm):
            part.register_forward_hook(lambda part, given, out: kinds.append(out.dtype))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        kept = module.encode(image).float()
        assert kinds and set(kinds) == {torch.bfloat16}
        set_norms(module, keeps_type=False)
        torch.testing.assert_close(kept, module.encode(image).float(), atol=0.03 * float(exact.abs().max()), rtol=0)
    torch.testing.assert_close(kept, exact, atol=0.03 * float(exact.abs().max()), rtol=0)
