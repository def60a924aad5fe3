"""XMP packets: claims about parts that are left out removed, sizes and places in pixels brought to the output's grid.

A packet that says nothing of the kind is copied byte for byte. Sources: XMP specification parts 1 and 2, Photo Sphere
XMP (GPano), Ultra HDR and Motion Photo formats 1.0 (Google), MWG guidelines 2.0 (regions).
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from varestorer_cli.core.image.geometry import Geometry
from varestorer_cli.core.image.image_data import Loss

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_NOTE = "http://ns.adobe.com/xmp/note/"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_PANO = "http://ns.google.com/photos/1.0/panorama/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_AREA = "http://ns.adobe.com/xmp/sType/Area#"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_MICROSOFT = "http://ns.microsoft.com/photo/1.2/t/Region#"
# What belongs to an auxiliary image or video behind the pixels, all properties of a namespace.
_AUXILIARY = frozenset(
    {
        "http://ns.adobe.com/hdr-gain-map/1.0/",
        "http://ns.apple.com/HDRGainMap/1.0/",
        "http://ns.google.com/photos/1.0/container/",
        "http://ns.google.com/photos/1.0/container/item/",
    }
)
_DEVICE = "http://ns.google.com/photos/dd/1.0/device/"
_MOTION = re.compile(r"MotionPhoto|MicroVideo")
_PROVENANCE = ("http://purl.org/dc/terms/", "provenance")
_SENSITIVE = re.compile(rb"hdrgm:|GContainer|Container:Directory|MotionPhoto|MicroVideo|GPano:")

_MOST_PARTS = 1 << 18  # tags and attributes; each takes some 300 bytes and 10 microseconds

Node = minidom.Element


def orientation_of(packet: bytes) -> int:
    """Orientation that a packet states, 1 to 8; 1 where it does not."""
    found = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>\s*)([1-8])\b", packet)
    return int(found[1]) if found else 1


def _parse(packet: bytes) -> minidom.Document | None:
    if packet.count(b"<") + packet.count(b"=") > _MOST_PARTS:
        return None
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:  # no part of XMP, and a way to take hours
        return None
    try:
        return minidom.parseString(packet.strip(b"\0 \t\r\n"))
    except (ExpatError, ValueError, LookupError, RecursionError):
        return None


def _bytes(document: minidom.Document) -> bytes:
    return "\n".join(node.toxml() for node in document.childNodes).encode("utf-8")


def without_claims(packet: bytes, losses: list[Loss]) -> bytes:
    """A packet without what it says of parts that no output has.

    These are HDR gain maps, videos of motion photos, containers of auxiliary images, thumbnails, and references to
    extended XMP and to a C2PA manifest elsewhere. The parts themselves are named by the reader of the file.

    Args:
        packet: XMP; b"" stays b"".
        losses: takes what is lost with the packet.
    """
    if not packet:
        return packet
    document = _parse(packet)
    if document is None:
        if _SENSITIVE.search(packet):
            losses.append(
                Loss("xmp", "the XMP packet is damaged or too large, speaks of what is left out, and was dropped")
            )
            return b""
        return packet
    changed = False
    for element in _elements(document):
        for attribute in list(element.attributes.values()):
            if _is_claim(attribute.namespaceURI, attribute.localName, losses):
                element.removeAttributeNode(attribute)
                changed = True
        parent = element.parentNode
        if parent is None or (parent.namespaceURI, parent.localName) != (_RDF, "Description"):
            continue
        if _is_claim(element.namespaceURI, element.localName, losses):
            parent.removeChild(element)
            changed = True
    return _bytes(document) if changed else packet


def _is_claim(namespace: str | None, name: str | None, losses: list[Loss]) -> bool:
    if (namespace, name) == _PROVENANCE:
        losses.append(Loss("c2pa", "the link to a C2PA manifest is dropped: it was signed for the old pixels"))
        return True
    if namespace == _DEVICE:
        said = Loss("depthmap", "what XMP says of cameras and depth maps (Dynamic Depth, Device) is dropped")
        losses += [] if said in losses else [said]
        return True
    if namespace == _CAMERA:
        return _MOTION.match(name or "") is not None
    known = ((_NOTE, "HasExtendedXMP"), (_XMP, "Thumbnails"))
    return namespace in _AUXILIARY or (namespace, name) in known


def fitted(packet: bytes, geometry: Geometry) -> bytes:
    """A packet whose orientation is 1 and whose sizes and places are those of the output."""
    if not packet:
        return packet
    document = _parse(packet)
    if document is None:
        return _upright_text(packet)
    properties = _Properties(document)
    _fit_sizes(properties, geometry)
    _fit_panorama(properties, geometry)
    for element in _elements(document):
        _fit_region(element, properties, geometry)
    return _bytes(document) if properties.changed else packet


def _upright_text(packet: bytes) -> bytes:
    """Orientation 1 in a packet that is no XML."""
    packet = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])\d+", rb"\g<1>1", packet)
    return re.sub(rb"(<tiff:Orientation>\s*)\d+", rb"\g<1>1", packet)


def _elements(document: minidom.Document) -> Iterator[Node]:
    yield from list(document.getElementsByTagName("*"))


class _Properties:
    """Simple properties of a document, written as attributes or as elements (XMP part 1, section 7)."""

    def __init__(self, document: minidom.Document) -> None:
        self.document = document
        self.changed = False
        self._found: dict[tuple[str, str], list[minidom.Attr | Node]] = {}
        for element in _elements(document):
            self._add(element)
            for attribute in element.attributes.values():
                self._add(attribute)

    def _add(self, node: minidom.Attr | Node) -> None:
        if node.namespaceURI and node.localName:
            self._found.setdefault((node.namespaceURI, node.localName), []).append(node)

    @staticmethod
    def value(node: minidom.Attr | Node) -> str:
        """Text of a property."""
        if isinstance(node, minidom.Attr):
            return str(node.value)
        return "".join(child.data for child in node.childNodes if child.nodeType == child.TEXT_NODE)

    def number(self, namespace: str, name: str) -> float | None:
        """First value of a property as a number, None where there is none."""
        for node in self._found.get((namespace, name), []):
            try:
                return float(Fraction(self.value(node).strip()))
            except (ValueError, ZeroDivisionError, OverflowError):
                continue
        return None

    def set(self, namespace: str, name: str, text: str) -> None:
        """Change a property wherever it stands; one that is absent stays so."""
        for node in self._found.get((namespace, name), []):
            self.write(node, text)

    def write(self, node: minidom.Attr | Node, text: str) -> None:
        """Change one node's text."""
        if self.value(node).strip() == text:
            return
        self.changed = True
        if isinstance(node, minidom.Attr):
            node.value = text
            return
        for child in list(node.childNodes):
            node.removeChild(child)
        node.appendChild(self.document.createTextNode(text))

    def items(self, namespace: str, name: str) -> Iterator[list[Node]]:
        """Items of each array with this name."""
        for node in self._found.get((namespace, name), []):
            if not isinstance(node, minidom.Attr):
                yield list(node.getElementsByTagNameNS(_RDF, "li"))


