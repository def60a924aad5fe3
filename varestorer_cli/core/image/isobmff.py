"""Names of what AVIF and HEIF files hold: boxes, items and their properties (ISO 14496-12, ISO 23008-12)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from varestorer_cli.core.image.image_data import Loss
from varestorer_cli.core.image.loss_table import name_losses

_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_CODED = frozenset({"av01", "hvc1", "grid", "iovl", "iden", "jpeg", "avc1", "unci", "j2k1", "vvc1"})
# H.273 code points whose values look as sRGB does on a display; 2 is unspecified.
_PLAIN_PRIMARIES = frozenset({1, 2, 5, 6, 7})
_PLAIN_TRANSFERS = frozenset({1, 2, 6, 13, 14, 15})


@dataclass
class _Contents:
    """What a file holds.

    Attributes:
        boxes: names for the loss table.
        primary: identifier of the primary image.
        items: identifier -> type.
        references: (type, from, to).
        properties: in order: (type, body).
        associations: item -> indices of its properties, from 1.
    """

    boxes: list[str] = field(default_factory=list)
    primary: int = 0
    items: dict[int, str] = field(default_factory=dict)
    references: list[tuple[str, int, int]] = field(default_factory=list)
    properties: list[tuple[str, bytes]] = field(default_factory=list)
    associations: dict[int, list[int]] = field(default_factory=dict)

    def auxiliary(self, item: int) -> bytes:
        """Type of an auxiliary image, b"" where it is none."""
        for index in self.associations.get(item, []):
            if 0 < index <= len(self.properties) and self.properties[index - 1][0] == "auxC":
                return self.properties[index - 1][1][4:].split(b"\0")[0]
        return b""


def name_contents(data: bytes, format: str, *, icc: bool, losses: list[Loss]) -> set[str]:
    """Name what is neither kept nor storage.

    Args:
        data: the file.
        format: ``AVIF`` or ``HEIF``.
        icc: whether the image has an ICC profile.
        losses: takes a loss per kind.

    Returns:
        names of all blocks, as in the loss table.
    """
    contents = _Contents()
    try:
        images = _read_file(data, contents)
    except IndexError:  # a box that is shorter than its own fields
        images = 1
        losses.append(Loss("box", "the list of what the file holds is damaged; parts of it may be lost"))
    for name, body in contents.properties:
        if name == "pasp" and body[:4] != body[4:8]:
            x, y = (int.from_bytes(body[i : i + 4], "big") for i in (0, 4))
            losses.append(Loss("aspect", f"the pixels are not square (pasp: {x}:{y}), which the output does not say"))
        elif name == "colr" and body[:4] == b"nclx" and not icc:
            primaries, transfer = (int.from_bytes(body[i : i + 2], "big") for i in (4, 6))
            if primaries not in _PLAIN_PRIMARIES or transfer not in _PLAIN_TRANSFERS:
                said = f"colour primaries {primaries} and transfer {transfer} (H.273) without an ICC profile"
                losses.append(Loss("colour", f"the {format} says {said}, which the output does not say"))
        if not (name == "clap" and format == "HEIF"):  # whose decoder crops
            contents.boxes.append(f"property {name}")
    name_losses(format, contents.boxes, losses)
    if images > 1:
        losses.append(Loss("frames", f"only the first of {images} images is restored"))
    return set(contents.boxes)


def _read_file(data: bytes, contents: _Contents) -> int:
    """Fill ``contents``; the number of images that stand for themselves."""
    for name, body in _boxes(data, 0, len(data)):
        if name == b"meta":
            _read_meta(body[4:], contents)
        if name == b"uuid":
            contents.boxes.append("box C2PA" if body[:16] == _C2PA else "box uuid")
        elif name in (b"jumb", b"jumd"):
            contents.boxes.append("box C2PA" if b"c2pa" in body[:256] else "box jumb")
        else:
            contents.boxes.append(f"box {_text(name)}")
    return _name_items(contents)


def _text(name: bytes) -> str:
    return name.decode("ascii") if name.isascii() and name.isalnum() else name.hex()


def _boxes(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Boxes between two places: (type, body)."""
    while place + 8 <= end:
        size, name, head = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if size == 0:
            size = end - place
        if size < head or place + size > end:
            return
        yield name, data[place + head : place + size] if name != b"mdat" else b""
        place += size


