"""What ``make evidence`` measures on held-out crops: images, bits by scale, the iterative path, attention, time.

Shapes: B crops, T tile side, L positions of all scales, d bits per code, h w latent grid.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from varestorer_cli.bench.witness_backend import Lite2Features
from varestorer_cli.core.metrics.psnr_ssim import load as load_metric
from varestorer_cli.core.training.data.crop_cache import CropCache, PairBatch
from varestorer_cli.core.training.stages import degraded, pixels
from varestorer_models.first_stage import Sampling
from varestorer_models.losses import logit_difference
from varestorer_models.multistep import MultiStepRestorer
from varestorer_models.quantizer import Quantized, resample
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.sampler import sample_multistep
from varestorer_models.tokenizer import ImageTokenizer

CPU = torch.device("cpu")
BATCH = 32


@dataclass(frozen=True)
class HeldOut:
    """Held-out crops as every variant sees them.

    Attributes:
        reference_B3TT: sharp crops in [0, 1].
        bicubic_B3TT: degraded crops upscaled, in [0, 1].
        rows: of the crop cache.
    """

    reference_B3TT: Tensor
    bicubic_B3TT: Tensor
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> Iterator["HeldOut"]:
        """The crops in order, a few at a time."""
        for at in range(0, len(self), BATCH):
            some = slice(at, at + BATCH)
            yield HeldOut(self.reference_B3TT[some], self.bicubic_B3TT[some], self.rows[some])


def held_out_crops(cache: CropCache, count: int) -> HeldOut:
    """Up to ``count`` crops of photographs that no stage was trained on, spread over them."""
    rows = cache.val_indices
    chosen = [int(rows[i * len(rows) // count]) for i in range(count)] if count < len(rows) else rows.tolist()
    batch: PairBatch = cache.read(chosen)
    return HeldOut(pixels(batch.hq, CPU), degraded(batch, CPU), tuple(chosen))


class Judge:
    """Scores of restored crops, one per crop: PSNR and SSIM on Y, distance of EfficientNet-Lite2 features."""

    def __init__(self) -> None:
        self._metrics = {name: load_metric(name) for name in ("psnr_y", "ssim_y")}
        self._features = Lite2Features()

    def scores(self, restored_B3TT: Tensor, reference_B3TT: Tensor) -> dict[str, list[float]]:
        """By the name of the column; images are rounded to 8 bits first."""
        eight = [(image.clamp(0, 1) * 255).round().byte() for image in (restored_B3TT, reference_B3TT)]
        arrays = [[np.ascontiguousarray(one.permute(1, 2, 0).numpy()) for one in images] for images in eight]
        found = {
            name: [metric.compute(a, b) for a, b in zip(*arrays, strict=True)] for name, metric in self._metrics.items()
        }
        a, b = (image.float() / 255 for image in eight)
        return {**found, "lite2": self._features(a, b).tolist()}


@dataclass(frozen=True)
class Codes:
    """Codes of one batch by one variant: bits of all scales where it has hard ones, and what is decoded."""

    bits_BLd: Tensor | None
    accumulated_Bdhw: Tensor


Variant = Callable[[Tensor, Quantized], Codes]
"""(latent of the pre-restored crop, its tokens) -> codes."""


def one_step(restorer: OneStepRestorer, sampling: Sampling = "argmax", seed: int = 0) -> Variant:
    """Codes of the student; ``sample`` draws from the seed."""
    generator = torch.Generator().manual_seed(seed)

    def codes(latent: Tensor, quantized: Quantized) -> Codes:
        prediction = restorer.predict(quantized, latent)
        noise = torch.rand(len(latent), *restorer.uniforms_shape, generator=generator)
        accumulated = restorer.codes(prediction, sampling, noise if sampling == "sample" else None)
        hard = (prediction.difference_BLd > 0).to(torch.uint8) if sampling == "argmax" else None
        return Codes(hard, accumulated)

    return codes


def all_steps(restorer: MultiStepRestorer) -> Variant:
    """Codes of the iterative restorer, the likelier bits."""
    quantizer, schedule = restorer.tokenizer.quantizer, restorer.tokenizer.config.schedule
    condition = restorer.condition()

    def codes(latent: Tensor, quantized: Quantized) -> Codes:
        bits = sample_multistep(
            restorer.transformer, quantizer, schedule, condition, degraded_Bld=quantized.extra_tokens()
        )
        return Codes(bits, quantizer.accumulate(bits, schedule))

    return codes


def of_input(latent: Tensor, quantized: Quantized) -> Codes:
    """The pre-restored image's own codes: no transformer."""
    return Codes(quantized.bits_BLd, quantized.accumulated_Bdhw)


def at_random(tokenizer: ImageTokenizer, seed: int) -> Variant:
    """Coin flips."""
    generator = torch.Generator().manual_seed(seed)

    def codes(latent: Tensor, quantized: Quantized) -> Codes:
        bits = torch.randint(0, 2, quantized.bits_BLd.shape, generator=generator).to(torch.uint8)
        return Codes(bits, tokenizer.quantizer.accumulate(bits, tokenizer.config.schedule))

    return codes


