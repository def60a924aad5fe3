from dataclasses import replace

import pytest
import torch
from small_networks import square_grids, without_quirks
from torch import Tensor

from varestorer_models.quantizer import MultiScaleQuantizer, QuantizerConfig
from varestorer_models.sampler import draw_bits, sample_multistep
from varestorer_models.transformer import TextFeatures, Transformer

BITS = 6
SCHEDULE = square_grids(1, 2, 3, 6, 6)
CONFIG = without_quirks(32, 2, 2, bits=BITS, text_width=24, null_tokens=3, levels=8)
QUANTIZER = MultiScaleQuantizer(QuantizerConfig(BITS, len(SCHEDULE), learned_gains=True))


@pytest.fixture(scope="module")
def teacher() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def text() -> TextFeatures:
    return TextFeatures(torch.randn(7, 24, generator=torch.Generator().manual_seed(1)), (2, 5))


def uniforms(batch: int | None = 2) -> Tensor:
    shape = (SCHEDULE.length, BITS, 2) if batch is None else (batch, SCHEDULE.length, BITS, 2)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def causal_scores(teacher: Transformer, bits: Tensor, condition) -> Tensor:
    tokens, _ = QUANTIZER.tokens_from_bits(bits, SCHEDULE)
    return teacher(tokens, SCHEDULE, condition, causal=True)


def test_cached_steps_equal_one_causal_pass(teacher, text):
    bits = torch.randint(0, 2, (2, SCHEDULE.length, BITS), generator=torch.Generator().manual_seed(3))
    tokens, _ = QUANTIZER.tokens_from_bits(bits, SCHEDULE)
    condition = teacher.encode_condition(text)
    caches = teacher.new_caches(SCHEDULE)
    with torch.no_grad():
        steps = [
            teacher.forward_scale(tokens[:, max(rows.start - 1, 0) : rows.stop - 1], scale, SCHEDULE, condition, caches)
            for scale, rows in enumerate(SCHEDULE.slices)
        ]
    torch.testing.assert_close(torch.cat(steps, dim=1), causal_scores(teacher, bits, condition))


@pytest.mark.parametrize("random", [False, True])
def test_sampled_bits_follow_from_their_own_history(teacher, text, random):
    noise = uniforms() if random else None
    condition = teacher.encode_condition(text)
    bits = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, uniforms_BLd2=noise)
    assert bits.dtype == torch.uint8
    assert torch.equal(bits, draw_bits(causal_scores(teacher, bits, condition), noise))
    assert 0 < bits.float().mean() < 1
    assert not torch.equal(bits[0], bits[1])


def test_guidance_leads_away_from_the_null_condition(teacher, text):
    condition, null = teacher.encode_condition(text), teacher.encode_condition()
    noise = uniforms()
    bits = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, null, 3.0, noise)
    towards, away = (causal_scores(teacher, bits, each) for each in (condition, null))
    assert torch.equal(bits, draw_bits(away + 3.0 * (towards - away), noise))
    assert torch.equal(bits, sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, None, 3.0, noise))
    unguided = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, null, 1.0, noise)
    assert not torch.equal(bits, unguided)


def test_given_scales_are_kept(teacher, text):
    condition = teacher.encode_condition(text)
    given = torch.randint(0, 2, (2, 14, BITS), generator=torch.Generator().manual_seed(4))
    bits = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, prefix_Bld=given)
    assert torch.equal(bits[:, :14], given.to(torch.uint8))
    assert torch.equal(bits[:, 14:], draw_bits(causal_scores(teacher, bits, condition))[:, 14:])
    with pytest.raises(ValueError, match="prefix has 4 positions"):
        sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, prefix_Bld=given[:, :4])


def test_one_prompt_many_items(teacher):
    condition = teacher.encode_condition()
    noise = uniforms(3)
    together = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, uniforms_BLd2=noise)
    assert together.shape == (3, SCHEDULE.length, BITS)
    for item in range(3):
        alone = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, uniforms_BLd2=noise[item])
        assert torch.equal(alone[0], together[item])
    shared = sample_multistep(teacher, QUANTIZER, SCHEDULE, condition, uniforms_BLd2=uniforms(None), batch=2)
    assert torch.equal(shared[0], shared[1])


def test_scales_must_come_in_order(teacher):
    caches = teacher.new_caches(SCHEDULE)
    with pytest.raises(ValueError, match="scale 1 takes 4 token rows after 1 cached positions, got 4 after 0"):
        teacher.forward_scale(torch.zeros(1, 4, BITS), 1, SCHEDULE, teacher.encode_condition(), caches)


def test_latent_heads_have_no_bits_to_sample():
    model = Transformer(replace(CONFIG, head="latent"))
    with pytest.raises(ValueError, match="needs bit scores"):
        sample_multistep(model, QUANTIZER, SCHEDULE, model.encode_condition())


def test_likelier_bits_and_ties():
    pairs = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [-1.0, -0.5]])
    assert draw_bits(pairs).tolist() == [1, 0, 0, 1]
    constant = torch.full_like(pairs, 0.3)
    assert draw_bits(pairs, constant).tolist() == [1, 0, 0, 1]


def test_drawn_bits_are_the_released_gumbel_maximum():
    generator = torch.Generator().manual_seed(0)
    pairs, noise = torch.randn(500, 2, generator=generator), torch.rand(500, 2, generator=generator)
    gumbel = -torch.log(-torch.log(noise.double()))
    assert torch.equal(draw_bits(pairs, noise), (pairs + gumbel).argmax(dim=-1).to(torch.uint8))


@pytest.mark.parametrize("difference", [-2.0, 0.0, 0.7])
def test_drawn_bits_have_the_right_probability(difference):
    count = 20_000
    pairs = torch.tensor([0.4, 0.4 + difference]).expand(count, 2)
    noise = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.sigmoid(torch.tensor(difference)).item()
    # four standard errors of a share of 20 000 draws
    assert draw_bits(pairs, noise).float().mean().item() == pytest.approx(expected, abs=0.015)


def test_extreme_uniforms_stay_finite():
    pairs = torch.tensor([[0.0, 50.0], [50.0, 0.0]])
    largest = 1 - 2**-24
    assert draw_bits(pairs, torch.tensor([[0.0, 0.0], [0.0, 0.0]])).tolist() == [1, 0]
    assert draw_bits(torch.zeros(2, 2), torch.tensor([[0.0, largest], [largest, 0.0]])).tolist() == [1, 0]
