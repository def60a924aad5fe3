"""One-step distillation: a frozen multi-step teacher and picture losses make the student (VARestorer, section 3.2).

Student input: pyramid of the pre-restored degraded picture, no mask. Teacher input: pyramid of the reference,
teacher-forced, block-causal mask. Shapes: B batch, T tile side, L positions of all scales, d bits per code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.losses import bit_cross_entropy, bit_kl, logit_difference, psnr
from models.quantizer import Quantized, resample
from models.restorer import Prediction, Restorer
from models.schedule import ScaleSchedule
from models.transformer import Transformer
from varestorer_cli.core.dataset import PairBatch
from varestorer_cli.core.training.parallel import batch_mean
from varestorer_cli.core.training.tasks import PictureLosses, Terms, check_terms, degraded, pixels, sharp


class BitTemperature(nn.Module):
    """One learned factor per scale between residuals and logits.

    The residuals of a latent head have the size that decodes best, not the one that says how sure it is. Without the
    factor, the KL to an unsure teacher would shrink the latent itself.

    Args:
        schedule: whose scales get a factor, 1 at first.
    """

    def __init__(self, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(len(schedule)))
        self._schedule = schedule

    def forward(self, difference_BLd: Tensor) -> Tensor:
        """Logit differences of a latent head -> calibrated ones."""
        factors = self.logarithm.exp()[self._schedule.scale_index(difference_BLd.device)]
        return difference_BLd * factors[:, None]


class DistillTask:
    """Teacher -> one-step student.

    Args:
        restorer: student with its pre-restorer and tokenizer; adapters or all weights are trainable.
        teacher: frozen multi-step transformer on the same tokenizer.
        weights: loss weights by name.
        decoder: learning-rate factor of the student's decoder; 0 keeps it frozen.
        student: learning-rate factor of the transformer; 0 keeps it frozen.
        device: where the pictures go.
        label_share: of the label in the target of a labelled batch.
    """

    unit = "tiles"
    NAMES = (*PictureLosses.NAMES, "kl", "cross_entropy", "commitment", "latent")

    def __init__(
        self,
        restorer: Restorer,
        teacher: Transformer,
        weights: Mapping[str, float],
        decoder: float,
        device: torch.device,
        label_share: float = 0.0,
        student: float = 1.0,
    ) -> None:
        check_terms(weights, self.NAMES, "distill")
        self.label_share = label_share
        self.restorer = restorer
        self.teacher = teacher.requires_grad_(False).eval()
        self.weights, self.decoder, self.device = weights, decoder, device
        self.losses = PictureLosses(weights, device)
        self.temperature: BitTemperature | None = None
        if restorer.transformer.config.head == "latent" and (weights.get("kl") or weights.get("cross_entropy")):
            self.temperature = BitTemperature(restorer.tokenizer.config.schedule).to(device)
        parts = {"model": restorer, "discriminator": self.losses.discriminator, "temperature": self.temperature}
        self.trained = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        restorer.prerestorer.requires_grad_(False)
        restorer.tokenizer.requires_grad_(False)
        self.student = student
        if not student:
            restorer.transformer.requires_grad_(False)
        if decoder:
            restorer.tokenizer.autoencoder.decoder.requires_grad_(True)

    def terms(self, batch: PairBatch, generator: torch.Generator) -> Terms:
        """KL to the teacher over the bits of all scales, and picture terms of the decoded student."""
        restorer, tokenizer = self.restorer, self.restorer.tokenizer
        upscaled = degraded(batch, self.device)
        with torch.no_grad():
            prerestored = restorer.prerestore(upscaled)
            reference = self._reference(batch, prerestored)
            latent = tokenizer.encode(prerestored * 2 - 1).float()
            quantized = tokenizer.quantize(latent)
            target = tokenizer.quantize(tokenizer.encode(reference).float())
        prediction = restorer.predict(quantized, latent)
        terms = self._bit_terms(prediction, target)
        uniforms = batch.drawn(lambda whole: torch.rand(whole, *restorer.uniforms_shape, generator=generator))
        codes = restorer.training_codes(prediction, uniforms.to(self.device))
        decoded = restorer.decode(codes, prerestored, upscaled, clamp=False).float()
        return {**terms, **self.losses(decoded, reference)}

    def _reference(self, batch: PairBatch, prerestored_B3TT: Tensor) -> Tensor:
        """What the student shall make, in [-1, 1]: the true picture, or a definite one made from the label."""
        if batch.label is None:
            return sharp(batch, self.device)
        target = torch.lerp(prerestored_B3TT.clamp(0, 1), pixels(batch.label, self.device), self.label_share)
        return target * 2 - 1

    def _bit_terms(self, prediction: Prediction, target: Quantized) -> Terms:
        terms: Terms = {}
        schedule = self.restorer.tokenizer.config.schedule
        difference = self._teacher_forced(prediction, target)
        if self.weights.get("kl"):
            with torch.no_grad():
                condition = self.teacher.encode_condition(None, len(target.bits_BLd))
                teacher = logit_difference(self.teacher(target.tokens_BLd, schedule, condition, causal=True))
            per_scale = bit_kl(teacher, difference, schedule.slices)
            terms["kl"] = per_scale.sum()
        if self.weights.get("cross_entropy"):
            sides = [float(h * w) ** 0.5 for h, w in schedule.grids]
            terms["cross_entropy"] = bit_cross_entropy(difference, target.bits_BLd, schedule.slices, sides)
        if prediction.latent_Bdhw is not None:
            mean = batch_mean(prediction.latent_Bdhw.detach().square().mean(), len(target.bits_BLd))
            size = mean.clamp_min(1e-8)
            if self.weights.get("commitment"):
                codes = self.restorer.tokenizer.quantize(prediction.latent_Bdhw.detach()).accumulated_Bdhw
                terms["commitment"] = (prediction.latent_Bdhw - codes).square().mean() / size
            if self.weights.get("latent"):
                terms["latent"] = (prediction.latent_Bdhw - target.accumulated_Bdhw).square().mean() / size
        terms["bit_accuracy"] = ((difference > 0) == target.bits_BLd.bool()).float().mean()
        return terms

    def _teacher_forced(self, prediction: Prediction, target: Quantized) -> Tensor:
        """Logit differences that answer the teacher's question: bits of scale k given the reference's coarser codes.

        A bits head says them directly. A latent head's are the residuals its latent leaves to the reference's history.
        """
        if prediction.latent_Bdhw is None:
            return prediction.difference_BLd
        schedule, quantizer = self.restorer.tokenizer.config.schedule, self.restorer.tokenizer.quantizer
        history = torch.zeros_like(prediction.latent_Bdhw)
        residuals = []
        for k, (rows, grid) in enumerate(zip(schedule.slices, schedule.grids, strict=True)):
            residual = prediction.latent_Bdhw - history
            if grid != schedule.latent_grid:
                residual = nn.functional.interpolate(residual, size=grid, mode="area")
            residuals.append(residual)
            codes = quantizer.scale_map(quantizer.codes(target.bits_BLd[:, rows], k), grid)
            history = history + resample(codes, schedule.latent_grid)
        difference = self.restorer.residual_logits(tuple(residuals))
        return self.temperature(difference) if self.temperature is not None else difference

    def parameter_groups(self) -> list[dict[str, object]]:
        """Transformer (or its adapters) and, with its own factor, the decoder."""
        student = [p for p in self.restorer.transformer.parameters() if p.requires_grad]
        groups: list[dict[str, object]] = [{"params": student, "scale": self.student}] if student else []
        if self.decoder:
            decoder = [p for p in self.restorer.tokenizer.parameters() if p.requires_grad]
            groups.append({"params": decoder, "scale": self.decoder})
        if self.temperature is not None:
            groups.append({"params": list(self.temperature.parameters()), "scale": 10.0})
        return [*groups, *self.losses.parameter_groups()]

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        """PSNR of the student and of the pre-restorer alone over RGB, and their feature distances where a loss."""
        reference = sharp(batch, self.device)
        out = self.restorer(degraded(batch, self.device), sampling=None)
        figures = {
            "psnr": float(psnr(out.image_B3TT * 2 - 1, reference).mean()),
            "psnr_prerestored": float(psnr(out.prerestored_B3TT * 2 - 1, reference).mean()),
        }
        if self.losses.features is not None:
            figures["features"] = float(self.losses.features(out.image_B3TT * 2 - 1, reference))
            figures["features_prerestored"] = float(self.losses.features(out.prerestored_B3TT * 2 - 1, reference))
        bicubic = degraded(batch, self.device)
        return figures, [bicubic, out.prerestored_B3TT, out.image_B3TT, (reference + 1) / 2]

    def components(self) -> Mapping[str, nn.Module]:
        """The whole restorer."""
        return self.restorer.components()
