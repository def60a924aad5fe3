"""PNG files, 8 and 16 bit, filtered and deflated strip by strip (W3C specification, third edition)."""

import struct
import zlib
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.image import exif as metadata
from varestorer_cli.core.image.image_data import OutputImage, is_text

_DEFLATE_LEVEL = 4


def write_png(stream: BinaryIO, output: OutputImage, software: str) -> None:
    """Write a picture; its Software text says ``software``."""
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
