"""EXIF as a tree of entries, XMP orientation, ICC profile kind: what is carried from input to output.

An EXIF block has the layout of a TIFF file (TIFF 6.0, section 2): a header, then directories of entries whose values
are inline or at an offset. :func:`parse` reads the three directories that matter, :func:`build` writes them again, so
that tags can be changed and moved between JPEG, PNG, WebP and TIFF.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ORIENTATION = 0x0112
SOFTWARE = 0x0131
EXIF_IFD = 0x8769
GPS_IFD = 0x8825
INTEROP_IFD = 0xA005
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
# Tags of a TIFF file's first directory that describe the picture, not its storage.
DESCRIPTIVE = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749}
    | set(range(0x9C9B, 0x9CA0))
)
# IPTC and Photoshop blocks, which have their own place in other formats; copied from TIFF to TIFF.
TIFF_ONLY = frozenset({33723, 34377})
KEPT_OF_TIFF = DESCRIPTIVE | TIFF_ONLY
_MOST_ENTRIES = 4096


@dataclass(frozen=True)
class Entry:
    """One tag: its TIFF type, its count, and its value's bytes in the tree's byte order."""

    type: int
    count: int
    value: bytes


Directory = Mapping[int, Entry]


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
        main: tags about the picture.
        photo: the Exif directory (exposure, dates, maker note).
        gps: position.
    """

    order: str = "<"
    main: Directory = field(default_factory=dict)
    photo: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)

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
        return replace(self, main={**self.main, SOFTWARE: Entry(_ASCII, len(value), value)})

    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch (x, y), None where the tags do not say."""
        per_inch = {2: 1.0, 3: 2.54}.get(self.short(RESOLUTION_UNIT) or 2)
        found = []
        for tag in (X_RESOLUTION, Y_RESOLUTION):
            entry = self.main.get(tag)
            if entry is None or entry.type != _RATIONAL or entry.count != 1 or per_inch is None:
                return None
            top, bottom = struct.unpack(self.order + "II", entry.value)
            if not (bottom and 0 < top / bottom * per_inch < 1e6):
                return None
            found.append(top / bottom * per_inch)
        return found[0], found[1]

    def with_dpi(self, dpi: tuple[float, float]) -> "Exif":
        """The same block with these pixels per inch."""
        main = dict(self.main)
        for tag, value in ((X_RESOLUTION, dpi[0]), (Y_RESOLUTION, dpi[1])):
            main[tag] = Entry(_RATIONAL, 1, struct.pack(self.order + "II", round(value * 1000), 1000))
        main[RESOLUTION_UNIT] = Entry(_SHORT, 1, struct.pack(self.order + "H", 2))
        return replace(self, main=main)

    def upright(self, width: int, height: int) -> "Exif":
        """The same block for a picture of this size that was turned upright: orientation 1, size tags corrected."""
        main = dict(self.main)
        if ORIENTATION in main:
            main[ORIENTATION] = Entry(_SHORT, 1, struct.pack(self.order + "H", 1))
        photo = dict(self.photo)
        for tag, pixels in ((PIXEL_WIDTH, width), (PIXEL_HEIGHT, height)):
            if tag in photo:
                photo[tag] = Entry(_LONG, 1, struct.pack(self.order + "I", pixels))
        return replace(self, main=main, photo=photo)

    def without(self, *tags: int) -> "Exif":
        """The same block without some tags of the main directory."""
        return replace(self, main={tag: entry for tag, entry in self.main.items() if tag not in tags})


def parse(block: bytes) -> Exif | None:
    """Read an EXIF block (or a TIFF or BigTIFF file), tolerant of damage inside single entries.

    Args:
        block: bytes from the TIFF header on; the ``Exif`` marker before it may still be there.

    Returns:
        None where the block cannot be read at all.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(block[:4])
    if order is None:
        return None
    layout = BIG if b"+" in block[:4] else CLASSIC
    try:
        main = _directory(block, order, struct.unpack_from(order + layout.pointer, block, layout.first)[0], layout)
    except struct.error:
        return None

    def below(tag: int) -> dict[int, Entry]:
        entry = main.pop(tag, None)
        pointer = {4: "I", 8: "Q"}.get(len(entry.value) if entry else 0)
        if entry is None or pointer is None:
            return {}
        try:
            found = _directory(block, order, struct.unpack(order + pointer, entry.value)[0], layout)
        except struct.error:
            return {}
        found.pop(INTEROP_IFD, None)  # a pointer of no use once moved
        return found

    photo, gps = below(EXIF_IFD), below(GPS_IFD)
    return Exif(order, main, photo, gps)


def _directory(block: bytes, order: str, offset: int, layout: Layout) -> dict[int, Entry]:
    (count,) = struct.unpack_from(order + layout.count, block, offset)
    entries: dict[int, Entry] = {}
    head = 4 + layout.inline
    for i in range(min(count, _MOST_ENTRIES)):
        place = offset + struct.calcsize(order + layout.count) + layout.entry * i
        tag, kind, number = struct.unpack_from(order + "HH" + layout.pointer, block, place)
        size = _SIZES.get(kind, 0) * number
        if size == 0 or size > len(block):
            continue
        start = place + head
        if size > layout.inline:
            (start,) = struct.unpack_from(order + layout.pointer, block, start)
        value = block[start : start + size]
        if len(value) == size:
            entries[tag] = Entry(kind, number, value)
    return entries


def build(exif: Exif) -> bytes:
    """An EXIF block from its tree, without the ``Exif`` marker."""
    header = (b"II*\0" if exif.order == "<" else b"MM\0*") + struct.pack(exif.order + "I", 8)
    main = dict(exif.main)
    pointers = [tag for tag, part in ((EXIF_IFD, exif.photo), (GPS_IFD, exif.gps)) if part]
    for tag in pointers:
        main[tag] = Entry(_LONG, 1, bytes(4))
    offset = 8 + len(build_directory(main, exif.order, 8))
    tail = b""
    for tag, part in ((EXIF_IFD, exif.photo), (GPS_IFD, exif.gps)):
        if part:
            main[tag] = Entry(_LONG, 1, struct.pack(exif.order + "I", offset + len(tail)))
            tail += build_directory(part, exif.order, offset + len(tail))
    return header + build_directory(main, exif.order, 8) + tail


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


def upright_xmp(xmp: bytes) -> bytes:
    """XMP whose orientation, where it is stated, is 1."""
    xmp = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])\d+", rb"\g<1>1", xmp)
    return re.sub(rb"(<tiff:Orientation>\s*)\d+", rb"\g<1>1", xmp)


def icc_space(profile: bytes) -> str:
    """Colour space of an ICC profile (``RGB``, ``GRAY``, ``CMYK`` ...), "" where it is no profile."""
    if len(profile) < 128 or profile[36:40] != b"acsp":
        return ""
    return profile[16:20].decode("ascii", "replace").strip()
