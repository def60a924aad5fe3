"""Training noise on the bits of a pyramid."""

import torch
from torch import Tensor

from varestorer_models.schedule import ScaleSchedule


def draw_flips(batch: int, bits: int, schedule: ScaleSchedule, maximum: float, generator: torch.Generator) -> Tensor:
    """Which bits to flip in bitwise self-correction (Infinity, arXiv 2412.04431, section 3.3).

    Each scale of each item draws its own probability p ~ U[0, maximum], then every bit flips with p.

    Args:
        batch: number of items.
        bits: d, bits per code.
        schedule: scales of the pyramid.
        maximum: largest probability, 0.3 in the published recipe.
        generator: CPU generator; the same state gives the same flips.

    Returns:
        bool (B, L, d) on the CPU.
    """
    parts = []
    for length in schedule.lengths:
        probability = torch.rand(batch, 1, 1, generator=generator) * maximum
        parts.append(torch.rand(batch, length, bits, generator=generator) < probability)
    return torch.cat(parts, dim=1)
