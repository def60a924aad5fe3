"""EXIF blocks as directories of tags, parsed, changed and written again; ICC colour space.

An EXIF block has the layout of a TIFF file (TIFF 6.0, section 2): a header, then directories of tags whose values
are inline or at an offset. :func:`parse` reads the directories that describe the image, :func:`build` writes them
again, so that tags can be changed and moved between JPEG, PNG, WebP and TIFF.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from varestorer_cli.core.image.geometry import Geometry

ORIENTATION = 0x0112
SOFTWARE = 0x0131
EXIF_IFD = 0x8769
GPS_IFD = 0x8825
INTEROP_IFD = 0xA005
MAKER_NOTE = 0x927C
IMAGE_WIDTH, IMAGE_HEIGHT = 0x0100, 0x0101
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
SUBJECT_AREA, SUBJECT_LOCATION = 0x9214, 0xA214
FOCAL_X_RESOLUTION, FOCAL_Y_RESOLUTION = 0xA20E, 0xA20F
DESCRIPTION = 0x010E
XMP = 700
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {"H": 2, "I": 4, "h": 2, "i": 4, "f": 4, "d": 8}  # struct code -> bytes
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
# Tags of a TIFF file's first directory that describe the image, not its storage.
DESCRIPTIVE = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C, 0x013E, 0x013F, 0x8298, 0x4746, 0x4749}
    | set(range(0x9C9B, 0x9CA0))
)
# IPTC and Photoshop blocks, which have their own place in other formats; copied from TIFF to TIFF.
PHOTOSHOP = 34377
TIFF_ONLY = frozenset({33723, PHOTOSHOP})
_PHOTO = frozenset({0x829A, 0x829D, 0xA001, *range(0x8822, 0x8836), *range(0x9000, 0x9290), *range(0xA20B, 0xA436)})
# Some programs put the Exif directory's tags into the first one.
KEPT_OF_TIFF = DESCRIPTIVE | TIFF_ONLY | (_PHOTO - {MAKER_NOTE})
# How and where a TIFF file stores its pixels, or what is read in another way.
STORAGE = frozenset(
    {*range(254, 267), *range(273, 285), 288, 289, 292, 293, 296, 297, 317, 320, *range(322, 326), 330, 332, 333, 334}
    | {336, *range(338, 342), 346, 347, *range(512, 533), 700, 34675}
    | {EXIF_IFD, GPS_IFD, 0xA000, PIXEL_WIDTH, PIXEL_HEIGHT, INTEROP_IFD}
)
LARGEST_BLOCK = 65500  # bytes of a JPEG segment
_MOST_ENTRIES = 4096
_HEADER = 8  # bytes before the first directory of a block


@dataclass(frozen=True)
class ExifTag:
    """The value of one tag: its TIFF type, its count, and its bytes in the byte order of the block."""

    type: int
    count: int
    value: bytes


Directory = Mapping[int, ExifTag]


@dataclass(frozen=True)
class Layout:
    """How a file stores directories.

    Attributes:
        first: place of the first directory's offset.
        count: struct code of the number of entries.
        pointer: struct code of offsets and counts.
        entry: bytes of one entry.
        inline: bytes of a value that fit into the entry; as many hold an offset.
    """

    first: int
    count: str
    pointer: str
    entry: int
    inline: int


CLASSIC = Layout(4, "H", "I", 12, 4)
BIG = Layout(8, "Q", "Q", 20, 8)


@dataclass(frozen=True)
class Exif:
    """The directories of an EXIF block.

    Attributes:
        order: ``<`` or ``>``, the byte order of all values.
        main: tags about the image.
        photo: the Exif directory (exposure, dates, maker note).
        gps: position.
        interop: interoperability directory, which tells Adobe RGB from sRGB in camera files without a profile.
        note_offset: place of the maker note in its block. Many makers count offsets inside it from the block's
            start, so it has to stay there; None where that is not known or not possible.
        damaged: number of tags that could not be read.
    """

    order: str = "<"
    main: Directory = field(default_factory=dict)
    photo: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)
    interop: Directory = field(default_factory=dict)
    note_offset: int | None = None
    damaged: int = field(default=0, compare=False)

    def short(self, tag: int) -> int | None:
        """A small integer of the main directory, None where it is absent or of another kind."""
        entry = self.main.get(tag)
        if entry is None or entry.count < 1 or entry.type not in (_SHORT, _LONG):
            return None
        code = "H" if entry.type == _SHORT else "I"
        return int(struct.unpack_from(self.order + code, entry.value)[0])

    def text(self, tag: int) -> str | None:
        """A string of the main directory."""
        entry = self.main.get(tag)
        return entry.value.rstrip(b"\0").decode("utf-8", "replace") if entry and entry.type == _ASCII else None

    def with_software(self, text: str) -> "Exif":
        """The same block, made by ``text``."""
        value = text.encode("ascii", "replace") + b"\0"
        return replace(self, main={**self.main, SOFTWARE: ExifTag(_ASCII, len(value), value)})

    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch (x, y), None where the tags do not say."""
        per_inch = {2: 1.0, 3: 2.54}.get(self.short(RESOLUTION_UNIT) or 2)
        x, y = (self._rational(self.main, tag) for tag in (X_RESOLUTION, Y_RESOLUTION))
        if x is None or y is None or per_inch is None:
            return None
        return plausible_dpi(x * per_inch, y * per_inch)

    def with_dpi(self, dpi: tuple[float, float]) -> "Exif":
        """The same block with these pixels per inch."""
        main = dict(self.main)
        for tag, value in ((X_RESOLUTION, dpi[0]), (Y_RESOLUTION, dpi[1])):
            main[tag] = ExifTag(_RATIONAL, 1, struct.pack(self.order + "II", round(value * 1000), 1000))
        main[RESOLUTION_UNIT] = ExifTag(_SHORT, 1, struct.pack(self.order + "H", 2))
        return replace(self, main=main)

    def fitted(self, geometry: Geometry) -> "Exif":
        """The same block for the output: orientation 1; sizes, places and densities on its pixel grid."""
        main = dict(self.main)
        if ORIENTATION in main:
            main[ORIENTATION] = ExifTag(_SHORT, 1, struct.pack(self.order + "H", 1))
        photo = dict(self.photo)
        for directory, tags in ((main, (IMAGE_WIDTH, IMAGE_HEIGHT)), (photo, (PIXEL_WIDTH, PIXEL_HEIGHT))):
            for tag, pixels in zip(tags, geometry.size, strict=True):
                if tag in directory:
                    directory[tag] = ExifTag(_LONG, 1, struct.pack(self.order + "I", pixels))
        for directory in (main, photo):  # some programs put the Exif directory's tags into the first one
            for tag in (SUBJECT_AREA, SUBJECT_LOCATION):
                before = self._numbers(directory, tag)
                if before:
                    after = [min(max(value, 0), 65535) for value in geometry.area([int(value) for value in before])]
                    packed = struct.pack(f"{self.order}{len(after)}H", *after)
                    directory[tag] = ExifTag(_SHORT, len(after), packed)
            x, y = (self._rational(directory, tag) for tag in (FOCAL_X_RESOLUTION, FOCAL_Y_RESOLUTION))
            if x is not None and y is not None:
                for tag, number in zip((FOCAL_X_RESOLUTION, FOCAL_Y_RESOLUTION), geometry.extent(x, y), strict=True):
                    value = Fraction(number).limit_denominator(10000)
                    if 0 <= value.numerator < 1 << 32:
                        packed = struct.pack(self.order + "II", value.numerator, value.denominator)
                        directory[tag] = ExifTag(_RATIONAL, 1, packed)
        return replace(self, main=main, photo=photo)

    def _numbers(self, directory: Directory, tag: int) -> list[float]:
        """Values of a tag of any numeric type; empty where it is absent or has no finite value."""
        entry = directory.get(tag)
        code = {3: "H", 4: "I", 5: "I", 8: "h", 9: "i", 10: "i", 11: "f", 12: "d"}.get(entry.type if entry else 0)
        if entry is None or code is None:
            return []
        values = [float(v) for v in struct.unpack(f"{self.order}{len(entry.value) // _CODES[code]}{code}", entry.value)]
        if entry.type in (5, 10):  # fractions
            pairs = list(zip(values[::2], values[1::2], strict=True))
            values = [top / bottom for top, bottom in pairs if bottom]
            if len(values) < len(pairs):
                return []
        return values if all(math.isfinite(value) for value in values) else []

    def _rational(self, directory: Directory, tag: int) -> float | None:
        """One number, None where it is absent or there are more."""
        values = self._numbers(directory, tag)
        return values[0] if len(values) == 1 else None

    def without_note(self) -> "Exif":
        """The same block without the maker note."""
        photo = {tag: entry for tag, entry in self.photo.items() if tag != MAKER_NOTE}
        return replace(self, photo=photo, note_offset=None)

    def without(self, *tags: int) -> "Exif":
        """The same block without some tags of the main directory."""
        return replace(self, main={tag: entry for tag, entry in self.main.items() if tag not in tags})