def _fit_sizes(properties: _Properties, geometry: Geometry) -> None:
    properties.set(_TIFF, "Orientation", "1")
    for namespace, names in (
        (_TIFF, ("ImageWidth", "ImageLength")),
        (_EXIF, ("PixelXDimension", "PixelYDimension")),
    ):
        for name, pixels in zip(names, geometry.size, strict=True):
            properties.set(namespace, name, str(pixels))
    x, y = (properties.number(_EXIF, f"FocalPlane{axis}Resolution") for axis in "XY")
    if x is not None and y is not None:
        for axis, number in zip("XY", geometry.extent(x, y), strict=True):
            value = Fraction(number).limit_denominator(10000)
            properties.set(_EXIF, f"FocalPlane{axis}Resolution", f"{value.numerator}/{value.denominator}")
    for name in ("SubjectArea", "SubjectLocation"):
        for items in properties.items(_EXIF, name):
            try:
                before = [int(properties.value(item)) for item in items]
            except ValueError:
                continue
            for item, number in zip(items, geometry.area(before), strict=True):
                properties.write(item, str(number))


def _fit_panorama(properties: _Properties, geometry: Geometry) -> None:
    """Sizes and places of a panorama, which GPano counts in pixels."""

    def numbers(*names: str) -> tuple[float, ...] | None:
        found = [properties.number(_PANO, name) for name in names]
        return None if None in found else tuple(number for number in found if number is not None)

    def pair(names: tuple[str, str], values: tuple[float, float]) -> None:
        for name, value in zip(names, values, strict=True):
            properties.set(_PANO, name, str(round(value)))

    full = numbers("FullPanoWidthPixels", "FullPanoHeightPixels")
    part = numbers("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels")
    corner = numbers("CroppedAreaLeftPixels", "CroppedAreaTopPixels")
    inside = numbers("LargestValidInteriorRectWidth", "LargestValidInteriorRectHeight")
    inner = numbers("LargestValidInteriorRectLeft", "LargestValidInteriorRectTop")
    if full and part and corner:
        places = ("CroppedAreaLeftPixels", "CroppedAreaTopPixels")
        pair(places, geometry.corner(corner[0], corner[1], (part[0], part[1]), (full[0], full[1])))
    if part and inside and inner:
        places = ("LargestValidInteriorRectLeft", "LargestValidInteriorRectTop")
        pair(places, geometry.corner(inner[0], inner[1], (inside[0], inside[1]), (part[0], part[1])))
    for names, values in (
        (("FullPanoWidthPixels", "FullPanoHeightPixels"), full),
        (("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels"), part),
        (("LargestValidInteriorRectWidth", "LargestValidInteriorRectHeight"), inside),
    ):
        if values:
            pair(names, geometry.extent(values[0], values[1]))


