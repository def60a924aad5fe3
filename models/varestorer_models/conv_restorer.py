"""Small convolutional pre-restorer: the first clean-up before the tokens.

Same contract as :class:`varestorer_models.swinir.SwinIR` (the released pre-restorer) at a fraction of the cost: a
norm-free residual network at a quarter of the resolution, for students that must run on a CPU.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.autoencoder import ResidualBlock


@dataclass(frozen=True)
class ConvRestorerConfig:
    """Shape of a :class:`ConvRestorer`.

    Attributes:
        width: channels.
        blocks: residual blocks of two 3x3 convolutions.
        unshuffle: pixel-unshuffle factor; 4 = the resolution of a x4 degraded input.
        residual_scale: factor on each residual branch (EDSR, arXiv 1707.02921, section 3.1).
    """

    width: int = 48
    blocks: int = 8
    unshuffle: int = 4
    residual_scale: float = 0.3


class ConvRestorer(nn.Module):
    """Degraded image -> image + predicted residual, of the same size."""

    def __init__(self, config: ConvRestorerConfig | None = None) -> None:
        super().__init__()
        self.config = config or ConvRestorerConfig()
        c = self.config
        channels = 3 * c.unshuffle**2
        self.conv_in = nn.Conv2d(channels, c.width, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(c.width, c.width, "none", c.residual_scale) for _ in range(c.blocks))
        self.conv_out = nn.Conv2d(c.width, channels, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Restore at the given size.

        Args:
            image_B3HW: degraded image, already upscaled to the wanted size, (B, 3, H, W) in [0, 1].

        Returns:
            (B, 3, H, W), about [0, 1], not clamped.
        """
        height, width = image_B3HW.shape[-2:]
        u = self.config.unshuffle
        pad = (0, -width % u, 0, -height % u)
        padded = F.pad(image_B3HW, pad, mode="replicate") if any(pad) else image_B3HW
        x = first = self.conv_in(F.pixel_unshuffle(padded - 0.5, u))
        for block in self.body:
            x = block(x)
        out = padded + F.pixel_shuffle(self.conv_out(F.silu(x + first)), u)
        return out[..., :height, :width]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch.

        | weights | value |
        |---|---|
        | convolutions | normal, variance 2 / fan-in: default init is still at bicubic level after 3,000 patches |
        | conv_out | 0: training starts at the upscaled input |
        | biases | 0 |
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(0, math.sqrt(2 / module.weight[0].numel()), generator=generator)
                assert module.bias is not None
                module.bias.zero_()
        self.conv_out.weight.zero_()
