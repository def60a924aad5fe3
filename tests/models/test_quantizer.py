"""Multi-scale quantiser: bits, codes and tokens agree with one another."""

import math

import pytest
import torch
from small_networks import square_grids

from varestorer_models.quantizer import MultiScaleQuantizer, QuantizerConfig, draw_flips, straight_through

SCHEDULE = square_grids(1, 2, 4, 4)


def quantizer(learned: bool = False) -> MultiScaleQuantizer:
    module = MultiScaleQuantizer(QuantizerConfig(bits=8, scales=4, learned_gains=learned))
    if learned:
        module.init_gains(latent(), SCHEDULE)
    return module


def latent(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("learned", [False, True])
def test_bits_alone_give_tokens_and_codes_back(learned: bool) -> None:
    module = quantizer(learned)
    result = module(latent(), SCHEDULE)
    tokens, accumulated = module.tokens_from_bits(result.bits_BLd, SCHEDULE)
    torch.testing.assert_close(tokens, result.tokens_BLd)
    torch.testing.assert_close(accumulated, result.accumulated_Bdhw)
    assert result.tokens_BLd.shape == (2, SCHEDULE.length - 1, 8)
    assert result.tokens_with_extra().shape == (2, SCHEDULE.length - 1 + 16, 8)


def test_released_codes_have_unit_length_and_zero_counts_as_zero_bit() -> None:
    module = quantizer()
    codes = module.codes(torch.tensor([[[0, 1] * 4]]), 0)
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(1, 1))
    assert module(torch.zeros(1, 8, 4, 4), SCHEDULE).bits_BLd[:, 0].sum() == 0


def test_each_scale_brings_the_codes_closer_when_gains_are_fitted() -> None:
    module = quantizer(learned=True)
    errors = []
    for scales in range(1, 5):
        bits = module(latent(), SCHEDULE).bits_BLd
        part = torch.full_like(bits, 0).float() + 0.5  # soft bit 0.5 = code 0: the finer scales say nothing
        end = sum(SCHEDULE.lengths[:scales])
        part[:, :end] = bits[:, :end].float()
        errors.append(float((module.accumulate(part, SCHEDULE) - latent()).detach().square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_repeating_the_last_scale_refines_it() -> None:
    one = MultiScaleQuantizer(QuantizerConfig(8, 1, learned_gains=True))
    two = MultiScaleQuantizer(QuantizerConfig(8, 2, learned_gains=True))
    # a schedule starts with the 1 x 1 grid, so compare on a latent of one cell
    cell = torch.randn(64, 8, 1, 1, generator=torch.Generator().manual_seed(3))
    errors = []
    for module, schedule in ((one, square_grids(1)), (two, square_grids(1, 1))):
        module.init_gains(cell, schedule)
        errors.append(float((module(cell, schedule).accumulated_Bdhw - cell).detach().square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_flips_change_the_history_and_the_answers_follow() -> None:
    module = quantizer()
    flips = torch.zeros(2, SCHEDULE.length, 8, dtype=torch.bool)
    clean = module(latent(), SCHEDULE, flips)
    flips[:, 0] = True
    corrupted = module(latent(), SCHEDULE, flips)
    assert torch.equal(corrupted.bits_BLd[:, :1], clean.bits_BLd[:, :1]), "labels of the flipped scale stay right"
    assert not torch.equal(corrupted.bits_BLd[:, 1:], clean.bits_BLd[:, 1:]), "later labels answer the new history"
    spread = -clean.bits_BLd[:, :1].float() + 1
    torch.testing.assert_close(corrupted.tokens_BLd[:, :1], module.codes(spread, 0))


def test_flip_probability_is_bounded_and_seeded() -> None:
    def draw(maximum: float) -> torch.Tensor:
        return draw_flips(64, 8, SCHEDULE, maximum, torch.Generator().manual_seed(5))

    assert torch.equal(draw(0.3), draw(0.3))
    assert not draw(0.0).any()
    assert 0.1 < draw(0.3).float().mean() < 0.2  # mean of U[0, 0.3]


def test_straight_through_passes_the_gradient_unchanged() -> None:
    z = latent().requires_grad_()
    result = quantizer()(z, SCHEDULE)
    out = straight_through(z, result.accumulated_Bdhw)
    torch.testing.assert_close(out.detach(), result.accumulated_Bdhw.detach())
    (out * 3).sum().backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, 3.0))


def test_gain_is_the_mean_size_of_the_first_residual() -> None:
    module = quantizer(learned=True)
    pooled = latent().mean(dim=(2, 3))
    assert float(module.gain(0).detach()) == pytest.approx(float(pooled.abs().mean()) * math.sqrt(8), rel=1e-5)


def test_misfits_are_named() -> None:
    with pytest.raises(ValueError, match="7 channels, the quantiser 8 bits"):
        quantizer()(torch.zeros(1, 7, 4, 4), SCHEDULE)
    with pytest.raises(ValueError, match=r"\(8, 8\), the schedule ends at \(4, 4\)"):
        quantizer()(torch.zeros(1, 8, 8, 8), SCHEDULE)
    with pytest.raises(ValueError, match="number of scales"):
        MultiScaleQuantizer(QuantizerConfig(8, 0, learned_gains=True))
