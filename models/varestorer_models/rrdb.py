"""RRDBNet: residual-in-residual dense blocks, the generator of ESRGAN and Real-ESRGAN.

Same contract as ``swinir.SwinIR`` (the released pre-restorer) when it takes upscaled images. With
``unshuffle=1`` and 23 blocks it is the published Real-ESRGAN x4plus (arXiv 2107.10833; ESRGAN, arXiv 1809.00219,
section 3.1), of which a pre-restorer of few blocks can be made. Submodules have the published names.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.upsampling import UpsamplingConv


@dataclass(frozen=True)
class RRDBConfig:
    """Shape of an :class:`RRDBNet`. Defaults are Real-ESRGAN x4plus but for ``unshuffle``.

    Attributes:
        width: channels between blocks.
        growth: channels each dense convolution adds.
        blocks: residual-in-residual dense blocks.
        unshuffle: pixel-unshuffle factor of the input; the output is 4 / unshuffle times as large. 4 = a degraded
            image already upscaled, 1 = the small one itself (published).
        residual_scale: factor on every residual branch.
    """

    width: int = 64
    growth: int = 32
    blocks: int = 23
    unshuffle: int = 4
    residual_scale: float = 0.2


class _DenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees the outputs of all before it."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.scale = config.residual_scale
        width, growth = config.width, config.growth
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, _activated(conv(seen))], dim=1)
        return torch.add(x, self.conv5(seen), alpha=self.scale)


class RRDB(nn.Module):
    """Three dense blocks inside a residual connection."""

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.scale = config.residual_scale
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(config) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=self.scale)


class RRDBNet(nn.Module):
    """Degraded image -> restored image.

    Args:
        config: sizes.
    """

    def __init__(self, config: RRDBConfig | None = None) -> None:
        super().__init__()
        self.config = config or RRDBConfig()
        width = self.config.width
        self.conv_first = nn.Conv2d(3 * self.config.unshuffle**2, width, 3, padding=1)
        self.body = nn.ModuleList(RRDB(self.config) for _ in range(self.config.blocks))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = UpsamplingConv(width, width)
        self.conv_up2 = UpsamplingConv(width, width)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Restore.

        Args:
            image_B3HW: degraded image (B, 3, H, W) in [0, 1]; already upscaled to the wanted size where
                ``unshuffle`` is 4.

        Returns:
            (B, 3, 4 H / unshuffle, 4 W / unshuffle), about [0, 1], not clamped.
        """
        height, width = image_B3HW.shape[-2:]
        u = self.config.unshuffle
        pad = (0, -width % u, 0, -height % u)
        padded = F.pad(image_B3HW, pad, mode="replicate") if any(pad) else image_B3HW
        first, outputs = self.features(padded)
        return self.render(first, outputs[-1] if outputs else first)[..., : 4 * height // u, : 4 * width // u]

    def features(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What enters the first block, and what leaves each block.

        Args:
            image_B3HW: as for :meth:`forward`, sides multiples of ``unshuffle``.

        Returns:
            (B, width, h, w) and one such per block, h = H / unshuffle.
        """
        u = self.config.unshuffle
        first: Tensor = self.conv_first(F.pixel_unshuffle(image_B3HW, u) if u > 1 else image_B3HW)
        outputs, x = [], first
        for block in self.body:
            x = block(x)
            outputs.append(x)
        return first, outputs

    def render(self, first: Tensor, last: Tensor) -> Tensor:
        """Input of the first and output of the last block, (B, width, h, w) -> image (B, 3, 4 h, 4 w)."""
        x = first + self.conv_body(last)
        for conv in (self.conv_up1, self.conv_up2):
            x = _activated(conv(x))
        image: Tensor = self.conv_last(_activated(self.conv_hr(x)))
        return image


def _activated(x: Tensor) -> Tensor:
    """In place: nothing else needs the output of a convolution, its gradient neither."""
    return F.leaky_relu(x, 0.2, inplace=True)
