"""Multi-scale residual binary spherical quantisation: latent <-> bits of all scales.

At each scale, coarse to fine, the residual between the latent and the codes so far is pooled to the scale's
grid and every component becomes one bit: its sign. No table of 2^d codes is ever built. Source: the released
quantiser as specified in Infinity (arXiv 2412.04431, section 3.2) and BSQ (arXiv 2406.07548, equations 3-5).

Shapes: B batch, d bits per code, h w latent grid, L positions of all scales, l positions of one scale.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.schedule import ScaleSchedule


@dataclass(frozen=True)
class QuantizerConfig:
    """Shape of a :class:`MultiScaleQuantizer`.

    Attributes:
        bits: d, bits per code.
        scales: number of scales; only needed with ``learned_gains``.
        learned_gains: one learned magnitude per scale instead of 1. The released codes are unit vectors at
            every scale; latents of small tokenizers are not confined to that sphere, and a residual that
            shrinks from scale to scale wants codes that shrink with it.
    """

    bits: int = 32
    scales: int = 0
    learned_gains: bool = False


@dataclass(frozen=True)
class Quantized:
    """Result of quantising a latent at every scale.

    Attributes:
        bits_BLd: uint8 0/1, (B, L, d), scales coarse first, positions row-major.
        accumulated_Bdhw: sum of the upsampled codes, (B, d, h, w); differentiable in the gains.
        tokens_BLd: pyramid tokens of the scales after the first, (B, L - 1, d): the codes accumulated so far,
            resampled to the next scale's grid.
        residuals: pooled residual of each scale before its sign was taken, (B, d, h_k, w_k).
    """

    bits_BLd: Tensor
    accumulated_Bdhw: Tensor
    tokens_BLd: Tensor
    residuals: tuple[Tensor, ...]

    def tokens_with_extra(self) -> Tensor:
        """Pyramid tokens followed by the extra block: (B, L - 1 + h w, d)."""
        return torch.cat([self.tokens_BLd, self.extra_tokens()], dim=1)

    def extra_tokens(self) -> Tensor:
        """The extra block, the codes accumulated over all scales: (B, h w, d)."""
        return _rows(self.accumulated_Bdhw)


def _rows(map_Bdhw: Tensor) -> Tensor:
    return map_Bdhw.flatten(2).transpose(1, 2)


def _pooled(map_Bdhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Area means on a coarser grid; the identity at equal size."""
    if tuple(map_Bdhw.shape[-2:]) == tuple(grid):
        return map_Bdhw
    return F.interpolate(map_Bdhw, size=grid, mode="area")


