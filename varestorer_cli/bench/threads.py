"""``make bench-threads``: what more threads bring to ``restore``, by wall time and by the work of the calling thread.

An image is restored by one thread and by several in turn. Wall times need an idle machine. The CPU seconds of the
calling thread do not: with OMP_WAIT_POLICY=passive, which ``make`` sets, it sleeps while it waits for the others, so
that what it works is its share and all that is not divided. Their ratio is what that many processors bring at most,
where they do not fight for memory and cache. Nothing here is a test.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from varestorer_cli.core.choices import Precision
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.runtime import choose
from varestorer_cli.core.weights.model_file import load_restorer

Seconds = tuple[float, float]


def timed(work: Callable[[], object]) -> Seconds:
    """Wall seconds, and CPU seconds of the calling thread."""
    wall, own = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - wall, time.thread_time() - own


def in_turn(work: Callable[[], object], threads: Sequence[int], rounds: int) -> dict[int, list[Seconds]]:
    """Seconds of each round by number of threads; a round before them warms up."""
    found: dict[int, list[Seconds]] = {count: [] for count in threads}
    for turn in range(rounds + 1):
        for count in threads:
            torch.set_num_threads(count)
            seconds = timed(work)
            if turn:
                found[count].append(seconds)
    return found


def ratios(found: dict[int, list[Seconds]], base: int) -> dict[int, Seconds]:
    """Median over the rounds of how many times as fast each number of threads is, by wall and by the calling thread."""
    return {
        count: (
            statistics.median(one[0] / many[0] for one, many in zip(found[base], rounds, strict=True)),
            statistics.median(one[1] / many[1] for one, many in zip(found[base], rounds, strict=True)),
        )
        for count, rounds in found.items()
    }


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["compact", "mini"])
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2, 4, 8], help="the first is what others are held to"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=128, help="of the square input; the result is x4")
    options = parser.parse_args(words)
    runtime = choose("cpu", Precision.AUTO, options.threads[0])
    waits = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    sys.stdout.write(f"{runtime.precision}, {os.cpu_count()} CPUs, medians of {options.rounds} rounds")
    sys.stdout.write("\n\n" if waits else "; OMP_WAIT_POLICY is not passive: waiting counts as work\n\n")
    sys.stdout.write(
        "| model | threads | wall s | times as fast | by the calling thread's work |\n|---|---|---|---|---|\n"
    )
    image = np.random.default_rng(0).integers(0, 256, (options.side, options.side, 3), dtype=np.uint8)
    task = ImageTask(image, (4 * options.side, 4 * options.side), dtype=np.uint8)
    for model in options.models:
        engine = RestoreEngine(load_restorer(model).restorer, EngineOptions(precision=runtime.precision))
        found = in_turn(lambda: engine.restore(task), options.threads, options.rounds)  # noqa: B023
        for count, (wall, own) in ratios(found, options.threads[0]).items():
            seconds = statistics.median(one[0] for one in found[count])
            sys.stdout.write(f"| {model} | {count} | {seconds:.2f} | {wall:.2f} | {own:.2f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
