"""JPEG files: pixels, marker segments before them, and what lies behind them (ITU-T T.81, annex B)."""

import io
import re
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import simplejpeg

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.exif import orientation_of, plausible_dpi
from varestorer_cli.core.image.image_data import DAMAGED_MARK, FileMetadata, Loss, Samples, empty_block
from varestorer_cli.core.image.loss_table import dropped, name_losses
from varestorer_cli.core.image.photoshop import kept_resources

_SOS, _EOI, _COM, _APP0, _ADOBE = 0xDA, 0xD9, 0xFE, 0xE0, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = {0xC3: "lossless JPEG", 0xC7: "lossless JPEG", 0xCB: "lossless JPEG", 0xF7: "JPEG-LS"}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in entropy-coded data: neither stuffing nor a restart
_START = re.compile(rb"\xff\xd8\xff[\xdb\xe0-\xef]")  # of a JPEG stream
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ICC, _PHOTOSHOP = b"ICC_PROFILE\0", b"Photoshop 3.0\0"
# Identifier a segment's body begins with -> name in the loss table, per marker.
_IDENTIFIERS: dict[int, tuple[tuple[bytes, str], ...]] = {
    0: ((b"JFIF\0", "JFIF"), (b"JFXX\0", "JFXX")),
    1: (
        (b"Exif\0", "Exif"),
        (_XMP, "XMP"),
        (b"http://ns.adobe.com/xmp/extension/\0", "extended XMP"),
        (b"FLIR\0", "FLIR"),
    ),
    2: ((_ICC, "ICC_PROFILE"), (b"MPF\0", "MPF"), (b"urn:iso:std:iso:ts:21496:-1\0", "ISO 21496-1")),
    12: ((b"Ducky", "Ducky"),),
    13: ((_PHOTOSHOP, "Photoshop"),),
    14: ((b"Adobe", "Adobe"),),
}
_LARGEST_SEGMENT = 65533
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_COEFFICIENTS = 64  # of a block
# Warnings of libjpeg about headers only; many programs write such files, and their pixels are right.
_HARMLESS = re.compile(r"Invalid SOS parameters|Warning: unknown JFIF revision")


class _Marker(NamedTuple):
    """A marker: its code, where it starts, where its body starts behind the length, and where it ends."""

    code: int
    start: int
    body: int
    end: int


def _markers(data: bytes, start: int = 0) -> Iterator[_Marker]:
    """Markers of the JPEG stream at ``start``, in order, its first one (SOI) apart."""
    place = start + 2
    while (found := _MARKER.search(data, place)) is not None:
        code, body = data[found.end() - 1], found.end()
        place = body
        if code not in _STANDALONE and code != _EOI:
            place += max(2, int.from_bytes(data[body : body + 2], "big"))
            body += 2
        yield _Marker(code, found.start(), body, place)


def split(data: bytes, start: int = 0) -> tuple[list[tuple[int, bytes]], int]:
    """Marker segments (marker, body) of the JPEG stream at ``start``, without frames, tables and scans; its end."""
    segments: list[tuple[int, bytes]] = []
    for one in _markers(data, start):
        if one.code == _EOI:
            return segments, one.end
        if _APP0 <= one.code <= 0xEF or one.code == _COM:
            segments.append((one.code, data[one.body : one.end]))
    return segments, len(data)


def pixels_only(data: bytes) -> bytes:
    """The first image without segments that decoders of pixels do not need and some of them stumble over."""
    parts = [data[:2]]
    for one in _markers(data):
        if one.code in (_SOS, _EOI):
            _, end = split(data)
            return b"".join([*parts, data[one.start : end]])
        if one.code != _COM and not (_APP0 < one.code <= 0xEF and one.code != _ADOBE):
            parts.append(data[one.start : one.end])
    return data


def unsupported(data: bytes) -> str | None:
    """Why a JPEG stream is of a kind that is not decoded, by its frame header (ITU-T T.81, B.2.2), else None."""
    for one in _markers(data):
        if one.code == _SOS:
            break
        if one.code in _LOSSLESS:
            return f"a {_LOSSLESS[one.code]} file, which is not read; convert it to PNG first"
        if one.code in _FRAMES and one.body < len(data) and data[one.body] != 8:
            return f"a JPEG file of {data[one.body]} bits, of which 8 are read; convert it to 16-bit PNG or TIFF first"
    return None


