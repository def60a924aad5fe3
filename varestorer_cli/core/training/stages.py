"""The stages before the student: pre-restorer, tokenizer, teacher.

A task knows its networks and its losses; the loop (``trainer.py``) knows steps, optimiser and files. Images come in
as uint8 batches and are turned into tensors here: sharp ones in [-1, 1], degraded ones upscaled in [0, 1].

Shapes: B batch, P patch side in pixels, L positions of all scales, d bits per code.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.compression import Hints, hint_distance
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.distributed import batch_mean
from varestorer_cli.core.training.losses import ImageLosses, Terms
from varestorer_cli.core.training.presets import Recipe
from varestorer_cli.core.training.text_features import TextFolder, Texts, condition_on, dropped
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.losses import (
    bit_cross_entropy,
    bit_entropies,
    bit_usage,
    code_usage,
    logit_difference,
    psnr,
)
from varestorer_models.multistep import MultiStepRestorer
from varestorer_models.quantizer import draw_flips, straight_through
from varestorer_models.rrdb import RRDBNet
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

_TELLING = 16  # positions


class Task(Protocol):
    """What the loop needs of a stage."""

    unit: str

    @property
    def trained(self) -> nn.Module:
        """Holds the parameters that are trained, averaged and kept in checkpoints."""

    def terms(self, batch: PairBatch, generator: torch.Generator) -> Terms:
        """Loss terms by name; those with a weight are summed, the rest only logged."""

    def parameter_groups(self) -> list[dict[str, object]]:
        """Optimiser groups; ``scale`` multiplies the learning rate, ``name`` is for the log."""

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        """Figures of one validation batch and columns of images in [0, 1]."""

    def components(self) -> Mapping[str, nn.Module]:
        """Modules by name for the model file."""


def sharp(batch: PairBatch, device: torch.device) -> Tensor:
    """Reference images (B, 3, P, P) in [-1, 1]."""
    return pixels(batch.hq, device).mul_(2).sub_(1)


def sees_degraded(share: float, generator: torch.Generator) -> bool:
    """Whether a teacher sees the degraded image in this step.

    For the whole batch, so that no position is computed for nothing; numbers are drawn only for a share.
    """
    if not 0 < share < 1:
        return share >= 1
    return float(torch.rand((), generator=generator)) < share


def degraded(batch: PairBatch, device: torch.device) -> Tensor:
    """Degraded images upscaled to the reference's size, (B, 3, P, P) in [0, 1].

    The filter is what ``RestorerConfig.upscale_filter`` calls ``bicubic_sharp``.
    """
    return upscaled(pixels(batch.lq, device), batch.hq.shape[-2:])


def upscaled(small_B3hw: Tensor, size: Sequence[int]) -> Tensor:
    """Small images in [0, 1] upscaled to ``size`` (H, W) as in all of training."""
    return F.interpolate(small_B3hw, size=tuple(size), mode="bicubic", align_corners=False).clamp_(0, 1)


def blended_target(batch: PairBatch, sharper_B3HW: Tensor, share: float) -> Tensor:
    """Target of image terms, (B, 3, P, P) in [-1, 1]: a share of a sharper image, the rest the true one.

    A regression learns the mean of all that could be true, which is soft. Another network's sharp image ((B, 3, P, P)
    in [0, 1]) is one definite image, which can be learnt; the true one keeps it from inventing too much.
    """
    reference = sharp(batch, sharper_B3HW.device)
    return torch.lerp(reference, sharper_B3HW.clamp(0, 1) * 2 - 1, share) if share else reference


def pixels(image: Tensor, device: torch.device) -> Tensor:
    """uint8 images (B, 3, H, W) -> float32 in [0, 1]."""
    moved = image.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.channels_last).div_(255)


def check_terms(weights: Mapping[str, float], known: tuple[str, ...], stage: str) -> None:
    """Refuse loss names the stage does not have.

    Raises:
        UsageError: an unknown name, or no term at all.
    """
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise UsageError(f"stage {stage} has no loss term {unknown[0]!r}; it knows {', '.join(known)}")
    if not any(weights.values()):
        raise UsageError(f"stage {stage}: every loss weight is 0, there is nothing to train on")


def per_scale(name: str, values: Sequence[Tensor] | Tensor) -> Terms:
    """Values of the scales, coarsest first, as terms for the log: ``name/1``, ``name/2`` ..."""
    return {f"{name}/{k + 1}": value.detach() for k, value in enumerate(values)}


def accuracy_terms(difference_BLd: Tensor, bits_BLd: Tensor, slices: Sequence[slice]) -> Terms:
    """Share of bits predicted right: ``bit_accuracy`` of all, ``bit_accuracy/K`` of scale K."""
    right = ((difference_BLd > 0) == bits_BLd.bool()).float()
    return {"bit_accuracy": right.mean(), **per_scale("bit_accuracy", [right[:, rows].mean() for rows in slices])}


def usage_terms(difference_BLd: Tensor, slices: Sequence[slice], count: int) -> Terms:
    """Signs of collapse in predicted bits for the log: ``entropy/K`` and, of large scales, ``used/K`` of scale K."""
    entropies, used = bit_usage(difference_BLd, slices, lambda mean: batch_mean(mean, count))
    return per_scale("entropy", entropies) | _of_large("used", used, slices)


def _of_large(name: str, values: Tensor, slices: Sequence[slice]) -> Terms:
    """One term per scale; scales with too few bits for the statistic are left out."""
    large = [k for k, rows in enumerate(slices) if rows.stop - rows.start >= _TELLING]
    return {f"{name}/{k + 1}": values[k] for k in large}


def has_image_terms(weights: Mapping[str, float]) -> bool:
    """Whether a pre-restorer's loss compares images, not features alone."""
    return any(weight for name, weight in weights.items() if name != "hints")


