"""``make bench-io``: what the plumbing of ``restore`` costs beside the codecs, with a model that costs nothing.

The codecs alone read, decode and encode the same images to memory in as many threads as this process has CPUs; the
tool does the whole of its work: reading, hashing, decisions, decoding, encoding, comparing, hashing, syncing, renaming,
reporting. Both take turns, and ratios of neighbouring runs are printed, since absolute times belong to the machine.
Nothing here is a test.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from varestorer_cli.core.choices import Existing, ImageFormat, Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.image.formats import SUFFIXES
from varestorer_cli.core.image.image_data import OutputImage
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.image.writer import write_image
from varestorer_cli.core.inputs.plan import make_plan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import BatchContext, Reporting
from varestorer_cli.core.runtime import usable_cpus

_SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"


class CostlessEngine:
    """An engine that returns prepared results, so that it costs nothing."""

    sampling = "argmax"
    overlap = 0
    model_seconds = 0.0

    def __init__(self, results: dict[tuple[int, int], Any]) -> None:
        self.results = results

    def take_warning(self) -> str:
        """None."""
        return ""

    def queue(self, more: Any, should_stop: Any) -> "CostlessEngine":
        """Itself: nothing is shared."""
        return self

    def add(self, task: Any) -> Any:
        """The prepared result of this size."""
        image = self.results[task.size]
        result = SimpleNamespace(
            image=image, tile=1, tiles=1, retries=0, split="", precision="none", unverified=False, calls=""
        )
        return SimpleNamespace(result=lambda: result)


def prepare(folder: Path, count: int, format: ImageFormat, side: int) -> dict[tuple[int, int], Any]:
    """Write ``count`` images of a long side of ``side`` pixels; returns the x4 result for each of their sizes."""
    results: dict[tuple[int, int], Any] = {}
    sources = [decode(read_bytes(path)).color for path in sorted(_SAMPLES.iterdir()) if path.suffix in SUFFIXES]
    for number in range(count):
        source = sources[number % len(sources)]
        factor = side / max(source.shape[:2])
        small = cv2.resize(source, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        small = np.roll(small, number, axis=1)
        size = (small.shape[1] * 4, small.shape[0] * 4)
        if size not in results:
            results[size] = cv2.resize(source, size, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:03}.{format.value}"), small[..., ::-1])
    return results


def codecs_alone(paths: list[Path], results: dict[tuple[int, int], Any], format: ImageFormat, threads: int) -> None:
    """Read, decode, encode; nothing else."""

    def one(path: Path) -> None:
        decoded = decode(read_bytes(path))
        image = results[decoded.width * 4, decoded.height * 4]
        write_image(io.BytesIO(), OutputImage(image, decoded.gray, None, decoded.extras), format, 95, "varestorer")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, paths))


def tool(source: Path, out: Path, results: dict[tuple[int, int], Any], threads: int) -> None:
    """The whole batch with a model that costs nothing."""
    plan = make_plan([str(source)], str(out))
    report_file = ReportFile(out / "metrics.csv")
    report_file.open()
    options = RestoreOptions(existing=Existing.OVERWRITE)
    setup = BatchContext("costless", "0" * 64, encoders=threads)
    run_batch(plan, CostlessEngine(results), setup, options, Reporting(report_file, Console(Progress.NONE, quiet=True)))
    report_file.close()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of a piece of work."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - cpu


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    options = parser.parse_args(words)
    write = sys.stdout.write
    write(f"{options.count} images of {options.side} pixels, x4, {options.threads} threads; medians of ratios\n\n")
    write(
        "| format | codecs alone, MP/s | tool, MP/s | of the codecs' speed | CPU time of the codecs in the tool's |\n"
    )
    write("|---|---|---|---|---|\n")
    for format in (ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP, ImageFormat.TIFF):
        with tempfile.TemporaryDirectory() as name:
            source, out = Path(name, "in"), Path(name, "out")
            source.mkdir()
            results = prepare(source, options.count, format, options.side)
            paths = sorted(source.iterdir())
            megapixels = sum(w * h for w, h in results) / len(results) * options.count / 1e6
            alone, whole = [], []
            for turn in range(options.rounds + 1):
                first = timed(lambda: codecs_alone(paths, results, format, options.threads))  # noqa: B023
                second = timed(lambda: tool(source, out, results, options.threads))  # noqa: B023
                if turn:  # the first turn warms caches up
                    alone.append(first)
                    whole.append(second)
        speed = statistics.median(a[0] / b[0] for a, b in zip(alone, whole, strict=True))
        share = statistics.median(a[1] / b[1] for a, b in zip(alone, whole, strict=True))
        rates = [megapixels / statistics.median(one[0] for one in part) for part in (alone, whole)]
        write(f"| {format.value} | {rates[0]:.1f} | {rates[1]:.1f} | {speed:.0%} | {share:.0%} |\n")


if __name__ == "__main__":
    main()