def read_pixels(data: bytes, space: str, losses: list[Loss]) -> Samples | None:
    """Pixels of an 8-bit JPEG, (H, W, channels) uint8, with damage that libjpeg notices named.

    Args:
        data: the first image of a file.
        space: ``GRAY``, ``RGB`` or ``CMYK``.
        losses: takes what is wrong with the data.

    Returns:
        None where libjpeg-turbo's own interface does not take the file (rare subsamplings), which says nothing of it.

    Raises:
        InputError: the file is cut off.
    """
    pixels, wrong = _decoded(data, space)
    if _HARMLESS.match(wrong):  # libjpeg tells its first warning only: without its cause the next one shows
        data = _without_quirks(data)
        pixels, wrong = _decoded(data, space)
    missing = _missing_coefficients(data)
    if wrong.startswith("Premature end"):  # a whole scan before a missing end marker decodes without a word
        pixels, _ = _decoded(data + b"\xff\xd9", space)
        if missing or pixels is None:
            raise InputError(f"the JPEG file is cut off after {len(data)} bytes: its image goes on behind them")
        said = "the JPEG file ends without its end marker (EOI): the image is whole, what followed it is lost"
        losses.append(Loss("damage", said))
    elif wrong:
        try:
            pixels = simplejpeg.decode_jpeg(data, space, strict=False)
        except ValueError:
            return None
        said = f"the JPEG data is damaged, parts of the image may be wrong (libjpeg: {wrong})"
        losses.append(Loss("damage", said))
    if missing:
        losses.append(Loss("damage", "scans of the JPEG are missing: the image is coarser or paler than it was"))
    return pixels


def _decoded(data: bytes, space: str) -> tuple[Samples | None, str]:
    """Pixels, or None and the first thing that libjpeg complains of."""
    try:
        return simplejpeg.decode_jpeg(data, space), ""
    except ValueError as error:
        return None, str(error)


def _without_quirks(data: bytes) -> bytes:
    """The same image with what :data:`_HARMLESS` speaks of as it should be."""
    mended, progressive = bytearray(data), False
    for one in _markers(data):
        body = data[one.body : one.end]
        if one.code in _FRAMES:
            progressive = one.code in _PROGRESSIVE
        elif one.code == _APP0 and body.startswith(b"JFIF\0") and len(body) > 5:
            mended[one.body + 5] = 1
        elif one.code == _SOS and not progressive and len(body) > 3 and one.end <= len(data):
            mended[one.end - 3 : one.end] = bytes([0, _COEFFICIENTS - 1, 0])
    return bytes(mended)


def _missing_coefficients(data: bytes) -> bool:
    """Whether the scans of an image leave bits of its coefficients out (ITU-T T.81, G.1.1.1)."""
    left: dict[int, list[int]] = {}  # per component: lowest bit that was sent of each coefficient, -1 for none
    progressive = False
    for one in _markers(data):
        if one.code == _EOI:
            break
        body = data[one.body : one.end]
        if one.code in _FRAMES:
            progressive = one.code in _PROGRESSIVE
            left = {component: [-1] * _COEFFICIENTS for component in body[6::3]}
        elif one.code == _SOS and len(body) > 3:
            first, last, low = (*body[-3:-1], body[-1] & 15) if progressive else (0, _COEFFICIENTS - 1, 0)
            for component in body[1 : 1 + 2 * body[0] : 2]:
                if component in left:
                    left[component][first : last + 1] = [low] * (last + 1 - first)
    return any(bit for bits in left.values() for bit in bits)


_MOST_SKIPPED = 1 << 16  # bytes between segments that are passed over when only the header is looked at


