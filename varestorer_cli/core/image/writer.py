"""Encodes restored images with their metadata, and names what a format cannot hold."""

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from varestorer_cli.core.atomic import allocate, release
from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import jpeg, oiio_backend
from varestorer_cli.core.image.exif import (
    LARGEST_BLOCK,
    SOFTWARE,
    TIFF_ONLY,
    Exif,
    build,
    icc_space,
    note_stays,
)
from varestorer_cli.core.image.formats import HEAD_BYTES, sniff
from varestorer_cli.core.image.image_data import Extras, Loss, OutputImage, Samples, Scene, is_text
from varestorer_cli.core.image.pillow import open_image
from varestorer_cli.core.image.png import is_unusual_colour, write_png
from varestorer_cli.core.image.tiff_writer import write_tiff

SCENE = frozenset({ImageFormat.EXR, ImageFormat.DPX})
DEEP = SCENE | {ImageFormat.PNG, ImageFormat.TIFF}  # hold more than 8 bits
_EXIF_BLOCK = (ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP)
_WRITES_PER_RELEASE = 16  # of 64 kB
_LARGEST_SIDE = {ImageFormat.JPEG: 65500, ImageFormat.WEBP: 16383}
_LABEL = {ImageFormat.JPEG: "JPEG", ImageFormat.WEBP: "WebP", ImageFormat.TIFF: "TIFF", ImageFormat.EXR: "OpenEXR"}


