"""One-step restorer: ways from logits to codes, fidelity, colour fix, both heads."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from varestorer_cli.core.training.presets import preset
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.multistep import restorer_from_components
from varestorer_models.quantizer import straight_through
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer


def build(
    head: Literal["bits", "latent"] = "latent", guided: bool = False, extra: bool = True, **settings: Any
) -> OneStepRestorer:
    """Random weights, for choices that no bundled model makes: latent heads, guided decoders, no extra block."""
    torch.manual_seed(0)
    smoke = preset("smoke")
    autoencoder = replace(smoke.tokenizer.autoencoder, guided=guided)
    tokenizer = ImageTokenizer(replace(smoke.tokenizer, autoencoder=autoencoder))
    tokenizer.autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    prerestorer = ConvRestorer(smoke.prerestorer)
    prerestorer.reset_parameters(torch.Generator().manual_seed(0))
    config = replace(smoke.restorer, extra_block=extra, color_fix="none", **settings)
    return OneStepRestorer(config, prerestorer, tokenizer, Transformer(replace(smoke.teacher, head=head))).eval()


def tiles(restorer: OneStepRestorer, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, restorer.tile, restorer.tile, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["bits", "latent"])
@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("sampling", ["argmax", "sample", "expected", "consistent"])
def test_every_way_gives_a_finite_image_of_the_same_size(head: str, extra: bool, sampling: str) -> None:
    restorer = build(head, extra=extra)  # type: ignore[arg-type]
    uniforms = torch.rand(2, *restorer.uniforms_shape, generator=torch.Generator().manual_seed(2))
    out = restorer(tiles(restorer), sampling=sampling, uniforms=uniforms)
    assert out.image_B3TT.shape == tiles(restorer).shape
    assert torch.isfinite(out.image_B3TT).all()
    assert out.image_B3TT.min() >= 0 and out.image_B3TT.max() <= 1


def test_untrained_latent_head_copies_the_pre_restored_codes() -> None:
    restorer = build("latent")
    degraded = tiles(restorer)
    pre = restorer.prerestore(degraded)
    expected = (restorer.tokenizer(pre * 2 - 1) + 1) / 2
    torch.testing.assert_close(restorer(degraded).image_B3TT, expected.clamp(0, 1))


def test_latent_head_bits_of_all_scales_agree_with_one_latent() -> None:
    restorer = build("latent")
    torch.nn.init.normal_(restorer.transformer.head.weight, std=0.5)
    latent = restorer.tokenizer.encode(tiles(restorer) * 2 - 1)
    prediction = restorer.predict(restorer.tokenizer.quantize(latent), latent)
    assert prediction.latent_Bdhw is not None
    assert not torch.allclose(prediction.latent_Bdhw, latent)
    again = restorer.tokenizer.quantize(prediction.latent_Bdhw)
    assert torch.equal(prediction.difference_BLd > 0, again.bits_BLd.bool())
    torch.testing.assert_close(restorer.codes(prediction, "argmax"), again.accumulated_Bdhw)


def test_consistent_bits_are_a_fixed_point_of_the_quantiser() -> None:
    restorer = build("bits")
    torch.nn.init.normal_(restorer.transformer.head.weight, std=1.0)
    latent = restorer.tokenizer.encode(tiles(restorer) * 2 - 1)
    prediction = restorer.predict(restorer.tokenizer.quantize(latent), latent)
    expected = restorer.codes(prediction, "expected")
    consistent = restorer.codes(prediction, "consistent")
    torch.testing.assert_close(consistent, restorer.tokenizer.quantize(expected).accumulated_Bdhw)
    assert not torch.allclose(consistent, restorer.codes(prediction, "argmax"))


def test_sampling_needs_noise_and_follows_it() -> None:
    restorer = build("bits")
    degraded = tiles(restorer)
    with pytest.raises(ValueError, match="needs uniforms"):
        restorer(degraded, sampling="sample")
    noise = [torch.rand(2, *restorer.uniforms_shape, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    first, same, other = (restorer(degraded, sampling="sample", uniforms=u).image_B3TT for u in noise)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_fidelity_mixes_towards_the_pre_restored_image() -> None:
    restorer = build()
    degraded = tiles(restorer)
    full, none, half = (restorer(degraded, fidelity=f) for f in (0.0, 1.0, 0.5))
    torch.testing.assert_close(none.image_B3TT, none.prerestored_B3TT)
    mix = (restorer.prerestore(degraded) + full.image_B3TT) / 2
    torch.testing.assert_close(half.image_B3TT, mix.clamp(0, 1), atol=0.02, rtol=0)


def test_wavelet_fix_keeps_the_pre_restored_colours() -> None:
    restorer = build()
    out = restorer(tiles(restorer), color_fix="wavelet")
    raw = restorer(tiles(restorer), color_fix="none")
    target = out.prerestored_B3TT.mean((2, 3))
    assert (out.image_B3TT.mean((2, 3)) - target).abs().max() < (raw.image_B3TT.mean((2, 3)) - target).abs().max()


def test_equal_codes_give_the_pre_restored_image_and_noise_another() -> None:
    restorer = build(guided=True)
    prerestored = restorer.prerestore(tiles(restorer)).clamp(0, 1)
    codes = restorer.tokenizer.quantize(restorer.tokenizer.encode(prerestored * 2 - 1).float()).accumulated_Bdhw
    assert torch.equal(restorer.image_from_codes(codes, prerestored), prerestored)
    noise = codes * (torch.randint(2, codes.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    difference = restorer.image_from_codes(noise, prerestored) - prerestored
    assert difference.abs().mean() > 1e-3
    known = restorer.tokenizer.encode(prerestored * 2 - 1).float()
    torch.testing.assert_close(
        restorer.image_from_codes(noise, prerestored, latent_Bdhw=known), prerestored + difference
    )


def test_items_of_a_batch_do_not_mix() -> None:
    restorer = build("bits")
    degraded = tiles(restorer, 3)
    together = restorer(degraded).image_B3TT
    alone = torch.cat([restorer(degraded[i : i + 1]).image_B3TT for i in range(3)])
    assert ((together - alone).abs() < 1e-4).float().mean() > 0.99


def test_other_tile_sizes_are_refused() -> None:
    restorer = build()
    with pytest.raises(ValueError, match=r"tiles are \(32, 32\), the model works on sides of 64$"):
        restorer(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="sides of 64 to 80 in steps of 8"):
        build(largest_tile=80)(torch.zeros(1, 3, 64, 84))


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_stretched_tiles_cover_more_with_the_same_weights(head: str) -> None:
    restorer = build(head, largest_tile=96)  # type: ignore[arg-type]
    assert list(restorer.tile_sides) == [64, 72, 80, 88, 96]
    tile = torch.rand(1, 3, 72, 96, generator=torch.Generator().manual_seed(1))
    out = restorer(tile)
    assert out.image_B3TT.shape == tile.shape
    schedule = restorer.tokenizer.schedule_for((9, 12))
    assert schedule.grids == ((1, 1), (2, 2), (4, 4), (9, 12))
    assert torch.isfinite(out.image_B3TT).all()


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_image_losses_reach_the_transformer(head: str) -> None:
    restorer = build(head)  # type: ignore[arg-type]
    latent = restorer.tokenizer.encode(tiles(restorer) * 2 - 1).detach()
    prediction = restorer.predict(restorer.tokenizer.quantize(latent), latent)
    uniforms = torch.rand(2, *restorer.uniforms_shape, generator=torch.Generator().manual_seed(0))
    codes = restorer.training_codes(prediction, uniforms)
    restorer.decode(codes, tiles(restorer), clamp=False).square().mean().backward()
    gradient = restorer.transformer.head.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_training_codes_equal_the_codes_at_inference() -> None:
    restorer = build("latent")
    latent = restorer.tokenizer.encode(tiles(restorer) * 2 - 1)
    prediction = restorer.predict(restorer.tokenizer.quantize(latent), latent)
    assert prediction.latent_Bdhw is not None
    expected = restorer.codes(prediction, "argmax")
    torch.testing.assert_close(straight_through(prediction.latent_Bdhw, expected), expected)


def test_colours_of_the_input_replace_those_of_the_pre_restorer() -> None:
    class Reddens(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + torch.tensor([0.2, 0.0, -0.1]).view(1, 3, 1, 1)

    plain = build()
    plain.prerestorer = Reddens()
    pixels = torch.rand(1, 3, plain.tile, plain.tile, generator=torch.Generator().manual_seed(0))
    assert (plain.prerestore(pixels) - pixels).abs().max() > 0.19
    kept = build(input_color_levels=5)
    kept.prerestorer = Reddens()
    torch.testing.assert_close(kept.prerestore(pixels), pixels, atol=1e-5, rtol=0)


# --- the first stage alone


def first_stage(**settings: Any) -> FirstStageRestorer:
    torch.manual_seed(3)
    config = RestorerConfig(**{"tile": 64, "largest_tile": 96, **settings})
    made = restorer_from_components(config, {"prerestorer": RRDBNet(RRDBConfig(width=8, growth=4, blocks=1))})
    assert type(made) is FirstStageRestorer
    return made.eval()


def test_the_first_stage_alone_gives_what_the_pre_restorer_of_a_whole_restorer_gives() -> None:
    degraded = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    alone = first_stage(input_color_levels=3)
    whole = OneStepRestorer(alone.config, alone.prerestorer, build().tokenizer, build().transformer)
    out = alone(degraded)
    assert torch.equal(out.image_B3TT, whole.prerestore(degraded).clamp(0, 1))
    assert list(alone.tile_sides) == [64, 80, 96, 112] and set(alone.components()) == {"prerestorer"}


def test_the_first_stage_takes_small_tiles_and_a_restorer_with_tokens_does_not() -> None:
    alone = first_stage()
    assert list(alone.small_sides) == [32, 48] and not list(build().small_sides)
    assert alone(torch.zeros(1, 3, 32, 48)).image_B3TT.shape == (1, 3, 32, 48)


def test_the_first_stage_of_a_preset_has_wide_tiles_where_the_network_is_deep() -> None:
    tiles = {name: (preset(name).first_stage.tile, preset(name).first_stage.tile_step) for name in ("fine", "2b")}
    assert tiles == {"fine": (512, 16), "2b": (preset("2b").tokenizer.tile, 64)}


def test_input_color_levels_keep_the_colours_of_the_input() -> None:
    degraded = torch.full((1, 3, 64, 64), 0.3)
    kept, shifted = (first_stage(input_color_levels=n)(degraded).image_B3TT.mean() for n in (3, 0))
    assert abs(kept - 0.3) < 0.01 < abs(shifted - 0.3)


@pytest.mark.parametrize("tile", [0, 8, 72])
def test_the_first_stage_alone_needs_a_tile(tile: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        first_stage(tile=tile)


def test_the_first_stage_refuses_other_tiles() -> None:
    with pytest.raises(ValueError, match="64 to 112 in steps of 16"):
        first_stage()(torch.zeros(1, 3, 64, 72))


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_a_model_that_stretches_also_shrinks(head: str) -> None:
    restorer = build(head, largest_tile=96)  # type: ignore[arg-type]
    assert list(restorer.small_sides) == [16, 24, 32, 40, 48, 56]
    assert list(build().small_sides) == []
    small = torch.rand(1, 3, 16, 40, generator=torch.Generator().manual_seed(0))
    out = restorer(small, sampling="argmax").image_B3TT
    assert out.shape == small.shape and torch.isfinite(out).all()
    with pytest.raises(ValueError, match="tiles are"):
        build()(small)
