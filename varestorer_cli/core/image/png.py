"""PNG files: chunks and 16-bit pixels in, filtered and deflated strips out (W3C specification, third edition)."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.exif import build
from varestorer_cli.core.image.image_data import OutputImage, Samples, is_text

Chunk = tuple[bytes, bytes]

_COLOUR = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
_KEPT = _COLOUR | {b"tEXt", b"zTXt", b"iTXt"}
_MOST_TEXT = 1 << 24
_DEFLATE_LEVEL = 4
_SRGB_GAMMA = 45455
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_SRGB_CODE_POINTS = (1, 13)  # H.273: primaries and transfer of sRGB


def read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Chunks of a PNG (type, data) without the pixels.

    Raises:
        InputError: cut off, or a chunk does not match its checksum.
    """
    place = 8
    while True:
        size = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        end = place + 12 + size
        if len(kind) < 4 or end > len(data):
            raise InputError(f"the PNG file is cut off after {len(data)} bytes")
        body = memoryview(data)[place + 8 : end - 4]
        critical = kind[:1].isupper()
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
            if critical:
                raise InputError(f"the PNG file is damaged at byte {place} (checksum of chunk {kind!r})")
        elif kind in _KEPT:
            yield kind, bytes(body)
        if kind == b"IEND":
            return
        place = end


def embedded(chunks: Sequence[Chunk]) -> tuple[dict[str, bytes], list[Chunk]]:
    """EXIF and XMP that ImageMagick keeps as hexadecimal text ("Raw profile type ...").

    Returns:
        the blocks found (``exif``, ``xmp``), and the chunks without them.
    """
    found: dict[str, bytes] = {}
    rest = []
    for name, body in chunks:
        keyword, _, text = body.partition(b"\0")
        kind = {b"Raw profile type exif": "exif", b"Raw profile type APP1": "exif", b"Raw profile type xmp": "xmp"}
        profile = kind.get(keyword) if name in (b"tEXt", b"zTXt") else None
        if profile is None:
            rest.append((name, body))
            continue
        try:
            plain = zlib.decompressobj().decompress(text[1:], _MOST_TEXT) if name == b"zTXt" else text
            block = bytes.fromhex(b"".join(plain.split(b"\n")[3:]).decode("ascii"))
        except (zlib.error, ValueError):
            continue
        found.setdefault("xmp" if block.startswith(b"http://ns.adobe.com/xap/1.0/\0") else profile, block)
    if "xmp" in found:
        found["xmp"] = found["xmp"].removeprefix(b"http://ns.adobe.com/xap/1.0/\0")
    return found, rest


def is_unusual_colour(chunks: Sequence[Chunk]) -> bool:
    """Whether the colour chunks say anything but sRGB, so that dropping them changes how the picture looks."""
    said = {name: body for name, body in chunks if name in _COLOUR}
    if b"cICP" in said:
        return tuple(said[b"cICP"][:2]) != _SRGB_CODE_POINTS
    if b"sRGB" in said:
        return False
    if len(gamma := said.get(b"gAMA", b"")) == 4 and abs(struct.unpack(">I", gamma)[0] - _SRGB_GAMMA) > 500:
        return True
    points = said.get(b"cHRM", b"")
    if len(points) != 32:
        return False
    return any(abs(a - b) > 200 for a, b in zip(struct.unpack(">8I", points), _SRGB_CHROMATICITIES, strict=True))


def read_deep(data: bytes) -> tuple[Samples, Samples | None]:
    """16-bit pixels of a PNG file: (H, W, 1 or 3), and alpha."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise InputError("the 16-bit PNG data is damaged")
    if pixels.ndim == 2:
        clear = _clear_gray(data) if data[25] == 0 else None  # which OpenCV leaves out; clear colours it has
        alpha = None if clear is None else np.where(pixels == clear, 0, 65535).astype(np.uint16)
        return pixels[..., None], alpha
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    if data[25] in (0, 4):  # gray, gray + alpha
        return np.ascontiguousarray(pixels[..., :1]), alpha
    return np.ascontiguousarray(pixels[..., 2::-1]), alpha


def _clear_gray(data: bytes) -> int | None:
    """The gray that a PNG shows as nothing."""
    place = 8
    while (kind := data[place + 4 : place + 8]) not in (b"IDAT", b""):
        size = int.from_bytes(data[place : place + 4], "big")
        if kind == b"tRNS" and size >= 2:
            return int.from_bytes(data[place + 8 : place + 10], "big")
        place += 12 + size
    return None


# --- writing ---------------------------------------------------------------------------------------------------------


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
        chunk(b"eXIf", build(extras.exif))
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