def _read_meta(body: bytes, contents: _Contents) -> None:
    for name, inner in _boxes(body, 0, len(body)):
        contents.boxes.append(f"meta {_text(name)}")
        if name == b"pitm":
            contents.primary = int.from_bytes(inner[4:6] if inner[0] == 0 else inner[4:8], "big")
        elif name == b"iinf":
            skip = 6 if inner[0] == 0 else 8
            for _, entry in _boxes(inner, skip, len(inner)):
                _read_item(entry, contents)
        elif name == b"iref":
            _read_references(inner, contents)
        elif name == b"iprp":
            _read_properties(inner, contents)


def _read_item(entry: bytes, contents: _Contents) -> None:
    wide = entry[0] >= 3
    number = int.from_bytes(entry[4:8] if wide else entry[4:6], "big")
    place = 10 if wide else 8
    kind = entry[place : place + 4].decode("latin-1")
    if kind == "mime":
        content = entry[place + 4 :].split(b"\0")
        kind = "XMP" if b"application/rdf+xml" in content else f"mime {content[1].decode('latin-1')}"
    contents.items[number] = kind


def _read_references(inner: bytes, contents: _Contents) -> None:
    wide = 4 if inner[0] else 2
    for name, body in _boxes(inner, 4, len(inner)):
        source = int.from_bytes(body[:wide], "big")
        count = int.from_bytes(body[wide : wide + 2], "big")
        for i in range(min(count, len(body) // wide)):
            place = wide + 2 + i * wide
            contents.references.append((_text(name), source, int.from_bytes(body[place : place + wide], "big")))


def _read_properties(inner: bytes, contents: _Contents) -> None:
    for name, body in _boxes(inner, 0, len(inner)):
        if name == b"ipco":
            contents.properties += [(_text(kind), value) for kind, value in _boxes(body, 0, len(body))]
        elif name == b"ipma":
            wide, large = (4 if body[0] else 2), body[3] & 1
            count, place = int.from_bytes(body[4:8], "big"), 8
            for _ in range(count):
                item, place = int.from_bytes(body[place : place + wide], "big"), place + wide
                number, place = (body[place] if place < len(body) else 0), place + 1
                indices = contents.associations.setdefault(item, [])
                for _ in range(number):
                    value = int.from_bytes(body[place : place + 1 + large], "big")
                    indices.append(value & (0x7FFF if large else 0x7F))
                    place += 1 + large
                if place > len(body):
                    break


def _name_items(contents: _Contents) -> int:
    """Add names of items; the number of images that stand for themselves."""
    parts = {to for kind, _, to in contents.references if kind == "dimg"}
    thumbnails = {source for kind, source, _ in contents.references if kind == "thmb"}
    images = 0
    blocks = []
    for item, kind in contents.items.items():
        auxiliary = contents.auxiliary(item)
        if b"alpha" in auxiliary or auxiliary == b"urn:mpeg:hevc:2015:auxid:1":
            blocks.append("item alpha")
        elif b"depth" in auxiliary or auxiliary == b"urn:mpeg:hevc:2015:auxid:2":
            blocks.append("item depth map")
        elif b"gainmap" in auxiliary.lower():
            blocks.append("item tmap")
        elif auxiliary:
            blocks.append(f"item auxiliary image {_text(auxiliary.rpartition(b':')[2])}")
        elif kind in _CODED:
            images += item == contents.primary or (item not in parts and item not in thumbnails)
        else:
            blocks.append(f"item {kind}")
    for kind in ("Exif", "XMP"):
        if list(contents.items.values()).count(kind) > 1:
            blocks.append(f"second {kind} item")
    contents.boxes += blocks
    return images
