"""``make bench-2b``: memory and time of one tile of the full-size model on a CPU, stage by stage, with random weights.

In one run: ours in bf16 where the processor has it, ours in fp32, and the released script's arithmetic in fp32
(adapters beside the weights, text projected with every tile, plain upsampling). Takes a quarter of an hour and as much
memory as the weights: 5 GB in bf16, for the released arithmetic 11 GB. Nothing here is a test.
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

from varestorer_cli.core.runtime import cpu_has_bf16
from varestorer_cli.core.training.presets import preset
from varestorer_models.condition import Condition
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.layers import Projection
from varestorer_models.meta_init import on_meta_device
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer
from varestorer_models.upsampling import set_folded

Result = TypeVar("Result")
_RANK = 32


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


def use_released_arithmetic(restorer: OneStepRestorer) -> None:
    """Compute as the released script from now on: adapters beside the weights, plain upsampling."""
    restorer.transformer.add_adapters(_RANK)
    set_folded(restorer, False)
    for layer in restorer.transformer.modules():
        up = getattr(layer, "adapter_up", None)
        if isinstance(up, nn.Parameter):
            up.requires_grad_(False).normal_(std=1e-3)


class Stages:
    """Runs stages and prints a row of each.

    Attributes:
        arithmetic: what the next rows are called.
    """

    def __init__(self) -> None:
        self.arithmetic = ""
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
        """The sum of what belongs to the tile; the next one begins."""
        self._row("tile", self.total_wall, self.total_processor, None)
        self.total_wall = self.total_processor = 0.0

    def missing(self, why: str) -> None:
        """A row for what is not measured."""
        sys.stdout.write(f"| {self.arithmetic} | {why} | | | |\n")

    def _row(self, name: str, wall: float, processor: float, peak: float | None) -> None:
        shown = "" if peak is None else f"{peak:.2f}"
        sys.stdout.write(f"| {self.arithmetic} | {name} | {wall:.1f} | {processor:.1f} | {shown} |\n")
        sys.stdout.flush()


def _peak_gigabytes() -> float | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return None


@torch.inference_mode()
def measure(store: str, blocks: int) -> None:
    """Print the table of one tile: ours in bf16 where the processor has it and in fp32, and the released way."""
    stages = Stages()
    restorer = stages.run("build and fill", lambda: full_size(store, blocks), of_tile=False)
    stages.arithmetic = "ours, bf16"
    if cpu_has_bf16():
        with torch.autocast("cpu", torch.bfloat16):
            measure_tile(stages, restorer, restorer.condition())
    else:
        stages.missing("not measured here: the processor has no bf16")
    stages.arithmetic = "ours, fp32"
    measure_tile(stages, restorer, restorer.condition())
    for layer in restorer.transformer.modules():
        if isinstance(layer, Projection):
            layer.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    use_released_arithmetic(restorer)
    stages.arithmetic = "released, fp32"
    measure_tile(stages, restorer, None)


def measure_tile(stages: Stages, restorer: OneStepRestorer, condition: Condition | None) -> None:
    """Print the rows of one tile; without a condition the text is projected with the tile, the released way."""
    tile = torch.rand(1, 3, restorer.tile, restorer.tile)
    prerestored = stages.run("pre-restorer", lambda: restorer.prerestore(tile))
    latent = stages.run("encode", lambda: restorer.tokenizer.encode(prerestored * 2 - 1).float())
    quantized = stages.run("quantise, tokens", lambda: restorer.tokenizer.quantize(latent))
    blocks = len(restorer.transformer.blocks)
    name = f"transformer, {blocks} blocks"
    prediction: Any = stages.run(name, lambda: restorer.predict(quantized, latent, condition))
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
        f"one tile of 512x512, {options.threads} thread(s); our matrices of the transformer "
        f"({parts / 1e9:.2f} G values with 32 blocks) in {options.store}\n\n"
        "| arithmetic | stage | wall s | processor s | peak GB of the process |\n|---|---|---|---|---|\n"
    )
    measure(options.store, options.blocks)


if __name__ == "__main__":
    main()
