"""PNG files: chunks and 16-bit pixels in, filtered and deflated strips out (W3C specification, third edition)."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.deflate import deflater_for
from varestorer_cli.core.image.exif import build, plausible_dpi
from varestorer_cli.core.image.image_data import FileMetadata, Loss, OutputImage, Samples, empty_block, is_text
from varestorer_cli.core.image.loss_table import dropped, name_losses

Chunk = tuple[bytes, bytes]

_COLOUR = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi"})
_KEPT = _COLOUR | {b"tEXt", b"zTXt", b"iTXt"}
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}) | _ANIMATION
_ANIMATION_NAMES = frozenset(kind.decode() for kind in _ANIMATION)
_MOST_TEXT = 1 << 24  # bytes of one text, decompressed
_MOST_TEXTS = 2 * _MOST_TEXT  # of all compressed texts and profiles of a file
_TO_EIGHT_BITS = {2: 85, 4: 17, 8: 1}  # factor of gray values
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_XMP_APP1 = b"http://ns.adobe.com/xap/1.0/\0"
_RAW_PROFILES = {b"Raw profile type exif": "exif", b"Raw profile type APP1": "exif", b"Raw profile type xmp": "xmp"}
_FILTER_BYTES = 1 << 18  # lines that are filtered at a time stay in the processor's cache
_SRGB_GAMMA = 45455
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_SRGB_CODE_POINTS = (1, 13)  # H.273: primaries and transfer of sRGB


def _walk(data: bytes) -> Iterator[tuple[bytes, int, int, bool]]:
    """Chunks of a PNG: (type, start, end, whether the checksum of an ancillary one holds).

    Raises:
        InputError: cut off, or a critical chunk does not match its checksum.
    """
    place = 8
    while True:
        size = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        end = place + 12 + size
        if len(kind) < 4 or end > len(data):
            raise InputError(f"the PNG file is cut off after {len(data)} bytes")
        body = memoryview(data)[place + 8 : end - 4]
        sound = zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(data[end - 4 : end], "big")
        if not sound and kind[:1].isupper():
            raise InputError(f"the PNG file is damaged at byte {place} (checksum of chunk {kind!r})")
        yield kind, place, end, sound
        if kind == b"IEND":
            return
        place = end


def pixels_only(data: bytes) -> bytes:
    """The file without chunks that decoders of pixels do not need and some of them limit."""
    parts, dropped = [data[:8]], False
    for kind, start, end, sound in _walk(data):
        if kind in _PIXELS and sound:
            parts.append(data[start:end])
        else:
            dropped = True
    return b"".join(parts) if dropped else data


def read_metadata(data: bytes) -> FileMetadata:
    """Metadata of a PNG file, wherever it stands.

    Raises:
        InputError: cut off, or a critical chunk does not match its checksum.
    """
    chunks: list[Chunk] = []
    damaged: list[str] = []
    names: list[str] = []
    end, frames = 8, 0
    for kind, start, end, sound in _walk(data):
        name = kind.decode("ascii") if kind.isalpha() and kind.isascii() else kind.hex()
        if not sound:
            damaged.append(name)
        elif kind == b"IDAT":
            frames = frames or 1
        elif kind == b"acTL" and not frames:  # before the pixels, where it counts
            frames = int.from_bytes(data[start + 8 : start + 12], "big")
        elif kind in _ANIMATION:
            names.append(name)
        elif kind != b"sBIT" or any(bits != _sample_bits(data) for bits in data[start + 8 : end - 4]):
            names.append(name)
            chunks.append((kind, data[start + 8 : end - 4]))
    found = _collect(chunks)
    if frames < 2 and not _ANIMATION_NAMES.isdisjoint(names):
        found.losses.append(Loss("frames", "control chunks of an animation of one frame are dropped", strict=False))
    if "PLTE" in names and data[25] != 3:  # in an image without a palette it is a suggestion
        names.append("suggested PLTE")
    if damaged:
        details = ", ".join(dict.fromkeys(damaged))
        found.losses.append(dropped("chunk", len(damaged), "damaged PNG chunk", details=details))
    name_losses("PNG", names, found.losses)
    if data[end:].strip(b"\0"):
        found.losses.append(dropped("trailer", len(data) - end, "byte", "behind the image"))
    return found


def probe(stream: BinaryIO) -> tuple[tuple[int, int], FileMetadata]:
    """(width, height) as stored, and metadata, without touching pixels; damage in between is passed over.

    Raises:
        InputError: the header is damaged.
    """
    stream.seek(8)
    chunks: list[Chunk] = []
    size, room = (0, 0), 4 * _MOST_TEXT
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha() or (not size[0] and kind != b"IHDR"):
            break
        if kind == b"IHDR":
            body = stream.read(length) if length == 13 else b""
            if len(body) == 13:
                size = struct.unpack_from(">II", body)
            stream.seek(4, io.SEEK_CUR)
        elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") and length <= min(room, _MOST_TEXT):
            room -= length
            chunks.append((kind, stream.read(length)))
            stream.seek(4, io.SEEK_CUR)
        elif kind == b"IEND":
            break
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    if not size[0] or not size[1]:
        raise InputError("the header is damaged or cut off")
    return size, _collect(chunks)


def _sample_bits(data: bytes) -> int:
    """Bits per sample of the colours (those of a palette have 8)."""
    return 8 if data[25] == 3 else data[24]


def _collect(chunks: Sequence[Chunk]) -> FileMetadata:
    """Metadata of chunks that are whole."""
    found = FileMetadata()
    kept: list[Chunk] = []
    blocks: dict[str, list[bytes]] = {"exif": [], "xmp": [], "icc": []}
    hidden: dict[str, list[bytes]] = {"exif": [], "xmp": []}
    inflated = _Inflater()
    for kind, body in chunks:
        keyword = body.partition(b"\0")[0]
        if kind == b"eXIf":
            blocks["exif"].append(body.removeprefix(b"Exif\0\0"))
        elif kind == b"iCCP":
            profile = inflated(body[len(keyword) + 2 :])
            blocks["icc"] += [profile] if profile else []
            if not profile:
                found.losses.append(Loss("icc", "the ICC profile is damaged and was dropped"))
        elif kind == b"pHYs":
            _read_density(body, found)
        elif kind == b"iTXt" and body.startswith(_XMP_KEYWORD):
            packet = _international_text(body, inflated)
            blocks["xmp"] += [packet] if packet is not None else []
            if packet is None:
                found.losses.append(Loss("xmp", "the XMP packet is damaged or too large and was dropped"))
        elif kind in (b"tEXt", b"zTXt") and keyword in _RAW_PROFILES:
            _read_raw_profile(kind, body, inflated, hidden, found.losses)
        elif kind in _KEPT and not (kind in (b"tEXt", b"zTXt", b"iTXt") and keyword == b"Software"):
            kept.append((kind, body))
    for name in ("exif", "xmp", "icc"):
        blocks[name] += hidden.get(name, [])
        if blocks[name] and not blocks[name][0]:
            found.losses.append(empty_block(name))
        if any(block != blocks[name][0] for block in blocks[name][1:]):
            found.losses.append(Loss(name, f"a second {name.upper()} block is dropped"))
    found.icc, found.exif, found.xmp = (blocks[name][0] if blocks[name] else b"" for name in ("icc", "exif", "xmp"))
    found.png_chunks = tuple(kept)
    return found


def _read_density(body: bytes, found: FileMetadata) -> None:
    x, y, unit = struct.unpack(">IIB", body) if len(body) == 9 else (0, 0, 0)
    said = plausible_dpi(x * 0.0254, y * 0.0254) if unit == 1 else None
    if said is not None and found.dpi in (None, said):
        found.dpi = said
    elif said is not None:
        found.losses.append(Loss("resolution", "a second, different resolution (pHYs) is dropped"))
    elif unit == 0 and x and y and x != y:
        found.losses.append(Loss("aspect", f"the pixels are not square (pHYs: {x}:{y}), which the output does not say"))
    elif unit == 0 and x and y:
        found.losses.append(Loss("aspect", "the output does not say that pixels are square (pHYs)", strict=False))
    else:
        found.losses.append(Loss("resolution", "the resolution (pHYs) is damaged and was dropped"))


class _Inflater:
    """Decompresses the chunks of one file, which are bounded together: a kilobyte can hold a megabyte."""

    def __init__(self) -> None:
        self._room = _MOST_TEXTS

    def __call__(self, packed: bytes) -> bytes | None:
        """Decompressed bytes, None where they are damaged or too many."""
        most = min(_MOST_TEXT, self._room)
        if not most:
            return None
        try:
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(packed, most)
        except zlib.error:
            return None
        self._room -= len(plain)
        return plain if unpacker.eof else None


def _international_text(body: bytes, inflated: _Inflater) -> bytes | None:
    """Text of an iTXt chunk (section 11.3.3.4), None where it is damaged."""
    _, _, rest = body.partition(b"\0")
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    return inflated(parts[2]) if rest[0] else parts[2]


def _read_raw_profile(
    kind: bytes, body: bytes, inflated: _Inflater, hidden: dict[str, list[bytes]], losses: list[Loss]
) -> None:
    """EXIF and XMP that ImageMagick keeps as hexadecimal text."""
    keyword, _, text = body.partition(b"\0")
    name = _RAW_PROFILES[keyword]
    try:
        plain = inflated(text[1:]) if kind == b"zTXt" else text
        block = bytes.fromhex(b"".join((plain or b"").split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        block = b""
    if not block:
        losses.append(Loss(name, f"the {name.upper()} block in the text of the PNG is damaged and was dropped"))
    elif block.startswith(_XMP_APP1):
        hidden["xmp"].append(block.removeprefix(_XMP_APP1))
    else:
        hidden[name].append(block.removeprefix(b"Exif\0\0"))


def is_unusual_colour(chunks: Sequence[Chunk]) -> bool:
    """Whether the colour chunks say anything but sRGB, so that dropping them changes how the image looks."""
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


def clear_gray8(data: bytes) -> int | None:
    """The gray of 2, 4 or 8 bits that a PNG declares transparent, as 8 bits; Pillow looks for it unscaled."""
    factor = _TO_EIGHT_BITS.get(data[24]) if data[25] == 0 else None
    clear = None if factor is None else _clear_gray(data)
    # Bits beyond the depth of the image say nothing (section 11.3.1.1).
    return None if clear is None or factor is None else (clear & ((1 << data[24]) - 1)) * factor


def _clear_gray(data: bytes) -> int | None:
    """The gray value that a PNG declares transparent, None where it declares none."""
    place = 8
    while (kind := data[place + 4 : place + 8]) not in (b"IDAT", b""):
        size = int.from_bytes(data[place : place + 4], "big")
        if kind == b"tRNS" and size >= 2:
            return int.from_bytes(data[place + 8 : place + 10], "big")
        place += 12 + size
    return None


# --- writing ---------------------------------------------------------------------------------------------------------


def write_png(stream: BinaryIO, output: OutputImage, software: str) -> None:
    """Write an image; its Software text says ``software``."""
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
    for packed in _deflated(output):
        chunk(b"IDAT", packed)
    chunk(b"IEND", b"")


def _deflated(output: OutputImage) -> Iterator[bytes]:
    """The zlib stream of all filtered lines, piece by piece."""
    packer = deflater_for(output)()
    step = output.channels * output.color.itemsize
    above = np.zeros((1, output.width * step), np.uint8)
    for strip in output.strips():
        lines = _lines(strip)
        block = max(1, _FILTER_BYTES // lines.shape[1])
        for top in range(0, len(lines), block):
            part = lines[top : top + block]
            if packed := packer.compress(_filtered(part, above, step)):
                yield packed
            above = part[-1:].copy()
    yield packer.flush()


def _lines(strip: Samples) -> npt.NDArray[np.uint8]:
    """Bytes of rows as PNG stores them, (rows, bytes)."""
    raw = np.ascontiguousarray(strip.astype(strip.dtype.newbyteorder(">"), copy=False))
    return raw.view(np.uint8).reshape(len(strip), -1)


def _filtered(lines: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], step: int) -> bytes:
    """Filter bytes of PNG lines: per line the one of Sub, Up and Average with the smallest sum of differences.

    Paeth would save 1 to 2 % of a photograph and takes ten times as long as these three together.
    """
    up = np.concatenate([above, lines[:-1]])
    left = np.zeros_like(lines)
    left[:, step:] = lines[:, :-step]
    mean = (left & up) + ((left ^ up) >> 1)  # rounded down, without a ninth bit
    candidates = (lines - left, lines - up, lines - mean)
    # A difference of 255 is a step of 1 downwards.
    costs = [cv2.reduce(np.minimum(c, 0 - c), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0] for c in candidates]
    best = np.argmin(costs, axis=0)
    out = np.empty((len(lines), lines.shape[1] + 1), np.uint8)
    out[:, 0] = best + 1
    for number, candidate in enumerate(candidates):
        rows = best == number
        if rows.all():
            out[:, 1:] = candidate
        elif rows.any():
            out[rows, 1:] = candidate[rows]
    return out.tobytes()
