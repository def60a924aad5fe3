"""``make bench-2b``: memory and time of one tile of the full-size model, stage by stage, with random weights.

Takes minutes and as much memory as the weights: 5 GB in bf16, 10 GB in fp32. Nothing here is a test.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from varestorer_cli.core.training.presets import preset
from varestorer_models.layers import Projection
from varestorer_models.meta_init import on_meta_device
from varestorer_models.restorer import OneStepRestorer, RestorerConfig
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

Result = TypeVar("Result")


def random_weights(module: nn.Module, store: torch.dtype) -> None:
    """Give a module without memory weights of usual size; the projections' matrices in ``store``, the rest float32."""
    pool = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    matrices = {id(layer.weight) for layer in module.modules() if isinstance(layer, Projection)}
    state = {}
    for name, meta in [*module.named_parameters(), *module.named_buffers()]:
        value = torch.empty(meta.shape, dtype=store if id(meta) in matrices else torch.float32)
        size = meta[0].numel() ** -0.5 if meta.dim() > 1 and name.endswith("weight") else 0.1
        part = (pool * size).to(value.dtype)
        for piece in torch.split(value.view(-1), len(part)):
            piece.copy_(part[: len(piece)])
        state[name] = value
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(False)


def full_size(store: str, blocks: int) -> OneStepRestorer:
    """The model of preset ``2b`` with merged adapters.

    Args:
        store: bf16 or fp32: how the transformer's matrices are kept.
        blocks: of the transformer; 32 are the model.
    """
    sizes = preset("2b")
    config = dataclasses.replace(sizes.teacher, depth=blocks, cross_value_bias=False)
    transformer = on_meta_device(lambda: Transformer(config))
    random_weights(transformer, torch.float32 if store == "fp32" else torch.bfloat16)
    assert isinstance(sizes.prerestorer, SwinIRConfig)
    swinir = SwinIR(sizes.prerestorer).eval()
    tokenizer = ImageTokenizer(sizes.tokenizer).eval()
    return OneStepRestorer(RestorerConfig(sampling="argmax"), swinir, tokenizer, transformer)


class Stages:
    """Runs stages and prints a row of each."""

    def __init__(self) -> None:
        self.total_wall = self.total_processor = 0.0

    def run(self, name: str, work: Callable[[], Result], *, of_tile: bool = True) -> Result:
        """Run one stage; the peak is the whole process's while it ran."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        self.total_wall += wall * of_tile
        self.total_processor += processor * of_tile
        self._row(name, wall, processor, _peak_gigabytes())
        return result

    def total(self) -> None:
        """The sum of what belongs to the tile."""
        self._row("tile", self.total_wall, self.total_processor, None)

    def _row(self, name: str, wall: float, processor: float, peak: float | None) -> None:
        sys.stdout.write(f"| {name} | {wall:.1f} | {processor:.1f} | {'' if peak is None else f'{peak:.2f}'} |\n")
        sys.stdout.flush()


def _peak_gigabytes() -> float | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return None


@torch.inference_mode()
def measure(store: str, blocks: int) -> None:
    """Print the table of one tile."""
    stages = Stages()
    restorer = stages.run("build and fill", lambda: full_size(store, blocks), of_tile=False)
    tile = torch.rand(1, 3, restorer.tile, restorer.tile)
    prerestored = stages.run("pre-restorer", lambda: restorer.prerestore(tile))
    latent = stages.run("encode", lambda: restorer.tokenizer.encode(prerestored * 2 - 1).float())
    quantized = stages.run("quantise, tokens", lambda: restorer.tokenizer.quantize(latent))
    prediction: Any = stages.run(f"transformer, {blocks} blocks", lambda: restorer.predict(quantized, latent))
    codes = stages.run("bits, codes", lambda: restorer.codes(prediction, "argmax"))
    stages.run("decode", lambda: restorer.decode(codes, prerestored))
    stages.total()


def main() -> None:
    """Read the options, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--blocks", type=int, default=32, help="fewer than 32: a part of the transformer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = sum(p.numel() for p in on_meta_device(lambda: Transformer(preset("2b").teacher)).parameters())
    sys.stdout.write(
        f"one tile of 512x512, fp32 arithmetic, {options.threads} thread(s); matrices of the transformer "
        f"({parts / 1e9:.2f} G values with 32 blocks) in {options.store}\n\n"
        "| stage | wall s | processor s | peak GB of the process |\n|---|---|---|---|\n"
    )
    measure(options.store, options.blocks)


if __name__ == "__main__":
    main()
