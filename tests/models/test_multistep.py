"""The iterative restorer: it sees all of the degraded image, and of the restored scales those before."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.multistep import MultiStepRestorer, multistep, restorer_from_components
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.sampler import draw_bits, sample_multistep
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

MINI = preset("mini")
SCHEDULE = MINI.tokenizer.schedule
BITS = MINI.tokenizer.quantizer.bits
ALL = SCHEDULE.latent_length


@pytest.fixture(scope="module")
def mini() -> OneStepRestorer:
    """The bundled model: a student, and the teacher that restores scale after scale."""
    made = load_restorer("mini").restorer
    assert isinstance(made, OneStepRestorer)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def restorer(mini: OneStepRestorer) -> MultiStepRestorer:
    return multistep(mini)


@pytest.fixture(scope="module")
def transformer(restorer: MultiStepRestorer) -> Transformer:
    return restorer.transformer


@pytest.fixture(scope="module")
def tokenizer(mini: OneStepRestorer) -> ImageTokenizer:
    return mini.tokenizer


def random_bits(seed: int, batch: int = 2) -> Tensor:
    return torch.randint(0, 2, (batch, SCHEDULE.length, BITS), generator=torch.Generator().manual_seed(seed))


def degraded_tokens(tokenizer: ImageTokenizer, seed: int) -> Tensor:
    return tokenizer.quantizer.accumulate(random_bits(seed), SCHEDULE).flatten(2).transpose(1, 2)


def scores(transformer: Transformer, tokenizer: ImageTokenizer, bits: Tensor, degraded: Tensor | None) -> Tensor:
    tokens, _ = tokenizer.quantizer.tokens_from_bits(bits, SCHEDULE)
    return transformer(tokens, SCHEDULE, transformer.encode_condition(), causal=True, degraded_Bld=degraded)


def test_cached_scales_equal_one_pass_over_their_bits(transformer: Transformer, tokenizer: ImageTokenizer) -> None:
    degraded = degraded_tokens(tokenizer, 1)
    noise = torch.rand(2, SCHEDULE.length, BITS, 2, generator=torch.Generator().manual_seed(3))
    bits = sample_multistep(
        transformer,
        tokenizer.quantizer,
        SCHEDULE,
        transformer.encode_condition(),
        uniforms_BLd2=noise,
        degraded_Bld=degraded,
    )
    assert torch.equal(bits, draw_bits(scores(transformer, tokenizer, bits, degraded), noise))


def test_every_scale_sees_the_degraded_image_and_no_scale_what_follows(
    transformer: Transformer, tokenizer: ImageTokenizer
) -> None:
    bits, degraded = random_bits(2), degraded_tokens(tokenizer, 1)
    base = scores(transformer, tokenizer, bits, degraded)
    other = scores(transformer, tokenizer, bits, degraded_tokens(tokenizer, 5))
    for rows in SCHEDULE.slices:
        assert not torch.allclose(base[:, rows], other[:, rows], atol=1e-3)
    changed = bits.clone()
    last, before = SCHEDULE.slices[-1], SCHEDULE.slices[-2]
    changed[:, before] = 1 - changed[:, before]
    moved = scores(transformer, tokenizer, changed, degraded)
    torch.testing.assert_close(moved[:, : last.start], base[:, : last.start])
    assert not torch.allclose(moved[:, last], base[:, last], atol=1e-3)


def test_without_a_degraded_image_the_scores_are_the_plain_teachers(
    transformer: Transformer, tokenizer: ImageTokenizer
) -> None:
    bits = random_bits(2)
    plain = scores(transformer, tokenizer, bits, None)
    assert not torch.allclose(plain, scores(transformer, tokenizer, bits, degraded_tokens(tokenizer, 1)), atol=1e-3)
    kept = transformer.level_embedding.weight.clone()
    with torch.no_grad():
        transformer.level_embedding.weight[len(SCHEDULE)] += 1.0  # the row of the degraded image
        torch.testing.assert_close(plain, scores(transformer, tokenizer, bits, None))
        transformer.level_embedding.weight.copy_(kept)


def test_a_pass_without_mask_takes_no_degraded_tokens(transformer: Transformer, tokenizer: ImageTokenizer) -> None:
    tokens, _ = tokenizer.quantizer.tokens_from_bits(random_bits(2), SCHEDULE)
    with pytest.raises(ValueError, match="only a causal pass"):
        transformer(tokens, SCHEDULE, transformer.encode_condition(), degraded_Bld=degraded_tokens(tokenizer, 1))


@pytest.mark.parametrize("rows", [ALL - 1, ALL + 1])
def test_degraded_tokens_must_be_all(transformer: Transformer, tokenizer: ImageTokenizer, rows: int) -> None:
    with pytest.raises(ValueError, match=f"expected {ALL} token rows"):
        scores(transformer, tokenizer, random_bits(2), torch.zeros(2, rows, BITS))


def test_the_degraded_image_comes_first_and_once(transformer: Transformer) -> None:
    condition, tokens = transformer.encode_condition(), torch.zeros(1, ALL, BITS)
    caches = transformer.new_caches(SCHEDULE, degraded=True)
    with pytest.raises(ValueError, match="scale 0 takes 0 token rows after"):
        transformer.forward_scale(torch.zeros(1, 0, BITS), 0, SCHEDULE, condition, caches)
    transformer.read_degraded(tokens, SCHEDULE, condition, caches)
    with pytest.raises(ValueError, match="comes first"):
        transformer.read_degraded(tokens, SCHEDULE, condition, caches)


@torch.no_grad()
def test_a_tile_restored_by_all_steps(restorer: MultiStepRestorer) -> None:
    tile = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, again = restorer(tile), restorer(tile, sampling="argmax")
    assert first.image_B3TT.shape == tile.shape
    assert torch.equal(first.image_B3TT, again.image_B3TT)
    noise = torch.rand(1, *restorer.uniforms_shape, generator=torch.Generator().manual_seed(1))
    drawn = restorer(tile, sampling="sample", uniforms=noise).image_B3TT
    assert not torch.equal(drawn, first.image_B3TT)
    assert torch.equal(drawn, restorer(tile, sampling="sample", uniforms=noise).image_B3TT)
    assert restorer(tile.expand(2, -1, -1, -1)).image_B3TT.shape[0] == 2
    with pytest.raises(ValueError, match="for one step"):
        restorer(tile, sampling="expected")
    with pytest.raises(ValueError, match="needs uniforms"):
        restorer(tile, sampling="sample")


def test_one_file_serves_both(restorer: MultiStepRestorer) -> None:
    parts = {**restorer.components(), "teacher": restorer.transformer, "transformer": Transformer(MINI.teacher)}
    one = restorer_from_components(replace(MINI.restorer, sampling="consistent"), parts)
    assert isinstance(one, OneStepRestorer) and not isinstance(one, MultiStepRestorer)
    assert set(one.components()) == {"prerestorer", "tokenizer", "transformer", "teacher"}
    whole = multistep(one)
    assert whole.transformer is restorer.transformer
    assert (whole.config.steps, whole.config.sampling) == ("all", "argmax")
    assert multistep(whole) is whole
    alone = restorer_from_components(whole.config, restorer.components())
    assert isinstance(alone, MultiStepRestorer)


def test_what_cannot_restore_scale_after_scale_is_refused(restorer: MultiStepRestorer) -> None:
    student = OneStepRestorer(MINI.restorer, restorer.prerestorer, restorer.tokenizer, restorer.transformer)
    with pytest.raises(ValueError, match="no transformer"):
        multistep(student)
    student.teacher = Transformer(replace(MINI.teacher, head="latent"))
    with pytest.raises(ValueError, match="bits head"):
        multistep(student)


def test_a_causal_student_does_not_see_finer_scales(mini: OneStepRestorer) -> None:
    config = RestorerConfig(causal=True)
    latent = torch.randn(1, BITS, *SCHEDULE.latent_grid, generator=torch.Generator().manual_seed(0))
    quantized = mini.tokenizer.quantize(latent)
    changed = replace(quantized, tokens_BLd=quantized.tokens_BLd.clone())
    last = SCHEDULE.slices[-1]
    changed.tokens_BLd[:, last.start - 1 :] += 1.0
    differences = {}
    for name, made in (("causal", config), ("all", replace(config, causal=False))):
        restorer = OneStepRestorer(made, mini.prerestorer, mini.tokenizer, mini.transformer)
        pair = [restorer.predict(tokens, latent).difference_BLd[:, : last.start] for tokens in (quantized, changed)]
        differences[name] = float((pair[0] - pair[1]).abs().max())
    assert differences["causal"] == 0.0
    assert differences["all"] > 1e-3
