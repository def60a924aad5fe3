"""Reads images: by content, upright, at their own depth, with everything their files say.

Every way a file can be bad ends in an :class:`InputError` whose text is the reason in the report. Losses are named,
never silent. Memory is bounded before pixels are decoded: the header's size is checked first.
"""

import io
import os
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from varestorer_cli.core.choices import Transfer
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import (
    archive,
    bmp,
    exif,
    heif_backend,
    isobmff,
    jpeg,
    jxl_backend,
    metadata,
    oiio_backend,
    pillow,
    png,
    raw_backend,
    tiff,
    xmp,
)
from varestorer_cli.core.image.formats import HEAD_BYTES, describe_unknown, raw_kind, sniff
from varestorer_cli.core.image.image_data import DecodedImage, Extras, FileMetadata, Loss, Samples
from varestorer_cli.core.phrases import byte_size

# 10000 x 10000 must pass; above this a header is more likely damage, or an attack, than a photograph.
MOST_PIXELS = 1 << 28
# A blank 1-bit PNG has 8000 pixels per byte; files above this that are large, too, hold no photograph.
_MOST_PIXELS_PER_BYTE = 20_000
_PLAUSIBLE_PIXELS = 50_000_000
_LARGE_FILE = 1 << 26  # bytes; a larger file is read only if its first bytes are those of an image
_MOST_SPARSE = 20  # times the bytes that were written; no file system packs photographs so well
_BMP_BYTES = 128  # that tell how its pixels are stored
_MOST_SKIPPED = 1 << 16  # bytes
_LARGEST_FILE = 20 * MOST_PIXELS  # bytes: four 32-bit channels and their metadata
_JPEG_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_PIXELS_ONLY = {"PNG": png.pixels_only, "JPEG": jpeg.pixels_only}


class TooLargeError(InputError):
    """More pixels than are decoded; nothing is said of the rest of the file."""


def _open(path: str | Path) -> BinaryIO:
    """Open a regular file, or a member of an archive; a pipe that took its place does not make the run wait.

    Raises:
        InputError: it is something else.
        OSError: it cannot be opened.
    """
    member = None if Path(path).exists() else archive.split(path)
    if member is not None:
        return io.BytesIO(archive.read_member(*member, _LARGEST_FILE))
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise InputError("not a regular file; write a pipe's or device's content to a file first")
    return stream


