"""``make bench``: where the time of a restored megapixel goes, beside the machine's peaks and peers, in one run.

Measured in the precision that ``restore`` takes by default on this machine. Absolute times belong to the machine;
ratios of interleaved runs travel better. Peers: the published Real-ESRGAN x4plus in the same arithmetic, and
Real-ESRGAN by its own package where that works (extra ``bench``, libvulkan1). Nothing here is a test.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from varestorer_cli.bench import realesrgan_backend
from varestorer_cli.core.choices import Precision
from varestorer_cli.core.engine import openvino_backend
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.errors import VarestorerError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.runtime import autocast_type, choose
from varestorer_cli.core.training.compression import load_realesrgan
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.restorer import OneStepRestorer

Work = Callable[[], object]


def interleaved(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Median seconds of each piece of work; the pieces take turns, so that a slow phase of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:  # the first turn warms caches up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peaks(precision: str, rounds: int) -> dict[str, float]:
    """TFLOP per CPU second of a convolution (64 to 64 channels, 3x3) and of a matrix product in this arithmetic."""
    dtype = autocast_type(precision) or torch.float32
    image = torch.rand(1, 64, 192, 192, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.rand(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    left, right = torch.rand(1024, 1024, dtype=dtype), torch.rand(1024, 1024, dtype=dtype)
    works: dict[str, Work] = {
        "convolution": lambda: torch.nn.functional.conv2d(image, kernel, padding=1),
        "matrix product": lambda: left @ right,
    }
    flops = {"convolution": 2 * 9 * 64 * 64 * 192 * 192, "matrix product": 2 * 1024**3}
    with torch.inference_mode():
        return {name: flops[name] / seconds / 1e12 for name, seconds in interleaved(works, rounds).items()}


@torch.inference_mode()
def stages(model: str, rounds: int, precision: str) -> dict[str, tuple[float, float]]:
    """CPU seconds and TFLOP, each per megapixel, of each stage of one tile."""
    restorer = load_restorer(model).restorer
    tile = torch.rand(1, 3, restorer.tile, restorer.tile).contiguous(memory_format=torch.channels_last)
    megapixels = restorer.tile**2 / 1e6
    works: dict[str, Work] = {"pre-restorer": lambda: restorer.prerestore(tile), "whole tile": lambda: restorer(tile)}
    with _autocast(precision):
        if is_installed("openvino") and not isinstance(restorer, OneStepRestorer):
            other = openvino_backend.with_openvino(restorer, model, "cpu", torch.get_num_threads())
            works["whole tile by OpenVINO"] = lambda: other(tile)
        if isinstance(restorer, OneStepRestorer):
            works = {**_token_stages(restorer, restorer.prerestore(tile)), **works}
        flops = {}
        for name, work in works.items():
            with FlopCounterMode(display=False) as counter:
                work()
            flops[name] = counter.get_total_flops() / 1e12 / megapixels
        if "whole tile by OpenVINO" in works:  # whose work is not seen; the network is the same
            flops["whole tile by OpenVINO"] = flops["whole tile"]
        return {name: (value / megapixels, flops[name]) for name, value in interleaved(works, rounds).items()}


def peers(rounds: int, precision: str, side: int = 64) -> dict[str, float | str]:
    """CPU seconds per output megapixel of Real-ESRGAN on an image of this side, or why it is not measured."""
    found: dict[str, float | str] = {}
    works: dict[str, Work] = {}
    small = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    try:
        network = load_realesrgan().eval()
    except VarestorerError as error:
        found[f"Real-ESRGAN x4plus in {precision}"] = str(error)
    else:
        tensor = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
        works[f"Real-ESRGAN x4plus in {precision}"] = lambda: network(tensor)
    for name in realesrgan_backend.PEERS:
        try:
            enlarge = realesrgan_backend.peer(name)
        except ImportError as error:
            found[f"{name}, own package"] = str(error)
        else:
            works[f"{name}, own package"] = partial(enlarge, small)
    with torch.inference_mode(), _autocast(precision):
        measured = interleaved(works, rounds)
    return found | {name: value / ((4 * side) ** 2 / 1e6) for name, value in measured.items()}


def _autocast(precision: str) -> AbstractContextManager[object]:
    dtype = autocast_type(precision)
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def _token_stages(restorer: OneStepRestorer, prerestored: torch.Tensor) -> dict[str, Work]:
    """The stages after the pre-restorer."""
    latent = restorer.tokenizer.encode(prerestored * 2 - 1).float()
    quantized = restorer.tokenizer.quantize(latent)
    codes = restorer.codes(restorer.predict(quantized, latent), "argmax")
    return {
        "encoder": lambda: restorer.tokenizer.encode(prerestored * 2 - 1),
        "quantiser, tokens": lambda: restorer.tokenizer.quantize(latent),
        "transformer": lambda: restorer.predict(quantized, latent),
        "decoder": lambda: restorer.decode(codes, prerestored),
    }


def whole_images(model: str, rounds: int, precision: str) -> float:
    """CPU seconds per output megapixel of the engine: tiles with overlap, cutting and blending included."""
    engine = RestoreEngine(load_restorer(model).restorer, EngineOptions(precision=precision))
    image = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    work: dict[str, Work] = {"image": lambda: engine.restore(ImageTask(image, (1024, 768), dtype=np.uint8))}
    return interleaved(work, rounds)["image"] / (1024 * 768 / 1e6)


def main(words: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fine", "compact"])
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    runtime = choose("cpu", Precision(options.precision), options.threads)
    precision, write = runtime.precision, sys.stdout.write
    write(f"{runtime.describe()}, median of {options.rounds} interleaved rounds\n\n")
    peak = peaks(precision, options.rounds)
    write("".join(f"peak of a {name}: {value:.3f} TFLOP per CPU second\n" for name, value in peak.items()))
    write("\n| what | CPU s / output MP | share of the tile | of the convolution peak |\n|---|---|---|---|\n")
    for model in options.models:
        table = stages(model, options.rounds, precision)
        whole = table["whole tile"][0]
        for name, (value, flops) in table.items():
            used = f"{flops / value / peak['convolution']:.0%}"
            write(f"| {model}: {name} | {value:.2f} | {value / whole:.0%} | {used} |\n")
        value = whole_images(model, max(1, options.rounds // 2), precision)
        write(f"| {model}: engine, 1024x768 | {value:.2f} | {value / whole:.0%} | |\n")
    for name, found in peers(max(1, options.rounds // 2), precision).items():
        cost = f"{found:.2f}" if isinstance(found, float) else f"not measured: {found}"
        write(f"| {name} | {cost} | | |\n")


if __name__ == "__main__":
    main()