def probe(stream: BinaryIO) -> tuple[tuple[int, int], FileMetadata]:
    """(width, height) as stored, and EXIF and XMP that stand before the pixels, without decoding.

    Raises:
        InputError: there is no frame header.
    """
    stream.seek(2)
    segments: list[tuple[int, bytes]] = []
    skipped = 0
    while len(head := stream.read(4)) == 4 and skipped < _MOST_SKIPPED:
        marker = head[1]
        if head[0] != 0xFF or marker == 0xFF or marker in _STANDALONE:  # fill bytes, or damage: the next byte on
            stream.seek(-3, io.SEEK_CUR)
            skipped += 1
            continue
        if marker in (_SOS, _EOI):
            break
        body = stream.read(max(0, int.from_bytes(head[2:], "big") - 2))
        segments.append((marker, body))
    frames = [body for marker, body in segments if marker in _FRAMES and len(body) >= 5]
    height, width = struct.unpack_from(">HH", frames[0], 1) if frames else (0, 0)
    if not width or not height:
        raise InputError("the header is damaged or cut off")
    exif = [body for marker, body in segments if _name(marker, body) == "APP1 Exif"]
    packets = [body[len(_XMP) :] for marker, body in segments if _name(marker, body) == "APP1 XMP"]
    return (width, height), FileMetadata(exif=_exif(exif, []), xmp=packets[0] if packets else b"")


def read_metadata(data: bytes) -> FileMetadata:
    """Metadata of a JPEG file."""
    segments, end = split(data)
    losses: list[Loss] = []
    blocks: list[str] = []
    parts: dict[str, list[bytes]] = {}
    for marker, body in segments:
        name = _name(marker, body)
        blocks.append(name)
        parts.setdefault(name, []).append(body)
    exif = _exif(parts.get("APP1 Exif", []), losses)
    if any(not body.startswith(_EXIF) for body in parts.get("APP1 Exif", []) if len(body) >= len(_EXIF)):
        losses.append(DAMAGED_MARK)
    if not exif and "APP1 Exif" in parts:
        losses.append(empty_block("exif"))
    xmp = [body[len(_XMP) :] for body in parts.get("APP1 XMP", [])]
    if xmp and not xmp[0]:
        losses.append(empty_block("xmp"))
    if any(packet != xmp[0] for packet in xmp[1:]):
        losses.append(Loss("xmp", "a second XMP packet is dropped"))
    resources = kept_resources(
        b"".join(body[len(_PHOTOSHOP) :] for body in parts.get("APP13 Photoshop", [])),
        turned=orientation_of(exif) > 1,
        losses=losses,
    )
    dpi = _density(parts.get("APP0 JFIF", []), losses)
    icc = _profile(parts.get("APP2 ICC_PROFILE", []), losses)
    for body in parts.get("APP12 Ducky", []):
        if any(number not in (0, 1) for number in _ducky_tags(body[5:])):
            losses.append(Loss("comment", "texts of Photoshop's Ducky segment (comment, copyright) are dropped"))
    if between := _unread_bytes(data):
        losses.append(dropped("trailer", between, "byte", "between the segments of the JPEG"))
    images = 1
    for block, size in _behind(data, end):
        if block == "trailer image":
            images += 1
        elif block == "trailer":
            losses.append(dropped("trailer", size, "byte", "behind the image"))
        else:
            blocks.append(block)
    name_losses("JPEG", blocks, losses)
    if images > 1:
        losses.append(Loss("frames", f"only the first of {images} images is restored"))
    return FileMetadata(
        icc, exif, xmp[0] if xmp else b"", dpi, (), tuple(parts.get("COM", [])), resources, losses=losses
    )


def _name(marker: int, body: bytes) -> str:
    """Name of a segment in the loss table."""
    if marker == _COM:
        return "COM"
    number = marker - _APP0
    if number == 11 and body.startswith(b"JP"):
        return "APP11 C2PA" if b"c2pa" in body else "APP11 JUMBF"
    for start, name in _IDENTIFIERS.get(number, ()):
        if body.startswith(start):
            return f"APP{number} {name}"
    word = re.match(rb"[\x21-\x7e]{2,24}", body)
    return f"APP{number} {word[0].decode('ascii')}" if word else f"APP{number}"


