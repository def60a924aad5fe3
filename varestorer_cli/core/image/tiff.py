"""TIFF files that Pillow does not read as they are: their tags and their pixels.

Pillow reduces 16-bit colour to 8 bits or does not know it, and stumbles over BigTIFF; tifffile reads the tags and most
compressions, OpenCV the rest (LZW, PackBits). Other files are left to Pillow, which knows more of their kinds.
"""

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import exif
from varestorer_cli.core.image.image_data import Loss, OutputImage, Samples

# Photometric kind -> colour channels: white is zero, black is zero, RGB, CMYK.
_COLORS = {0: 1, 1: 1, 2: 3, 5: 4}

_DEFLATE_LEVEL = 4
_LARGE_TIFF = 3 << 30  # bytes of pixels above which a TIFF file is a BigTIFF


@dataclass(frozen=True)
class TiffInfo:
    """Tags of the first picture of a TIFF file."""

    width: int
    height: int
    bits: int
    big: bool
    pages: int
    orientation: int
    icc: bytes
    xmp: bytes
    dpi: tuple[float, float] | None


def inspect(source: bytes | BinaryIO) -> TiffInfo:
    """Read the tags of a file; pixels are not touched.

    Raises:
        InputError: there is no first picture.
    """
    logger = logging.getLogger("tifffile")
    if not logger.handlers:  # what it says of damaged files belongs in our reason, not on the terminal
        logger.addHandler(logging.NullHandler())
    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        page = _first(file)
        bits = page.bitspersample
        dpi: tuple[float, float] | None = None
        if page.resolutionunit in (2, 3):
            dpi = exif.plausible_dpi(*page.get_resolution("inch"))
        orientation = _tag(page, 274)
        return TiffInfo(
            width=int(page.imagewidth),
            height=int(page.imagelength),
            big=file.is_bigtiff,
            bits=max(bits) if isinstance(bits, tuple) else int(bits),
            pages=len(file.pages),
            orientation=int(orientation) if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
            icc=bytes(page.iccprofile or b""),
            xmp=_bytes(_tag(page, 700)),
            dpi=dpi,
        )


def read_pixels(data: bytes, losses: list[Loss]) -> tuple[Samples, Samples | None]:
    """Pixels of a TIFF file with 8 or 16-bit samples.

    Args:
        data: the file.
        losses: takes what could not be kept.

    Returns:
        (H, W, 1 or 3) gray or RGB, and (H, W) alpha or None; uint8 or uint16.

    Raises:
        InputError: cut off, or a kind that is not supported.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _first(file)
        form = page.dtype
        if form is None or form.kind != "u" or page.bitspersample not in (8, 16):
            kind = {"f": " floating point", "i": " signed integer"}.get(form.kind if form is not None else "", "")
            raise InputError(
                f"{page.bitspersample}-bit{kind} samples are not supported; convert it to 16-bit integers first"
            )
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset + size > len(data):
                raise InputError(f"the TIFF file is cut off after {len(data)} bytes")
        photometric, extra = int(page.photometric), [int(e) for e in page.extrasamples]
        separate = int(page.planarconfig or 1) == 2 and page.samplesperpixel > 1
        try:
            pixels: npt.NDArray[Any] = page.asarray()
        except (ValueError, KeyError):  # a compression that needs another package
            pixels, separate = _with_opencv(data), False
    if separate:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(*pixels.shape[:2], -1).astype(form.newbyteorder("="), copy=False)
    colors = _COLORS.get(photometric)
    if colors is None or pixels.shape[2] < colors:
        raise InputError(f"this TIFF file (photometric kind {photometric}) is not supported; convert it to RGB first")
    return _split(pixels, colors, photometric, extra, losses)


def _split(
    pixels: Samples, colors: int, photometric: int, extra: list[int], losses: list[Loss]
) -> tuple[Samples, Samples | None]:
    color, alpha = pixels[..., :colors], None
    top, kind = np.iinfo(pixels.dtype).max, pixels.dtype
    if pixels.shape[2] > colors:
        # 1 premultiplied, 2 straight; a fourth channel without a word is alpha by custom.
        if not extra or extra[0] in (1, 2):
            alpha = np.ascontiguousarray(pixels[..., colors])
        if pixels.shape[2] > colors + (alpha is not None):
            losses.append(Loss("channels", "extra channels of the TIFF file are dropped"))
    if photometric == 0:
        color = top - color
    if alpha is not None and extra[:1] == [1]:
        cover = np.maximum(alpha, 1).astype(np.float32)[..., None] / top
        color = np.clip(color / cover + 0.5, 0, top).astype(kind)
    if photometric == 5:
        losses.append(Loss("cmyk", "CMYK is converted to sRGB"))
        ink = color.astype(np.float32) / top
        color = ((1 - ink[..., :3]) * (1 - ink[..., 3:]) * top + 0.5).astype(kind)
    return np.ascontiguousarray(color), alpha


def _with_opencv(data: bytes) -> Samples:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError("the TIFF data is damaged or its compression is not supported")
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    out: Samples = pixels
    return out


def _first(file: tifffile.TiffFile) -> tifffile.TiffPage:
    if not len(file.pages):
        raise InputError("the TIFF file is cut off: its directory lies behind its end")
    page = file.pages[0]
    if not isinstance(page, tifffile.TiffPage):
        raise InputError("the TIFF file's first page is not a picture")
    return page


def _tag(page: tifffile.TiffPage, code: int) -> Any:
    tag = page.tags.get(code)
    return None if tag is None else tag.value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    return bytes(value) if isinstance(value, tuple) else b""


# --- writing ---------------------------------------------------------------------------------------------------------


def write_tiff(stream: BinaryIO, output: OutputImage, software: str) -> None:
    """Write a picture; its Software tag says ``software``."""
    extras = output.extras
    tree = extras.exif or exif.Exif()
    tags: list[tuple[int, int, int, Any, bool]] = []
    for tag, entry in tree.main.items():
        if tag in exif.KEPT_OF_TIFF and tag != exif.SOFTWARE:
            tags.append((tag, entry.type, entry.count, _value(entry, tree.order), True))
    if extras.xmp:
        tags.append((700, 1, len(extras.xmp), extras.xmp, True))
    below = [(tag, part) for tag, part in ((exif.EXIF_IFD, tree.photo), (exif.GPS_IFD, tree.gps)) if part]
    inner = [(exif.INTEROP_IFD, tree.interop)] if tree.interop and tree.photo else []
    large = output.height * output.width * output.channels * output.color.itemsize > _LARGE_TIFF
    tifffile.imwrite(
        stream,
        data=_deflated_strips(output, tree.order),
        shape=(output.height, output.width, output.channels) if output.channels > 1 else (output.height, output.width),
        dtype=output.color.dtype,
        byteorder="<" if tree.order == "<" else ">",
        bigtiff=large,
        photometric="minisblack" if output.gray else "rgb",
        planarconfig="contig",
        extrasamples=["unassalpha"] if output.alpha_rows is not None else None,
        compression="adobe_deflate",
        predictor=True,
        rowsperstrip=output.strip,
        maxworkers=1,
        iccprofile=extras.icc or None,
        resolution=extras.dpi,
        resolutionunit="inch" if extras.dpi else None,
        software=software,
        metadata=None,
        extratags=tags,
    )
    if below:
        _append_directories(stream, inner + below, tree.order)


def _value(entry: exif.ExifTag, order: str) -> Any:
    """A tag's value for tifffile, which miscounts fractions that come as bytes."""
    kind = {5: "I", 10: "i"}.get(entry.type)
    return entry.value if kind is None else struct.unpack(f"{order}{2 * entry.count}{kind}", entry.value)


