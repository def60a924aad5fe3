"""The loss terms that compare two pictures, as every stage with pictures weighs them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.perceptual import LiteFeatures, PerceptualLoss, lpips_loss
from varestorer_models.discriminator import FeatureDiscriminator
from varestorer_models.losses import feature_distance, gradient_l1, texture_distance

Terms = dict[str, Tensor]
"""Loss terms by name."""


class PictureLosses:
    """The picture terms a recipe asks for, computed on (result, reference) in [-1, 1].

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
        """The discriminator's group, if any; low momentum, as it chases a moving target."""
        if self.discriminator is None:
            return []
        return [{"params": list(self.discriminator.parameters()), "scale": 1.0, "betas": (0.5, 0.99)}]

    def __call__(self, result: Tensor, reference: Tensor, features_of: Tensor | None = None) -> Terms:
        """Terms by name.

        Args:
            result: what was made.
            reference: what the terms compare it with.
            features_of: another picture for the terms on features, which bear detail that lies elsewhere.
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