def resample(map_Bdhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Linear resampling without antialiasing, up or down; the identity at equal size.

    Shrinking blends just the two nearest samples per axis; the released tokens are made so (with ``area`` small
    networks' logits move by up to 1.4).
    """
    if tuple(map_Bdhw.shape[-2:]) == tuple(grid):
        return map_Bdhw
    return F.interpolate(map_Bdhw, size=grid, mode="bilinear", align_corners=False)


class MultiScaleQuantizer(nn.Module):
    """Latent -> bits of all scales, bits -> codes, and the pyramid tokens between them."""

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__()
        self.config = config or QuantizerConfig()
        if self.config.learned_gains:
            if self.config.scales < 1:
                raise ValueError("learned_gains needs the number of scales")
            self.log_gains = nn.Parameter(torch.zeros(self.config.scales))

    def gain(self, scale: int) -> Tensor | float:
        """Length of the code vectors of a scale."""
        return self.log_gains[scale].exp() if self.config.learned_gains else 1.0

    def codes(self, bits_Bld: Tensor, scale: int) -> Tensor:
        """Bits (B, l, d), 0/1 or soft values between, -> code vectors (B, l, d) of length ``gain(scale)``."""
        unit = (bits_Bld.to(torch.float32) * 2 - 1) / math.sqrt(self.config.bits)
        return unit * self.gain(scale)

    def forward(self, latent_Bdhw: Tensor, schedule: ScaleSchedule, flips_BLd: Tensor | None = None) -> Quantized:
        """Quantise a latent at every scale.

        Args:
            latent_Bdhw: (B, d, h, w), any real values; zero components give bit 0.
            schedule: grids coarse to fine, the last being (h, w).
            flips_BLd: bits to flip in the history (bitwise self-correction, Infinity section 3.3): tokens and
                accumulated codes are made of the flipped bits, while the returned bits of each scale are the
                right answer to that history.

        Returns:
            Bits, accumulated codes, pyramid tokens and pooled residuals.

        Raises:
            ValueError: the latent does not fit the schedule or the number of bits.
        """
        latent = latent_Bdhw.float()
        self._check(latent, schedule)
        accumulated = torch.zeros_like(latent)
        bits, tokens, residuals = [], [], []
        slices = schedule.slices
        for k, grid in enumerate(schedule.grids):
            residual = _pooled(latent - accumulated, grid)
            residuals.append(residual)
            # the unit length of the released code before its sign is taken cannot change the sign: left out
            bits_k = (_rows(residual) > 0).to(torch.uint8)
            bits.append(bits_k)
            if flips_BLd is not None:
                bits_k = bits_k ^ flips_BLd[:, slices[k]].to(torch.uint8)
            accumulated = accumulated + self.code_map(bits_k, k, schedule)
            if k + 1 < len(schedule.grids):
                tokens.append(_rows(resample(accumulated, schedule.grids[k + 1])))
        return Quantized(torch.cat(bits, dim=1), accumulated, self._joined(tokens, latent), tuple(residuals))

    def tokens_from_bits(self, bits_BLd: Tensor, schedule: ScaleSchedule) -> tuple[Tensor, Tensor]:
        """Bits of all scales -> (pyramid tokens (B, L - 1, d), accumulated codes (B, d, h, w))."""
        batch = bits_BLd.shape[0]
        accumulated = torch.zeros(batch, self.config.bits, *schedule.latent_grid, device=bits_BLd.device)
        tokens = []
        for k, rows in enumerate(schedule.slices):
            accumulated = accumulated + self.code_map(bits_BLd[:, rows], k, schedule)
            if k + 1 < len(schedule.grids):
                tokens.append(_rows(resample(accumulated, schedule.grids[k + 1])))
        return self._joined(tokens, accumulated), accumulated

    def accumulate(self, bits_BLd: Tensor, schedule: ScaleSchedule) -> Tensor:
        """Sum of the upsampled codes of all scales: (B, L, d), hard or soft bits -> (B, d, h, w)."""
        return self.tokens_from_bits(bits_BLd, schedule)[1]

    def scale_map(self, rows_Bld: Tensor, grid: tuple[int, int]) -> Tensor:
        """Rows of one scale (B, l, d) -> map (B, d, h_k, w_k)."""
        return rows_Bld.transpose(1, 2).reshape(len(rows_Bld), -1, *grid)

    def code_map(self, bits_Bld: Tensor, scale: int, schedule: ScaleSchedule) -> Tensor:
        """Bits of one scale (B, l, d) -> its codes, upsampled to the latent grid (B, d, h, w)."""
        code = self.scale_map(self.codes(bits_Bld, scale), schedule.grids[scale])
        return resample(code, schedule.latent_grid)

    @staticmethod
    def _joined(tokens: list[Tensor], like_Bdhw: Tensor) -> Tensor:
        if tokens:
            return torch.cat(tokens, dim=1)
        return like_Bdhw.new_zeros(like_Bdhw.shape[0], 0, like_Bdhw.shape[1])

    def _check(self, latent_Bdhw: Tensor, schedule: ScaleSchedule) -> None:
        if latent_Bdhw.shape[1] != self.config.bits:
            raise ValueError(f"latent has {latent_Bdhw.shape[1]} channels, the quantiser {self.config.bits} bits")
        if tuple(latent_Bdhw.shape[-2:]) != tuple(schedule.latent_grid):
            raise ValueError(
                f"latent grid is {tuple(latent_Bdhw.shape[-2:])}, the schedule ends at {schedule.latent_grid}"
            )
        if self.config.learned_gains and len(schedule.grids) != self.config.scales:
            raise ValueError(f"schedule has {len(schedule.grids)} scales, the quantiser {self.config.scales} gains")

    @torch.no_grad()
    def init_gains(self, latent_Bdhw: Tensor, schedule: ScaleSchedule) -> None:
        """Set each learned gain to the size of a sample's residual, E|r| sqrt(d), scale by scale."""
        latent = latent_Bdhw.float()
        self._check(latent, schedule)
        accumulated = torch.zeros_like(latent)
        for k, grid in enumerate(schedule.grids):
            residual = _pooled(latent - accumulated, grid)
            size = residual.abs().mean() * math.sqrt(self.config.bits)
            self.log_gains[k] = size.clamp_min(1e-6).log()
            accumulated = accumulated + self.code_map((_rows(residual) > 0).to(torch.uint8), k, schedule)


def with_latent_gradient(quantized: Quantized, latent_Bdhw: Tensor, schedule: ScaleSchedule) -> Quantized:
    """The same values; the gradient of tokens and accumulated codes passes to the latent, past the quantiser."""
    rows = [_rows(resample(latent_Bdhw, grid)) for grid in schedule.grids[1:]]
    tokens = quantized.tokens_BLd
    if rows:
        tokens = straight_through(torch.cat(rows, dim=1), tokens)
    return replace(
        quantized, tokens_BLd=tokens, accumulated_Bdhw=straight_through(latent_Bdhw, quantized.accumulated_Bdhw)
    )


def straight_through(latent_Bdhw: Tensor, accumulated_Bdhw: Tensor) -> Tensor:
    """Codes forward, latent backward: the gradient passes the whole sum of quantisers unchanged.

    The gains keep their own gradient only through losses on ``accumulated_Bdhw`` itself.
    """
    return latent_Bdhw + (accumulated_Bdhw - latent_Bdhw).detach()


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
