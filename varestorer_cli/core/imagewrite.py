"""Encodes restored pictures with their metadata.

Pixels are taken strip by strip, so that encoding does not copy the whole picture (JPEG, WebP and BMP go through
Pillow, which does).
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, PngImagePlugin

from varestorer_cli.core import metadata
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.options import ImageFormat
from varestorer_cli.core.picture import Extras, Loss, Samples, is_text

_STRIP_BYTES = 1 << 23
_DEFLATE_LEVEL = 4
_LARGEST_SIDE = {ImageFormat.JPEG: 65500, ImageFormat.WEBP: 16383}
_LARGE_TIFF = 3 << 30  # bytes of pixels above which a TIFF file is a BigTIFF
_LARGEST_EXIF = 65500  # one JPEG segment
_LABEL = {ImageFormat.JPEG: "JPEG", ImageFormat.WEBP: "WebP", ImageFormat.BMP: "BMP"}


@dataclass(frozen=True)
class Output:
    """What is to be written.

    Attributes:
        color: (H, W, 3) RGB, uint8 or uint16, as the engine made it.
        gray: write one channel (the luma of ``color``).
        alpha_rows: (top, bottom) -> rows of alpha in [0, 1], float32; None without alpha.
        extras: metadata of the input, already for an upright picture of this size.
    """

    color: Samples
    gray: bool
    alpha_rows: Callable[[int, int], npt.NDArray[np.float32]] | None
    extras: Extras

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.color.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.color.shape[1])

    @property
    def channels(self) -> int:
        """Channels written: 1 to 4."""
        return (1 if self.gray else 3) + (self.alpha_rows is not None)

    @property
    def strip(self) -> int:
        """Rows handled at a time."""
        return max(1, min(self.height, _STRIP_BYTES // (self.width * 4 * self.color.itemsize)))

    def rows(self, top: int, bottom: int) -> Samples:
        """Finished rows, (rows, W, channels)."""
        part = self.color[top:bottom]
        dtype = part.dtype
        parts = [_luma(part) if self.gray else part]
        if self.alpha_rows is not None:
            largest = np.iinfo(dtype).max
            alpha = np.floor(np.clip(self.alpha_rows(top, bottom), 0, 1) * largest + 0.5)
            parts.append(alpha.astype(dtype)[..., None])
        return np.concatenate(parts, axis=2) if len(parts) > 1 else np.ascontiguousarray(parts[0])

    def strips(self) -> Iterator[Samples]:
        """All rows, strip by strip."""
        for top in range(0, self.height, self.strip):
            yield self.rows(top, min(top + self.strip, self.height))


def _luma(color: Samples) -> Samples:
    """Gray of an RGB picture (Rec. 601 weights, which sum to one: equal channels stay as they are)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    out: Samples = np.floor(color.astype(np.float32) @ weights + np.float32(0.5)).astype(color.dtype)[..., None]
    return out


def losses_of(format: ImageFormat, *, depth: int, alpha: bool, source: str, extras: Extras) -> list[Loss]:
    """What a picture loses by being written in this format."""
    losses = []
    deep = format in (ImageFormat.PNG, ImageFormat.TIFF)
    name = _LABEL.get(format, format.value)
    if depth == 16 and not deep:
        losses.append(Loss("depth", f"16 bits become 8, {name} has no more"))
    if alpha and format in (ImageFormat.JPEG, ImageFormat.BMP):
        losses.append(Loss("alpha", f"transparency is dropped, {name} has none"))
    if format == ImageFormat.BMP:
        for what, value in (("icc", extras.icc), ("exif", extras.exif), ("xmp", extras.xmp)):
            if value:
                losses.append(Loss(what, f"{what.upper()} is dropped, BMP has no place for it"))
    if extras.iptc and format != ImageFormat.JPEG:
        losses.append(Loss("iptc", f"IPTC data is dropped, it is copied from JPEG to JPEG only, not to {name}"))
    if source == "PNG" and format != ImageFormat.PNG and any(is_text(t) for t, _ in extras.png_chunks):
        losses.append(Loss("text", f"PNG text is dropped, {name} has no place for it"))
    if format == ImageFormat.JPEG:
        if extras.exif and len(metadata.build(extras.exif)) > _LARGEST_EXIF:
            losses.append(Loss("exif", "EXIF is dropped: it is larger than one JPEG segment"))
        if len(extras.xmp) > _LARGEST_EXIF:
            losses.append(Loss("xmp", "XMP is dropped: it is larger than one JPEG segment"))
    return losses