class PrerestorerTask:
    """Pre-restorer on pairs, or on what another network makes of them; frozen in every later stage.

    Args:
        module: the network.
        weights: loss weights by name: image terms, and ``hints``, its features against a larger network's.
        device: where the images go.
        hints: the larger network, where the loss has that term.
        label_share: share of the batches' labels in the target of the image terms.

    Raises:
        UsageError: the loss has the term ``hints`` and there is no larger network.
    """

    unit = "patches"
    NAMES = (*ImageLosses.NAMES, "hints")

    def __init__(
        self,
        module: nn.Module,
        weights: Mapping[str, float],
        device: torch.device,
        hints: Hints | None = None,
        label_share: float = 0.0,
    ) -> None:
        check_terms(weights, self.NAMES, "prerestorer")
        if hints is None and weights.get("hints"):
            raise UsageError("the loss term 'hints' needs a larger network: a preset with an RRDBNet")
        self.module, self.device, self.hints, self.label_share = module, device, hints, label_share
        self.images = has_image_terms(weights)
        self.losses = ImageLosses(weights, device)
        self.trained = self.losses.trained_with(module)

    def terms(self, batch: PairBatch, generator: torch.Generator) -> Terms:
        """Image terms of the pre-restored patch, and the distance of its features to the larger network's."""
        bicubic = degraded(batch, self.device)
        if self.hints is None:
            return self.losses(self.module(bicubic).float() * 2 - 1, self._target(batch))
        assert isinstance(self.module, RRDBNet)
        hints = self.hints(pixels(batch.lq, self.device), bicubic)
        first, outputs = self.module.features(bicubic)
        terms = {"hints": hint_distance(outputs, hints)}
        if self.images:
            result = self.module.render(first, outputs[-1]).float()
            terms |= self.losses(result * 2 - 1, self._target(batch))
        return terms

    def _target(self, batch: PairBatch) -> Tensor:
        if not self.label_share or batch.label is None:
            return sharp(batch, self.device)
        return blended_target(batch, pixels(batch.label, self.device), self.label_share)

    def parameter_groups(self) -> list[dict[str, object]]:
        """The network; with an adversarial term the discriminator too."""
        return [
            {"params": list(self.module.parameters()), "scale": 1.0, "name": "prerestorer"},
            *self.losses.parameter_groups(),
        ]

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        """PSNR of the result and of bicubic upscaling, over RGB; with labels also of the result against the label."""
        bicubic, reference = degraded(batch, self.device), (sharp(batch, self.device) + 1) / 2
        result = self.module(bicubic).float().clamp(0, 1)
        figures = {
            "psnr": float(psnr(result, reference, 1.0).mean()),
            "psnr_bicubic": float(psnr(bicubic, reference, 1.0).mean()),
        }
        if batch.label is None:
            return figures, [bicubic, result, reference]
        label = pixels(batch.label, self.device)
        figures["psnr_label"] = float(psnr(result, label, 1.0).mean())
        return figures, [bicubic, label, result, reference]

    def components(self) -> Mapping[str, nn.Module]:
        """The pre-restorer."""
        return {"prerestorer": self.module}


