"""Convolutional autoencoder: image <-> continuous latent grid.

One class serves the released tokenizer (GroupNorm, full-resolution stem, 110 M parameters) and small ones
trained from scratch (no normalisation, pixel-unshuffle stem, linear shortcut); they differ by
:class:`AutoencoderConfig` only. The quantiser between encoder and decoder lives in ``quantizer.py``.

Shapes: B batch, d latent channels, h w latent grid, H W pixels, f = stride (pixels per latent cell).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.upsampling import UpsamplingConv


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of an :class:`Autoencoder`. Defaults are the released d=32 tokenizer.

    Attributes:
        latent_channels: d, channels of the latent and bits per code.
        width: channels of the finest level; level i has ``width * multipliers[i]``.
        multipliers: one per level, finest first; each level after the first halves the resolution.
        encoder_blocks: residual blocks per level of the encoder, finest first.
        decoder_blocks: residual blocks per level of the decoder, finest first.
        mid_blocks: residual blocks at the coarsest resolution, in encoder and decoder alike.
        unshuffle: pixel-unshuffle factor of the stem; 1 = full-resolution convolutions.
        norm: ``"group"`` (GroupNorm, eps 1e-6) or ``"none"``: without normalisation no statistic depends on
            the tile, so neighbouring tiles agree where they overlap.
        residual_scale: factor on each residual branch; below 1 keeps deep norm-free stacks stable.
        narrow_upsample: the convolution after each nearest x2 already reduces to the next level's width,
            a third of the decoder's cost saved; the released decoder keeps the width.
        linear_path: adds a stride-f convolution beside the encoder and its transpose beside the decoder, which
            can be initialised with principal components of patches (:meth:`Autoencoder.set_linear_basis`).
        guided: the decoder turns a difference of codes into a difference of images, added to a guide (the pre-restored
            image), whose features gate it at the finest level. It has neither biases nor a linear path then, so that no
            difference changes nothing; needs ``norm="none"``. Used by one-step students whose codes are predicted; a
            plain tokenizer leaves it off.
    """

    latent_channels: int = 32
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4, 4)
    encoder_blocks: tuple[int, ...] = (2, 2, 2, 2, 2)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 3, 3)
    mid_blocks: int = 2
    unshuffle: int = 1
    norm: Literal["group", "none"] = "group"
    residual_scale: float = 1.0
    narrow_upsample: bool = False
    linear_path: bool = False
    guided: bool = False

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        if not levels or len(self.encoder_blocks) != levels or len(self.decoder_blocks) != levels:
            raise ValueError(
                f"multipliers ({levels}), encoder_blocks ({len(self.encoder_blocks)}) and decoder_blocks "
                f"({len(self.decoder_blocks)}) must have one entry per level"
            )
        if self.guided and self.norm != "none":
            raise ValueError(
                'a guided decoder needs norm="none": behind a normalisation a difference of zero would change the guide'
            )

    @property
    def stride(self) -> int:
        """Pixels per latent cell along one axis."""
        return int(self.unshuffle * 2 ** (len(self.multipliers) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.width * m for m in self.multipliers)


def _norm(channels: int, kind: str) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    # 24 groups where 32 do not divide the width: the released rule
    groups = 32 if channels % 32 == 0 else 24 if channels % 24 == 0 else math.gcd(channels, 32)
    return GroupNorm(groups, channels, eps=1e-6)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that keeps a half-precision type under autocast; sums are float32 inside all the same.

    Autocast on a GPU widens its input to float32, and everything up to the next convolution with it: twice the traffic.

    Attributes:
        keeps_type: False for what autocast does.
    """

    keeps_type = True

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        device, low = input.device.type, input.dtype in (torch.bfloat16, torch.float16)
        if not (self.keeps_type and low and torch.is_autocast_enabled(device)):
            return super().forward(input)
        with torch.autocast(device, enabled=False):
            # CPUs mix the types of input and weights, GPUs do not
            kind = self.weight.dtype if device == "cpu" else input.dtype
            return F.group_norm(input, self.num_groups, self.weight.to(kind), self.bias.to(kind), self.eps)


def set_norms(module: nn.Module, *, keeps_type: bool) -> None:
    """Choose the form of every :class:`GroupNorm` inside a module."""
    for part in module.modules():
        if isinstance(part, GroupNorm):
            part.keeps_type = keeps_type


class ResidualBlock(nn.Module):
    """x + scale * conv2(silu(norm2(conv1(silu(norm1 x))))), 1x1 shortcut where the width changes."""

    def __init__(self, channels_in: int, channels_out: int, norm: str, scale: float, *, bias: bool = True) -> None:
        super().__init__()
        self.scale = scale
        self.norm1 = _norm(channels_in, norm)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
        self.norm2 = _norm(channels_out, norm)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=bias)
        widens = channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=bias) if widens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        skip: Tensor = self.shortcut(x)
        return torch.add(skip, y, alpha=self.scale)


def _blocks(
    count: int, channels_in: int, width: int, config: AutoencoderConfig, *, bias: bool = True
) -> tuple[list[ResidualBlock], int]:
    """Residual blocks of one level and the channels that leave them."""
    blocks = [
        ResidualBlock(width if index else channels_in, width, config.norm, config.residual_scale, bias=bias)
        for index in range(count)
    ]
    return blocks, width if count else channels_in


class Downsample(nn.Module):
    """Halves the grid: zero column right, zero row below, 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/2, w/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles the grid: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = UpsamplingConv(channels_in, channels_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, 2h, 2w)."""
        out: Tensor = self.conv(x)
        return out


class _Stage(nn.Module):
    """Residual blocks of one level, then the step to the next level where there is one."""

    def __init__(self, blocks: list[ResidualBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class _DownStage(_Stage):
    def __init__(self, blocks: list[ResidualBlock], channels: int, last: bool) -> None:
        super().__init__(blocks)
        self.downsample = nn.Identity() if last else Downsample(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(super().forward(x))
        return out


class _UpStage(_Stage):
    def __init__(self, blocks: list[ResidualBlock], upsample: Upsample | None) -> None:
        super().__init__(blocks)
        self.upsample = upsample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.upsample(super().forward(x))
        return out


class _Mid(nn.Module):
    def __init__(self, blocks: int, channels: int, norm: str, scale: float, *, bias: bool = True) -> None:
        super().__init__()
        self.count = blocks
        for i in range(blocks):
            self.add_module(f"block_{i + 1}", ResidualBlock(channels, channels, norm, scale, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.count):
            x = self.get_submodule(f"block_{i + 1}")(x)
        return x


class Encoder(nn.Module):
    """Image in [-1, 1] -> latent, not normalised."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        c, widths = config, config.widths
        self.unshuffle, self.normalised = c.unshuffle, c.norm == "group"
        self.conv_in = nn.Conv2d(3 * c.unshuffle**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        channels = widths[0]
        for level, (width, blocks) in enumerate(zip(widths, c.encoder_blocks, strict=True)):
            stage, channels = _blocks(blocks, channels, width, c)
            self.down.append(_DownStage(stage, channels, last=level == len(widths) - 1))
        self.mid = _Mid(c.mid_blocks, channels, c.norm, c.residual_scale)
        self.norm_out = _norm(channels, c.norm)
        self.conv_out = nn.Conv2d(channels, c.latent_channels, 3, padding=1)
        self.linear = nn.Conv2d(3, c.latent_channels, c.stride, stride=c.stride) if c.linear_path else None

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, d, H/f, W/f); H and W multiples of f."""
        if image_B3HW.device.type != "cpu":  # the faster layout there
            image_B3HW = image_B3HW.contiguous(memory_format=torch.channels_last)
        elif self.normalised:
            # CPU GroupNorm rounds by memory layout: in channels_last the released latent moves by 2e-3
            image_B3HW = image_B3HW.contiguous()
        x = F.pixel_unshuffle(image_B3HW, self.unshuffle) if self.unshuffle > 1 else image_B3HW
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        latent: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return latent + self.linear(image_B3HW) if self.linear is not None else latent


class Decoder(nn.Module):
    """Latent -> image, not clamped; guided: difference of latents and guide -> guide + difference of images."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        c, widths = config, config.widths
        self.unshuffle = c.unshuffle
        channels, bias = widths[-1], not c.guided
        self.conv_in = nn.Conv2d(c.latent_channels, channels, 3, padding=1, bias=bias)
        self.mid = _Mid(c.mid_blocks, channels, c.norm, c.residual_scale, bias=bias)
        stages: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            entry = channels
            stage, channels = _blocks(c.decoder_blocks[level], channels, widths[level], c, bias=bias)
            upsample = None
            if level:
                upsample = Upsample(channels, widths[level - 1] if c.narrow_upsample else channels, bias=bias)
                channels = widths[level - 1] if c.narrow_upsample else channels
            stages.append(_UpStage(stage, upsample))
        self.up = nn.ModuleList(reversed(stages))  # stored finest first, as in the released files
        self.norm_out = _norm(channels, c.norm)
        pixels = 3 * c.unshuffle**2
        self.conv_out = nn.Conv2d(channels, pixels, 3, padding=1, bias=bias)
        linear_path = c.linear_path and not c.guided  # the guide takes its place
        self.linear = nn.ConvTranspose2d(c.latent_channels, 3, c.stride, stride=c.stride) if linear_path else None
        if c.guided:
            self.guide_in = nn.Conv2d(pixels, entry, 3, padding=1)

    def forward(self, latent_Bdhw: Tensor, guide_B3HW: Tensor | None = None) -> Tensor:
        """(B, d, h, w) and optionally a guide (B, 3, f h, f w) in [-1, 1] -> (B, 3, f h, f w)."""
        # channels_last is the faster layout, and the one in which GroupNorm rounds as the released images did
        latent_Bdhw = latent_Bdhw.contiguous(memory_format=torch.channels_last)
        x = self.mid(self.conv_in(latent_Bdhw))
        for level in reversed(range(len(self.up))):
            if level == 0 and guide_B3HW is not None:
                # The guide says where and how strongly the codes change the image; it adds nothing of its own, and the
                # codes pass linearly: a function that saturates would suppress large ones.
                x = x * (2 * torch.sigmoid(self.guide_in(self._unshuffled(guide_B3HW))))
            x = self.up[level](x)
        x = F.silu(self.norm_out(x))
        image = self._shuffled(self.conv_out(x))
        if guide_B3HW is not None:
            return guide_B3HW + image
        return image + self.linear(latent_Bdhw) if self.linear is not None else image

    def _unshuffled(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x

    def _shuffled(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.unshuffle) if self.unshuffle > 1 else x


class Autoencoder(nn.Module):
    """Encoder and decoder of the image tokenizer.

    Args:
        config: sizes and variants; the default is the released d=32 layout.
    """

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Encode an image in [-1, 1] to its continuous latent.

        Args:
            image_B3HW: (B, 3, H, W) in [-1, 1], H and W multiples of ``config.stride``.

        Returns:
            (B, d, H/f, W/f), not normalised.

        Raises:
            ValueError: the size is no multiple of the stride.
        """
        height, width = image_B3HW.shape[-2:]
        if height % self.config.stride or width % self.config.stride:
            raise ValueError(
                f"image is {width}x{height}, but both sides must be multiples of {self.config.stride}; pad it first"
            )
        latent: Tensor = self.encoder(image_B3HW)
        return latent

    def decode(self, latent_Bdhw: Tensor, guide_B3HW: Tensor | None = None, *, clamp: bool = True) -> Tensor:
        """Decode a latent, or the accumulated codes that stand for it.

        Args:
            latent_Bdhw: (B, d, h, w); of a guided decoder the difference from the guide's: 0 gives the guide bit for
                bit.
            guide_B3HW: pre-restored image (B, 3, f h, f w) in [-1, 1]; needs ``config.guided``.
            clamp: False leaves values outside [-1, 1], which losses need.

        Returns:
            (B, 3, f h, f w), in [-1, 1] when clamped.

        Raises:
            ValueError: a guide is given to a decoder without one, or none to a guided one.
        """
        if guide_B3HW is not None and not self.config.guided:
            raise ValueError("this decoder takes no guide: its configuration has guided=False")
        if guide_B3HW is None and self.config.guided:
            raise ValueError("this decoder needs a guide: it predicts a difference from the pre-restored image")
        image: Tensor = self.decoder(latent_Bdhw, guide_B3HW)
        return image.clamp(-1, 1) if clamp else image

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch.

        | weights | value |
        |---|---|
        | convolutions behind an activation | normal, variance 2 / fan-in: ~20 layers keep the signal's size |
        | the others (first ones, changes of resolution, shortcuts) | normal, variance 1 / fan-in, for the same reason |
        | last convolution of encoder and decoder | x0.02 beside a linear path, where training then starts |
        | last convolution of a guided decoder | x0.1: it starts near its guide, and hears codes from the first step |
        | biases | 0 |
        """
        activated = {id(c) for m in self.modules() if isinstance(m, ResidualBlock) for c in (m.conv1, m.conv2)}
        activated |= {id(self.encoder.conv_out), id(self.decoder.conv_out)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                variance = (2.0 if id(module) in activated else 1.0) / module.weight[0].numel()
                module.weight.normal_(0, math.sqrt(variance), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        if self.config.linear_path:
            self.encoder.conv_out.weight.mul_(0.02)
        if self.config.guided or self.config.linear_path:
            self.decoder.conv_out.weight.mul_(0.1 if self.config.guided else 0.02)

    @torch.no_grad()
    def set_linear_basis(self, basis: Tensor, mean: Tensor) -> None:
        """Initialise the linear path with an orthonormal basis of patches.

        Args:
            basis: (d, 3 f f) orthonormal rows; channel-major, then row, then column.
            mean: (3 f f,) mean patch in [-1, 1].

        Raises:
            ValueError: no linear path, or the shapes do not fit.
        """
        encoder, decoder, f = self.encoder.linear, self.decoder.linear, self.config.stride
        if encoder is None or decoder is None:
            raise ValueError("this autoencoder has no linear path in both directions: check linear_path and guided")
        expected = (self.config.latent_channels, 3 * f * f)
        if tuple(basis.shape) != expected or tuple(mean.shape) != expected[1:]:
            raise ValueError(f"basis is {tuple(basis.shape)} and mean {tuple(mean.shape)}, expected {expected}")
        encoder.weight.copy_(basis.view_as(encoder.weight))
        decoder.weight.copy_(basis.view_as(decoder.weight))
        assert encoder.bias is not None and decoder.bias is not None
        encoder.bias.copy_(-basis @ mean)
        # a transposed convolution has one bias per channel, so only the mean colour can be restored exactly
        decoder.bias.copy_(mean.view(3, -1).mean(1))
