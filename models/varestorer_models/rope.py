"""Two-dimensional rotary position encoding over the scales of a schedule.

Every position has grid coordinates (row, column) measured on one common grid, the last of a reference
schedule, so that cells of different scales which cover the same place get close angles. With head width K
there are K / 4 frequencies f_j = base^(-4 j / K) per axis: channel pair (2 j, 2 j + 1) turns by row * f_j,
pair (K / 2 + 2 j, K / 2 + 2 j + 1) by column * f_j (RoFormer, arXiv 2104.09864, applied to two axes).

Shapes: L positions of the whole sequence, K head width, k = K / 2 channel pairs, each of which is turned by an
angle, kept as its cosine and sine.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from varestorer_models.schedule import ScaleSchedule

Rounding = Literal["nearest", "cell_centre"]
ExtraPositions = Literal["next_scale", "last_scale"]


@dataclass(frozen=True)
class RotaryLayout:
    """How positions get their coordinates; defaults are the released behaviour.

    Attributes:
        rounding: "nearest" puts cell i of an axis with n cells at round(i N / n), N cells on the common grid,
            halves to even: whole numbers, corners aligned. "cell_centre" puts it at (i + 0.5) N / n - 0.5,
            where the middle of the cell truly lies.
        extra_positions: coordinates of the extra block. "next_scale" are those of the first cells of the
            scale that follows in the reference schedule, which shears them against their true place: an
            accident of the released sequence that its weights were trained with. "last_scale" are the true
            ones.
        base: Longest wavelength / 2 pi.
    """

    rounding: Rounding = "nearest"
    extra_positions: ExtraPositions = "next_scale"
    base: float = 10000.0


def rotary_coordinates(
    schedule: ScaleSchedule,
    *,
    reference: ScaleSchedule | None = None,
    extra_block: bool = False,
    layout: RotaryLayout | None = None,
) -> Tensor:
    """Row and column of every position on the common grid.

    Args:
        schedule: The sequence in use.
        reference: Schedule whose table is read row by row, beginning at its first; it must begin with
            ``schedule``. The released models use their "1M" schedule of the same aspect ratio. None:
            ``schedule`` itself.
        extra_block: Append the h * w positions of the extra block.
        layout: How coordinates are made.

    Returns:
        float32 (L, 2), or (L + h w, 2) with the extra block.

    Raises:
        ValueError: If the reference does not begin with the schedule, or has no rows for the extra block.
    """
    layout = layout or RotaryLayout()
    reference = reference or schedule
    if reference.grids[: len(schedule)] != schedule.grids:
        raise ValueError(
            f"the rotary reference {reference.grids} does not begin with the schedule {schedule.grids}, so its "
            f"first {schedule.length} rows lie elsewhere; take one of the same aspect ratio, or none"
        )
    rows, columns = reference.latent_grid
    table = torch.cat([_scale_coordinates(grid, (rows, columns), layout.rounding) for grid in reference])
    if not extra_block:
        return table[: schedule.length]
    if layout.extra_positions == "last_scale":
        return torch.cat([table[: schedule.length], table[schedule.slices[-1]]])
    needed = schedule.length + schedule.latent_length
    if needed > len(table):
        raise ValueError(
            f"the extra block needs {needed} rows of the rotary table, but the reference schedule has only "
            f'{len(table)}; give a longer one, or set extra_block_positions to "last_scale"'
        )
    return table[:needed]


def rotary_table(coordinates_L2: Tensor, head_width: int, base: float = 10000.0) -> Tensor:
    """Rotations for given coordinates.

    Args:
        coordinates_L2: (L, 2), row and column.
        head_width: K, a multiple of 4.
        base: Longest wavelength / 2 pi.

    Returns:
        float32 (L, K / 2, 2), cosine and sine: first K / 4 pairs by row, then K / 4 by column.

    Raises:
        ValueError: If ``head_width`` is not a multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"rotary encoding of two axes needs a head width that is a multiple of 4, got {head_width}")
    pairs = head_width // 4
    exponents = torch.arange(pairs, dtype=torch.float32, device=coordinates_L2.device) / pairs
    angles = coordinates_L2.float()[:, :, None] * base**-exponents  # (L, 2, K / 4)
    angles = angles.flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(
    heads_BLNK: Tensor, rotation_Lk2: Tensor, *, real: bool | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Turn every channel pair of every head by its position's angle.

    Args:
        heads_BLNK: float32 (B, L, ..., K) with any number of axes between.
        rotation_Lk2: float32 (L, K / 2, 2) from :func:`rotary_table`.
        real: compute in real arithmetic, which compilers fuse with its neighbours, or as a complex product, which
            without a compiler is one operation of a third of the traffic; None chooses. Both are the same up to
            rounding.
        dtype: of the result, to which it is rounded at the end.

    Returns:
        ``dtype``, shape of the input.
    """
    between = heads_BLNK.dim() - 3
    rotation = rotation_Lk2.reshape(len(rotation_Lk2), *(1,) * between, -1, 2)
    pairs = torch.unflatten(heads_BLNK, -1, (-1, 2))
    if real is None:
        real = heads_BLNK.device.type == "mps" or torch.compiler.is_compiling()
    if not real:
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)).flatten(-2).to(dtype)
    (first, second), (cosine, sine) = pairs.unbind(-1), rotation.unbind(-1)
    turned = first * cosine - second * sine, first * sine + second * cosine
    # rounded before they are put together: a compiler writes what it stacks, and would read it again to round it
    return torch.stack([part.to(dtype) for part in turned], dim=-1).flatten(-2)


def _scale_coordinates(grid: tuple[int, int], common: tuple[int, int], rounding: Rounding) -> Tensor:
    """Coordinates of one scale, row-major, (h * w, 2)."""
    axes = []
    for cells, common_cells in zip(grid, common, strict=True):
        index = torch.arange(cells, dtype=torch.float32)
        if rounding == "cell_centre":
            axes.append((index + 0.5) * common_cells / cells - 0.5)
        else:
            axes.append(torch.round(index * common_cells / cells))
    return torch.cartesian_prod(*axes)