def check_side(format: ImageFormat, width: int, height: int) -> None:
    """Refuse sizes that a format cannot hold.

    Raises:
        InputError: a side is too long.
    """
    largest = _LARGEST_SIDE.get(format)
    if largest is not None and max(width, height) > largest:
        raise InputError(
            f"the result of {width}x{height} does not fit {_LABEL[format]}, whose sides end at {largest}; "
            "use --format png, or a smaller --scale"
        )


def write_picture(stream: BinaryIO, output: Output, format: ImageFormat, quality: int, software: str) -> None:
    """Encode a picture.

    Args:
        stream: an empty file, readable and writable.
        output: pixels and metadata.
        format: file format.
        quality: of JPEG and WebP.
        software: provenance, written into the file's Software field.
    """
    exif = (output.extras.exif or metadata.Exif()).with_software(software)
    output = replace(output, extras=replace(output.extras, exif=exif))
    if format == ImageFormat.PNG:
        _write_png(stream, output, software)
    elif format == ImageFormat.TIFF:
        _write_tiff(stream, output, software)
    else:
        _write_pillow(stream, output, format, quality)


# --- PNG -------------------------------------------------------------------------------------------------------------


def _write_png(stream: BinaryIO, output: Output, software: str) -> None:
    """PNG (W3C specification, third edition), 8 or 16 bit, filtered and deflated strip by strip."""
    extras = output.extras
    depth = output.color.itemsize * 8
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[output.channels]

    def chunk(name: bytes, body: bytes) -> None:
        stream.write(struct.pack(">I", len(body)) + name + body)
        stream.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(name))))

    stream.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", output.width, output.height, depth, kind, 0, 0, 0))
    colour = [(t, d) for t, d in extras.png_chunks if not is_text(t)]
    if extras.icc:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(extras.icc))
        colour = [(t, d) for t, d in colour if t != b"sRGB"]
    for name, body in colour:
        chunk(name, body)
    if extras.dpi:
        chunk(b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in extras.dpi), 1))
    chunk(b"tEXt", b"Software\0" + software.encode("latin-1", "replace"))
    for name, body in extras.png_chunks:
        if is_text(name):
            chunk(name, body)
    if extras.xmp:
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + extras.xmp)
    if extras.exif:
        chunk(b"eXIf", metadata.build(extras.exif))
    packer = zlib.compressobj(_DEFLATE_LEVEL)
    above = np.zeros((1, output.width * output.channels * output.color.itemsize), np.uint8)
    for strip in output.strips():
        raw = np.ascontiguousarray(strip.astype(strip.dtype.newbyteorder(">"), copy=False))
        lines = raw.view(np.uint8).reshape(len(strip), -1)
        packed = packer.compress(_filtered(lines, above, output.channels * output.color.itemsize))
        if packed:
            chunk(b"IDAT", packed)
        above = lines[-1:].copy()
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")


def _filtered(lines: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], step: int) -> bytes:
    """Filter bytes of PNG lines: per line the one of Sub, Up and Paeth with the smallest sum of differences."""
    up = np.concatenate([above, lines[:-1]])
    left = np.zeros_like(lines)
    left[:, step:] = lines[:, :-step]
    corner = np.zeros_like(lines)
    corner[:, step:] = up[:, :-step]
    a, b, c = left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)
    pa, pb, pc = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, up, corner))
    candidates = np.stack([lines - left, lines - up, lines - paeth])
    # A difference of 255 is a step of 1 downwards.
    cost = np.minimum(candidates, 0 - candidates).sum(axis=2, dtype=np.int64)
    best = cost.argmin(axis=0)
    out = np.empty((len(lines), lines.shape[1] + 1), np.uint8)
    out[:, 0] = np.array([1, 2, 4], np.uint8)[best]
    out[:, 1:] = candidates[best, np.arange(len(lines))]
    return out.tobytes()


# --- TIFF ------------------------------------------------------------------------------------------------------------


