"""Damages pictures in thousands of ways and runs them through ``restore``: none may crash, hang or write a wrong file.

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
import random
import select
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageFile

_HANG_SECONDS = 120.0
_LARGE = 1_000_000  # pixels above which a case ends with decoding: a wide header over little data is long, not wrong
_OUT_OF_STEP = 12.0  # mean 8-bit steps between two readers of one lossy file


# --- cases -----------------------------------------------------------------------------------------------------------


def valid_files() -> dict[str, bytes]:
    """One small valid file of every kind, by name."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.random((4, 5, 4)), (33, 21)) * 255
    rgb = smooth[..., :3].astype(np.uint8)
    alpha = smooth[..., 3].astype(np.uint8)
    deep = (rgb.astype(np.uint16) << 8) | rgb
    image, gray = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    clear = Image.fromarray(np.dstack([rgb, alpha]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8825)[1] = "N"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    said: dict[str, Any] = {"exif": exif, "icc_profile": icc, "xmp": b"<x:xmpmeta/>"}
    more = {"save_all": True, "append_images": [image.rotate(180)]}

    def pil(picture: Image.Image, format: str, **settings: Any) -> bytes:
        stream = io.BytesIO()
        picture.save(stream, format, **settings)
        return stream.getvalue()

    def tiff(pixels: Any, **settings: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, **settings)
        return stream.getvalue()

    def cv(pixels: Any, suffix: str, *settings: int) -> bytes:
        return bytes(cv2.imencode(suffix, pixels, list(settings))[1].tobytes())

    return {
        "rgb.png": pil(image, "PNG", **{k: v for k, v in said.items() if k != "xmp"}),
        "gray.png": pil(gray, "PNG", dpi=(300, 300)),
        "alpha.png": pil(clear, "PNG"),
        "palette.png": pil(image.quantize(16), "PNG", transparency=3),
        "bilevel.png": pil(gray.convert("1"), "PNG"),
        "deep.png": cv(deep[..., ::-1], ".png"),
        "animated.png": pil(image, "PNG", **more),
        "base.jpg": pil(image, "JPEG", comment="x", **said),
        "progressive.jpg": pil(image, "JPEG", progressive=True, quality=90),
        "gray.jpg": pil(gray, "JPEG"),
        "cmyk.jpg": pil(image.convert("CMYK"), "JPEG"),
        "restarts.jpg": cv(rgb[..., ::-1], ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        "lossless.webp": pil(clear, "WEBP", lossless=True, **said),
        "lossy.webp": pil(image, "WEBP", quality=80),
        "animated.webp": pil(image, "WEBP", **more),
        "plain.tif": pil(image, "TIFF", dpi=(72, 72), icc_profile=icc),
        "lzw.tif": pil(image, "TIFF", compression="tiff_lzw", exif=exif),
        "packed.tif": pil(gray, "TIFF", compression="packbits"),
        "jpeg.tif": pil(image, "TIFF", compression="jpeg"),
        "fax.tif": pil(gray.convert("1"), "TIFF", compression="group4"),
        "deep.tif": tiff(deep, photometric="rgb", compression="adobe_deflate", predictor=True, iccprofile=icc),
        "deep_lzw.tif": cv(deep[..., ::-1], ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiled.tif": tiff(np.tile(deep, (2, 2, 1)), photometric="rgb", tile=(16, 16)),
        "planes.tif": tiff(np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate"),
        "big.tif": tiff(rgb, photometric="rgb", bigtiff=True),
        "pages.tif": pil(image, "TIFF", **more),
        "rgb.bmp": pil(image, "BMP"),
        "palette.bmp": pil(image.quantize(16), "BMP"),
        "plain.gif": pil(image, "GIF"),
        "animated.gif": pil(image, "GIF", duration=40, loop=0, **more),
    }


def _flip(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _header(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    for _ in range(rng.choice([1, 2, 4])):
        data[rng.randrange(min(len(data), 64))] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)])
    return data


def _number(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    place, order = rng.randrange(len(data)), rng.choice("<>")
    value = rng.choice([0, 1, 0xFF, 0x7FFF, 0xFFFF, 60000, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
    kind = rng.choice(["H", "I"])
    packed = struct.pack(order + kind, value & (0xFFFF if kind == "H" else 0xFFFFFFFF))
    data[place : place + len(packed)] = packed
    return data


def _cut(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    return data[: rng.randrange(len(data))]


def _splice(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _remove(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 2, 4, 12, 100, 1000]) :]


def _repeat(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + rng.choice([1, 4, 30, 500])] * rng.choice([2, 3, 50]) + data[start:]


def _zeros(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    start = rng.randrange(len(data))
    size = min(len(data) - start, rng.choice([4, 100, 4096]))
    data[start : start + size] = bytes(size)
    return data


def _tail(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    return data + rng.randbytes(rng.choice([1, 7, 5000]))


_RULES: list[Callable[[bytearray, random.Random, list[bytes]], bytearray]] = [
    _flip, _flip, _header, _header, _number, _number, _cut, _splice, _remove, _repeat, _zeros, _tail,
]  # fmt: skip


def _checksums_made_right(data: bytes) -> bytes:
    """The same PNG with fitting checksums, so that damage gets past them into the decoders."""
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        size = int.from_bytes(out[place : place + 4], "big")
        if place + 12 + size > len(out):
            break
        body = out[place + 4 : place + 8 + size]
        out[place + 8 + size : place + 12 + size] = zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return bytes(out)


def case(seed: int, number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Name and bytes of one case. The first round of numbers are the files as they are."""
    names = sorted(files)
    name = names[number % len(names)]
    if number < len(names):
        return name, files[name]
    rng = random.Random(f"{seed}/{number}")
    data = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 1, 2])):
        if data:
            data = rng.choice(_RULES)(data, rng, list(files.values()))
    if name.endswith(".png") and rng.random() < 0.7:
        return name, _checksums_made_right(bytes(data))
    return name, bytes(data)


# --- one case --------------------------------------------------------------------------------------------------------


def wrong(name: str, data: bytes, folder: Path) -> tuple[str, str | None]:
    """Run one case.

    Returns:
        its status, and what is wrong with it, or None.
    """
    import fakes

    from varestorer_cli.core.batch import run_batch
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.engine import EngineOptions, RestoreEngine
    from varestorer_cli.core.errors import InputError
    from varestorer_cli.core.imageio import decode
    from varestorer_cli.core.options import Existing, ImageFormat, Progress, RestoreOptions, Sizing
    from varestorer_cli.core.report import ReportFile
    from varestorer_cli.core.sources import make_plan
    from varestorer_cli.core.work import Setup

    with suppress(InputError):
        picture = decode(data)
        if picture.width * picture.height > _LARGE:
            return "large", None
        del picture
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
    report = run_batch(plan, engine, Setup("fake", "0" * 64), options, report_file, console)
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
    """The picture as Pillow (or tifffile, for deep TIFF files) sees it, upright; None where it does not."""
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
