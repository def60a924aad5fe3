"""One-step distillation: a frozen multi-step teacher and image losses make the student (VARestorer, section 3.2).

Student input: pyramid of the pre-restored degraded image, no mask. Teacher input: pyramid of the reference,
teacher-forced, block-causal mask. Shapes: B batch, T tile side, L positions of all scales, d bits per code.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.distributed import batch_mean
from varestorer_cli.core.training.losses import ImageLosses, Terms
from varestorer_cli.core.training.presets import Variant
from varestorer_cli.core.training.stages import (
    accuracy_terms,
    blended_target,
    check_terms,
    degraded,
    per_scale,
    sees_degraded,
    sharp,
    usage_terms,
)
from varestorer_cli.core.training.text_features import TextFolder, Texts, condition_on, dropped
from varestorer_models.first_stage import Sampling
from varestorer_models.lora import share_frozen, train_adapters_only
from varestorer_models.losses import bit_cross_entropy, bit_kl, logit_difference, psnr, score_distance
from varestorer_models.quantizer import Quantized, draw_flips, resample, with_latent_gradient
from varestorer_models.restorer import OneStepRestorer, Prediction
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer import Transformer


class BitTemperature(nn.Module):
    """One learned factor per scale between residuals and logits.

    The residuals of a latent head have the size that decodes best, not the one that says how sure it is. Without the
    factor, the KL to an unsure teacher would shrink the latent itself.

    Args:
        schedule: whose scales get a factor, 1 at first.
        device: where they are.
    """

    def __init__(self, schedule: ScaleSchedule, device: torch.device) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(len(schedule), device=device))
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
        device: where the images go.
        label_share: share of the pre-restored image in the target of the image terms; teacher and bit terms see the
            true image, whatever the share.
        variant: choices that research varies.
        texts: text features of the images; None = no text.
        adapter_rank: of the critic, where the loss has one; 0 = all of its weights are trained.
        share: a critic with adapters holds the teacher's own weights beneath them.

    Raises:
        UsageError: loss terms or choices that do not fit each other.
    """

    unit = "tiles"
    NAMES = (*ImageLosses.NAMES, "kl", "cross_entropy", "commitment", "latent", "alignment", "score", "critic")

    def __init__(
        self,
        restorer: OneStepRestorer,
        teacher: Transformer,
        weights: Mapping[str, float],
        decoder: float,
        device: torch.device,
        label_share: float = 0.0,
        variant: Variant | None = None,
        texts: TextFolder | None = None,
        adapter_rank: int = 0,
        *,
        share: bool = True,
    ) -> None:
        check_terms(weights, self.NAMES, "distill")
        self.label_share = label_share
        self.restorer = restorer
        self.teacher = teacher.requires_grad_(False).eval()
        self.weights, self.decoder, self.device = weights, decoder, device
        self.losses = ImageLosses(weights, device)
        self.temperature: BitTemperature | None = None
        if restorer.transformer.config.head == "latent" and (weights.get("kl") or weights.get("cross_entropy")):
            self.temperature = BitTemperature(restorer.tokenizer.config.schedule, device)
        self.variant, self.texts = variant or Variant(), texts
        self._check()
        # targets come from the encoder as it was, also while the student's own encoder is trained
        self.tokenizer = restorer.tokenizer
        if self.variant.encoder:
            self.tokenizer = copy.deepcopy(restorer.tokenizer).requires_grad_(False)
        self.critic = self._new_critic(adapter_rank, share) if weights.get("score") else None
        parts = {
            "model": restorer,
            "discriminator": self.losses.discriminator,
            "temperature": self.temperature,
            "critic": self.critic,
        }
        self.trained = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})
        restorer.prerestorer.requires_grad_(False)
        restorer.tokenizer.requires_grad_(False)
        if decoder:
            restorer.tokenizer.autoencoder.decoder.requires_grad_(True)
        if self.variant.encoder:
            restorer.tokenizer.autoencoder.encoder.requires_grad_(True)

    def _check(self) -> None:
        if bool(self.weights.get("score")) != bool(self.weights.get("critic")):
            raise UsageError("the loss terms 'score' and 'critic' only make sense together")
        if self.weights.get("score") and self.restorer.transformer.config.head != "bits":
            raise UsageError("the loss term 'score' compares bits; it needs --head bits")
        if self.variant.guidance != 1 and self.texts is None:
            raise UsageError("a guided teacher needs texts to be guided by; give --texts, or leave --guidance out")

    def _new_critic(self, adapter_rank: int, share: bool) -> Transformer:
        """A copy of the teacher that will learn how the student's bits follow from each other."""
        critic = copy.deepcopy(self.teacher)
        if adapter_rank:
            critic.add_adapters(adapter_rank)
            train_adapters_only(critic)
            if share:
                share_frozen(critic, self.teacher)
            return critic
        return critic.requires_grad_(True)

    def terms(self, batch: PairBatch, generator: torch.Generator) -> Terms:
        """KL to the teacher over the bits of all scales, and image terms of the decoded student."""
        restorer = self.restorer
        with torch.no_grad():
            prerestored = restorer.prerestore(degraded(batch, self.device))
            # the teacher of the bits sees the true image, as in the paper; only image terms have the blend as target
            reference, blend = sharp(batch, self.device), blended_target(batch, prerestored, self.label_share)
            clean = self.tokenizer.encode(reference).float()
            target = self.tokenizer.quantize(clean)
        texts: Texts = self.texts.of(batch) if self.texts is not None else [None] * len(batch)
        drop = dropped(texts, batch, self.variant.text_drop if self.texts is not None else 0.0, generator)
        latent, quantized = self._degraded_tokens(batch, prerestored, generator)
        condition = condition_on(restorer.transformer, texts, drop)
        prediction = restorer.predict(quantized, latent, condition)
        seen = quantized.extra_tokens() if sees_degraded(self.variant.degraded, generator) else None
        terms = self._bit_terms(prediction, target, texts, drop, seen)
        if self.weights.get("alignment"):
            size = batch_mean(clean.square().mean(), len(batch)).clamp_min(1e-8)
            terms["alignment"] = (latent - clean).square().mean() / size
        uniforms = batch.drawn(lambda whole: torch.rand(whole, *restorer.uniforms_shape, generator=generator))
        uniforms = uniforms.to(self.device)
        if self.critic is not None:
            terms |= self._score_terms(restorer.training_bits(prediction, uniforms), texts, drop)
        codes = restorer.training_codes(prediction, uniforms, self.variant.bits)
        decoded = restorer.decode(codes, prerestored, clamp=False).float()
        return {**terms, **self.losses(decoded, blend, reference)}

    def _degraded_tokens(
        self, batch: PairBatch, prerestored_B3TT: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Quantized]:
        """Latent and tokens of the pre-restored image; with a gradient where the encoder is trained."""
        tokenizer, flips = self.restorer.tokenizer, None
        schedule, bits = tokenizer.config.schedule, tokenizer.config.quantizer.bits
        if self.variant.flips:
            flips = batch.drawn(lambda whole: draw_flips(whole, bits, schedule, self.variant.flips, generator))
            flips = flips.to(self.device)
        with torch.set_grad_enabled(bool(self.variant.encoder)):
            latent = tokenizer.encode(prerestored_B3TT * 2 - 1).float()
            quantized: Quantized = tokenizer.quantizer(latent, schedule, flips)
            return latent, with_latent_gradient(quantized, latent, schedule) if self.variant.encoder else quantized

    @torch.no_grad()
    def _teacher_scores(
        self, tokens_BLd: Tensor, texts: Texts, drop: list[bool], degraded_Bld: Tensor | None = None
    ) -> Tensor:
        """The teacher's logit differences, guided where asked."""
        schedule, teacher = self.restorer.tokenizer.config.schedule, self.teacher
        condition = condition_on(teacher, texts, drop)
        scores = logit_difference(teacher(tokens_BLd, schedule, condition, causal=True, degraded_Bld=degraded_Bld))
        if self.variant.guidance == 1:
            return scores
        nothing = teacher.encode_condition(None, len(tokens_BLd))
        null = logit_difference(teacher(tokens_BLd, schedule, nothing, causal=True, degraded_Bld=degraded_Bld))
        return null + self.variant.guidance * (scores - null)

    def _score_terms(self, bits_BLd: Tensor, texts: Texts, drop: list[bool]) -> Terms:
        """Score distance of the student's bits between teacher and critic, and the loss that trains the critic."""
        assert self.critic is not None
        schedule, quantizer = self.restorer.tokenizer.config.schedule, self.restorer.tokenizer.quantizer
        hard = (bits_BLd.detach() > 0.5).to(torch.uint8)
        with torch.no_grad():
            tokens, _ = quantizer.tokens_from_bits(hard, schedule)
        teacher = self._teacher_scores(tokens, texts, drop)
        critic = logit_difference(self.critic(tokens, schedule, condition_on(self.critic, texts, drop), causal=True))
        return {
            "score": score_distance(bits_BLd, critic, teacher, schedule.slices),
            "critic": bit_cross_entropy(critic, hard, schedule.slices, schedule.sides),
        }

    def _bit_terms(
        self,
        prediction: Prediction,
        target: Quantized,
        texts: Texts,
        drop: list[bool],
        degraded_Bld: Tensor | None = None,
    ) -> Terms:
        terms: Terms = {}
        schedule = self.restorer.tokenizer.config.schedule
        difference = self._teacher_forced(prediction, target)
        if self.weights.get("kl"):
            teacher = self._teacher_scores(target.tokens_BLd, texts, drop, degraded_Bld)
            kl = bit_kl(teacher, difference, schedule.slices)
            terms |= {"kl": kl.sum(), **per_scale("kl", kl)}
        if self.weights.get("cross_entropy"):
            terms["cross_entropy"] = bit_cross_entropy(difference, target.bits_BLd, schedule.slices, schedule.sides)
        if prediction.latent_Bdhw is not None:
            mean = batch_mean(prediction.latent_Bdhw.detach().square().mean(), len(target.bits_BLd))
            size = mean.clamp_min(1e-8)
            if self.weights.get("commitment"):
                codes = self.restorer.tokenizer.quantize(prediction.latent_Bdhw.detach()).accumulated_Bdhw
                terms["commitment"] = (prediction.latent_Bdhw - codes).square().mean() / size
            if self.weights.get("latent"):
                terms["latent"] = (prediction.latent_Bdhw - target.accumulated_Bdhw).square().mean() / size
        terms |= accuracy_terms(difference, target.bits_BLd, schedule.slices)
        return terms | usage_terms(difference, schedule.slices, len(target.bits_BLd))

    def _teacher_forced(self, prediction: Prediction, target: Quantized) -> Tensor:
        """Logit differences of the bits of scale k given the reference's coarser codes, as the teacher gives them.

        Of a bits head they are its output, of a latent head the residuals its latent leaves to the reference's history.
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
        groups: list[dict[str, object]] = [{"params": student, "scale": 1.0, "name": "student"}]
        if self.variant.encoder:
            encoder = list(self.restorer.tokenizer.autoencoder.encoder.parameters())
            groups.append({"params": encoder, "scale": self.variant.encoder, "name": "encoder"})
        if self.critic is not None:
            critic = [p for p in self.critic.parameters() if p.requires_grad]
            groups.append({"params": critic, "scale": 1.0, "name": "critic"})
        if self.decoder:
            decoder = list(self.restorer.tokenizer.autoencoder.decoder.parameters())
            groups.append({"params": decoder, "scale": self.decoder, "name": "decoder"})
        if self.temperature is not None:
            groups.append({"params": list(self.temperature.parameters()), "scale": 10.0, "name": "temperature"})
        return [*groups, *self.losses.parameter_groups()]

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        """PSNR of the student and of the pre-restorer alone over RGB, and their feature distances where a loss.

        ``kl`` and ``bit_accuracy``, and of scale K ``kl/K`` and ``bit_accuracy/K``, are the loss's, without flips.

        What the codes do: ``psnr_over_input`` and ``psnr_over_noise`` are the student's PSNR minus that of the same
        decoder with the codes of its input and with random ones; ``features_over_...`` are differences of the feature
        distance, better where negative. A transformer that does nothing has 0 over noise.
        """
        restorer = self.restorer
        reference, bicubic = sharp(batch, self.device), degraded(batch, self.device)
        sampling: Sampling = "argmax" if restorer.config.sampling == "sample" else restorer.config.sampling
        out = restorer(bicubic, sampling=sampling)
        images = {"": out.image_B3TT * 2 - 1, "_prerestored": out.prerestored_B3TT * 2 - 1}
        figures = {f"psnr{name}": float(psnr(image, reference).mean()) for name, image in images.items()}
        features = self.losses.features
        if features is not None:
            figures |= {f"features{name}": float(features(image, reference)) for name, image in images.items()}
        prerestored = restorer.prerestore(bicubic)
        latent = restorer.tokenizer.encode(prerestored * 2 - 1).float()
        quantized = restorer.tokenizer.quantize(latent)
        prediction = restorer.predict(quantized, latent)
        figures |= self._bit_figures(batch, reference, quantized, latent, prediction)
        decoded = self._decoded_with_codes(prerestored, quantized, prediction, sampling)
        predicted = decoded.pop("predicted")
        for name, image in decoded.items():
            gain = psnr(predicted, reference) - psnr(image, reference)
            figures[f"psnr_over_{name}"] = float(gain.mean())
            if features is not None:
                figures[f"features_over_{name}"] = float(features(predicted, reference) - features(image, reference))
        return figures, [bicubic, out.prerestored_B3TT, out.image_B3TT, (reference + 1) / 2]

    def _bit_figures(
        self,
        batch: PairBatch,
        reference_B3TT: Tensor,
        quantized: Quantized,
        latent_Bdhw: Tensor,
        prediction: Prediction,
    ) -> dict[str, float]:
        """KL to the teacher and share of bits predicted right, of all scales and of each, on the true image's history.

        Args:
            batch: whose texts count, where there are any.
            reference_B3TT: true images in [-1, 1].
            quantized: tokens of the pre-restored images.
            latent_Bdhw: their latents.
            prediction: the student's on them, without text.
        """
        tokenizer = self.tokenizer
        slices = tokenizer.config.schedule.slices
        target = tokenizer.quantize(tokenizer.encode(reference_B3TT).float())
        texts: Texts = [None] * len(batch)
        if self.texts is not None:
            texts = self.texts.of(batch)
            condition = condition_on(self.restorer.transformer, texts, [False] * len(batch))
            prediction = self.restorer.predict(quantized, latent_Bdhw, condition)
        difference = self._teacher_forced(prediction, target)
        teacher = self._teacher_scores(target.tokens_BLd, texts, [False] * len(batch))
        kl = bit_kl(teacher, difference, slices)
        figures = {"kl": kl.sum(), **per_scale("kl", kl), **accuracy_terms(difference, target.bits_BLd, slices)}
        return {name: float(value) for name, value in figures.items()}

    def _decoded_with_codes(
        self, prerestored_B3TT: Tensor, quantized: Quantized, prediction: Prediction, sampling: Sampling
    ) -> dict[str, Tensor]:
        """The decoder's images in [-1, 1] from predicted codes, those of the input, and random ones."""
        restorer = self.restorer
        schedule, quantizer = restorer.tokenizer.config.schedule, restorer.tokenizer.quantizer
        shape = quantized.bits_BLd.shape
        noise = torch.randint(2, shape, generator=torch.Generator().manual_seed(0)).to(quantized.bits_BLd)
        codes = {
            "predicted": restorer.codes(prediction, sampling),
            "input": quantized.accumulated_Bdhw,
            "noise": quantizer.accumulate(noise, schedule),
        }
        return {name: restorer.decode(values, prerestored_B3TT).float() for name, values in codes.items()}

    def components(self) -> Mapping[str, nn.Module]:
        """The whole restorer."""
        return self.restorer.components()
