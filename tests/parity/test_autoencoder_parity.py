"""Encoder, decoder and the way from logits to an image against vectors of the released code."""

import pytest
import torch
from reference_data import reference, thinned
from released_pipeline import to_bgr
from released_states import from_released

from varestorer_models.autoencoder import Autoencoder
from varestorer_models.quantizer import MultiScaleQuantizer
from varestorer_models.sampler import draw_bits
from varestorer_models.schedule import ScaleSchedule

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    return from_released("autoencoder", reference("vae").state("autoencoder"))


@pytest.mark.parametrize("size", ["64x64", "96x128"])
def test_encoder_equals_released(network: Autoencoder, size: str) -> None:
    stored = reference("vae")
    with torch.inference_mode():
        latent = network.encode(stored.get(f"encode_{size}/in/image"))
    assert stored.max_error(f"encode_{size}/out/features", latent) <= 5e-5


@pytest.mark.parametrize("size", ["64x64", "96x128"])
def test_decoder_equals_released(network: Autoencoder, size: str) -> None:
    stored = reference("vae")
    with torch.inference_mode():
        image = network.decode(stored.get(f"decode_{size}/in/latent"))
    key = f"decode_{size}/out/image"
    assert (stored.sample(key).abs() == 1).any(), "the case no longer shows that the decoder clamps"
    assert stored.max_error(key, image) <= 5e-5


def test_sampled_image_equals_released(network: Autoencoder) -> None:
    stored = reference("vae")
    schedule = ScaleSchedule.infinity("0.06M")
    logits = stored.get("sample_0.06M/in/logits").unflatten(-1, (32, 2))
    bits = draw_bits(logits, stored.get("sample_0.06M/in/uniforms"))
    assert torch.equal(bits, stored.get("sample_0.06M/out/bits"))
    codes = MultiScaleQuantizer().accumulate(bits, schedule)
    assert stored.max_error("sample_0.06M/out/codes", codes) <= 5e-6
    with torch.inference_mode():
        image = network.decode(codes)
    assert stored.max_error("sample_0.06M/out/image_thinned", thinned(image)) <= 5e-5
    stored.assert_same_image("sample_0.06M/out/picture_bgr", to_bgr(image))


def test_released_names_load_with_and_without_the_inner_wrapper(network: Autoencoder) -> None:
    bare = {
        key.replace(".conv.weight", ".weight")
        .replace(".conv.bias", ".bias")
        .replace(".norm.weight", ".weight")
        .replace(".norm.bias", ".bias"): value
        for key, value in reference("vae").state("autoencoder").items()
    }
    again = from_released("autoencoder", {"vae": bare})
    assert again.config == network.config
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
