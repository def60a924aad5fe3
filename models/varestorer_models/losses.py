"""Losses of tokenizer, teacher and one-step distillation: pure functions of tensors.

Shapes: B batch, L positions of all scales, d bits per code. Logits (B, L, d, 2) hold the scores of bit value 0
and 1; logit differences (B, L, d) are score of 1 minus score of 0.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def logit_difference(logits_BLd2: Tensor) -> Tensor:
    """Score of bit value 1 minus score of 0: (B, L, d, 2) -> (B, L, d)."""
    return logits_BLd2[..., 1] - logits_BLd2[..., 0]


def bit_cross_entropy(
    difference_BLd: Tensor, bits_BLd: Tensor, slices: Sequence[slice], weights: Sequence[float]
) -> Tensor:
    """Two-class cross-entropy of every bit, in nats, averaged per scale and then over scales by weight.

    Args:
        difference_BLd: logit differences.
        bits_BLd: labels 0/1.
        slices: positions of each scale.
        weights: one per scale; the teacher's recipe takes the side length (Infinity, section 3.3).

    Returns:
        Scalar; 0.693 for a network that knows nothing.
    """
    per_bit = F.binary_cross_entropy_with_logits(difference_BLd.float(), bits_BLd.float(), reduction="none")
    total = sum(weights)
    return torch.stack([per_bit[:, s].mean() * (w / total) for s, w in zip(slices, weights, strict=True)]).sum()


def bit_kl(teacher_BLd: Tensor, student_BLd: Tensor, slices: Sequence[slice]) -> Tensor:
    """Forward KL(teacher || student) over the two values of every bit (VARestorer, equation of L_KL).

    The published text gives no normalisation: here the mean over bits and positions of each scale, summed over
    the scales.

    Args:
        teacher_BLd: the teacher's logit differences; no gradient flows into them.
        student_BLd: the student's logit differences.
        slices: positions of each scale.

    Returns:
        One KL per scale, in nats: (number of scales,).
    """
    t = teacher_BLd.detach().float()
    s = student_BLd.float()
    p = torch.sigmoid(t)
    per_bit = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return torch.stack([per_bit[:, rows].mean() for rows in slices])


def score_distance(bits_BLd: Tensor, critic_BLd: Tensor, teacher_BLd: Tensor, slices: Sequence[slice]) -> Tensor:
    """How much less likely the student's own bits are to the teacher than to a critic that knows the student.

    The critic learns p(bit | the student's coarser bits), the student's own conditional distribution. The gradient at
    a bit is the difference of both log odds: that of the reverse KL between student and teacher on the student's own
    samples, the discrete form of a learned score (DMD, arXiv 2311.18828; for autoregressive teachers DD2,
    arXiv 2510.21003). No formula of it for binary codes is published; this one is ours.

    Args:
        bits_BLd: the student's bits with a straight-through gradient.
        critic_BLd: the critic's logit differences on those bits; no gradient flows into them.
        teacher_BLd: the teacher's.
        slices: positions of each scale.

    Returns:
        Scalar; only its gradient has a meaning.
    """
    gap = (critic_BLd - teacher_BLd).detach().float()
    return torch.stack([(bits_BLd[:, rows] * gap[:, rows]).mean() for rows in slices]).sum()


def gumbel_bits(logits_BLd2: Tensor, uniforms_BLd2: Tensor | None, tau: float = 0.5) -> Tensor:
    """Straight-through hard Gumbel bits: hard values forward, gradient of the soft ones backward.

    Args:
        logits_BLd2: scores of bit values 0 and 1.
        uniforms_BLd2: uniform noise in [0, 1) of the same shape; None = the likelier values.
        tau: temperature of the soft values.

    Returns:
        (B, L, d), exactly 0 or 1 up to float rounding: y_hard - stop(y_soft) + y_soft.
    """
    scores = logits_BLd2.float()
    if uniforms_BLd2 is not None:
        scores = scores - torch.log(-torch.log(uniforms_BLd2 + 1e-20) + 1e-20)
    soft = torch.sigmoid(logit_difference(scores) / tau)
    hard = (soft > 0.5).to(soft.dtype)
    return hard - soft.detach() + soft


def bit_entropies(
    difference_BLd: Tensor, over_all: Callable[[Tensor], Tensor] = lambda mean: mean
) -> tuple[Tensor, Tensor]:
    """Per-bit entropies of soft bits, the O(d) form of the entropy penalty (BSQ, arXiv 2406.07548, section 3.3).

    Args:
        difference_BLd: logit differences.
        over_all: each bit's mean over this batch -> over all parts of a batch that several processes share.

    Returns:
        (mean entropy of single bits, mean entropy of each bit's average over batch and positions), in nats.
        A tokenizer wants the first small (decided bits) and the second large (every bit used).
    """
    p = torch.sigmoid(difference_BLd.float())
    return _binary_entropy(p).mean(), _binary_entropy(over_all(p.mean(dim=(0, 1)))).mean()


def bit_usage(
    difference_BLd: Tensor, slices: Sequence[slice], over_all: Callable[[Tensor], Tensor] = lambda mean: mean
) -> tuple[Tensor, Tensor]:
    """Early signs of collapse in predicted bits.

    Args:
        difference_BLd: logit differences.
        slices: positions of each scale.
        over_all: as in :func:`bit_entropies`.

    Returns:
        For each scale the mean entropy of a bit in nats (0 = the network is sure of all), and the share of bits that
        still take both values over batch and positions (0 = one code for every image).
    """
    p = torch.sigmoid(difference_BLd.detach().float())
    entropies = torch.stack([_binary_entropy(p[:, rows]).mean() for rows in slices])
    ones = over_all(torch.stack([p[:, rows].mean(dim=(0, 1)) for rows in slices]))
    return entropies, _take_both(ones)


def code_usage(
    bits_BLd: Tensor, slices: Sequence[slice], over_all: Callable[[Tensor], Tensor] = lambda mean: mean
) -> tuple[Tensor, Tensor]:
    """Collapse indicators for a tokenizer's hard bits: per scale, entropy of bit frequencies, share that varies.

    Args:
        bits_BLd: bits, 0 or 1.
        slices: positions of each scale.
        over_all: as in :func:`bit_entropies`.

    Returns:
        For each scale the mean entropy in nats of how often a bit is 1 over batch and positions (0 = each bit has one
        value), and the share of bits that take both values.
    """
    ones = over_all(torch.stack([bits_BLd[:, rows].float().mean(dim=(0, 1)) for rows in slices]))
    return _binary_entropy(ones).mean(dim=1), _take_both(ones)


def _take_both(ones: Tensor) -> Tensor:
    return ((ones > 0.01) & (ones < 0.99)).float().mean(dim=1)


def _binary_entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


def image_gradients(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical first differences."""
    return image_BCHW[..., :, 1:] - image_BCHW[..., :, :-1], image_BCHW[..., 1:, :] - image_BCHW[..., :-1, :]


def gradient_l1(image_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
    """Mean absolute error of the first differences: edges weigh more than flat areas."""
    pairs = zip(image_gradients(image_B3HW), image_gradients(reference_B3HW), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()


def texture_distance(image_B3HW: Tensor, reference_B3HW: Tensor, scales: int = 3) -> Tensor:
    """Weight-free perceptual term: gradients at several scales and their local energy.

    Where an image cannot be predicted exactly, local gradient energy still tells grass from a flat wash. No
    learned features are involved; it is no LPIPS.

    Args:
        image_B3HW: image; any value range, the same for both.
        reference_B3HW: reference of the same shape.
        scales: number of octaves.

    Returns:
        Scalar, 0 for equal images.
    """
    total = image_B3HW.new_zeros(())
    a, b = image_B3HW, reference_B3HW
    for level in range(scales):
        total = total + gradient_l1(a, b)
        for x, y in zip(image_gradients(a), image_gradients(b), strict=True):
            size = min(8, *x.shape[-2:])
            energy_x = F.avg_pool2d(x.square(), size, stride=max(size // 2, 1)).add(1e-6).sqrt()
            energy_y = F.avg_pool2d(y.square(), size, stride=max(size // 2, 1)).add(1e-6).sqrt()
            total = total + (energy_x - energy_y).abs().mean()
        if level + 1 < scales and min(a.shape[-2:]) >= 4:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / scales


def feature_distance(
    features: Sequence[Tensor], references: Sequence[Tensor], weights: Sequence[float] | None = None
) -> Tensor:
    """Squared distance of unit-length features, averaged over positions and stages (LPIPS without its linear heads).

    Computed in float32 whatever the features are: a distance of two images is a small difference, of which bfloat16
    keeps two digits.

    Args:
        features: (B, C_i, h_i, w_i) per stage.
        references: the same of the reference image.
        weights: one factor per stage, by default 1.
    """
    terms = []
    for stage, reference in zip(features, references, strict=True):
        a, b = stage.float(), reference.float()
        a = a / (a.norm(dim=1, keepdim=True) + 1e-8)
        b = b / (b.norm(dim=1, keepdim=True) + 1e-8)
        terms.append((a - b).square().sum(1).mean())
    if weights is not None:
        terms = [weight * term for weight, term in zip(weights, terms, strict=True)]
    return torch.stack(terms).mean()


def psnr(image_B3HW: Tensor, reference_B3HW: Tensor, span: float = 2.0) -> Tensor:
    """PSNR in dB per image over all channels; span = size of the value range (2 for [-1, 1])."""
    mse = (image_B3HW - reference_B3HW).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return 10 * (math.log10(span * span) - mse.log10())