class TokenizerTask:
    """Autoencoder through the bits: reconstruction, codebook, commitment and entropy terms."""

    unit = "tiles"
    NAMES = (*ImageLosses.NAMES, "codebook", "commitment", "entropy")

    def __init__(self, tokenizer: ImageTokenizer, weights: Mapping[str, float], device: torch.device) -> None:
        check_terms(weights, self.NAMES, "tokenizer")
        self.tokenizer = tokenizer
        self.device = device
        self.entropy = bool(weights.get("entropy"))
        self.losses = ImageLosses(weights, device)
        self.trained = self.losses.trained_with(tokenizer)

    @torch.no_grad()
    def initialise(self, images_B3PP: Tensor, generator: torch.Generator) -> None:
        """Principal components of patches into the linear path, residual sizes into the gains.

        A random rotation spreads the variance evenly over the bits, which all have equal weight.

        Args:
            images_B3PP: a sample of sharp images in [-1, 1].
            generator: of the rotation and the choice of patches.
        """
        autoencoder, config = self.tokenizer.autoencoder, self.tokenizer.config
        if config.autoencoder.linear_path:
            f, d = config.autoencoder.stride, config.autoencoder.latent_channels
            patches = F.unfold(images_B3PP.float(), f, stride=f).transpose(1, 2).flatten(0, 1)
            mean = patches.mean(0)
            covariance = (patches - mean).T @ (patches - mean) / len(patches)
            vectors = torch.linalg.eigh(covariance).eigenvectors[:, -d:]
            rotation = torch.linalg.qr(torch.randn(d, d, generator=generator).to(vectors.device)).Q
            autoencoder.set_linear_basis((vectors @ rotation).T.contiguous(), mean)
        if config.quantizer.learned_gains:
            sample = self.tokenizer.encode(images_B3PP[:16])
            self.tokenizer.quantizer.init_gains(sample, config.schedule)

    def terms(self, batch: PairBatch, generator: torch.Generator) -> Terms:
        """Image terms of the round trip and the terms between latent and codes."""
        reference = sharp(batch, self.device)
        latent = self.tokenizer.encode(reference).float()
        quantized = self.tokenizer.quantize(latent)
        accumulated = quantized.accumulated_Bdhw
        decoded = self.tokenizer.decode(straight_through(latent, accumulated), clamp=False).float()
        terms = self.losses(decoded, reference)
        size = batch_mean(latent.detach().square().mean(), len(batch)).clamp_min(1e-8)  # weights then fit any latent
        if self.tokenizer.config.quantizer.learned_gains:
            terms["codebook"] = (accumulated - latent.detach()).square().mean() / size
        terms["commitment"] = (latent - accumulated.detach()).square().mean() / size
        if self.entropy:
            root = self.tokenizer.config.quantizer.bits**0.5
            rows = [(r * root).flatten(2).transpose(1, 2) for r in quantized.residuals]
            single, spread = bit_entropies(torch.cat(rows, dim=1), lambda mean: batch_mean(mean, len(batch)))
            terms["entropy"] = single - spread
        bits = batch_mean(quantized.bits_BLd.float().mean(dim=(0, 1)), len(batch))
        terms["dead_bits"] = ((bits < 0.01) | (bits > 0.99)).float().mean()
        slices = self.tokenizer.config.schedule.slices
        entropies, used = code_usage(quantized.bits_BLd, slices, lambda mean: batch_mean(mean, len(batch)))
        return terms | _of_large("entropy", entropies, slices) | _of_large("used", used, slices)

    def parameter_groups(self) -> list[dict[str, object]]:
        """The linear path learns at a quarter of the rate: it starts at its optimum."""
        linear = [p for name, p in self.tokenizer.named_parameters() if ".linear." in name]
        rest = [p for name, p in self.tokenizer.named_parameters() if ".linear." not in name and p.requires_grad]
        groups: list[dict[str, object]] = [{"params": rest, "scale": 1.0, "name": "tokenizer"}]
        if linear:
            groups.append({"params": linear, "scale": 0.25, "name": "linear"})
        return [*groups, *self.losses.parameter_groups()]

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        """PSNR of the round trip over RGB: the ceiling of every restorer on this tokenizer."""
        reference = sharp(batch, self.device)
        result = self.tokenizer(reference)
        return {"psnr": float(psnr(result, reference).mean())}, [(result + 1) / 2, (reference + 1) / 2]

    def components(self) -> Mapping[str, nn.Module]:
        """The tokenizer."""
        return {"tokenizer": self.tokenizer}


