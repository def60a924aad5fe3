"""Discriminator on the features of a frozen, pretrained network; used in training only.

Heads on pretrained features learn in a few hundred steps what a discriminator from scratch needs a long run for
(Projected GANs, arXiv 2111.01007, section 3).

Shapes: B batch, C_i channels and h_i w_i grid of stage i.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812


class FeatureDiscriminator(nn.Module):
    """One small convolutional head per stage, which scores every position as real or restored.

    Args:
        channels: C_i of each stage.
        width: channels inside the heads.
    """

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, padding=1))
            for c in channels
        )

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Features (B, C_i, h_i, w_i) -> scores (B, 1, h_i, w_i), positive = real."""
        return [head(stage) for head, stage in zip(self.heads, stages, strict=True)]

    def losses(self, restored: Sequence[Tensor], real: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Hinge losses of both players, in one graph: each gives gradients to its own side only.

        Args:
            restored: features of restored images; the generator's loss flows back into them.
            real: features of reference images.

        Returns:
            (generator's loss, discriminator's loss averaged over stages; 2 where it has learned nothing).
        """
        sizes = [stage.detach().square().mean().sqrt().clamp_min(1e-6) for stage in real]
        fake = [stage / size for stage, size in zip(restored, sizes, strict=True)]
        true = [stage.detach() / size for stage, size in zip(real, sizes, strict=True)]
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        fooled: list[Tensor] = functional_call(self, frozen, (fake,))
        generator = torch.stack([-score.float().mean() for score in fooled]).mean()
        on_true, on_fake = self(true), self([stage.detach() for stage in fake])
        terms = [
            F.relu(1 - t.float()).mean() + F.relu(1 + f.float()).mean() for t, f in zip(on_true, on_fake, strict=True)
        ]
        return generator, torch.stack(terms).mean()