def losses_of(
    format: ImageFormat, *, depth: int, alpha: bool, source: str, extras: Extras, software: str = ""
) -> list[Loss]:
    """What an image loses by being written in this format.

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
    if extras.photoshop and format != ImageFormat.JPEG:
        losses.append(Loss("iptc", f"IPTC data is dropped, it is copied from JPEG to JPEG only, not to {name}"))
    if extras.exif and TIFF_ONLY & set(extras.exif.main) and format != ImageFormat.TIFF:
        losses.append(Loss("iptc", f"IPTC data is dropped, it is copied from TIFF to TIFF only, not to {name}"))
    if format == ImageFormat.TIFF:
        exif = replace(exif, note_offset=None)  # it is written among the file's own directories
    if format in (ImageFormat.TIFF, *_EXIF_BLOCK) and not note_stays(exif):
        losses.append(Loss("makernote", "the camera's maker note moves; not all may be readable"))
    if extras.jpeg_comments and format != ImageFormat.JPEG:
        losses.append(Loss("comment", f"the JPEG comment is dropped, {name} has no place for it"))
    if not extras.icc and format != ImageFormat.PNG and is_unusual_colour(extras.png_chunks):
        losses.append(Loss("colour", f"the PNG says it is not sRGB without an ICC profile, which {name} cannot say"))
    if format == ImageFormat.WEBP and icc_space(extras.icc) == "GRAY":
        losses.append(Loss("icc", "the gray ICC profile is dropped, WebP stores gray as RGB"))
    if source == "PNG" and format != ImageFormat.PNG and any(is_text(t) for t, _ in extras.png_chunks):
        losses.append(Loss("text", f"PNG text is dropped, {name} has no place for it"))
    if format == ImageFormat.JPEG:
        if extras.exif and len(build(exif)) > LARGEST_BLOCK:
            losses.append(Loss("exif", "EXIF is dropped: it is larger than one JPEG segment"))
        if len(extras.xmp) > LARGEST_BLOCK:
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


def write_image(stream: BinaryIO, output: OutputImage, format: ImageFormat, quality: int, software: str) -> None:
    """Encode an image.

    Args:
        stream: an empty file, readable and writable.
        output: pixels and metadata.
        format: of the file.
        quality: of JPEG and WebP.
        software: provenance text, written into the file's Software field.
    """
    pages = [
        replace(page, extras=replace(page.extras, exif=_written_exif(page.extras, format, software)), more=())
        for page in output.pages
    ]
    output = replace(pages[0], more=tuple(pages[1:]))
    name = getattr(stream, "name", None)
    folder = Path(name).parent if isinstance(name, str) else Path(tempfile.gettempdir())
    plain = _WithoutDescriptor(stream)
    if format not in SCENE:
        stream = cast(BinaryIO, plain)
    if format in SCENE:
        oiio_backend.write(stream, output, format, software)
    elif format == ImageFormat.PNG:
        write_png(stream, output, software)
    elif format == ImageFormat.TIFF:
        write_tiff(stream, output, software)
    elif format == ImageFormat.JPEG:
        _write_jpeg(plain, output, quality, folder)
    else:
        _write_pillow(stream, output, format, quality)


class _WithoutDescriptor(io.BufferedIOBase):
    """A stream that hides its file descriptor, so that encoders write through Python, which reports every failure.

    libjpeg through Pillow, and numpy's ``tofile`` in tifffile, write to a descriptor where there is one and can miss
    that the last write was short: the file is cut off and nothing is raised.

    Attributes:
        source: pixels that are being encoded; what was read of them leaves the memory where they live in a file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._writes = 0
        self.source: Samples | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        return self._stream.read(-1 if size is None else size)

    def write(self, data: Any, /) -> int:
        self._writes += 1
        if self.source is not None and self._writes % _WRITES_PER_RELEASE == 0:
            release(self.source)
        return self._stream.write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def flush(self) -> None:
        self._stream.flush()

    def truncate(self, size: int | None = None, /) -> int:
        return self._stream.truncate(size)

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller."""


def _write_pillow(stream: BinaryIO, output: OutputImage, format: ImageFormat, quality: int) -> None:
    """Write WebP or BMP through Pillow, which takes a whole image of 8 bits at once."""
    extras = output.extras
    if format == ImageFormat.BMP:
        output = replace(output, alpha_rows=None)
    mode = {1: "L", 2: "RGBA", 3: "RGB", 4: "RGBA"}[output.channels]
    image = Image.new(mode, (output.width, output.height))
    top = 0
    for strip in output.strips():
        strip = _eight_bits(strip)
        if strip.shape[2] == 2:  # WebP has no gray
            strip = strip[..., [0, 0, 0, 1]]
        image.paste(Image.fromarray(strip[..., 0] if strip.shape[2] == 1 else strip), (0, top))
        top += len(strip)
    if format == ImageFormat.BMP:
        image.save(stream, "BMP", dpi=extras.dpi or (96, 96))
        return
    settings: dict[str, Any] = {"quality": quality, "exif": build(extras.exif or Exif())}
    if extras.icc and icc_space(extras.icc) != "GRAY":
        settings["icc_profile"] = extras.icc
    if extras.xmp:
        settings["xmp"] = extras.xmp
    image.save(stream, "WEBP", method=4, exact=True, **settings)


def _eight_bits(strip: Samples) -> Samples:
    """Samples of 8 bits."""
    if strip.dtype == np.uint16:
        return ((strip.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return strip


def _write_jpeg(stream: _WithoutDescriptor, output: OutputImage, quality: int, folder: Path) -> None:
    """Write JPEG through Pillow, from pixels that live in a file in ``folder`` where they are many."""
    extras = output.extras
    output = replace(output, alpha_rows=None)
    size = (output.width, output.height)
    mode = "L" if output.gray else "RGBX"  # the modes whose memory may be that of an array
    pixels = allocate((*size[::-1], 1 if output.gray else 4), np.uint8, folder)
    top = 0
    for strip in output.strips():
        pixels[top : top + len(strip), :, : strip.shape[2]] = _eight_bits(strip)
        release(pixels)
        top += len(strip)
    image = Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)
    exif = extras.exif or Exif()
    settings: dict[str, Any] = {"quality": quality}
    if extras.icc:
        settings["icc_profile"] = extras.icc
    block = build(exif)
    if len(block) > LARGEST_BLOCK:
        software = {t: e for t, e in exif.main.items() if t == SOFTWARE}
        block = build(Exif(exif.order, software))
    settings["exif"] = b"Exif\0\0" + block
    if extras.xmp and len(extras.xmp) <= LARGEST_BLOCK:
        settings["xmp"] = extras.xmp
    if extras.dpi and max(extras.dpi) < 65535:
        settings["dpi"] = (max(1, round(extras.dpi[0])), max(1, round(extras.dpi[1])))
    comments = (jpeg.segment(0xFE, comment) for comment in extras.jpeg_comments)
    settings["extra"] = b"".join([*jpeg.resource_segments(extras.photoshop), *comments])
    stream.source = pixels
    image.save(cast(BinaryIO, stream), "JPEG", subsampling=0, **settings)


def _written_exif(extras: Extras, format: ImageFormat, software: str) -> Exif:
    """The EXIF tree that goes into a file."""
    exif = (extras.exif or Exif()).with_software(software)
    if format != ImageFormat.TIFF:
        exif = exif.without(*TIFF_ONLY)
    if format == ImageFormat.WEBP and extras.dpi and exif.dpi() is None:  # WebP has no other place for it
        exif = exif.with_dpi(extras.dpi)
    return exif


def read_software(path: Path) -> str:
    """The Software field of an image file, "" where it has none or cannot be read."""
    try:
        if path.suffix.lower() in oiio_backend.KINDS.values():
            return oiio_backend.read_software(path)
        with path.open("rb") as stream:
            kind = sniff(stream.read(HEAD_BYTES))
            stream.seek(0)
            if kind is None:
                return ""
            with open_image(stream, kind) as image:  # results are often beyond Pillow's own limit
                if kind == "PNG":
                    return str(image.info.get("Software", ""))
                return str(image.getexif().get(SOFTWARE, ""))
    except Exception:  # whatever is wrong with it: nothing can be read
        return ""
