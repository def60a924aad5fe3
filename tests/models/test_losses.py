"""Losses against hand-computed values and their defining properties."""

import math

import pytest
import torch

from varestorer_models.losses import (
    bit_cross_entropy,
    bit_entropies,
    bit_kl,
    bit_usage,
    code_usage,
    feature_distance,
    gradient_l1,
    gumbel_bits,
    psnr,
    score_distance,
    texture_distance,
)

SLICES = (slice(0, 1), slice(1, 5))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_of_ignorance_is_log_two_whatever_the_weights() -> None:
    bits = torch.randint(0, 2, (3, 5, 4))
    assert float(bit_cross_entropy(torch.zeros(3, 5, 4), bits, SLICES, (1, 9))) == pytest.approx(math.log(2))


def test_cross_entropy_weighs_scales_by_weight_not_by_length() -> None:
    bits = torch.zeros(1, 5, 2)
    difference = torch.zeros(1, 5, 2)
    difference[:, 0] = 3.0  # the coarse scale is wrong, the fine one undecided
    wrong = math.log1p(math.exp(3.0))
    expected = (2 * wrong + 1 * math.log(2)) / 3
    assert float(bit_cross_entropy(difference, bits, SLICES, (2, 1))) == pytest.approx(expected, rel=1e-6)


def test_kl_is_zero_for_equal_and_matches_the_definition() -> None:
    teacher, student = noise(2, 5, 3), noise(2, 5, 3, seed=1)
    torch.testing.assert_close(bit_kl(teacher, teacher, SLICES), torch.zeros(2))
    p, q = torch.sigmoid(teacher), torch.sigmoid(student)
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(bit_kl(teacher, student, SLICES)[1], by_hand[:, 1:].mean())


def test_kl_gives_the_teacher_no_gradient() -> None:
    teacher, student = noise(1, 5, 2).requires_grad_(), noise(1, 5, 2, seed=1).requires_grad_()
    bit_kl(teacher, student, SLICES).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().sum() > 0


def test_gumbel_bits_are_hard_forward_and_soft_backward() -> None:
    logits = noise(4, 5, 3, 2).requires_grad_()
    uniforms = torch.rand(4, 5, 3, 2, generator=torch.Generator().manual_seed(2))
    bits = gumbel_bits(logits, uniforms)
    torch.testing.assert_close(bits, bits.round())
    bits.sum().backward()
    assert logits.grad is not None and (logits.grad[..., 1] > 0).all() and (logits.grad[..., 0] < 0).all()


def test_gumbel_bits_follow_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0]).expand(1, 1, 40_000, 2)
    uniforms = torch.rand(1, 1, 40_000, 2, generator=torch.Generator().manual_seed(3))
    assert float(gumbel_bits(logits, uniforms).mean()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)


def test_entropies_tell_decided_from_dead() -> None:
    decided = torch.where(noise(2, 50, 6) > 0, 20.0, -20.0)
    single, spread = bit_entropies(decided)
    assert single < 0.01 and spread > 0.6
    single, spread = bit_entropies(torch.full((2, 50, 6), 20.0))
    assert single < 0.01 and spread < 0.01


def test_usage_tells_constant_bits_from_balanced_ones_in_each_scale() -> None:
    bits = torch.zeros(4, 5, 2)
    bits[:, 1:, 0] = torch.tensor([0.0, 1, 0, 1])
    entropies, used = code_usage(bits, SLICES)
    assert used.tolist() == [0.0, 0.5]
    assert entropies.tolist() == pytest.approx([0, math.log(2) / 2], abs=1e-4)
    entropies, used = bit_usage(20 * bits - 10, SLICES)  # sure of everything, yet of different things
    assert used.tolist() == [0.0, 0.5] and float(entropies.max()) < 1e-3
    entropies, used = bit_usage(torch.zeros(4, 5, 2), SLICES)
    assert used.tolist() == [1.0, 1.0] and entropies.tolist() == pytest.approx([math.log(2)] * 2)


def test_image_terms_vanish_only_for_equal_images() -> None:
    image, other = noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=1)
    for term in (gradient_l1, texture_distance):
        assert float(term(image, image)) == 0
        assert float(term(image, other)) > 0


def test_texture_distance_sees_missing_texture_that_l1_rewards() -> None:
    texture = noise(1, 3, 64, 64) * 0.2
    moved = noise(1, 3, 64, 64, seed=1) * 0.2
    flat = torch.zeros_like(texture)
    assert (flat - texture).abs().mean() < (moved - texture).abs().mean()
    energy_of_flat = texture_distance(flat, texture) - gradient_l1(flat, texture)
    energy_of_moved = texture_distance(moved, texture) - gradient_l1(moved, texture)
    assert energy_of_moved < energy_of_flat


def test_texture_distance_by_hand() -> None:
    """A ramp has gradients of 1 along one axis: their mean difference is 1, and so is that of their energies."""
    ramp = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    flat = torch.zeros_like(ramp)
    assert float(texture_distance(ramp, flat, scales=1)) == pytest.approx(2 * (1 - 1e-3) + 1e-3, abs=2e-3)
    turned = ramp.flip(3)  # other gradients (2 apart) of the same energy
    assert float(texture_distance(ramp, turned, scales=1)) == pytest.approx(2.0, abs=1e-5)


def test_the_learned_score_moves_bits_from_the_critic_to_the_teacher() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(2, 5, 3, generator=generator).requires_grad_()
    critic, teacher = (torch.randn(2, 5, 3, generator=generator).requires_grad_() for _ in range(2))
    score_distance(bits, critic, teacher, [slice(0, 1), slice(1, 5)]).backward()
    assert bits.grad is not None and critic.grad is None and teacher.grad is None
    gap = (critic - teacher).detach()
    torch.testing.assert_close(bits.grad[:, :1], gap[:, :1] / 6)
    torch.testing.assert_close(bits.grad[:, 1:], gap[:, 1:] / 24)


def test_gradient_l1_by_hand() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert float(gradient_l1(ramp, torch.zeros_like(ramp))) == pytest.approx(1.0)


def test_feature_distance_is_exact_for_features_in_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 24, 9, 9, generator=generator).bfloat16()
    b = (a.float() + 0.05 * torch.randn(a.shape, generator=generator)).bfloat16()
    found, expected = feature_distance([a], [b]), feature_distance([a.double()], [b.double()])
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_feature_distance_ignores_length() -> None:
    a, b = noise(1, 4, 2, 2), noise(1, 4, 2, 2, seed=1)
    assert float(feature_distance([a], [a * 7])) == pytest.approx(0, abs=1e-6)
    assert 0 < float(feature_distance([a], [b])) <= 4


def test_psnr_by_hand() -> None:
    reference = torch.zeros(2, 3, 4, 4)
    assert psnr(reference + 0.2, reference).tolist() == pytest.approx([20.0, 20.0])


def test_weights_of_stages_scale_their_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(4))
    first, second = feature_distance([a], [b]), feature_distance([c], [d])
    torch.testing.assert_close(feature_distance([a, c], [b, d], (2.0, 0.5)), (2 * first + second / 2) / 2)
    torch.testing.assert_close(feature_distance([a, c], [b, d], (0.0, 1.0)), second / 2)
