"""Scores to bits, and the teacher's scale-by-scale sampler.

Shapes: B batch, L positions of all scales, l positions of one scale, d bits per code, h w latent grid.
"""

import torch
from torch import Tensor

from varestorer_models.quantizer import MultiScaleQuantizer, resample
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer import Condition, Transformer


def draw_bits(logits_BLd2: Tensor, uniforms_BLd2: Tensor | None = None) -> Tensor:
    """Choose every bit, at random or as the likelier value.

    With uniforms U this is the Gumbel maximum of the pair, g = -log(-log(U + 1e-20) + 1e-20) (the small terms
    as released): bit 1 with probability sigmoid(l1 - l0). A temperature on both would not change the choice.

    Args:
        logits_BLd2: Scores, [..., b] of bit value b; any leading axes.
        uniforms_BLd2: Uniform numbers in [0, 1), float32, shape of the scores or without the batch axis.
            None: the value of higher score.

    Returns:
        uint8 0/1 without the last axis; ties give 0.
    """
    scores = logits_BLd2.float()
    if uniforms_BLd2 is not None:
        uniforms = uniforms_BLd2.to(scores.device, torch.float32)
        scores = scores - torch.log(-torch.log(uniforms + 1e-20) + 1e-20)
    return (scores[..., 1] > scores[..., 0]).to(torch.uint8)


@torch.no_grad()
def sample_multistep(
    transformer: Transformer,
    quantizer: MultiScaleQuantizer,
    schedule: ScaleSchedule,
    condition: Condition,
    null_condition: Condition | None = None,
    guidance: float = 1.0,
    uniforms_BLd2: Tensor | None = None,
    *,
    batch: int | None = None,
    prefix_Bld: Tensor | None = None,
    degraded_Bld: Tensor | None = None,
) -> Tensor:
    """Sample scale by scale, each seeing its own history: as many forward passes as scales.

    Keys and values of earlier scales are cached, so each position is computed once. The scores of every step
    equal those of one causal pass over the resulting bits.

    Args:
        transformer: Teacher with a "bits" head.
        quantizer: Turns bits into the next scale's tokens.
        schedule: Grids of the sequence.
        condition: Prompt, batch 1 or B.
        null_condition: What guidance leads away from, batch 1 or B; None = the learned null condition. It is
            only looked at if ``guidance`` is not 1.
        guidance: Classifier-free guidance on the scores: null + guidance * (prompt - null). 1 = none, at half
            the cost.
        uniforms_BLd2: (B, L, d, 2) or (L, d, 2) numbers for :func:`draw_bits`; None = the likelier bits.
        batch: B; None = that of the prefix, the uniforms or the condition.
        prefix_Bld: Bits of the first scales that are given instead of sampled; a whole number of scales.
        degraded_Bld: The degraded image's accumulated codes at full resolution (B, h w, d), which every scale sees;
            for a transformer that was trained with them.

    Returns:
        Bits of all scales, uint8 (B, L, d), on the condition's device.

    Raises:
        ValueError: If the head has no bit scores, or the prefix does not end where a scale does.
    """
    if transformer.config.head != "bits":
        raise ValueError('sampling needs bit scores, but this transformer\'s head is "latent"')
    if batch is None:
        batch = _batch(condition, uniforms_BLd2, prefix_Bld, degraded_Bld)
    given = 0 if prefix_Bld is None else prefix_Bld.shape[1]
    if given not in {0, *(rows.stop for rows in schedule.slices)}:
        raise ValueError(f"the prefix has {given} positions, which is no whole number of scales of {schedule.grids}")
    guided = guidance != 1.0
    if guided:
        null_condition = null_condition or transformer.encode_condition()
        condition = condition.expand(batch).join(null_condition.expand(batch))
    condition = transformer.with_keys_values(condition)
    caches = transformer.new_caches(schedule, degraded=degraded_Bld is not None)
    if degraded_Bld is not None:
        both = torch.cat([degraded_Bld, degraded_Bld]) if guided else degraded_Bld
        transformer.read_degraded(both, schedule, condition, caches)
    device, bits_per_code = condition.vector_BC.device, transformer.config.bits

    accumulated = torch.zeros(batch, bits_per_code, *schedule.latent_grid, device=device)
    tokens = torch.zeros(batch, 0, bits_per_code, device=device)
    chosen = []
    for scale, rows in enumerate(schedule.slices):
        if rows.start:
            tokens = resample(accumulated, schedule.grids[scale]).flatten(2).transpose(1, 2)
        logits = transformer.forward_scale(
            torch.cat([tokens, tokens]) if guided else tokens,
            scale,
            schedule,
            condition,
            caches,
        )
        if guided:
            prompted, null = logits.chunk(2)
            logits = null + guidance * (prompted - null)
        if prefix_Bld is not None and rows.stop <= given:
            bits = prefix_Bld[:, rows].to(device, torch.uint8)
        else:
            bits = draw_bits(logits, None if uniforms_BLd2 is None else uniforms_BLd2[..., rows, :, :])
        chosen.append(bits)
        accumulated = accumulated + quantizer.code_map(bits, scale, schedule)
    return torch.cat(chosen, dim=1)


def _batch(condition: Condition, uniforms: Tensor | None, prefix: Tensor | None, degraded: Tensor | None) -> int:
    """The largest batch size among the arguments; those of batch 1 hold for all items."""
    sizes = [condition.batch]
    if uniforms is not None and uniforms.dim() == 4:
        sizes.append(len(uniforms))
    sizes += [len(given) for given in (prefix, degraded) if given is not None]
    return max(sizes)
