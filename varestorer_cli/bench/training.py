"""``make bench-train``: samples per second of each training stage, and the share of the machine's peak that it uses.

The peak is what large matrix products reach here in the same arithmetic and number of threads, measured between the
steps. The arithmetic of a step is counted, not estimated. Images are noise: their content does not matter.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from varestorer_cli.core.choices import Precision
from varestorer_cli.core.runtime import autocast_type, choose, keep_freed_memory
from varestorer_cli.core.training.builder import StageBuilder
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.options import STAGES, TrainOptions
from varestorer_cli.core.training.presets import preset, preset_names


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, kernels included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def step_of(stage: str, name: str, device: torch.device, dtype: torch.dtype | None) -> tuple[Callable[[], object], int]:
    """A training step of a stage without its data and logs, and the images in it."""
    chosen = preset(name)
    recipe = chosen.recipes[stage]
    options = TrainOptions(stage=stage, data=Path(), out=Path(), preset=name)
    generator = torch.Generator().manual_seed(0)
    task, _ = StageBuilder(options, chosen, recipe, device, None, generator, fresh=True).build()
    for value in vars(task).values():
        if isinstance(value, torch.nn.Module):
            value.to(device)
    optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-6, fused=device.type == "cuda")
    side, small = recipe.patch, recipe.patch // chosen.restorer.scale
    sharp = torch.randint(0, 256, (recipe.batch, 3, side, side), dtype=torch.uint8)
    degraded = torch.randint(0, 256, (recipe.batch, 3, small, small), dtype=torch.uint8)
    batch = PairBatch(sharp, degraded, torch.zeros(recipe.batch, dtype=torch.int64))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            terms = task.terms(batch, torch.Generator().manual_seed(0))
        weighted = [terms[term].float() * weight for term, weight in recipe.losses.items() if term in terms and weight]
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, recipe.batch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="compact", choices=preset_names())
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    runtime = choose(asked.device, Precision(asked.precision), asked.threads)
    keep_freed_memory()
    device, dtype = torch.device(runtime.device), autocast_type(runtime.precision)
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=dtype or torch.float32)
    write = sys.stdout.write
    write(f"preset {asked.preset} on {runtime.describe()}, median of {asked.rounds} rounds\n\n")
    write("| stage | samples/s | TFLOP/s | of the peak |\n|---|---|---|---|\n")
    for stage in asked.stages:
        step, batch = step_of(stage, asked.preset, device, dtype)
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
        times, peaks = [], []
        for _ in range(asked.rounds):
            times.append(seconds(step, device))
            peaks.append(2 * size**3 / seconds(lambda: matrix @ matrix, device))
        wall, peak = statistics.median(times), statistics.median(peaks)
        write(f"| {stage} | {batch / wall:.2f} | {flops / wall / 1e12:.2g} | {flops / wall / peak:.0%} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