def _write_tiff(stream: BinaryIO, output: Output, software: str) -> None:
    extras = output.extras
    exif = extras.exif or metadata.Exif()
    tags: list[tuple[int, int, int, Any, bool]] = []
    for tag, entry in exif.main.items():
        if tag in metadata.DESCRIPTIVE and tag != metadata.SOFTWARE:
            tags.append((tag, entry.type, entry.count, entry.value, True))
    if extras.xmp:
        tags.append((700, 1, len(extras.xmp), extras.xmp, True))
    below = [(tag, part) for tag, part in ((metadata.EXIF_IFD, exif.photo), (metadata.GPS_IFD, exif.gps)) if part]
    large = output.height * output.width * output.channels * output.color.itemsize > _LARGE_TIFF
    tifffile.imwrite(
        stream,
        data=_deflated_strips(output, exif.order),
        shape=(output.height, output.width, output.channels) if output.channels > 1 else (output.height, output.width),
        dtype=output.color.dtype,
        byteorder="<" if exif.order == "<" else ">",
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
        _append_directories(stream, below, exif.order)


def _deflated_strips(output: Output, order: str) -> Iterator[bytes]:
    """Strips as TIFF stores them: differences of neighbours (predictor 2), deflated."""
    for strip in output.strips():
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]
        stored = differences.astype(strip.dtype.newbyteorder("<" if order == "<" else ">"), copy=False)
        yield zlib.compress(stored.tobytes(), _DEFLATE_LEVEL)


def _append_directories(stream: BinaryIO, below: list[tuple[int, metadata.Directory]], order: str) -> None:
    """Add the Exif and GPS directories, which tifffile does not write.

    They go to the end of the file, followed by a copy of its first directory with the two pointers in it; the header
    then names that copy as the first.
    """
    stream.seek(0)
    layout = metadata.BIG if b"+" in stream.read(4) else metadata.CLASSIC
    pointer, count = order + layout.pointer, order + layout.count
    stream.seek(layout.first)
    (first,) = struct.unpack(pointer, stream.read(layout.inline))
    stream.seek(first)
    (number,) = struct.unpack(count, stream.read(struct.calcsize(count)))
    entries = [stream.read(layout.entry) for _ in range(number)]
    for tag, part in below:
        offset = _even_end(stream)
        stream.write(metadata.build_directory(part, order, offset, layout))
        kind = 4 if layout == metadata.CLASSIC else 16  # LONG, LONG8
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


# --- JPEG, WebP, BMP -------------------------------------------------------------------------------------------------


def _write_pillow(stream: BinaryIO, output: Output, format: ImageFormat, quality: int) -> None:
    extras = output.extras
    if format in (ImageFormat.JPEG, ImageFormat.BMP):
        output = replace(output, alpha_rows=None)
    pixels = np.empty((output.height, output.width, output.channels), np.uint8)
    top = 0
    for strip in output.strips():
        if strip.dtype == np.uint16:
            strip = ((strip.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        pixels[top : top + len(strip)] = strip
        top += len(strip)
    if pixels.shape[2] == 2:  # WebP has no gray
        pixels = pixels[..., [0, 0, 0, 1]]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if format == ImageFormat.BMP:
        image.save(stream, "BMP", dpi=extras.dpi or (96, 96))
        return
    exif = extras.exif or metadata.Exif()
    settings: dict[str, Any] = {"quality": quality}
    if extras.icc:
        settings["icc_profile"] = extras.icc
    if format == ImageFormat.WEBP:
        if extras.xmp:
            settings["xmp"] = extras.xmp
        settings["exif"] = metadata.build(exif)
        image.save(stream, "WEBP", method=4, exact=True, **settings)
        return
    block = metadata.build(exif)
    if len(block) > _LARGEST_EXIF:
        software = {t: e for t, e in exif.main.items() if t == metadata.SOFTWARE}
        block = metadata.build(metadata.Exif(exif.order, software))
    settings["exif"] = b"Exif\0\0" + block
    if extras.xmp and len(extras.xmp) <= _LARGEST_EXIF:
        settings["xmp"] = extras.xmp
    if extras.dpi:
        settings["dpi"] = (round(extras.dpi[0]), round(extras.dpi[1]))
    if extras.jpeg_comment:
        settings["comment"] = extras.jpeg_comment
    settings["extra"] = b"".join(b"\xff\xed" + struct.pack(">H", len(s) + 2) + s for s in extras.iptc)
    image.save(stream, "JPEG", subsampling=0, **settings)


# --- provenance ------------------------------------------------------------------------------------------------------


def read_software(path: Path) -> str:
    """The Software field of a picture file, "" where it has none or cannot be read."""
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                return str(image.info.get("Software", ""))
            return str(image.getexif().get(metadata.SOFTWARE, ""))
    except Exception:  # whatever is wrong with it: nothing can be read
        return ""