def plausible_dpi(x: float, y: float) -> tuple[float, float] | None:
    """Pixels per inch, None where no device has such: what is written has no room for more."""
    return (float(x), float(y)) if 0 < x < 1e6 and 0 < y < 1e6 else None


def parse(block: bytes, first: int | None = None) -> Exif | None:
    """Read an EXIF block (or a TIFF or BigTIFF file), tolerant of damage inside single entries.

    Args:
        block: bytes from the TIFF header on; the ``Exif`` marker before it may still be there.
        first: offset of the main directory where it is not the one that the header names (a later page).

    Returns:
        None where the block cannot be read at all.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(block[:4])
    if order is None:
        return None
    layout = BIG if b"+" in block[:4] else CLASSIC
    try:
        if first is None:
            (first,) = struct.unpack_from(order + layout.pointer, block, layout.first)
        main, damaged = _directory(block, order, first, layout)
    except struct.error:
        return None

    def below(parent: dict[int, ExifTag], tag: int) -> dict[int, ExifTag]:
        nonlocal damaged
        entry = parent.pop(tag, None)
        if entry is None:
            return {}
        pointer = {4: "I", 8: "Q"}.get(len(entry.value))
        try:
            (offset,) = struct.unpack(order + (pointer or "I"), entry.value)
            found, bad = _directory(block, order, offset, layout)
        except struct.error:
            found, bad = {}, 1
        damaged += bad
        return found

    photo, gps = below(main, EXIF_IFD), below(main, GPS_IFD)
    interop = below(photo, INTEROP_IFD)
    note = photo.get(MAKER_NOTE)
    place = block.find(note.value) if note and len(note.value) > layout.inline else -1
    fits = note is not None and place >= 0 and place + len(note.value) <= LARGEST_BLOCK
    return Exif(order, main, photo, gps, interop, place if fits else None, damaged)


def _directory(block: bytes, order: str, offset: int, layout: Layout) -> tuple[dict[int, ExifTag], int]:
    """Tags of the directory at ``offset``, and the number of those that cannot be read."""
    (count,) = struct.unpack_from(order + layout.count, block, offset)
    entries: dict[int, ExifTag] = {}
    head = 4 + layout.inline
    read = min(count, _MOST_ENTRIES)
    damaged = count - read
    for i in range(read):
        place = offset + struct.calcsize(order + layout.count) + layout.entry * i
        try:
            tag, kind, number = struct.unpack_from(order + "HH" + layout.pointer, block, place)
            if number == 0:  # says nothing
                continue
            size = _SIZES.get(kind, 0) * number
            start = place + head
            if size > layout.inline:
                (start,) = struct.unpack_from(order + layout.pointer, block, start)
        except struct.error:  # the directory is cut off here
            return entries, damaged + read - i
        value = block[start : start + size] if size <= len(block) else b""
        if size and len(value) == size:
            entries[tag] = ExifTag(kind, number, value)
        else:
            damaged += 1
    return entries, damaged


class _Space:
    """Places in a block, around a part that is taken."""

    def __init__(self, taken: tuple[int, int] | None) -> None:
        self.low = _HEADER
        self.limit = taken[0] if taken else None
        self.high = taken[1] + taken[1] % 2 if taken else 0

    def take(self, size: int) -> int:
        """Offset of ``size`` bytes, even as TIFF wants it."""
        size += size % 2
        if self.limit is None or self.low + size <= self.limit:
            self.low += size
            return self.low - size
        self.high += size
        return self.high - size


def note_stays(exif: Exif) -> bool:
    """Whether :func:`build` leaves the maker note where offsets inside it count from; True where there is none."""
    note, at = exif.photo.get(MAKER_NOTE), exif.note_offset
    if note is None or len(note.value) <= CLASSIC.inline:  # inside its entry: too short for offsets
        return True
    entries = len({*exif.main, EXIF_IFD, *([GPS_IFD] if exif.gps else [])})
    return at is not None and _HEADER + 6 + CLASSIC.entry * entries <= at  # the first directory lies before it


def build(exif: Exif) -> bytes:
    """An EXIF block from its tree, without the ``Exif`` marker; the maker note stays at its place if there is room."""
    order, main, photo = exif.order, dict(exif.main), dict(exif.photo)
    pointer = ExifTag(_LONG, 1, bytes(4))
    if exif.interop:
        photo[INTEROP_IFD] = pointer
    main.update({tag: pointer for tag, part in ((EXIF_IFD, photo), (GPS_IFD, exif.gps)) if part})
    note, at = photo.get(MAKER_NOTE), exif.note_offset
    if at is not None and not note_stays(exif):
        return build(replace(exif, note_offset=None))
    space = _Space((at, at + len(note.value)) if note is not None and at is not None else None)
    tables = [(0, main), (EXIF_IFD, photo), (GPS_IFD, dict(exif.gps)), (INTEROP_IFD, dict(exif.interop))]
    places = {tag: space.take(6 + CLASSIC.entry * len(table)) for tag, table in tables if table or not tag}
    for table in (main, photo):
        table.update({t: ExifTag(_LONG, 1, struct.pack(order + "I", places[t])) for t in table if t and t in places})
    parts = [(0, (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))]
    for tag, table in tables:
        if tag not in places:
            continue
        head = struct.pack(order + "H", len(table))
        for code, entry in sorted(table.items()):
            stored = entry.value.ljust(4, b"\0")
            if len(entry.value) > 4:
                fixed = tag == EXIF_IFD and code == MAKER_NOTE and space.limit is not None
                start = at if fixed and at is not None else space.take(len(entry.value))
                parts.append((start, entry.value))
                stored = struct.pack(order + "I", start)
            head += struct.pack(order + "HHI", code, entry.type, entry.count) + stored
        parts.append((places[tag], head + bytes(4)))
    block = bytearray(max(start + len(part) for start, part in parts))
    for start, part in parts:
        block[start : start + len(part)] = part
    return bytes(block)


def build_directory(entries: Directory, order: str, offset: int, layout: Layout = CLASSIC) -> bytes:
    """One directory and its values, to stand at ``offset`` of the file; its length is even."""
    head = struct.pack(order + layout.count, len(entries))
    values = b""
    start = offset + len(head) + layout.entry * len(entries) + layout.inline
    for tag, entry in sorted(entries.items()):
        head += struct.pack(order + "HH" + layout.pointer, tag, entry.type, entry.count)
        if len(entry.value) <= layout.inline:
            head += entry.value.ljust(layout.inline, b"\0")
        else:
            head += struct.pack(order + layout.pointer, start + len(values))
            values += entry.value + b"\0" * (len(entry.value) % 2)
    return head + bytes(layout.inline) + values


def orientation_of(block: bytes) -> int:
    """Orientation of an EXIF block, 1 to 8; 1 where it does not say."""
    tree = parse(block)
    value = tree.short(ORIENTATION) if tree is not None else None
    return value if value is not None and 1 <= value <= 8 else 1


def icc_space(profile: bytes) -> str:
    """Colour space of an ICC profile (``RGB``, ``GRAY``, ``CMYK`` ...), "" where it is no profile."""
    if len(profile) < 128 or profile[36:40] != b"acsp":
        return ""
    return profile[16:20].decode("ascii", "replace").strip()
