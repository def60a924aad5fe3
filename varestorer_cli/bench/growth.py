"""``make bench-growth``: does ``restore`` stay as fast and as small with more images and with larger ones?

Each row is one process of its own, measured by the operating system: CPU seconds (user and system, all threads) and
peak memory. Many small images are restored by a network that gives back its input, so that what is left is the work
around the model; large images by that and by ``compact``. "Again" is the same command once more, which finds
everything done. Nothing here is a test.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from varestorer_cli.core.errors import VarestorerError
from varestorer_cli.core.image.formats import SUFFIXES
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.report.rows import DONE, read_rows
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import RestorerConfig

_SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"
_SMALL = (32, 24)
"""Width and height of each of many images; x4 is one tile."""
_COLUMNS = (
    "model", "images", "MP out", "tiles", "CPU s", "images per CPU s", "tiles per CPU s", "MP per CPU s", "peak MB",
    "again: CPU s",
)  # fmt: skip
_BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""


@dataclass(frozen=True)
class Usage:
    """What one process used: CPU seconds of all its threads, and its largest resident memory in megabytes."""

    cpu: float
    peak_mb: float


Runner = Callable[[Sequence[str]], Usage]


def restore_process(words: Sequence[str]) -> Usage:
    """Run ``varestorer restore WORDS`` as a process of one thread.

    Raises:
        VarestorerError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "varestorer_cli", "restore", *words, "--threads", "1", "--progress", "none", "-q"]
    return usage_of(command)


def usage_of(command: Sequence[str]) -> Usage:
    """Run a command as a process of one thread.

    A small process stands between: the peak of a process counts from that of its parent, and this one is large.

    Raises:
        VarestorerError: it failed; with what it said.
    """
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    between = [sys.executable, "-S", "-c", _BETWEEN, *command]
    done = subprocess.run(between, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VarestorerError(f"{command[2:4]} ended with code {done.returncode}: {done.stderr}")
    cpu, peak = map(float, done.stdout.split())
    return Usage(cpu, peak / (1e6 if sys.platform == "darwin" else 1e3))  # macOS counts bytes, Linux kilobytes


def write_costless_model(path: Path) -> None:
    """Write a model file whose network gives back its input."""
    network = ConvRestorer(ConvRestorerConfig(width=8, blocks=1))
    network.reset_parameters(torch.Generator().manual_seed(0))  # the last convolution is 0
    save_bundle(path, {"prerestorer": network}, restorer=RestorerConfig(tile=256, largest_tile=512))


def write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write PNG files of this size in pixels (width, height), no two alike as long as the size allows."""
    folder.mkdir()
    sources = [decode(read_bytes(path)).color for path in sorted(_SAMPLES.iterdir()) if path.suffix in SUFFIXES]
    small = [cv2.resize(source, size, interpolation=cv2.INTER_AREA)[..., ::-1].copy() for source in sources]
    for number in range(count):
        image = small[number % len(small)].copy()
        image[0, 0] = [(number >> shift) & 255 for shift in (0, 8, 16)]
        cv2.imwrite(str(folder / f"{number:05}.png"), image)


def size_of(megapixels: float) -> tuple[int, int]:
    """Width and height of a 4:3 input whose x4 result has so many megapixels."""
    height = max(1, round(math.sqrt(megapixels * 1e6 * 3 / 4) / 4))
    return max(1, round(height * 4 / 3)), height


def measured_row(run: Runner, model: str, start: float, count: int, size: tuple[int, int]) -> str:
    """Restore ``count`` images of a size twice; a row of the table.

    Args:
        run: runs ``restore`` in a process.
        model: name or file.
        start: CPU seconds that a run takes before it works; speeds are of the rest, where it is at least half as long.
        count: images.
        size: width and height of each.

    Raises:
        VarestorerError: a run failed or left images out.
    """
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name, "in"), Path(name, "out")
        write_images(source, count, size)
        words = [str(source), str(out), "--model", model]
        first = run(words)
        rows = [row for row in read_rows(out / "metrics.csv") if row.status == DONE]
        if len(rows) != count:
            raise VarestorerError(f"{len(rows)} of {count} images were restored")
        again = run(words)
    tiles = sum(row.tiles or 0 for row in rows)
    megapixels = count * size[0] * size[1] * 16 / 1e6
    work = first.cpu - start
    speeds = [f"{amount / work:.3g}" if work > start / 2 else "–" for amount in (count, tiles, megapixels)]
    cells = [Path(model).stem, f"{count:,}", f"{megapixels:.3g}", f"{tiles:,}", f"{first.cpu:.1f}", *speeds]
    return f"| {' | '.join(cells)} | {first.peak_mb:.0f} | {again.cpu:.1f} |\n"


def table(run: Runner, counts: Sequence[int], sizes: Sequence[float], compact_sizes: Sequence[float]) -> Iterator[str]:
    """Lines of the table, each as soon as it is measured.

    Args:
        run: runs ``restore`` in a process.
        counts: how many small images, one row each.
        sizes: megapixels of a single result of the costless network, one row each.
        compact_sizes: the same for ``compact``.

    Raises:
        VarestorerError: a run failed.
    """
    with tempfile.TemporaryDirectory() as name:
        costless = Path(name, "costless.safetensors")
        write_costless_model(costless)
        start = _start(run, str(costless), Path(name))
        yield f"start: {start:.2f} CPU s; speeds are of the rest, – where that is below half the start\n\n"
        yield f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|\n"
        for count in counts:
            yield measured_row(run, str(costless), start, count, _SMALL)
        for megapixels in sizes:
            yield measured_row(run, str(costless), start, 1, size_of(megapixels))
        for megapixels in compact_sizes:
            yield measured_row(run, "compact", start, 1, size_of(megapixels))


def _start(run: Runner, model: str, folder: Path) -> float:
    """CPU seconds of a run with one small image; the smallest of three."""
    source = folder / "one"
    write_images(source, 1, _SMALL)
    return min(run([str(source), str(folder / f"out{turn}"), "--model", model]).cpu for turn in range(3))


def main(words: Sequence[str] | None = None, run: Runner = restore_process) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts", type=int, nargs="*", default=[1, 10, 100, 300, 1000, 3000, 10_000], help="small images"
    )
    parser.add_argument("--megapixels", type=float, nargs="*", default=[0.1, 1, 10, 100], help="of one result")
    parser.add_argument("--compact", type=float, nargs="*", default=[0.1, 1, 10], help="the same with compact")
    options = parser.parse_args(words)
    for line in table(run, options.counts, options.megapixels, options.compact):
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
