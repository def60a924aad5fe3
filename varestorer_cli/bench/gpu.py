"""``make bench-gpu``: the full-size model on a GPU, random weights: peaks, the released arithmetic and ours in one run.

Everything is measured in the same process, so that ratios mean something: large matrix products and copies for the
peaks; one tile in the released script's arithmetic (adapters beside the weights, text projected for every tile, encoder
in float32, plain upsampling, norms and windows); ours at several batch sizes, stage by stage, and whole images through
the engine, at the largest batch compiled too. Takes less than eight minutes and 12 GB of
memory at full size. ``--size tiny`` runs the same code on a CPU in seconds. Nothing here is a test of speed.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from varestorer_cli.bench.full_size import random_weights, use_released_arithmetic
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.engine.tile_check import not_finite
from varestorer_cli.core.runtime import autocast_type
from varestorer_cli.core.training.presets import preset
from varestorer_models.autoencoder import AutoencoderConfig, set_norms
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.meta_init import on_meta_device
from varestorer_models.quantizer import QuantizerConfig
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rounded_weights import with_rounded_weights
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.swinir import SwinIR, SwinIRConfig, set_window_attention
from varestorer_models.tokenizer import ImageTokenizer, TokenizerConfig
from varestorer_models.transformer import Transformer, TransformerConfig

_AIMS = (
    "Aims on an H200-class card: 35 ms per tile at batch 8, transformer at 55 % of the measured peak, idle below 5 %, "
    "below 7 GB at batch 1, first tile within 8 s."
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the parts of a model to measure."""

    transformer: TransformerConfig
    prerestorer: SwinIRConfig
    tokenizer: TokenizerConfig


def sizes_of(name: str) -> Sizes:
    """Sizes by name: ``2b``, or ``tiny`` for a run on a CPU in seconds."""
    full = preset("2b")
    assert isinstance(full.prerestorer, SwinIRConfig)
    teacher = dataclasses.replace(full.teacher, cross_value_bias=False)
    if name == "2b":
        return Sizes(teacher, full.prerestorer, full.tokenizer)
    blocks = (1,) * 5
    return Sizes(
        dataclasses.replace(teacher, width=64, depth=2, heads=2, bits=8, text_width=128, null_tokens=8),
        SwinIRConfig(width=16, depths=(2,), heads=(2,), feature_width=8),
        TokenizerConfig(
            AutoencoderConfig(8, 16, encoder_blocks=blocks, decoder_blocks=blocks, mid_blocks=1),
            QuantizerConfig(bits=8),
            ScaleSchedule.infinity("0.06M"),
        ),
    )


def build(sizes: Sizes, device: torch.device) -> OneStepRestorer:
    """Restorer of these sizes with random weights, the transformer's matrices in bf16 on a GPU."""
    transformer = on_meta_device(lambda: Transformer(sizes.transformer))
    random_weights(transformer, torch.float32 if device.type == "cpu" else torch.bfloat16)
    parts = SwinIR(sizes.prerestorer), ImageTokenizer(sizes.tokenizer), transformer
    restorer = OneStepRestorer(RestorerConfig(sampling="argmax"), *parts).eval().requires_grad_(False)
    return restorer.to(device)


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median wall time of a piece of work, its kernels included; the first of ``rounds`` + 1 runs is left out."""
    times = []
    for _ in range(rounds + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def peaks(device: torch.device, dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Rates measured here: FLOP/s of a large matrix product in this type, bytes/s of a copy, read and written."""
    side, count = (8192, 1 << 28) if device.type == "cuda" else (512, 1 << 22)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)
    products = 2 * side**3 / seconds(lambda: left @ right, device, rounds)
    return products, 2 * 4 * count / seconds(lambda: target.copy_(source), device, rounds)


def stages_of(restorer: OneStepRestorer, tiles: Tensor, released: bool) -> dict[str, Callable[[], Any]]:
    """The stages of a call, each with inputs of its own that are made now.

    Args:
        restorer: model, inside the autocast state of the measurement.
        tiles: (B, 3, T, T).
        released: text is projected with every tile, and the encoder runs in float32, as in the released script.
    """
    condition = None if released else restorer.condition()

    def encode() -> Tensor:
        with torch.autocast(tiles.device.type, enabled=False) if released else nullcontext():
            return restorer.tokenizer.encode(prerestored * 2 - 1).float()

    prerestored = restorer.prerestore(tiles)
    latent = encode()
    quantized = restorer.tokenizer.quantize(latent)
    prediction = restorer.predict(quantized, latent, condition)
    codes = restorer.codes(prediction, "argmax")

    def whole() -> Any:
        if not released:
            return restorer(tiles, condition=condition).image_B3TT
        first = restorer.prerestore(tiles)
        with torch.autocast(tiles.device.type, enabled=False):
            encoded = restorer.tokenizer.encode(first * 2 - 1).float()
        drawn = restorer.codes(restorer.predict(restorer.tokenizer.quantize(encoded), encoded), "argmax")
        return restorer.decode(drawn, first)

    return {
        "pre-restorer": lambda: restorer.prerestore(tiles),
        "encoder": encode,
        "quantiser, tokens": lambda: restorer.tokenizer.quantize(latent),
        "transformer": lambda: restorer.predict(quantized, latent, condition),
        "bits, codes": lambda: restorer.codes(prediction, "argmax"),
        "decoder": lambda: restorer.decode(codes, prerestored),
        "whole call": whole,
    }


