"""``make bench-steps``: one step against all steps of the same weights, counted at full size and timed at small size.

Counted without memory for weights, on tensors that have shapes and no values: products of the transformer, operations
that are no views (each one kernel of uncompiled code on a GPU), passes over the weights. From them follows a floor of
the time on a given GPU: products at a sustained rate, weights read once per pass, and a launch per kernel. Timed: one
tile of preset ``mini`` with random weights, on this CPU.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from varestorer_cli.bench.count import counted
from varestorer_cli.core.training.presets import preset
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.multistep import multistep
from varestorer_models.quantizer import MultiScaleQuantizer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.sampler import draw_bits, sample_multistep
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Condition, Transformer


@dataclass
class Cost:
    """Of the transformer and its bits, one tile.

    Attributes:
        flops: of the products.
        kernels: operations that are no views.
        passes: times that all weights are read.
        weights: bytes of the matrices in bfloat16.
    """

    flops: float = 0.0
    kernels: int = 0
    passes: int = 1
    weights: float = 0.0

    def milliseconds(self, rate: float, bandwidth: float, launch: float) -> float:
        """A floor: FLOP per second, bytes per second, seconds per launch; a pass is bound by one of the three."""
        return 1000 * max(self.flops / rate, self.passes * self.weights / bandwidth, self.kernels * launch)


def costs(name: str) -> dict[str, Cost]:
    """One step and all steps at the sizes of a preset, in bf16 autocast."""
    sizes = preset(name)
    schedule, bits = sizes.tokenizer.schedule, sizes.tokenizer.quantizer.bits
    grid = schedule.latent_grid
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        transformer, quantizer = Transformer(sizes.teacher), MultiScaleQuantizer(sizes.tokenizer.quantizer)
        for parameter in transformer.parameters():
            if parameter.dim() == 2:
                parameter.data = parameter.data.to(torch.bfloat16)
        condition = transformer.with_keys_values(transformer.encode_condition())
        pyramid = torch.empty(1, schedule.length - 1, bits)
        degraded = torch.empty(1, grid[0] * grid[1], bits)
        works = {
            "one step": (_one(transformer, quantizer, pyramid, degraded, condition, sizes), 1),
            "all steps": (
                lambda: sample_multistep(transformer, quantizer, schedule, condition, degraded_Bld=degraded),
                1 + len(schedule),
            ),
        }
        weights = sum(2.0 * parameter.numel() for parameter in transformer.blocks.parameters())
        found = {}
        for title, (work, passes) in works.items():
            one = counted(work)
            found[title] = Cost(one.flops, one.products + one.others, passes, weights)
    return found


def _one(
    transformer: Transformer,
    quantizer: MultiScaleQuantizer,
    pyramid: Tensor,
    degraded: Tensor,
    condition: Condition,
    sizes: Any,
) -> Callable[[], Any]:
    schedule = sizes.tokenizer.schedule

    def work() -> Any:
        logits = transformer(torch.cat([pyramid, degraded], 1), schedule, condition, extra_block=True)
        return quantizer.accumulate(draw_bits(logits), schedule)

    return work


@torch.inference_mode()
def timed(rounds: int) -> dict[str, float]:
    """Processor milliseconds of a tile of preset ``mini`` with random weights: medians, the two taking turns."""
    sizes = preset("mini")
    assert isinstance(sizes.prerestorer, ConvRestorerConfig)
    parts = ConvRestorer(sizes.prerestorer), ImageTokenizer(sizes.tokenizer), Transformer(sizes.teacher)
    one = OneStepRestorer(sizes.restorer, *parts, Transformer(sizes.teacher)).eval()
    works = {"one step": one, "all steps": multistep(one)}
    tile = torch.rand(1, 3, one.tile, one.tile).contiguous(memory_format=torch.channels_last)
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            started = time.process_time()
            work(tile)
            if turn:
                taken[name].append(time.process_time() - started)
    return {name: 1000 * statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=780.0, help="sustained TFLOP/s")
    parser.add_argument("--bandwidth", type=float, default=4.0, help="TB/s")
    parser.add_argument("--launch", type=float, default=4.0, help="microseconds per kernel")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    write = sys.stdout.write
    write(
        f"floor: products at {asked.rate:g} TFLOP/s, weights at {asked.bandwidth:g} TB/s or {asked.launch:g} us a "
        "launch, whichever is largest\n\n"
        "| transformer | passes | TFLOP | kernels | floor, ms |\n|---|---|---|---|---|\n"
    )
    for name in ("2b", "mini"):
        for title, cost in costs(name).items():
            floor = cost.milliseconds(asked.rate * 1e12, asked.bandwidth * 1e12, asked.launch * 1e-6)
            write(f"| {name}, {title} | {cost.passes} | {cost.flops / 1e12:.4f} | {cost.kernels} | {floor:.1f} |\n")
    write("\n| mini, whole tile, one thread | processor ms |\n|---|---|\n")
    for title, value in timed(asked.rounds).items():
        write(f"| {title} | {value:.1f} |\n")


if __name__ == "__main__":
    main()