class TeacherTask:
    """Multi-step transformer on sharp images: bit cross-entropy with bitwise self-correction.

    Args:
        tokenizer: frozen.
        transformer: is trained.
        recipe: loss, flips, and the share of batches in which the degraded image's tokens are seen.
        device: where the images go.
        texts: text features of the images; None = no text.
        prerestorer: frozen first clean-up of the degraded image, where a share is above 0.
    """

    unit = "tiles"

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        transformer: Transformer,
        recipe: Recipe,
        device: torch.device,
        texts: TextFolder | None = None,
        prerestorer: nn.Module | None = None,
    ) -> None:
        check_terms(recipe.losses, ("cross_entropy",), "teacher")
        self.share = recipe.variant.degraded
        self.prerestorer = None if prerestorer is None else prerestorer.requires_grad_(False).eval()
        self.texts, self.text_drop = texts, recipe.variant.text_drop
        self.tokenizer = tokenizer.requires_grad_(False)
        self.trained = self.transformer = transformer
        self.flip = recipe.flip
        self.device = device

    def terms(self, batch: PairBatch, generator: torch.Generator) -> Terms:
        """Cross-entropy of every bit given a history with flipped bits; scales weighted by side length."""
        config = self.tokenizer.config
        with torch.no_grad():
            latent = self.tokenizer.encode(sharp(batch, self.device)).float()
            size = len(batch.hq)
            bits = config.quantizer.bits
            flips = batch.drawn(lambda whole: draw_flips(whole, bits, config.schedule, self.flip, generator))
            quantized = self.tokenizer.quantizer(latent, config.schedule, flips.to(self.device))
        texts: Texts = self.texts.of(batch) if self.texts is not None else [None] * size
        drop = dropped(texts, batch, self.text_drop if self.texts is not None else 0.0, generator)
        seen = self._degraded(batch) if sees_degraded(self.share, generator) else None
        difference = self._difference(quantized.tokens_BLd, texts, drop, seen)
        loss = bit_cross_entropy(difference, quantized.bits_BLd, config.schedule.slices, config.schedule.sides)
        accuracy = accuracy_terms(difference, quantized.bits_BLd, config.schedule.slices)
        return {"cross_entropy": loss, **accuracy, **usage_terms(difference, config.schedule.slices, size)}

    def _difference(
        self, tokens_BLd: Tensor, texts: Texts, drop: list[bool], degraded_Bld: Tensor | None = None
    ) -> Tensor:
        condition, schedule = condition_on(self.transformer, texts, drop), self.tokenizer.config.schedule
        scores = self.transformer(tokens_BLd, schedule, condition, causal=True, degraded_Bld=degraded_Bld)
        return logit_difference(scores)

    @torch.no_grad()
    def _degraded(self, batch: PairBatch) -> Tensor:
        """Accumulated codes of the pre-restored degraded image as tokens, (B, h w, d)."""
        assert self.prerestorer is not None
        prerestored = self.prerestorer(degraded(batch, self.device)).float()
        return self.tokenizer.quantize(self.tokenizer.encode(prerestored * 2 - 1).float()).extra_tokens()

    def parameter_groups(self) -> list[dict[str, object]]:
        """One group."""
        parameters = [p for p in self.trained.parameters() if p.requires_grad]
        return [{"params": parameters, "scale": 1.0, "name": "teacher"}]

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        """Cross-entropy and accuracy on clean histories, and images of the teacher-forced likelier bits."""
        config = self.tokenizer.config
        reference = sharp(batch, self.device)
        quantized = self.tokenizer.quantize(self.tokenizer.encode(reference).float())
        texts: Texts = self.texts.of(batch) if self.texts is not None else [None] * len(batch)
        difference = self._difference(quantized.tokens_BLd, texts, [False] * len(batch))
        loss = bit_cross_entropy(difference, quantized.bits_BLd, config.schedule.slices, config.schedule.sides)
        accuracy = accuracy_terms(difference, quantized.bits_BLd, config.schedule.slices)
        decoded = self.tokenizer.decode(self.tokenizer.quantizer.accumulate(difference > 0, config.schedule))
        figures = {"cross_entropy": float(loss), **{name: float(share) for name, share in accuracy.items()}}
        if self.prerestorer is None:
            return figures, [(decoded + 1) / 2, (reference + 1) / 2]
        restored = self.restorer(RestorerConfig(sampling="argmax"))(degraded(batch, self.device)).image_B3TT
        figures["psnr_restored"] = float(psnr(restored, (reference + 1) / 2, 1.0).mean())
        return figures, [degraded(batch, self.device), (decoded + 1) / 2, restored, (reference + 1) / 2]

    def restorer(self, config: RestorerConfig) -> MultiStepRestorer:
        """What a teacher that sees degraded images restores with."""
        assert self.prerestorer is not None
        return MultiStepRestorer(config, self.prerestorer, self.tokenizer, self.transformer)

    def components(self) -> Mapping[str, nn.Module]:
        """Teacher and its tokenizer, and the pre-restorer where it restores."""
        parts = {"tokenizer": self.tokenizer, "transformer": self.transformer}
        return parts if self.prerestorer is None else {"prerestorer": self.prerestorer, **parts}
