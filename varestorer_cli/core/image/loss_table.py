"""The loss table: what becomes of every chunk, marker segment, tag and item that a file of each format can hold.

A block is kept (carried to the output, where the writer names what a format has no place for), or is storage (says how
the old file stores its pixels, or repeats them smaller), or is named in one warning. What a table does not know is
named by its identifier, so that nothing disappears unnamed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from varestorer_cli.core.image.image_data import Loss
from varestorer_cli.core.phrases import count


@dataclass(frozen=True)
class Fate:
    """What becomes of a kind of block.

    Attributes:
        kind: ``kept``, ``storage`` or ``named``.
        name: of the loss.
        text: sentence of the loss.
        strict: as of :class:`Loss`.
    """

    kind: str
    name: str = ""
    text: str = ""
    strict: bool = True


KEPT, STORAGE = Fate("kept"), Fate("storage")


def _named(name: str, text: str, strict: bool = True) -> Fate:
    return Fate("named", name, text, strict)


_C2PA = _named("c2pa", "the C2PA manifest (content credentials) is dropped: it was signed for the old pixels")
_GAIN_MAP = _named("gainmap", "the HDR gain map is dropped: the output shows the image for standard displays")
VIDEO = _named("video", "the video of the motion photo is dropped")
_JUMBF = _named("jumbf", "JUMBF data that is no C2PA manifest is dropped")
_DEPTH_MAP = _named("depthmap", "the depth map is dropped")

JPEG: dict[str, Fate] = {
    "APP0 JFIF": KEPT,  # the resolution; its thumbnail repeats the pixels
    "APP0 JFXX": STORAGE,  # a thumbnail
    "APP1 Exif": KEPT,
    "APP1 XMP": KEPT,
    "APP1 extended XMP": _named("xmp", "XMP beyond the first 64 kB (extended XMP) is dropped"),
    "APP1 FLIR": _named("thermal", "the thermal data (FLIR) is dropped"),
    "APP2 ICC_PROFILE": KEPT,
    "APP2 MPF": STORAGE,  # index of the images behind the first, which are named themselves
    "APP2 ISO 21496-1": _GAIN_MAP,
    "APP11 C2PA": _C2PA,
    "APP11 JUMBF": _JUMBF,
    "APP12 Ducky": STORAGE,  # quality of Photoshop's encoder; texts in it are named
    "APP13 Photoshop": KEPT,
    "APP14 Adobe": STORAGE,  # colour transform
    "COM": KEPT,
    "trailer gain map": _GAIN_MAP,
    "trailer depth map": _DEPTH_MAP,
    "trailer video": VIDEO,
}
PNG: dict[str, Fate] = {
    **dict.fromkeys(("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "acTL", "fcTL", "fdAT"), STORAGE),
    **dict.fromkeys(("gAMA", "cHRM", "sRGB", "cICP", "mDCV", "mDCv", "cLLI", "cLLi", "iCCP"), KEPT),
    **dict.fromkeys(("tEXt", "zTXt", "iTXt", "eXIf", "pHYs"), KEPT),
    "caBX": _C2PA,
    "iDOT": _named("index", "Apple's index of the old file's rows (iDOT) is dropped", strict=False),
    "bKGD": _named("background", "the background colour (bKGD) is dropped"),
    "tIME": _named("time", "the time of the last change (tIME) is dropped"),
    "sCAL": _named("scale", "the physical size of what the image shows (sCAL) is dropped"),
    "pCAL": _named("calibration", "the calibration of pixel values (pCAL) is dropped"),
    "oFFs": _named("offset", "the position on a page (oFFs) is dropped"),
    "sTER": _named("stereo", "the stereo layout (sTER) is dropped"),
    "sPLT": _named("suggested palette", "the suggested palette (sPLT) is dropped"),
    "suggested PLTE": _named("suggested palette", "the suggested palette (PLTE) is dropped"),
    "hIST": _named("histogram", "the histogram of the palette (hIST) is dropped"),
    "sBIT": _named("significant bits", "the number of significant bits (sBIT) is dropped"),
    "dSIG": _named("signature", "the digital signature (dSIG) is dropped: it was made for the old pixels"),
}
WEBP: dict[str, Fate] = {
    **dict.fromkeys(("VP8X", "VP8 ", "VP8L", "ALPH", "ANIM", "ANMF"), STORAGE),
    **dict.fromkeys(("ICCP", "EXIF", "XMP "), KEPT),
    "C2PA": _C2PA,
}
# Boxes, item types, item properties and auxiliary images of AVIF (ISO 14496-12, 23008-12, AV1 image file format).
ISOBMFF: dict[str, Fate] = {
    **dict.fromkeys(("box ftyp", "box meta", "box mdat", "box free", "box skip", "box wide", "box moov"), STORAGE),
    **dict.fromkeys(("meta hdlr", "meta pitm", "meta iloc", "meta iinf", "meta iprp", "meta iref"), STORAGE),
    **dict.fromkeys(("meta idat", "meta dinf", "meta grpl", "meta free"), STORAGE),
    **dict.fromkeys(("item av01", "item hvc1", "item grid", "item iovl", "item iden", "item thumbnail"), STORAGE),
    **dict.fromkeys(("item Exif", "item XMP", "item alpha"), KEPT),
    **dict.fromkeys(("property ispe", "property pixi", "property av1C", "property hvcC", "property auxC"), STORAGE),
    **dict.fromkeys(("property a1op", "property a1lx", "property lsel", "property irot", "property imir"), STORAGE),
    **dict.fromkeys(("property colr", "property rloc"), KEPT),
    "property pasp": STORAGE,  # named by its value where pixels are not square
    "property clli": _named("hdr", "the content light level (clli) is dropped"),
    "property mdcv": _named("hdr", "the mastering display (mdcv) is dropped"),
    "property cclv": _named("hdr", "the colour volume of the content (cclv) is dropped"),
    "property amve": _named("hdr", "the ambient viewing environment (amve) is dropped"),
    "property clap": _named("crop", "the crop (clap) is not applied: the whole image is restored"),
    "property udes": _named("description", "the description (udes) is dropped"),
    "item tmap": _GAIN_MAP,
    "item depth map": _DEPTH_MAP,
    "box C2PA": _C2PA,
}
_TABLES = {"JPEG": JPEG, "PNG": PNG, "WebP": WEBP, "AVIF": ISOBMFF, "HEIF": ISOBMFF}
_BLOCK = {"JPEG": "segment", "PNG": "chunk", "WebP": "chunk", "AVIF": "box", "HEIF": "box"}


def fate_of(format: str, block: str) -> Fate:
    """What becomes of a block; one the table does not know is named by its identifier."""
    found = _TABLES[format].get(block)
    return found or _named(_BLOCK[format], block)


def dropped(what: str, number: int, noun: str, where: str = "", details: str = "") -> Loss:
    """The loss of a number of things: ``3 bytes behind the image are dropped (details)``."""
    said = " ".join(word for word in (count(number, noun), where, "is" if number == 1 else "are", "dropped") if word)
    return Loss(what, f"{said} ({details})" if details else said)


def name_losses(format: str, blocks: Iterable[str], losses: list[Loss]) -> None:
    """Add one loss per kind of block that is neither kept nor storage, and one for all unknown ones together."""
    unknown: list[str] = []
    known = {(loss.name, loss.text) for loss in losses}
    for block in dict.fromkeys(blocks):
        fate = fate_of(format, block)
        if fate.kind == "named" and fate.text == block:
            unknown.append(block)
        elif fate.kind == "named" and (fate.name, fate.text) not in known:
            known.add((fate.name, fate.text))
            losses.append(Loss(fate.name, fate.text, fate.strict))
    if unknown:
        what = _BLOCK[format]
        plural = "es" if what == "box" else "s"
        said = f"the {what} {unknown[0]} is" if len(unknown) == 1 else f"the {what}{plural} {', '.join(unknown)} are"
        losses.append(Loss(what, f"{said} dropped: unknown, so it may not fit the new image"))