def _deflated_strips(output: OutputImage, order: str) -> Iterator[bytes]:
    """Strips as TIFF stores them: differences of neighbours (predictor 2), deflated."""
    for strip in output.strips():
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]
        stored = differences.astype(strip.dtype.newbyteorder("<" if order == "<" else ">"), copy=False)
        yield zlib.compress(stored.tobytes(), _DEFLATE_LEVEL)


def _append_directories(stream: BinaryIO, below: list[tuple[int, exif.Directory]], order: str) -> None:
    """Add the Exif and GPS directories, which tifffile does not write.

    The one for interoperability, which hangs on Exif's, comes before it. All go to the end of the file, followed by a
    copy of its first directory with the two pointers in it; the header then names that copy as the first.
    """
    stream.seek(0)
    layout = exif.BIG if b"+" in stream.read(4) else exif.CLASSIC
    pointer, count = order + layout.pointer, order + layout.count
    stream.seek(layout.first)
    (first,) = struct.unpack(pointer, stream.read(layout.inline))
    stream.seek(first)
    (number,) = struct.unpack(count, stream.read(struct.calcsize(count)))
    entries = [stream.read(layout.entry) for _ in range(number)]
    kind = 4 if layout == exif.CLASSIC else 16  # LONG, LONG8
    inside: dict[int, exif.ExifTag] = {}
    for tag, part in below:
        offset = _even_end(stream)
        if tag == exif.EXIF_IFD:
            part = {**part, **inside}
        stream.write(exif.build_directory(part, order, offset, layout))
        if tag == exif.INTEROP_IFD:
            inside[tag] = exif.ExifTag(kind, 1, struct.pack(pointer, offset))
            continue
        entries.append(struct.pack(f"{order}HH{layout.pointer}{layout.pointer}", tag, kind, 1, offset))
    entries.sort(key=lambda entry: int(struct.unpack(order + "H", entry[:2])[0]))
    offset = _even_end(stream)
    stream.write(struct.pack(count, len(entries)) + b"".join(entries) + struct.pack(pointer, 0))
    stream.seek(layout.first)
    stream.write(struct.pack(pointer, offset))


def _even_end(stream: BinaryIO) -> int:
    """Go to the end of a file, to an even offset as TIFF wants it."""
    offset = stream.seek(0, io.SEEK_END)
    if offset % 2:
        stream.write(b"\0")
    return offset + offset % 2
