"""Damages images in thousands of ways and runs them through ``restore``: none may crash, hang or write a wrong file.

``python tests/fuzzing.py --cases 4000 --seconds 600`` (``make fuzz``). Each case is a valid file of one kind, damaged
by a rule; both come from (seed, number), so that a finding is repeated with ``--only NUMBER``. Cases run in a worker
process, which a native crash kills and a hang gets killed for: the parent sees both, notes the case and goes on.

What is checked of each case: decoding raises nothing but an InputError; the row is done, or failed with a reason that
is no bug of ours; a failed one left no file; the file of a done one is whole, of the promised size, and, as the model
is an identity and the scale is 1, shows what another reader (Pillow or tifffile) sees in the input.
"""

import argparse
import io
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from damage import case, valid_files
from PIL import Image, ImageFile

_HANG_SECONDS = 120.0
_LARGE = 1_000_000  # pixels above which a case ends with decoding: a wide header over little data is long, not wrong
_OUT_OF_STEP = 12.0  # mean 8-bit steps between two readers of one lossy file


# --- one case --------------------------------------------------------------------------------------------------------


def wrong(name: str, data: bytes, folder: Path) -> tuple[str, str | None]:
    """Run one case.

    Returns:
        its status, and what is wrong with it, or None.
    """
    import fakes

    from varestorer_cli.core.choices import Existing, ImageFormat, Progress
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.engine.engine import RestoreEngine
    from varestorer_cli.core.engine.inference import EngineOptions
    from varestorer_cli.core.errors import InputError
    from varestorer_cli.core.image.reader import decode
    from varestorer_cli.core.inputs.plan import make_plan
    from varestorer_cli.core.options import RestoreOptions
    from varestorer_cli.core.report.csv_file import ReportFile
    from varestorer_cli.core.restore.batch import run_batch
    from varestorer_cli.core.restore.item import BatchContext, Reporting
    from varestorer_cli.core.sizing import Sizing

    with suppress(InputError):
        photo = decode(data)
        if photo.width * photo.height > _LARGE:
            return "large", None
        del photo
    source, target = folder / name, folder / "out"
    source.write_bytes(data)
    # Lossless formats are written so that pixels can be compared.
    lossless = ImageFormat.PNG if name.endswith((".png", ".gif")) else ImageFormat.TIFF
    options = RestoreOptions(sizing=Sizing(scale=1), existing=Existing.OVERWRITE, format=lossless)
    console = Console(Progress.NONE, quiet=True)
    console.warn = console.error = lambda text: None  # type: ignore[method-assign]
    plan = make_plan([str(source)], str(target) + "/", format=options.format)
    report_file = ReportFile(None)
    engine = RestoreEngine(fakes.FakeModel(tile=128), EngineOptions())
    report = run_batch(plan, engine, BatchContext("fake", "0" * 64), options, Reporting(report_file, console))
    (row,) = report.rows
    output = plan.jobs[0].output
    parts = sorted(path.name for path in target.glob("*")) if target.is_dir() else []
    try:
        if row.status == "failed":
            if report.internal:
                return row.status, f"a bug: {row.reason}"
            if not row.reason or parts:
                return row.status, f"no reason, or a file was left: {row.reason!r}, {parts}"
            return row.status, None
        if row.status != "done":
            return row.status, f"the status is {row.status!r}"
        if parts != [output.name]:
            return row.status, f"expected {output.name}, found {parts}"
        return row.status, _file_is_wrong(output, row, data, name)
    finally:
        for path in [source, *(target.glob("*") if target.is_dir() else ())]:
            path.unlink()