def _fit_region(element: Node, properties: _Properties, geometry: Geometry) -> None:
    """A region of faces or barcodes: shares of the stored width and height, or pixels."""
    if (element.namespaceURI, element.localName) == (_REGIONS, "AppliedToDimensions"):
        for name, pixels in zip("wh", geometry.size, strict=True):
            for node in _fields(element, _DIMENSIONS, name):
                properties.write(node, str(pixels))
    elif (element.namespaceURI, element.localName) == (_REGIONS, "Area"):
        nodes = {name: _fields(element, _AREA, name) for name in "xywhd"}
        unit = [properties.value(node) for node in _fields(element, _AREA, "unit")]
        try:
            values = {name: float(properties.value(found[0])) for name, found in nodes.items() if found}
        except ValueError:
            return
        normal = unit != ["pixel"]
        if "x" in values and "y" in values:
            x, y = values["x"], values["y"]
            values["x"], values["y"] = geometry.turn(x, y, 1, 1) if normal else geometry.point(x, y)
        if "w" in values and "h" in values:
            w, h = values["w"], values["h"]
            turned = (h, w) if geometry.swaps else (w, h)
            values["w"], values["h"] = turned if normal else geometry.extent(w, h)
        if "d" in values and not normal:
            values["d"] *= sum(geometry.scale) / 2
        _write_numbers(properties, {nodes[name][0]: value for name, value in values.items()})
    elif geometry.orientation > 1:
        for node in _fields(element, _MICROSOFT, "Rectangle"):
            try:
                x, y, w, h = (float(part) for part in properties.value(node).split(","))
            except ValueError:
                continue
            ends = [geometry.turn(x, y, 1, 1), geometry.turn(x + w, y + h, 1, 1)]
            (left, right), (top, bottom) = (sorted(end[axis] for end in ends) for axis in (0, 1))
            properties.write(node, ", ".join(f"{v:.6g}" for v in (left, top, right - left, bottom - top)))


def _write_numbers(properties: _Properties, values: dict[minidom.Attr | Node, float]) -> None:
    for node, value in values.items():
        if abs(float(properties.value(node)) - value) > 1e-9:
            properties.write(node, f"{value:.6g}")


def _fields(element: Node, namespace: str, name: str) -> list[minidom.Attr | Node]:
    """Fields of a structure, written as attributes or as elements, perhaps within an rdf:Description."""
    found: list[minidom.Attr | Node] = []
    for holder in [element, *element.getElementsByTagNameNS(_RDF, "Description")]:
        attribute = holder.getAttributeNodeNS(namespace, name)
        if attribute is not None:
            found.append(attribute)
    children = [
        c for c in element.getElementsByTagNameNS(namespace, name) if len(list(c.getElementsByTagName("*"))) == 0
    ]
    return found + list(children)
