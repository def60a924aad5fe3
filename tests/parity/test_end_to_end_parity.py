"""Whole images through all networks against the released command."""

import pytest
import torch
from reference_data import Reference, reference, thinned
from released_pipeline import Image, ReleasedModels, restore_image, to_bgr
from released_states import from_released

from varestorer_models.first_stage import RestorerConfig
from varestorer_models.quantizer import MultiScaleQuantizer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.tokenizer import ImageTokenizer, TokenizerConfig
from varestorer_models.transformer import Condition, TextFeatures

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def networks() -> ReleasedModels:
    stored = reference("end_to_end")
    autoencoder = from_released("autoencoder", stored.state("autoencoder"))
    # Released codes come with their channels innermost and the decoder's maps keep that layout. Group norm on a CPU
    # rounds differently there, enough to change 0.3 % of a 512 x 512 image by one.
    return ReleasedModels(
        from_released("prerestorer", stored.state("prerestorer")),
        autoencoder,
        from_released("transformer", stored.state("transformer")),
        MultiScaleQuantizer(),
        ScaleSchedule.infinity("0.25M"),
    )


def condition_of(networks: ReleasedModels, case: str) -> Condition:
    text = reference("end_to_end").get(f"{case}/in/text")
    return networks.transformer.encode_condition(TextFeatures(text, (len(text),)))


def tiles_of(stored: Reference, case: str) -> list[Image]:
    """The tiles that the command makes of a case's image, in order; it enlarges an image to one tile first."""
    tiles: list[Image] = []
    pixels, notes = stored.get(f"{case}/in/picture_rgb").numpy(), stored.notes[case]
    restore_image(pixels, notes["sr_scale"], tiled=notes["tiled"], restore=lambda tile: tiles.append(tile) or tile)
    return tiles


def test_every_step_of_a_tile_equals_released(networks: ReleasedModels) -> None:
    stored = reference("end_to_end")
    (tile,) = tiles_of(stored, "square")
    with torch.inference_mode():
        condition = condition_of(networks, "square")
    steps = networks.restore_tile(tile, condition, stored.get("square/in/uniforms"))

    assert stored.max_error("square/out/clean_thinned", thinned(steps.clean)) <= 1e-5
    # the encoder makes forty times more of the 1e-6 by which the images before it differ
    assert stored.max_error("square/out/features", steps.latent) <= 1e-4
    assert torch.equal(steps.bits_in, stored.get("square/out/bits_in"))
    assert stored.max_error("square/out/tokens", steps.tokens) <= 5e-6
    logits = steps.logits[:, ::4].flatten(2)
    error = stored.error("square/out/logits_fp32_every_4th", logits)
    assert error.abs().max() <= 1e-4
    assert error.square().mean().sqrt() <= 1e-5
    assert torch.equal(steps.bits, stored.get("square/out/bits"))
    assert stored.max_error("square/out/codes", steps.codes) <= 5e-6
    assert stored.max_error("square/out/image_thinned", thinned(steps.image)) <= 5e-5
    stored.assert_same_image("square/out/picture_bgr", to_bgr(steps.image))


@pytest.mark.parametrize("case", ["stretched", "tiled"])
def test_image_equals_released(networks: ReleasedModels, case: str) -> None:
    stored = reference("end_to_end")
    notes = stored.notes[case]
    length = networks.schedule.length
    uniforms = stored.get(f"{case}/in/uniforms").split(length, dim=1)
    bits: list[torch.Tensor] = []
    with torch.inference_mode():
        condition = condition_of(networks, case)

    def restore(tile: Image) -> Image:
        steps = networks.restore_tile(tile, condition, uniforms[len(bits)])
        bits.append(steps.bits)
        return to_bgr(steps.image)

    pixels = restore_image(
        stored.get(f"{case}/in/picture_rgb").numpy(), notes["sr_scale"], tiled=notes["tiled"], restore=restore
    )
    assert len(bits) == notes["tiles"] == len(uniforms)
    assert torch.equal(torch.cat(bits, dim=1), stored.get(f"{case}/out/bits"))
    stored.assert_same_image(f"{case}/out/picture_bgr", pixels)


def test_restorer_module_equals_released(networks: ReleasedModels) -> None:
    stored = reference("end_to_end")
    tokenizer = ImageTokenizer(
        TokenizerConfig(networks.autoencoder.config, networks.quantizer.config, networks.schedule)
    )
    tokenizer.autoencoder, tokenizer.quantizer = networks.autoencoder, networks.quantizer
    restorer = OneStepRestorer(RestorerConfig(), networks.prerestorer, tokenizer, networks.transformer)
    uniforms = stored.get("square/in/uniforms")

    def restore(tile: Image) -> Image:
        degraded = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            tiles = restorer(degraded, condition=condition_of(networks, "square"), uniforms=uniforms)
        return to_bgr(tiles.image_B3TT * 2 - 1)

    pixels = restore_image(
        stored.get("square/in/picture_rgb").numpy(), stored.notes["square"]["sr_scale"], tiled=False, restore=restore
    )
    stored.assert_same_image("square/out/picture_bgr", pixels)