def _file_is_wrong(output: Path, row: Any, data: bytes, name: str) -> str | None:
    # OpenCV multiplies the colours of a TIFF file by its alpha.
    if output.suffix == ".tif":
        written = tifffile.imread(output)
    else:
        written = cv2.imdecode(np.frombuffer(output.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        if written is None:
            return "the output cannot be read"
        if written.ndim == 3:
            written = written[..., [2, 1, 0, *range(3, written.shape[2])]]
    if written.shape[:2] != (row.out_height, row.out_width):
        return f"the output is {written.shape}, the row says {row.out_width}x{row.out_height}"
    reference = other_reader(data)
    if reference is None:
        # Another reader refuses it. Text and profile damage that we tolerate is no reason to refuse pixels.
        return None
    if reference.dtype == np.uint16 and written.dtype != np.uint16:
        return "16 bits became 8"
    if "exif: " in row.warnings:
        return None  # of damaged EXIF every reader keeps another part, the orientation or not
    ours, theirs = _rgb8(written), _rgb8(reference)
    if ours.shape != theirs.shape:
        return f"the output is {ours.shape}, another reader sees {theirs.shape}"
    apart = float(np.abs(ours - theirs).mean())
    return f"{apart:.1f} steps from what another reader sees" if apart > _OUT_OF_STEP else None


def _rgb8(pixels: Any) -> Any:
    """Visible colours, (H, W, 3) in 8-bit steps: hidden ones may differ, gray is repeated."""
    top = 65535 if pixels.dtype == np.uint16 else 255
    values = pixels.astype(np.float64) * (255 / top)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] in (2, 4):
        values = values[..., :-1] * (values[..., -1:] / 255)
    return np.broadcast_to(values, (*values.shape[:2], 3))


def other_reader(data: bytes) -> Any:
    """The image as Pillow (or tifffile, for deep TIFF files) sees it, upright; None where it does not."""
    from PIL import ImageOps

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with suppress(Exception):
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page = file.pages[0]
                if page.bitspersample == 16 and int(page.photometric) == 2 and 274 not in page.tags:
                    pixels = page.asarray()
                    return np.moveaxis(pixels, 0, -1) if int(page.planarconfig) == 2 else pixels
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in ("CMYK", "LAB", "YCbCr") or image.mode.startswith(("I", "F")):
                return None
            if image.width * image.height > 50_000_000:
                return None
            upright = ImageOps.exif_transpose(image)
            clear = upright.info.get("transparency") is not None or upright.mode in ("LA", "PA", "RGBA", "La", "RGBa")
            return np.asarray(upright.convert("RGBA" if clear else "RGB"))
    return None


# --- processes -------------------------------------------------------------------------------------------------------


def work(seed: int, numbers: Iterator[int]) -> Iterator[tuple[int, str, str | None]]:
    """Run cases in this process: number, status, finding."""
    files = valid_files()
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            name, data = case(seed, number, files)
            try:
                status, finding = wrong(name, data, Path(folder))
            except Exception as error:
                status, finding = "raised", f"{type(error).__name__}: {error}"
            yield number, status, finding and f"{name}: {finding}"


def _serve(seed: int) -> None:
    """The worker: numbers on stdin, one JSON line each on stdout."""
    import resource

    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    for result in work(seed, (int(line) for line in sys.stdin)):
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


class _Worker:
    def __init__(self, seed: int) -> None:
        command = [sys.executable, __file__, "--serve", "--seed", str(seed)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OPENCV_LOG_LEVEL": "SILENT"},
        )

    def run(self, number: int) -> tuple[str, str | None]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        started = time.monotonic()
        while not select.select([self.process.stdout], [], [], 1.0)[0]:
            if time.monotonic() - started > _HANG_SECONDS * (3 if number == 0 else 1):
                self.process.kill()
                return "hung", f"no answer for {_HANG_SECONDS:.0f} s"
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = self.errors.read().strip().rpartition("\n")[2]
            return "crashed", f"the process ended with {self.process.wait()}: {last}"
        _, status, finding = json.loads(line)
        return status, finding

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run one case in this process and keep its file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.seed)
        return 0
    if arguments.only is not None:
        name, data = case(arguments.seed, arguments.only, valid_files())
        Path(f"fuzz-{arguments.only}-{name}").write_bytes(data)
        print(next(work(arguments.seed, iter([arguments.only]))))
        return 0
    counts: Counter[str] = Counter()
    findings: list[str] = []
    started, worker, number = time.monotonic(), _Worker(arguments.seed), 0
    while number < arguments.cases and time.monotonic() - started < arguments.seconds:
        status, finding = worker.run(number)
        counts[status] += 1
        if finding:
            findings.append(f"case {number} ({status}): {finding}")
            print(findings[-1], flush=True)
        if status in ("hung", "crashed"):
            worker.close()
            worker = _Worker(arguments.seed)
        number += 1
    worker.close()
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    took = time.monotonic() - started
    print(f"{number} cases of seed {arguments.seed} in {took:.0f} s: {told}; {len(findings)} wrong")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    sys.exit(main())