@torch.inference_mode()
def measure(
    restorer: OneStepRestorer, batch: int, device: torch.device, precision: str, rounds: int, *, released: bool = False
) -> dict[str, tuple[float, float]]:
    """Milliseconds per tile and FLOP per tile of each stage."""
    dtype = autocast_type(precision)
    tiles = torch.rand(batch, 3, restorer.tile, restorer.tile, device=device)
    context = nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    if dtype is not None and not released:
        restorer = with_rounded_weights(restorer, dtype)  # as the engine does
    found = {}
    with context:
        for name, work in stages_of(restorer, tiles, released).items():
            with FlopCounterMode(display=False) as counter:
                work()
            found[name] = (seconds(work, device, rounds) * 1000 / batch, counter.get_total_flops() / batch)
    return found


@dataclass(frozen=True)
class EngineRate:
    """What the engine makes of an image, copies, cutting, checks and blending included.

    Attributes:
        first: seconds of its first image: tables are made, kernels chosen or compiled.
        tile: seconds per tile of later ones.
        idle: share of these in which the GPU computes nothing; None without a GPU.
        failure: why it ran uncompiled although it should not.
    """

    first: float
    tile: float
    idle: float | None
    failure: str = ""


def engine_rate(
    restorer: OneStepRestorer, batch: int, device: torch.device, precision: str, rounds: int, compile: str = "off"
) -> EngineRate:
    """Restore an image of four calls of full batches; its tiles are not held against the input, which they spoil."""
    engine = RestoreEngine(restorer, EngineOptions(str(device), precision, batch=batch, overlap=0, compile=compile))
    engine.inference.fault = not_finite
    width, height = restorer.tile * batch, restorer.tile * 4
    source = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    task = ImageTask(source, (width, height), dtype=np.uint8)
    started = time.perf_counter()
    tiles = engine.restore(task).tiles
    _wait(device)
    first = time.perf_counter() - started
    wall, idle = seconds(lambda: engine.restore(task), device, rounds), None
    if device.type == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            engine.restore(task)
            _wait(device)
        busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
        idle = max(0.0, 1 - busy / wall)
    return EngineRate(first, wall / tiles, idle, engine.take_warning())


def report(
    sizes: Sizes, device: torch.device, precision: str, batches: list[int], rounds: int, *, compiled: bool = True
) -> None:
    """Measure and print everything; compiled is the largest batch only, for the sake of time."""
    write = sys.stdout.write
    dtype = autocast_type(precision) or torch.float32
    product, copy = peaks(device, dtype, rounds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    write(f"{name}, torch {torch.__version__}, {precision}; random weights, median of {rounds} rounds\n")
    kind = str(dtype).removeprefix("torch.")
    write(f"peaks measured here: {product / 1e12:.3g} TFLOP/s (matrix product in {kind}), copy {copy / 1e9:.3g} GB/s\n")
    write(f"{_AIMS}\n\n")
    restorer = build(sizes, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    write("| arithmetic | batch | stage | ms per tile | TFLOP per tile | of the peak |\n|---|---|---|---|---|---|\n")
    summary = []
    for batch in batches:
        table = measure(restorer, batch, device, precision, rounds)
        rows(write, "ours", batch, table, product)
        rate = engine_rate(restorer, batch, device, precision, rounds)
        memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        summary.append((f"batch {batch}", rate, memory))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    if compiled:
        batch = max(batches)
        rate = engine_rate(restorer, batch, device, precision, rounds, compile="on")
        memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        summary.append((f"batch {batch}, compiled", rate, memory))
    use_released_arithmetic(restorer)
    set_norms(restorer, keeps_type=False)
    set_window_attention(restorer, padded=False, keeps_bias=False)
    restorer.to(device)
    rows(write, "released", 1, measure(restorer, 1, device, precision, rounds, released=True), product)
    write("\n| whole images through the engine | ms per tile | idle | peak memory, GB | first image, s |\n")
    write("|---|---|---|---|---|\n")
    for name, rate, memory in summary:
        idle = "not measured" if rate.idle is None else f"{rate.idle:.0%}"
        taken = "not measured" if memory is None else f"{memory:.2f}"
        write(f"| {name} | {rate.tile * 1000:.2f} | {idle} | {taken} | {rate.first:.2f} |\n")
    for _, rate, _ in summary:
        if rate.failure:
            write(f"{rate.failure}\n")


def rows(
    write: Callable[[str], object], kind: str, batch: int, table: dict[str, tuple[float, float]], product: float
) -> None:
    """Print the rows of one measurement."""
    for stage, (milliseconds, flops) in table.items():
        share = flops / (milliseconds / 1000) / product
        write(f"| {kind} | {batch} | {stage} | {milliseconds:.2f} | {flops / 1e12:.3g} | {share:.0%} |\n")
    sys.stdout.flush()


def main(words: list[str] | None = None) -> None:
    """Read the options, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["2b", "tiny"], default="2b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled model out, which takes minutes")
    options = parser.parse_args(words)
    device = torch.device(options.device)
    if options.size == "2b" and device.type == "cpu":
        parser.error("the full size needs a GPU here (make bench-2b measures a CPU); use --size tiny to try the script")
    report(
        sizes_of(options.size),
        device,
        options.precision,
        options.batches,
        options.rounds,
        compiled=not options.no_compile,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