@torch.no_grad()
def measure(restorer: OneStepRestorer, variant: Variant, crops: HeldOut, judge: Judge) -> dict[str, list[float]]:
    """One list per column: scores per crop, and shares of right bits per scale (``bits_1`` ...) and over all."""
    tokenizer = restorer.tokenizer
    columns: dict[str, list[float]] = {}
    for batch in crops.batches():
        latent, quantized = _tokens(restorer, batch.bicubic_B3TT)
        found = variant(latent, quantized)
        image = (restorer.decode(found.accumulated_Bdhw, batch.bicubic_B3TT).float() + 1) / 2
        scores = judge.scores(image, batch.reference_B3TT)
        if found.bits_BLd is not None:
            scores |= bit_accuracy(tokenizer, found.bits_BLd, batch.reference_B3TT)
        for name, values in scores.items():
            columns.setdefault(name, []).extend(values)
    return columns


@torch.no_grad()
def images(restorer: OneStepRestorer, variant: Variant, crops: HeldOut) -> Tensor:
    """Restored crops (B, 3, T, T), about [0, 1], with the codes of one variant."""
    latent, quantized = _tokens(restorer, crops.bicubic_B3TT)
    return (restorer.decode(variant(latent, quantized).accumulated_Bdhw, crops.bicubic_B3TT).float() + 1) / 2


@torch.no_grad()
def ceiling(restorer: OneStepRestorer, crops: HeldOut, judge: Judge) -> dict[str, list[float]]:
    """Scores of the tokenizer's round trip of the reference: what perfect bits would give."""
    return _of_images(lambda batch: (restorer.tokenizer(batch.reference_B3TT * 2 - 1) + 1) / 2, crops, judge)


@torch.no_grad()
def prerestored(restorer: OneStepRestorer, crops: HeldOut, judge: Judge) -> dict[str, list[float]]:
    """Scores of the pre-restored crops, which no codes have touched."""
    return _of_images(lambda batch: restorer.prerestore(batch.bicubic_B3TT), crops, judge)


def _of_images(made: Callable[[HeldOut], Tensor], crops: HeldOut, judge: Judge) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {}
    for batch in crops.batches():
        for name, values in judge.scores(made(batch), batch.reference_B3TT).items():
            columns.setdefault(name, []).extend(values)
    return columns


def bit_accuracy(tokenizer: ImageTokenizer, bits_BLd: Tensor, reference_B3TT: Tensor) -> dict[str, list[float]]:
    """Share of bits that equal the reference's, per crop: ``bits_K`` of scale K from 1, and ``bits`` over all."""
    right = bits_BLd == tokenizer.quantize(tokenizer.encode(reference_B3TT * 2 - 1).float()).bits_BLd
    shares = {"bits": right.float().mean(dim=(1, 2)).tolist()}
    for number, rows in enumerate(tokenizer.config.schedule.slices, 1):
        shares[f"bits_{number}"] = right[:, rows].float().mean(dim=(1, 2)).tolist()
    return shares


@torch.no_grad()
def forced_accuracy(restorer: MultiStepRestorer, crops: HeldOut, *, seeing: bool) -> dict[str, list[float]]:
    """Bit accuracy of the teacher on the reference's own history, with or without the degraded image's tokens."""
    tokenizer, transformer = restorer.tokenizer, restorer.transformer
    schedule, condition = tokenizer.config.schedule, restorer.condition()
    columns: dict[str, list[float]] = {}
    for batch in crops.batches():
        target = tokenizer.quantize(tokenizer.encode(batch.reference_B3TT * 2 - 1).float())
        _, quantized = _tokens(restorer, batch.bicubic_B3TT)
        seen = quantized.extra_tokens() if seeing else None
        scores = transformer(target.tokens_BLd, schedule, condition, causal=True, degraded_Bld=seen)
        bits = (logit_difference(scores) > 0).to(torch.uint8)
        for name, values in bit_accuracy(tokenizer, bits, batch.reference_B3TT).items():
            columns.setdefault(name, []).extend(values)
    return columns


@torch.no_grad()
def error_path(restorer: OneStepRestorer, variant: Variant, crops: HeldOut) -> list[float]:
    """Error of the accumulated codes after each scale, as a share of the size of the reference's final codes.

    After scale k both sides hold k scales, so that a perfect path is 0 at every scale.
    """
    totals: list[float] = []
    size = 0.0
    for batch in crops.batches():
        latent, quantized = _tokens(restorer, batch.bicubic_B3TT)
        tokenizer = restorer.tokenizer
        target = tokenizer.quantize(tokenizer.encode(batch.reference_B3TT * 2 - 1).float())
        bits = variant(latent, quantized).bits_BLd
        assert bits is not None
        paths = zip(_path(tokenizer, bits), _path(tokenizer, target.bits_BLd), strict=True)
        errors = [float((ours - theirs).square().sum()) for ours, theirs in paths]
        totals = [a + b for a, b in zip(totals or [0.0] * len(errors), errors, strict=True)]
        size += float(target.accumulated_Bdhw.square().sum())
    return [(total / size) ** 0.5 for total in totals]


