"""``make bench``: where the time of a restored megapixel goes, as ratios measured in one run.

Absolute times belong to the machine; ratios of interleaved runs travel better. Nothing here is a test.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.inference import EngineOptions
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


@torch.inference_mode()
def stages(model: str, rounds: int) -> dict[str, float]:
    """CPU seconds per megapixel of each stage of one tile."""
    restorer = load_restorer(model).restorer
    tile = torch.rand(1, 3, restorer.tile, restorer.tile).contiguous(memory_format=torch.channels_last)
    megapixels = restorer.tile**2 / 1e6
    works: dict[str, Work] = {"pre-restorer": lambda: restorer.prerestore(tile), "whole tile": lambda: restorer(tile)}
    if isinstance(restorer, OneStepRestorer):
        works = {**_token_stages(restorer, restorer.prerestore(tile)), **works}
    return {name: value / megapixels for name, value in interleaved(works, rounds).items()}


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


def whole_pictures(model: str, rounds: int) -> dict[str, float]:
    """CPU seconds per output megapixel of the engine: tiles with overlap, cutting and blending included."""
    engine = RestoreEngine(load_restorer(model).restorer, EngineOptions())
    picture = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    work: dict[str, Work] = {"picture": lambda: engine.restore(picture, (1024, 768), dtype=np.uint8)}
    return {"engine, 1024x768": interleaved(work, rounds)["picture"] / (1024 * 768 / 1e6)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = stages(options.model, options.rounds)
    whole = table["whole tile"]
    write = sys.stdout.write
    write(f"model {options.model}, {options.threads} thread(s), median of {options.rounds} interleaved rounds\n\n")
    write("| stage | CPU s / output MP | share of the tile |\n|---|---|---|\n")
    for name, value in table.items():
        write(f"| {name} | {value:.2f} | {value / whole:.0%} |\n")
    for name, value in whole_pictures(options.model, max(1, options.rounds // 2)).items():
        write(f"| {name} | {value:.2f} | {value / whole:.0%} |\n")


if __name__ == "__main__":
    main()