def _checked_length(stream: BinaryIO) -> int:
    """Bytes of an open file, which stays where it is.

    Raises:
        InputError: they are too many to be read, or most of them were never written.
    """
    place = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(place)
    if size > _LARGEST_FILE:
        raise TooLargeError(f"the file has {size / 1e9:.1f} GB, the limit is {_LARGEST_FILE / 1e9:.1f}")
    if size > _LARGE_FILE and not isinstance(stream, io.BytesIO):
        written = 512 * getattr(os.fstat(stream.fileno()), "st_blocks", 0)  # 0 where the file system does not say
        if 0 < written < size // _MOST_SPARSE:
            raise InputError(
                f"only {byte_size(written)} of its {byte_size(size)} were ever written (a sparse file): was its copy "
                "or download broken off?"
            )
    return size


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read, is empty, or is no regular file.
    """
    try:
        with _open(path) as stream:
            size = _checked_length(stream)
            head = stream.read(HEAD_BYTES)
            if size > _LARGE_FILE and sniff(head) is None:
                raise InputError(describe_unknown(head))
            data = head + stream.read()
    except MemoryError as error:
        raise InputError("there is not enough memory to read the file") from error
    except OSError as error:
        raise InputError(f"the file cannot be read: {error.strerror or error}") from error
    if not data:
        raise InputError("the file is empty (0 bytes)")
    return data


def probe(path: str | Path, layer: str | None = None, pages: str = "first") -> tuple[int, int]:
    """Upright (width, height) from the header alone.

    Args:
        path: the file.
        layer: name of a layer or part of an OpenEXR file; None chooses the colour layer.
        pages: of a TIFF file: the size of page N, or of the first of all.

    Raises:
        InputError: no readable image.
    """
    try:
        with _open(path) as stream:
            head = stream.read(HEAD_BYTES)
            kind = sniff(head)
            if kind is None:
                raise InputError(describe_unknown(head))
            length = _checked_length(stream)
            stream.seek(0)
            if kind in oiio_backend.KINDS and isinstance(stream, io.BytesIO):  # OpenImageIO reads files
                image_in_archive = decode(stream.getvalue(), layer=layer)
                size, orientation = (image_in_archive.width, image_in_archive.height), 1
            elif kind in oiio_backend.KINDS:
                size, orientation = oiio_backend.probe(Path(path), layer if kind == "OpenEXR" else None), 1
            elif kind == "HEIF":
                size, orientation = heif_backend.probe(stream), 1
            elif kind == "JPEG XL":
                size, orientation = jxl_backend.probe(stream), 1
            elif kind == "camera raw":
                size, orientation = raw_backend.probe(stream, raw_kind(head) or kind), 1
            elif kind == "TIFF":
                size, orientation = _probe_tiff(stream, None if pages == "first" else _first_of(pages))
            elif kind in ("PNG", "JPEG"):
                size, found = png.probe(stream) if kind == "PNG" else jpeg.probe(stream)
                orientation = metadata.orientation_of(metadata.extras_of(found, []))
            elif kind == "GIF":  # whose first image Pillow would look for through the whole file
                size, orientation = (struct.unpack_from("<H", head, 6)[0], struct.unpack_from("<H", head, 8)[0]), 1
            elif kind == "BMP" and (fields := bmp.bit_fields(stream.read(_BMP_BYTES))) is not None:
                size, orientation = (fields.width, fields.height), 1
            else:
                stream.seek(0)
                with pillow.open_image(stream, kind) as image:
                    size = image.size
                    _check_size(*size, length)  # before EXIF, for which Pillow may decode pixels
                    orientation = _orientation(image)
        _check_size(*size, length)
        if not all(size):
            raise InputError("the image has no pixels")
        return (size[1], size[0]) if orientation >= 5 else size
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError("the header is damaged or cut off") from error
    except OSError as error:
        raise InputError(f"the file cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise InputError(f"the header is damaged ({error})") from error


def _first_of(pages: str) -> int:
    return 1 if pages == "all" else int(pages)


def _probe_tiff(stream: BinaryIO, number: int | None) -> tuple[tuple[int, int], int]:
    """(width, height) as stored, and orientation."""
    try:
        tags = tiff.inspect(stream, number)
    except tiff.CameraRawError as error:
        stream.seek(0)
        return raw_backend.probe(stream, error.kind), 1
    return (tags.width, tags.height), tags.orientation


def decode(
    data: bytes, transfer: Transfer = Transfer.AUTO, layer: str | None = None, pages: str = "first"
) -> DecodedImage:
    """Decode an image from a file's bytes.

    Args:
        data: the file.
        transfer: what the values of OpenEXR and DPX files mean.
        layer: name of a layer or part of an OpenEXR file; None chooses the colour layer.
        pages: of a TIFF file: ``first``, ``all``, or the number of one from 1.

    Raises:
        InputError: not an image, damaged, too large, or of a kind that is not supported; the text says which.
    """
    kind = sniff(data[:HEAD_BYTES])
    if kind is None:
        raise InputError(describe_unknown(data[:HEAD_BYTES]))
    try:
        image = _decode(data, kind, transfer, layer, pages)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("there is not enough memory to decode the image") from error
    except UnidentifiedImageError as error:
        if kind == "JPEG" and (said := jpeg.unsupported(data)) is not None:
            raise InputError(said) from error
        raise InputError(f"the {kind} data is damaged or cut off, or of a kind that is not supported") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise InputError(f"the {kind} data is damaged or cut off ({error})") from error
    if image.color.size == 0:
        raise InputError("the image has no pixels")
    return image


def _decode(data: bytes, kind: str, transfer: Transfer, layer: str | None = None, pages: str = "first") -> DecodedImage:
    losses: list[Loss] = []
    if kind in oiio_backend.KINDS:
        return oiio_backend.read(
            data, kind, transfer, layer, lambda width, height: _check_size(width, height, len(data))
        )
    if kind == "HEIF":
        return _heif(data, losses)
    if kind == "JPEG XL":
        return _jpeg_xl(data, transfer, losses)
    if kind == "camera raw":
        return _camera_raw(data, raw_kind(data[:HEAD_BYTES]) or kind, losses)
    if kind == "TIFF":
        return _any_tiff(data, losses, pages)
    if kind == "GIF":
        _check_gif(data)
    if kind == "BMP" and (fields := bmp.bit_fields(data)) is not None:
        _check_size(fields.width, fields.height, len(data))
        color, alpha = bmp.read_pixels(data, fields, losses)
        return _image(kind, color, alpha, metadata.extras_of(bmp.read_metadata(data), losses), losses, 1)
    return _by_pillow(data, kind, losses)


def _by_pillow(
    data: bytes, kind: str, losses: list[Loss], tags: tiff.TiffInfo | None = None, number: int | None = None
) -> DecodedImage:
    """Decode what Pillow opens; ``tags`` and ``number`` are of the wanted page of a TIFF file."""
    pixels = _PIXELS_ONLY[kind](data) if kind in _PIXELS_ONLY else data
    libtiff = tags is not None and tags.ycbcr
    with pillow.open_image(io.BytesIO(pixels), kind, libtiff=libtiff) as image:
        _check_size(*image.size, len(data))
        frames = int(getattr(image, "n_frames", 1))
        if tags is not None:  # which Pillow turns upright by itself while loading
            extras, turn, orientation = _tiff_extras(data, tags, losses), 1, tags.orientation
        else:
            extras = metadata.extras_of(_read_metadata(image, data, kind), losses)
            turn = orientation = metadata.orientation_of(extras)
        if kind == "AVIF" and (depth := _avif_depth(data)) > 8:
            losses.append(Loss("depth", f"{depth} bits become 8: the AVIF decoder gives no more"))
        # The metadata of a JPEG names what stands behind the first; of a TIFF one page may be asked for.
        if frames > 1 and kind != "JPEG" and number is None:
            how = "--pages all" if tags is not None else "extract them: ffmpeg -i IN frame_%05d.png"
            many = "pages" if tags is not None else "frames"
            losses.append(Loss("frames", f"only the first of {frames} {many} is restored; for all, {how}"))
            image.seek(0)
        if kind == "PNG" and data[24] == 16:  # Pillow would reduce it to 8 bits without a word
            color, alpha = png.read_deep(pixels)
        elif (read := _jpeg_pixels(pixels, kind, image.mode, losses)) is not None and image.mode != "CMYK":
            color, alpha = read, None
        else:
            if read is not None:  # stored inverted, as Photoshop does
                image = Image.fromarray(255 - read, "CMYK")
            if kind == "PNG" and (clear := png.clear_gray8(pixels)) is not None:
                image.info["transparency"] = clear
            color, alpha = pillow.read_pixels(image, extras, losses, None if tags is None else tags.white)
    return _image(kind, color, alpha, extras, losses, orientation, turn)


def _image(
    kind: str,
    color: Samples,
    alpha: Samples | None,
    extras: Extras,
    losses: list[Loss],
    orientation: int,
    turn: int = 1,
) -> DecodedImage:
    """The image of pixels that are still to be turned by ``turn``, without a profile that does not fit it."""
    extras = metadata.fitting_profile(extras, gray=color.shape[2] == 1, losses=losses)
    alpha = None if alpha is None else _turn(alpha, turn)
    return DecodedImage(_turn(color, turn), alpha, kind, extras, losses, orientation)


def _jpeg_pixels(data: bytes, kind: str, mode: str, losses: list[Loss]) -> Samples | None:
    """8-bit pixels of a JPEG; None for what Pillow is to read."""
    return jpeg.read_pixels(data, _JPEG_SPACES[mode], losses) if kind == "JPEG" and mode in _JPEG_SPACES else None


def _heif(data: bytes, losses: list[Loss]) -> DecodedImage:
    _check_size(*heif_backend.probe(io.BytesIO(data)), len(data))
    color, alpha, found, turned = heif_backend.read(data)
    extras = metadata.extras_of(found, losses)
    orientation = metadata.orientation_of(extras) if turned else 1  # the file's own turn counts, not that of EXIF
    return _image("HEIF", color, alpha, extras, losses, orientation)


def _jpeg_xl(data: bytes, transfer: Transfer, losses: list[Loss]) -> DecodedImage:
    _check_size(*jxl_backend.probe(io.BytesIO(data)), len(data))
    read = jxl_backend.read(data)
    if isinstance(read, bytes):
        return replace(_decode(read, "JPEG", transfer), source="JPEG XL")
    color, alpha, found = read
    extras = metadata.extras_of(found, losses)
    return _image("JPEG XL", color, alpha, extras, losses, metadata.orientation_of(extras))


def _camera_raw(data: bytes, kind: str, losses: list[Loss]) -> DecodedImage:
    _check_size(*raw_backend.probe(io.BytesIO(data), kind), len(data))
    color = raw_backend.read(data, kind, losses)
    tree = exif.parse(data)
    if tree is None:
        losses.append(Loss("exif", f"the EXIF data of this kind of camera raw file ({kind}) is not read"))
        return DecodedImage(color, None, "camera raw", Extras(), losses)
    main = {tag: entry for tag, entry in tree.main.items() if tag in exif.DESCRIPTIVE | {exif.ORIENTATION}}
    packet = tree.main.get(exif.XMP)
    if exif.TIFF_ONLY & set(tree.main):
        losses.append(Loss("iptc", "IPTC data of a camera raw file is dropped"))
    tree = replace(tree, main=main).without_note()
    losses.append(Loss("makernote", "the camera's maker note is dropped: it describes the raw data", strict=False))
    orientation = tree.short(exif.ORIENTATION) or 1
    extras = Extras(exif=tree, xmp=xmp.without_claims(packet.value if packet else b"", losses))
    return DecodedImage(color, None, "camera raw", extras, losses, orientation if orientation < 9 else 1)


def _any_tiff(data: bytes, losses: list[Loss], pages: str) -> DecodedImage:
    """A TIFF file of any kind: camera raw, all pages, or one of them."""
    number = None if pages == "first" else _first_of(pages)
    try:
        tags = tiff.inspect(data, number)
    except tiff.CameraRawError as error:
        return _camera_raw(data, error.kind, losses)
    _check_size(tags.width, tags.height, len(data))
    if pages == "all" and tags.pages > 1:
        return _all_pages(data, tags.pages)
    return _tiff(data, tags, losses, number) if tags.own else _by_pillow(data, "TIFF", losses, tags, number)


def _all_pages(data: bytes, number: int) -> DecodedImage:
    """Every page at full resolution of a TIFF file; their losses are said once.

    Raises:
        TooLargeError: they are more pixels together than one image may have.
    """
    headers = [tiff.inspect(data, page + 1) for page in range(number)]
    pixels = sum(tags.width * tags.height for tags in headers)
    if pixels > MOST_PIXELS:
        raise TooLargeError(
            f"its {number} pages have {pixels / 1e6:.0f} megapixels together, the limit is {MOST_PIXELS / 1e6:.0f}; "
            "restore them one by one with --pages N, or take the file apart: tiffsplit IN.tif"
        )
    images = []
    for page, tags in enumerate(headers):
        if not tags.own:
            raise InputError(f"page {page + 1} is of a kind that is read as the only one of a file; tiffsplit IN.tif")
        images.append(_tiff(data, tags, [], page + 1))
    losses = list(dict.fromkeys(loss for image in images for loss in image.losses))
    return replace(images[0], more=tuple(images[1:]), losses=losses)


def _tiff(data: bytes, tags: tiff.TiffInfo, losses: list[Loss], number: int | None) -> DecodedImage:
    if tags.thumbnail is not None:
        small = "x".join(map(str, tags.thumbnail))
        said = f"the first page is a thumbnail of {small}; the page of {tags.width}x{tags.height} is restored"
        losses.append(Loss("thumbnail", said, strict=False))
    if tags.pages > 1 and number is None:
        one = "largest" if tags.thumbnail is not None else "first"
        losses.append(
            Loss(
                "frames", f"only the {one} of {tags.pages} pages is restored; for all, --pages all with TIFF as output"
            )
        )
    color, alpha = tiff.read_pixels(data, losses, number)
    extras = _tiff_extras(data, tags, losses)
    return _image("TIFF", color, alpha, extras, losses, tags.orientation, tags.orientation)


def _tiff_extras(data: bytes, tags: tiff.TiffInfo, losses: list[Loss]) -> Extras:
    losses += tags.beside
    tree = metadata.tiff_tree(data, tags.offset, losses)
    return Extras(icc=tags.icc, exif=tree, xmp=xmp.without_claims(tags.xmp, losses), dpi=tags.dpi)


# --- headers ---------------------------------------------------------------------------------------------------------


def _avif_depth(data: bytes) -> int:
    """Bits per sample, from the AV1 configuration box (AV1 in ISOBMFF, section 2.3.3)."""
    place = data.find(b"av1C", 0, 1 << 16)
    flags = data[place + 6] if 0 <= place < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _check_size(width: int, height: int, size: int) -> None:
    """Refuse what is too large, or large and too little of a file: 800 bytes can announce, and cost, 200 megapixels."""
    if width * height > MOST_PIXELS:
        raise TooLargeError(
            f"the header says {width}x{height} = {width * height / 1e6:.0f} megapixels, the limit is "
            f"{MOST_PIXELS / 1e6:.0f}; if the image is real, cut it into parts"
        )
    if width * height > max(_PLAUSIBLE_PIXELS, _MOST_PIXELS_PER_BYTE * size):
        raise InputError(
            f"the header says {width}x{height} = {width * height / 1e6:.0f} megapixels, the file has {size} bytes: "
            "that is damage, or a decompression bomb"
        )


def _check_gif(data: bytes) -> None:
    """Refuse a GIF file whose blocks do not follow its header: Pillow would look for them byte by byte."""
    start = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)  # GIF89a, sections 18 and 19
    if not any(mark in data[start : start + _MOST_SKIPPED] for mark in b"!,;"):
        raise InputError("the GIF data is damaged or cut off (no image follows its header)")


def _orientation(image: Image.Image) -> int:
    try:
        value = int(image.getexif().get(exif.ORIENTATION, 1))
    except Exception:  # damaged EXIF must not cost the image
        return 1
    return value if 1 <= value <= 8 else 1


def _turn(pixels: Samples, orientation: int) -> Samples:
    """Upright pixels (EXIF 2.32, tag 274)."""
    if orientation in (2, 3):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
        if orientation in (6, 7):
            pixels = pixels[:, ::-1]
        if orientation in (7, 8):
            pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _read_metadata(image: Image.Image, data: bytes, kind: str) -> FileMetadata:
    """Metadata of a file that Pillow opened."""
    if kind in metadata.READERS:
        return metadata.READERS[kind](data)
    info = image.info
    packet = info.get("xmp") or b""
    said = info.get("dpi")
    found = FileMetadata(
        icc=bytes(info.get("icc_profile") or b""),
        exif=bytes(info.get("exif") or b"").removeprefix(b"Exif\0\0"),
        xmp=packet.encode() if isinstance(packet, str) else bytes(packet),
        dpi=exif.plausible_dpi(*said) if said is not None else None,
    )
    if kind == "AVIF":
        isobmff.name_contents(data, kind, icc=bool(found.icc), losses=found.losses)
    if kind == "GIF" and info.get("comment"):
        found.losses.append(Loss("comment", "the GIF comment is dropped"))
    return found