@torch.no_grad()
def forced_path(restorer: MultiStepRestorer, crops: HeldOut) -> list[float]:
    """The iterative path's error if every step began at the reference's history: what a step adds by itself."""
    tokenizer, transformer = restorer.tokenizer, restorer.transformer
    schedule, condition = tokenizer.config.schedule, restorer.condition()
    totals, size = [0.0] * len(schedule), 0.0
    for batch in crops.batches():
        target = tokenizer.quantize(tokenizer.encode(batch.reference_B3TT * 2 - 1).float())
        _, quantized = _tokens(restorer, batch.bicubic_B3TT)
        seen = quantized.extra_tokens()
        scores = transformer(target.tokens_BLd, schedule, condition, causal=True, degraded_Bld=seen)
        bits = (logit_difference(scores) > 0).to(torch.uint8)
        for k, (rows, grid) in enumerate(zip(schedule.slices, schedule.grids, strict=True)):
            quantizer = tokenizer.quantizer
            step = quantizer.codes(bits[:, rows], k) - quantizer.codes(target.bits_BLd[:, rows], k)
            totals[k] += float(resample(quantizer.scale_map(step, grid), schedule.latent_grid).square().sum())
        size += float(target.accumulated_Bdhw.square().sum())
    return [(total / size) ** 0.5 for total in totals]


def _path(tokenizer: ImageTokenizer, bits_BLd: Tensor) -> Iterator[Tensor]:
    """Accumulated codes after each scale."""
    schedule, quantizer = tokenizer.config.schedule, tokenizer.quantizer
    accumulated = torch.zeros(len(bits_BLd), quantizer.config.bits, *schedule.latent_grid)
    for k, (rows, grid) in enumerate(zip(schedule.slices, schedule.grids, strict=True)):
        codes = quantizer.scale_map(quantizer.codes(bits_BLd[:, rows], k), grid)
        accumulated = accumulated + resample(codes, schedule.latent_grid)
        yield accumulated


@torch.no_grad()
def attention_between_scales(restorer: OneStepRestorer, crops: HeldOut) -> list[list[list[float]]]:
    """Share of each scale's self-attention that goes to each scale and to the extra block, per block of the student.

    Returns:
        [block][asking scale][scale that is looked at, the extra block last]; each row sums to 1. Mean over crops,
        heads and positions.
    """
    schedule = restorer.tokenizer.config.schedule
    spans = [*schedule.slices, slice(schedule.length, schedule.length + schedule.latent_length)]
    sums: list[Tensor] = []
    for batch in crops.batches():
        latent, quantized = _tokens(restorer, batch.bicubic_B3TT)
        for index, weights in enumerate(_attention(restorer, latent, quantized)):
            shares = torch.stack(
                [
                    torch.stack([weights[:, :, asking, seen].sum(-1).mean() for seen in spans])
                    for asking in schedule.slices
                ]
            )
            if index == len(sums):
                sums.append(torch.zeros_like(shares))
            sums[index] += shares * len(batch) / len(crops)
    return [table.tolist() for table in sums]


def _attention(restorer: OneStepRestorer, latent: Tensor, quantized: Quantized) -> Iterator[Tensor]:
    """Attention weights (B, N, L, n) of each block of the student."""
    kept: list[Tensor] = []
    modules = [block.get_submodule("self_attention") for block in restorer.transformer.blocks]
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: kept.append(module.weights(*args, queries=kwargs.get("queries"))),
            with_kwargs=True,
        )
        for module in modules
    ]
    try:
        restorer.predict(quantized, latent)
    finally:
        for hook in hooks:
            hook.remove()
    yield from kept


@torch.no_grad()
def milliseconds(restorer: OneStepRestorer, crops: HeldOut, rounds: int = 9) -> float:
    """Processor milliseconds of one tile, alone: the median of some, after one that warms up."""
    tile = crops.bicubic_B3TT[:1].contiguous(memory_format=torch.channels_last)
    taken = []
    for turn in range(rounds + 1):
        started = time.process_time()
        restorer(tile, sampling="argmax")
        if turn:
            taken.append(time.process_time() - started)
    return statistics.median(taken) * 1000


def _tokens(restorer: OneStepRestorer, bicubic_B3TT: Tensor) -> tuple[Tensor, Quantized]:
    """Latent and tokens of the pre-restored crops."""
    latent = restorer.tokenizer.encode(restorer.prerestore(bicubic_B3TT) * 2 - 1).float()
    return latent, restorer.tokenizer.quantize(latent)
