"""The one-step restorer: degraded tile -> restored tile in a single forward pass.

degraded -> pre-restorer -> encoder -> bits of all scales -> pyramid tokens -> transformer without mask -> bits ->
accumulated codes -> decoder -> colour fix (VARestorer, section 3). What ends after the pre-restorer is in
:mod:`varestorer_models.first_stage`, the iterative baseline in :mod:`varestorer_models.multistep`.

Shapes: B batch, T tile side in pixels, L positions of all scales, d bits per code.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from varestorer_models.color_fix import adain_fix, wavelet_fix
from varestorer_models.first_stage import ColorFix, FirstStageRestorer, RestoredTiles, RestorerConfig, Sampling
from varestorer_models.losses import gumbel_bits, logit_difference
from varestorer_models.quantizer import Quantized, resample, straight_through
from varestorer_models.sampler import draw_bits
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Condition, TextFeatures, Transformer


@dataclass(frozen=True)
class Prediction:
    """What the transformer says about one batch.

    Attributes:
        difference_BLd: logit differences (score of bit value 1 minus score of 0).
        latent_Bdhw: predicted latent; None for a bits head.
        schedule: scales the positions belong to.
    """

    difference_BLd: Tensor
    latent_Bdhw: Tensor | None
    schedule: ScaleSchedule


class OneStepRestorer(FirstStageRestorer):
    """Pre-restorer, tokenizer and one-step student as one module.

    Args:
        config: settings.
        prerestorer: image (B, 3, H, W) in [0, 1] -> the same size.
        tokenizer: autoencoder, quantiser and schedule.
        transformer: the student; its head decides how bits are predicted.
        teacher: the multi-step transformer, where the file holds it too; :func:`varestorer_models.multistep.multistep`.
    """

    def __init__(
        self,
        config: RestorerConfig,
        prerestorer: nn.Module,
        tokenizer: ImageTokenizer,
        transformer: Transformer,
        teacher: Transformer | None = None,
    ) -> None:
        super().__init__(config, prerestorer)
        self.tokenizer = tokenizer
        self.transformer = transformer
        self.teacher = teacher

    def components(self) -> dict[str, nn.Module]:
        """The parts by name, as a model file stores them."""
        parts = {"prerestorer": self.prerestorer, "tokenizer": self.tokenizer, "transformer": self.transformer}
        return parts if self.teacher is None else {**parts, "teacher": self.teacher}

    @property
    def tile(self) -> int:
        """Side in pixels of the square tile the model works on."""
        return self.tokenizer.config.tile

    @property
    def small_sides(self) -> range:
        """Sides from a quarter of the native one up, where the model stretches; its schedule shrinks as well.

        Measured with a latent head on 16 photographs: a 32x32 input as a tile of 128 is 0.06 dB nearer to its original
        than padded to a tile of 256.
        """
        if self.config.largest_tile <= self.tile:
            return range(0)
        step = self._tile_step
        return range(-(-self.tile // (4 * step)) * step, self.tile, step)

    @property
    def border_margin(self) -> int:
        """None: a tile's positions are those that training saw, and a tile of one fixed side has no room."""
        return 0

    @property
    def _tile_step(self) -> int:
        return self.tokenizer.config.autoencoder.stride

    @property
    def uniforms_shape(self) -> tuple[int, int, int]:
        """(L, d, 2): uniform random numbers one tile of native size needs with ``sampling="sample"``."""
        return self.tokenizer.config.schedule.length, self.tokenizer.config.quantizer.bits, 2

    def condition(self, rows: Tensor | None = None) -> Condition:
        """Condition of one text for all tiles it belongs to, keys and values included; make it once.

        It follows the weights and the autocast state of this moment.

        Args:
            rows: features (n, T) without padding; the learned null condition by default.

        Raises:
            ValueError: the features have another width.
        """
        text = None if rows is None else TextFeatures(rows, (len(rows),))
        return self.transformer.with_keys_values(self.transformer.encode_condition(text))

    def predict(self, quantized: Quantized, latent_Bdhw: Tensor, condition: Condition | None = None) -> Prediction:
        """One pass of the student over the pyramid of a pre-restored image.

        Args:
            quantized: the image's tokens.
            latent_Bdhw: its latent before quantisation.
            condition: text condition; the learned null condition by default.
        """
        height, width = latent_Bdhw.shape[-2:]
        schedule = self.tokenizer.schedule_for((height, width))
        if condition is None:
            condition = self.transformer.encode_condition(None, latent_Bdhw.shape[0])
        extra = self.config.extra_block and not self.config.causal
        tokens = quantized.tokens_with_extra() if extra else quantized.tokens_BLd
        out = self.transformer(tokens, schedule, condition, extra_block=extra, causal=self.config.causal)
        if self.transformer.config.head == "bits":
            return Prediction(logit_difference(out), None, schedule)
        latent = latent_Bdhw.float() + self._summed(out, schedule)
        return Prediction(self.residual_logits(self.tokenizer.quantize(latent).residuals), latent, schedule)

    def residual_logits(self, residuals: tuple[Tensor, ...]) -> Tensor:
        """Pooled residuals of every scale -> logit differences (B, L, d).

        The residual over the size of the scale's code component: 0 is undecided, 2 a component as large as the code.
        """
        quantizer = self.tokenizer.quantizer
        root = math.sqrt(quantizer.config.bits)
        rows = [(r * (2 * root / quantizer.gain(k))).flatten(2).transpose(1, 2) for k, r in enumerate(residuals)]
        return torch.cat(rows, dim=1)

    def _summed(self, rows_BLd: Tensor, schedule: ScaleSchedule) -> Tensor:
        quantizer = self.tokenizer.quantizer
        maps = [
            resample(quantizer.scale_map(rows_BLd[:, rows].float(), grid), schedule.latent_grid)
            for rows, grid in zip(schedule.slices, schedule.grids, strict=True)
        ]
        return torch.stack(maps).sum(0)

    def codes(self, prediction: Prediction, sampling: Sampling, uniforms_BLd2: Tensor | None = None) -> Tensor:
        """Prediction -> accumulated codes (B, d, h, w).

        Args:
            prediction: from :meth:`predict`.
            sampling: ``argmax`` the likelier value of every bit; ``sample`` Bernoulli draws; ``expected`` mean codes
                (smooth, no valid code); ``consistent`` bits of all scales by quantising the predicted latent, so that
                fine bits fit the coarse ones. With a latent head ``argmax`` is consistent by construction.
            uniforms_BLd2: uniform noise in [0, 1), needed by ``sample``.

        Raises:
            ValueError: ``sample`` without noise.
        """
        schedule, quantizer = prediction.schedule, self.tokenizer.quantizer
        if prediction.latent_Bdhw is not None and sampling in ("argmax", "consistent"):
            return self.tokenizer.quantize(prediction.latent_Bdhw).accumulated_Bdhw
        difference = prediction.difference_BLd
        if sampling in ("expected", "consistent"):
            expected = quantizer.accumulate(torch.sigmoid(difference), schedule)
            return expected if sampling == "expected" else self.tokenizer.quantize(expected).accumulated_Bdhw
        if sampling == "sample" and uniforms_BLd2 is None:
            raise ValueError("sampling='sample' needs uniforms of shape (B, L, d, 2)")
        bits = draw_bits(_scores(difference), uniforms_BLd2 if sampling == "sample" else None)
        return quantizer.accumulate(bits, schedule)

    def decode(
        self,
        accumulated_Bdhw: Tensor,
        prerestored_B3TT: Tensor,
        *,
        latent_Bdhw: Tensor | None = None,
        clamp: bool = True,
    ) -> Tensor:
        """Accumulated codes -> image in [-1, 1].

        Args:
            accumulated_Bdhw: codes.
            prerestored_B3TT: pre-restored image in [0, 1], which a guided decoder changes by what the codes differ from
                its own; equal codes give it back bit for bit.
            latent_Bdhw: latent of the pre-restored image, where it is known; else it is computed where it is needed.
            clamp: False leaves values outside [-1, 1], which losses need.
        """
        if not self.tokenizer.config.autoencoder.guided:
            return self.tokenizer.decode(accumulated_Bdhw, clamp=clamp)
        guide = prerestored_B3TT * 2 - 1
        with torch.no_grad():
            latent = self.tokenizer.encode(guide).float() if latent_Bdhw is None else latent_Bdhw
            own = self.tokenizer.quantize(latent).accumulated_Bdhw
        return self.tokenizer.decode(accumulated_Bdhw - own, guide, clamp=clamp)

    def image_from_codes(
        self,
        accumulated_Bdhw: Tensor,
        prerestored_B3TT: Tensor,
        color_fix: ColorFix | None = None,
        *,
        latent_Bdhw: Tensor | None = None,
    ) -> Tensor:
        """Accumulated codes and pre-restored image -> image (B, 3, T, T), about [0, 1], its colours fixed.

        Arguments as of :meth:`decode`.
        """
        if self.tokenizer.config.autoencoder.guided:
            decoded = self.decode(accumulated_Bdhw, prerestored_B3TT, latent_Bdhw=latent_Bdhw, clamp=False).float()
            # not (decoded + 1) / 2, whose rounding would change the guide
            image = prerestored_B3TT + (decoded - (prerestored_B3TT * 2 - 1)) / 2
        else:
            image = (self.decode(accumulated_Bdhw, prerestored_B3TT).float() + 1) / 2
        fix = color_fix or self.config.color_fix
        if fix == "wavelet":
            return wavelet_fix(image, prerestored_B3TT, self.config.wavelet_levels)
        return adain_fix(image, prerestored_B3TT) if fix == "adain" else image

    def forward(
        self,
        degraded_B3TT: Tensor,
        *,
        condition: Condition | None = None,
        uniforms: Tensor | None = None,
        sampling: Sampling | None = None,
        fidelity: float = 0.0,
        color_fix: ColorFix | None = None,
    ) -> RestoredTiles:
        """Restore a batch of tiles.

        Args:
            degraded_B3TT: tiles already upscaled to the wanted size, (B, 3, T, T) in [0, 1]; each side one of
                ``tile_sides``.
            condition: text condition; the learned null condition by default.
            uniforms: noise for ``sampling="sample"``, (B, L, d, 2) in [0, 1); native tiles only.
            sampling: overrides the model's default.
            fidelity: 0 gives the model's image, 1 the pre-restored one; between, their mix.
            color_fix: overrides the model's default.

        Raises:
            ValueError: the tiles have a size the model does not work on.
        """
        self._require_tile_sides(degraded_B3TT)
        prerestored = self.prerestore(degraded_B3TT)
        latent = self.tokenizer.encode(prerestored * 2 - 1).float()
        accumulated = self.restored_codes(latent, condition, sampling or self.config.sampling, uniforms)
        image = self.image_from_codes(accumulated, prerestored, color_fix, latent_Bdhw=latent)
        if fidelity:
            image = torch.lerp(image, prerestored, fidelity)
        return RestoredTiles(image.clamp(0, 1), prerestored.clamp(0, 1))

    def restored_codes(
        self, latent_Bdhw: Tensor, condition: Condition | None, sampling: Sampling, uniforms_BLd2: Tensor | None
    ) -> Tensor:
        """Latent of a pre-restored image -> accumulated codes of the restored one, both (B, d, h, w).

        Raises:
            ValueError: a sampling that the model does not have, or ``sample`` without noise.
        """
        prediction = self.predict(self.tokenizer.quantize(latent_Bdhw), latent_Bdhw, condition)
        return self.codes(prediction, sampling, uniforms_BLd2)

    def training_codes(
        self, prediction: Prediction, uniforms_BLd2: Tensor, bits: Literal["sampled", "greedy", "expected"] = "sampled"
    ) -> Tensor:
        """Accumulated codes through which image losses reach the transformer.

        Bits head: see :meth:`training_bits`. Latent head: straight-through over the whole quantiser.
        """
        if prediction.latent_Bdhw is not None:
            return straight_through(
                prediction.latent_Bdhw, self.tokenizer.quantize(prediction.latent_Bdhw).accumulated_Bdhw
            )
        chosen = self.training_bits(prediction, uniforms_BLd2, bits)
        return self.tokenizer.quantizer.accumulate(chosen, prediction.schedule)

    def training_bits(
        self, prediction: Prediction, uniforms_BLd2: Tensor, bits: Literal["sampled", "greedy", "expected"] = "sampled"
    ) -> Tensor:
        """Bits (B, L, d) of a bits head with a gradient.

        ``sampled``: straight-through hard Gumbel (tau 0.5) on every pair of logits; ``greedy``: the same without noise;
        ``expected``: the probability of a 1.
        """
        difference = prediction.difference_BLd
        if bits == "expected":
            return torch.sigmoid(difference.float())
        return gumbel_bits(_scores(difference), uniforms_BLd2 if bits == "sampled" else None)


def _scores(difference_BLd: Tensor) -> Tensor:
    """Logit differences -> scores of both values of every bit, (B, L, d, 2)."""
    return torch.stack([torch.zeros_like(difference_BLd), difference_BLd], dim=-1)