def _exif(bodies: list[bytes], losses: list[Loss]) -> bytes:
    """The EXIF block; one beyond 64 kB goes on in the next segment."""
    block = b""
    for body in bodies:
        part = body[len(_EXIF) :]
        if block and part[:4] in (b"II*\0", b"MM\0*"):
            if part != block:
                losses.append(Loss("exif", "a second EXIF block is dropped"))
        else:
            block += part
    return block


def _profile(bodies: list[bytes], losses: list[Loss]) -> bytes:
    """The ICC profile of numbered parts (ICC.1, annex B.4)."""
    if not bodies:
        return b""
    numbered = {body[12]: body[14:] for body in reversed(bodies) if len(body) > 14}
    count = max((body[13] for body in bodies if len(body) > 14), default=0)
    missing = [number for number in range(1, count + 1) if number not in numbered]
    if missing or not count:
        which = ", ".join(map(str, missing[:8]))
        losses.append(Loss("icc", f"part {which or 1} of {count or 1} of the ICC profile is missing; it was dropped"))
        return b""
    return b"".join(numbered[number] for number in range(1, count + 1))


def _ducky_tags(body: bytes) -> Iterator[int]:
    """Tags of a Ducky segment: 1 quality, 2 comment, 3 copyright (as exiftool names them)."""
    place = 0
    while place + 4 <= len(body) and (tag := int.from_bytes(body[place : place + 2], "big")):
        yield tag
        place += 4 + int.from_bytes(body[place + 2 : place + 4], "big")


def _unread_bytes(data: bytes) -> int:
    """Bytes before the first scan that belong to no segment, fill bytes apart."""
    place, unread = 2, 0
    for one in _markers(data):
        unread += len(data[place : one.start].strip(b"\xff"))
        place = one.end
        if one.code in (_SOS, _EOI):
            break
    return unread


def _density(bodies: list[bytes], losses: list[Loss]) -> tuple[float, float] | None:
    """Pixels per inch; a ratio of pixels that are not square is a loss."""
    if any(body[5:12] != bodies[0][5:12] for body in bodies):
        losses.append(Loss("resolution", "a second, different JFIF segment is dropped"))
    for body in bodies:
        if len(body) < 12:
            continue
        unit, x, y = struct.unpack_from(">BHH", body, 7)
        if unit in (1, 2):
            factor = 1 if unit == 1 else 2.54
            return plausible_dpi(x * factor, y * factor)
        if unit == 0 and x and y and x != y:
            losses.append(Loss("aspect", f"the pixels are not square (JFIF: {x}:{y}), which the output does not say"))
        return None
    return None


def resource_segments(resources: bytes) -> Iterator[bytes]:
    """Image resources as APP13 segments, cut where one is full."""
    step = _LARGEST_SEGMENT - len(_PHOTOSHOP)
    for start in range(0, len(resources), step):
        yield segment(0xED, _PHOTOSHOP + resources[start : start + step])


def segment(marker: int, body: bytes) -> bytes:
    """A marker segment."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def _behind(data: bytes, place: int) -> Iterable[tuple[str, int]]:
    """What lies behind the first image: (name in the loss table, ``trailer image`` or ``trailer``; bytes)."""
    while place < len(data):
        if data.startswith(b"\xff\xd8\xff", place):
            segments, end = split(data, place)
            yield _auxiliary(segments), end - place
            place = end
            continue
        found = _START.search(data, place)
        following = len(data) if found is None else found.start()
        if b"ftyp" in data[place:following]:  # a video may hold anything
            following = len(data)
        rest = data[place:following]
        if b"ftyp" in rest[:64] or b"MotionPhoto_Data" in rest:
            yield "trailer video", len(rest)
        elif rest.strip(b"\0\xff"):
            yield "trailer", len(rest)
        place += len(rest)


def _auxiliary(segments: list[tuple[int, bytes]]) -> str:
    """What an image behind the first is."""
    for marker, body in segments:
        if b"hdrgm:" in body or b"hdr-gain-map" in body or b"HDRGainMap" in body or b"iso:ts:21496" in body:
            return "trailer gain map"
        if marker == 0xE1 and (b"urn:mpeg:hevc:2015:auxid:2" in body or b"depthData" in body):
            return "trailer depth map"
    return "trailer image"
