"""Encodes restored pictures with their metadata, and names what a format cannot hold."""

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import exif as metadata
from varestorer_cli.core.image import oiio_backend as vfx
from varestorer_cli.core.image.formats import HEAD_BYTES, sniff
from varestorer_cli.core.image.image_data import Extras, Loss, OutputImage, Scene, is_text
from varestorer_cli.core.image.pillowwrite import LARGEST_SEGMENT, write_pillow
from varestorer_cli.core.image.png import is_unusual_colour
from varestorer_cli.core.image.pngwrite import write_png
from varestorer_cli.core.image.reader import open_image
from varestorer_cli.core.image.tiff import write_tiff
from varestorer_cli.core.options import ImageFormat

SCENE = frozenset({ImageFormat.EXR, ImageFormat.DPX})
DEEP = SCENE | {ImageFormat.PNG, ImageFormat.TIFF}  # hold more than 8 bits
_EXIF_BLOCK = (ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP)
_LARGEST_SIDE = {ImageFormat.JPEG: 65500, ImageFormat.WEBP: 16383}
_LABEL = {ImageFormat.JPEG: "JPEG", ImageFormat.WEBP: "WebP", ImageFormat.TIFF: "TIFF", ImageFormat.EXR: "OpenEXR"}


def losses_of(
    format: ImageFormat, *, depth: int, alpha: bool, source: str, extras: Extras, software: str = ""
) -> list[Loss]:
    """What a picture loses by being written in this format.

    Args:
        format: of the output.
        depth: bits per sample of the input.
        alpha: whether the input has transparency.
        source: format of the input.
        extras: metadata of the input.
        software: text for the Software field, or one as long: it takes room from the input's own EXIF.
    """
    losses = []
    exif = _written_exif(extras, format, software)
    name = _LABEL.get(format, format.value.upper())
    if depth > 8 and format not in DEEP:
        losses.append(Loss("depth", f"{depth} bits become 8, {name} has no more"))
    if alpha and format in (ImageFormat.JPEG, ImageFormat.BMP, ImageFormat.DPX):
        losses.append(Loss("alpha", f"transparency is dropped, {name} has none"))
    if format in (ImageFormat.BMP, *SCENE):
        for what, value in (("icc", extras.icc), ("exif", extras.exif), ("xmp", extras.xmp)):
            if value:
                losses.append(Loss(what, f"{what.upper()} is dropped, {name} has no place for it"))
    losses += _scene_losses(format, name, depth, extras.scene)
    if extras.iptc and format != ImageFormat.JPEG:
        losses.append(Loss("iptc", f"IPTC data is dropped, it is copied from JPEG to JPEG only, not to {name}"))
    if extras.exif and metadata.TIFF_ONLY & set(extras.exif.main) and format != ImageFormat.TIFF:
        losses.append(Loss("iptc", f"IPTC data is dropped, it is copied from TIFF to TIFF only, not to {name}"))
    if format == ImageFormat.TIFF:
        exif = replace(exif, note_offset=None)  # it is written among the file's own directories
    if format in (ImageFormat.TIFF, *_EXIF_BLOCK) and not metadata.note_stays(exif):
        losses.append(Loss("makernote", "the camera's maker note moves; not all may be readable"))
    if extras.jpeg_comment and format != ImageFormat.JPEG:
        losses.append(Loss("comment", f"the JPEG comment is dropped, {name} has no place for it"))
    if not extras.icc and format != ImageFormat.PNG and is_unusual_colour(extras.png_chunks):
        losses.append(Loss("colour", f"the PNG says it is not sRGB without an ICC profile, which {name} cannot say"))
    if format == ImageFormat.WEBP and metadata.icc_space(extras.icc) == "GRAY":
        losses.append(Loss("icc", "the gray ICC profile is dropped, WebP stores gray as RGB"))
    if source == "PNG" and format != ImageFormat.PNG and any(is_text(t) for t, _ in extras.png_chunks):
        losses.append(Loss("text", f"PNG text is dropped, {name} has no place for it"))
    if format == ImageFormat.JPEG:
        if extras.exif and len(metadata.build(exif)) > LARGEST_SEGMENT:
            losses.append(Loss("exif", "EXIF is dropped: it is larger than one JPEG segment"))
        if len(extras.xmp) > LARGEST_SEGMENT:
            losses.append(Loss("xmp", "XMP is dropped: it is larger than one JPEG segment"))
    return losses


def _scene_losses(format: ImageFormat, name: str, depth: int, scene: Scene | None) -> list[Loss]:
    """What an OpenEXR or DPX file loses in this format, and what others lose in DPX."""
    if scene is None:
        return [Loss("depth", f"{depth} bits become 10 in DPX")] if format == ImageFormat.DPX and depth > 8 else []
    losses = []
    if scene.floating and format != ImageFormat.EXR:
        losses.append(Loss("depth", f"floating point becomes integers, {name} has no other"))
    if scene.gain is not None and format != ImageFormat.EXR:
        losses.append(Loss("range", f"values above 1 are clipped, {name} cannot hold them"))
    if scene.attributes and format not in SCENE:
        losses.append(
            Loss("attributes", f"{len(scene.attributes)} attributes are dropped, {name} has no place for them")
        )
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


def write_picture(stream: BinaryIO, output: OutputImage, format: ImageFormat, quality: int, software: str) -> None:
    """Encode a picture.

    Args:
        stream: an empty file, readable and writable.
        output: pixels and metadata.
        format: file format.
        quality: of JPEG and WebP.
        software: provenance, written into the file's Software field.
    """
    output = replace(output, extras=replace(output.extras, exif=_written_exif(output.extras, format, software)))
    if format in SCENE:
        vfx.write(stream, output, format, software)
    elif format == ImageFormat.PNG:
        write_png(stream, output, software)
    elif format == ImageFormat.TIFF:
        write_tiff(stream, output, software)
    else:
        write_pillow(stream, output, format, quality)


def _written_exif(extras: Extras, format: ImageFormat, software: str) -> metadata.Exif:
    """The EXIF tree that goes into a file."""
    exif = (extras.exif or metadata.Exif()).with_software(software)
    if format != ImageFormat.TIFF:
        exif = exif.without(*metadata.TIFF_ONLY)
    if format == ImageFormat.WEBP and extras.dpi and exif.dpi() is None:  # WebP has no other place for it
        exif = exif.with_dpi(extras.dpi)
    return exif


def read_software(path: Path) -> str:
    """The Software field of a picture file, "" where it has none or cannot be read."""
    try:
        if path.suffix.lower() in vfx.KINDS.values():
            return vfx.read_software(path)
        with path.open("rb") as stream:
            kind = sniff(stream.read(HEAD_BYTES))
            stream.seek(0)
            if kind is None:
                return ""
            with open_image(stream, kind) as image:  # results are often beyond Pillow's own limit
                if kind == "PNG":
                    return str(image.info.get("Software", ""))
                return str(image.getexif().get(metadata.SOFTWARE, ""))
    except Exception:  # whatever is wrong with it: nothing can be read
        return ""
