"""TIFF files: tags and pixels through tifffile and imagecodecs.

One reader for every compression, depth, arrangement and predictor that it accepts. What it does not (YCbCr without
JPEG, Lab, old-style JPEG) goes to Pillow where that reads it unreduced, and is refused by name elsewhere.
"""

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import exif
from varestorer_cli.core.image.formats import camera_raw
from varestorer_cli.core.image.image_data import Loss, Samples
from varestorer_cli.core.image.loss_table import dropped
from varestorer_cli.core.image.resample import to_depth
from varestorer_cli.core.phrases import count

# Photometric kind -> colour channels stored: white is zero, black is zero, RGB, palette, CMYK, YCbCr.
_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_PALETTE, _CMYK, _YCBCR = 3, 5, 6
_JPEG = 7
_FAX = frozenset({2, 3, 4})
# None, fax, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard: each decodes into a buffer of a size known beforehand.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 34926, 50000})
# What Pillow's libtiff is asked for beyond that: old-style JPEG, and the photometric kind CIE Lab.
_PILLOW_COMPRESSIONS = _COMPRESSIONS | {6}
_PILLOW_COLORS = frozenset({*_COLORS, 8})
_MOST_CHANNELS = 32
_LARGEST_TILE = 1 << 24  # pixels; more are allowed where the image has them
_THUMBNAIL_SIDE = 512
_CAMERA_RAW = frozenset({32803, 34892})  # photometric kinds: colour filter array, linear raw


@dataclass(frozen=True)
class TiffInfo:
    """Tags of the page that is read: the first one at full resolution.

    Attributes:
        width: columns as stored.
        height: rows as stored.
        own: whether :func:`read_pixels` reads it; else it is a kind that Pillow knows better.
        ycbcr: whether colours are stored as YCbCr.
        pages: number of pages at full resolution.
        thumbnail: (width, height) of a first page that is left out for being a smaller copy; None without one.
        offset: of the page's directory in the file.
        orientation: EXIF orientation, 1 to 8.
        icc: colour profile.
        xmp: XMP packet.
        dpi: pixels per inch (x, y).
        white: chromaticity (x, y) of the white point; None where it is not said.
        beside: what the file holds or says besides, to be named.
    """

    width: int
    height: int
    own: bool
    ycbcr: bool
    pages: int
    thumbnail: tuple[int, int] | None
    offset: int
    orientation: int
    icc: bytes
    xmp: bytes
    dpi: tuple[float, float] | None
    white: tuple[float, float] | None
    beside: tuple[Loss, ...]


class CameraRawError(InputError):
    """A camera raw file in the layout of TIFF.

    Args:
        kind: for messages.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(camera_raw(kind))
        self.kind = kind


def inspect(source: bytes | BinaryIO, number: int | None = None) -> TiffInfo:
    """Read the tags of a page; pixels are not touched.

    Args:
        source: the file.
        number: of a page at full resolution, from 1; None chooses.

    Raises:
        InputError: there is no page, or it is of a kind that is not read; the text says which and what to do.
    """
    logger = logging.getLogger("tifffile")
    if not logger.handlers:  # what it says of damaged files belongs in our reason, not on the terminal
        logger.addHandler(logging.NullHandler())
    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        page, number_of_pages, thumbnail, pages = _choose(file, number)
        dpi, said = _density(page)
        orientation = _tag(page, 274)
        alone = not file.is_bigtiff and thumbnail is None and number is None
        # libtiff, through Pillow, is the better reader of fax data that is damaged.
        own = _is_own(page) and not (alone and int(page.compression) in _FAX and _is_for_pillow(page))
        if not own and (file.is_bigtiff or thumbnail or (number or 1) > 1 or not _is_for_pillow(page)):
            raise InputError(_refusal(page))
        return TiffInfo(
            width=int(page.imagewidth),
            height=int(page.imagelength),
            own=own,
            ycbcr=int(page.photometric) == _YCBCR,
            pages=number_of_pages,
            thumbnail=thumbnail,
            offset=int(page.offset),
            orientation=int(orientation) if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
            icc=bytes(page.iccprofile or b""),
            xmp=_bytes(_tag(page, 700)),
            dpi=dpi,
            white=_white(_tag(page, 318)),
            beside=(*_left_beside(pages, page), *said),
        )


def read_pixels(data: bytes, losses: list[Loss], number: int | None = None) -> tuple[Samples, Samples | None]:
    """Pixels of the page that :func:`inspect` describes, as stored (not turned).

    Args:
        data: the file.
        losses: takes what could not be kept.
        number: of the page, as for :func:`inspect`.

    Returns:
        (H, W, 1 or 3) gray or RGB, and (H, W) alpha or None; uint8 up to 8 bits per sample, else uint16.

    Raises:
        InputError: cut off, or a kind that is not supported.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, *_ = _choose(file, number)
        _check_segments(page, data)
        pixels: npt.NDArray[Any] = page.asarray(squeeze=False, maxworkers=1)  # (planes, depth, H, W, channels)
        pixels = np.moveaxis(pixels[:, 0, ..., 0], 0, -1) if pixels.shape[0] > 1 else pixels[0, 0]
        photometric, extra = int(page.photometric), [int(e) for e in page.extrasamples]
        if _tag(page, 338) is None:  # a fourth channel without a word is alpha by custom
            extra = [2] * min(1, pixels.shape[2] - _COLORS[photometric])
        color, alpha = _split(pixels, _COLORS[photometric], extra, losses)
        bits = _largest_bits(page)
        if photometric == _PALETTE:
            losses.append(Loss("palette", "the palette is expanded", strict=False))
            if color.dtype.kind == "f":
                raise InputError("a palette with floating point samples is not supported; convert it to RGB first")
            color = _look_up(color[..., 0].astype(np.uint16), page.colormap)
            if alpha is not None:
                alpha = _unpacked(alpha, bits, [])
        else:
            if bits == 1:
                losses.append(Loss("bilevel", "the 1-bit image becomes 8-bit gray", strict=False))
            color = _unpacked(color, bits, losses)
            alpha = None if alpha is None else _unpacked(alpha, bits, losses)
        top = np.iinfo(color.dtype).max
        if photometric == 0:
            color = top - color
        if alpha is not None and extra[_alpha_index(extra) or 0] == 1:  # premultiplied
            cover = np.maximum(alpha, 1).astype(np.float32)[..., None] / np.iinfo(alpha.dtype).max
            color = np.clip(color / cover + 0.5, 0, top).astype(color.dtype)
        if photometric == _CMYK:
            losses.append(Loss("cmyk", "CMYK is converted to sRGB"))
            color = _from_cmyk(color, bytes(page.iccprofile or b""))
    return np.ascontiguousarray(color), None if alpha is None else np.ascontiguousarray(alpha)


def _choose(
    file: tifffile.TiffFile, asked: int | None = None
) -> tuple[tifffile.TiffPage, int, tuple[int, int] | None, list[tifffile.TiffPage]]:
    """The page to read, the number of pages at full resolution, the size of a thumbnail before it, and all pages.

    The first page is read unless it is marked as a reduced copy, or is a small copy (same shape, at most half the
    side) of a later one; then the largest page at full resolution is, below the first page's SubIFDs, too.
    """
    try:
        number = len(file.pages)
    except Exception:  # a chain of directories that leads nowhere: what is there is read
        number = 1
    if not number:
        raise InputError("the TIFF file is cut off: its directory lies behind its end")
    pages = [page for page in (file.pages[i] for i in range(number)) if isinstance(page, tifffile.TiffPage)]
    if not pages:
        raise InputError("the TIFF file's first page is not an image")
    first = pages[0]
    if 50706 in first.tags:
        raise CameraRawError("DNG")
    full = [page for page in pages if not _is_reduced(page)]
    for page in full:
        if int(page.photometric) in _CAMERA_RAW:
            raise CameraRawError(_maker(first))
    if asked is not None:
        sizes = {_size(page) for page in full}
        numbered = [page for page in full if not any(_is_copy(_size(page), size) for size in sizes)] or [first]
        if asked > len(numbered):
            raise InputError(f"page {asked} is asked for, and the file has {count(len(numbered), 'page')}")
        return numbered[asked - 1], len(numbered), None, pages
    if full and full[0] is first and not any(_is_copy(_size(first), _size(page)) for page in full[1:]):
        return first, len(full), None, pages
    if _is_reduced(first):
        below = [page for page in first.pages or () if isinstance(page, tifffile.TiffPage)]
        full += [page for page in below if not _is_reduced(page)]
    larger = [page for page in full if page is not first]
    if not larger:  # nothing but reduced copies: the first is all there is
        return first, 1, None, pages
    if any(int(page.photometric) in _CAMERA_RAW for page in larger):
        raise CameraRawError(_maker(first))
    chosen = max(larger, key=lambda page: page.imagewidth * page.imagelength)
    return chosen, len(larger), _size(first), pages


def _left_beside(pages: list[tifffile.TiffPage], chosen: tifffile.TiffPage) -> Iterator[Loss]:
    """Images of the file that are neither pages at full resolution nor smaller copies of one."""
    try:
        below = [page for page in chosen.pages or () if isinstance(page, tifffile.TiffPage)]
    except Exception:  # directories that lead nowhere
        return
    if any(_is_mask(page) for page in (*pages, *below) if page is not chosen):
        yield Loss("mask", "the transparency mask is dropped")
    if number := sum(not _is_reduced(page) and not _is_copy(_size(page), _size(chosen)) for page in below):
        yield dropped("frames", number, "image", "below the page (SubIFDs)")


def _density(page: tifffile.TiffPage) -> tuple[tuple[float, float] | None, list[Loss]]:
    """Pixels per inch (x, y), None where they are not said; a resolution that no output can say is a loss."""
    if page.resolutionunit in (2, 3):
        x, y = page.get_resolution("inch")
        dpi = exif.plausible_dpi(x, y)
        if dpi is None and (x or y):
            return None, [
                Loss("resolution", f"the resolution ({x:g} x {y:g} pixels per inch) is implausible and was dropped")
            ]
        return dpi, []
    x, y = page.get_resolution()
    if x > 0 and y > 0 and x != y:
        said = f"the pixels are not square (TIFF: {x:g}:{y:g}), which the output does not say"
        return None, [Loss("aspect", said)]
    return None, []


def _is_mask(page: tifffile.TiffPage) -> bool:
    new = _tag(page, 254)
    return isinstance(new, int) and bool(int(new) & 4)


def _maker(page: tifffile.TiffPage) -> str:
    """Maker of the camera, for messages."""
    return str(_tag(page, 271) or "of an unnamed camera").strip("\0 ")


def _is_reduced(page: tifffile.TiffPage) -> bool:
    """Whether a page says that it is a smaller copy (NewSubfileType bit 0, SubfileType 2) or a mask (bit 2)."""
    new, old = _tag(page, 254), _tag(page, 255)
    return bool(int(new) & 5) if isinstance(new, int) else bool(old == 2)


def _size(page: tifffile.TiffPage) -> tuple[int, int]:
    return int(page.imagewidth), int(page.imagelength)


def _is_copy(small: tuple[int, int], large: tuple[int, int]) -> bool:
    """Whether a page of this size (width, height) has a thumbnail's and the shape of a larger one."""
    width, height = small
    if max(width, height) > _THUMBNAIL_SIDE or 2 * width > large[0] or 2 * height > large[1]:
        return False
    return abs(height - large[1] * width / large[0]) < 1


def _largest_bits(page: tifffile.TiffPage) -> int:
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _is_own(page: tifffile.TiffPage) -> bool:
    """Whether :func:`read_pixels` reads a page."""
    kind, bits, photometric = page.dtype, page.bitspersample, int(page.photometric)
    if kind is None or isinstance(bits, tuple) or int(page.compression) not in _COMPRESSIONS or page.imagedepth > 1:
        return False
    if photometric not in _COLORS or page.samplesperpixel < _COLORS[photometric]:
        return False
    if page.samplesperpixel > _MOST_CHANNELS or (photometric == _CMYK and _tag(page, 332) not in (None, 1)):
        return False
    if int(page.planarconfig) not in (1, 2):  # damaged: tifffile would take it for planes
        return False
    if int(page.compression) == _JPEG and int(page.planarconfig) == 2:  # each plane is a gray JPEG of its own
        return False
    if photometric == _YCBCR and (int(page.compression) != _JPEG or bits != 8):
        return False
    if photometric == _PALETTE and (page.colormap is None or bits > 16):
        return False
    return (kind.kind in "ub" and int(bits) <= 32) or (kind.kind == "f" and int(bits) in (16, 24, 32, 64))


def _is_for_pillow(page: tifffile.TiffPage) -> bool:
    """Whether Pillow reads a page that :func:`read_pixels` does not, at its own depth; signed samples it misreads."""
    return (
        int(page.compression) in _PILLOW_COMPRESSIONS
        and int(page.photometric) in _PILLOW_COLORS
        and (page.dtype is None or page.dtype.kind in "ub")
        and _largest_bits(page) <= 8
        and page.imagedepth == 1
    )


def _refusal(page: tifffile.TiffPage) -> str:
    """Why a page is not read, and what to do."""
    kind = {"f": " floating point", "i": " signed integer", "c": " complex"}
    known = page.dtype.kind if page.dtype is not None else ""
    if int(page.compression) not in _COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        how = "tiffcp -c lzw IN.tif OUT.tif (libtiff), or gdal_translate -co COMPRESS=LZW IN.tif OUT.tif (GDAL)"
        return f"TIFF compression {name} is not supported; convert it first: {how}"
    if page.imagedepth > 1:
        return f"a volume of {page.imagedepth} slices is not supported; save its slices as single images first"
    if known not in "ub" or _largest_bits(page) > 32:
        what = f"{page.bitspersample}-bit{kind.get(known, '')} samples"
        return f"{what} are not supported; convert it to 16-bit integers first"
    name = getattr(page.photometric, "name", page.photometric)
    return (
        f"this TIFF file ({name}, {page.samplesperpixel} samples of {page.bitspersample} bits) is not supported; "
        "convert it to RGB first"
    )


def _check_segments(page: tifffile.TiffPage, data: bytes) -> None:
    """Refuse what is cut off, and what would take more memory to decode than the page has pixels."""
    offsets, sizes = page.dataoffsets, page.databytecounts
    if any(not size or offset + size > len(data) for offset, size in zip(offsets, sizes, strict=True)):
        raise InputError(f"the TIFF file is cut off after {len(data)} bytes, or parts of it were never written")
    pixels = int(page.imagewidth) * int(page.imagelength)
    width, height = int(page.imagewidth), int(page.imagelength)
    if page.is_tiled:
        width, height = int(page.tilewidth), int(page.tilelength)
        if width * height > max(_LARGEST_TILE, 4 * pixels):
            raise InputError(f"its tiles of {width}x{height} pixels are too large: damage, or a decompression bomb")
    if int(page.compression) == _JPEG:
        for offset, size in zip(offsets, sizes, strict=True):
            found = _jpeg_size(data[offset : offset + size])
            if found is not None and found[0] * found[1] > max(_LARGEST_TILE, 4 * width * height):
                raise InputError(f"a part says {found[0]}x{found[1]} pixels: damage, or a decompression bomb")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG stream from its frame header, None where there is none (ITU-T T.81, B.2.2)."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _alpha_index(extra: list[int]) -> int | None:
    """Which extra channel is alpha: the first one called so, premultiplied (1) or straight (2)."""
    return next((i for i, kind in enumerate(extra) if kind in (1, 2)), None)


def _split(pixels: Samples, colors: int, extra: list[int], losses: list[Loss]) -> tuple[Samples, Samples | None]:
    """Colour channels, and alpha or None; what is neither is said."""
    index = _alpha_index(extra)
    alpha = pixels[..., colors + index] if index is not None and colors + index < pixels.shape[2] else None
    if dropped := pixels.shape[2] - colors - (alpha is not None):
        are = "is" if dropped == 1 else "are"
        losses.append(Loss("channels", f"{count(dropped, 'extra channel')} of the TIFF file {are} dropped"))
    return pixels[..., :colors], alpha


def _unpacked(pixels: Samples, bits: int, losses: list[Loss]) -> Samples:
    """Samples of any depth scaled to the whole range of 8 bits (up to 8) or 16."""
    known = {loss.name for loss in losses}
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # of 64 bits: what is too large for 32 counts as infinite
            values = pixels.astype(np.float32, copy=False)
        bad = ~np.isfinite(values)
        if bad.any():
            values = np.where(bad, np.float32(0), values)
            if "nan" not in known:
                losses.append(Loss("nan", f"{int(bad.sum())} values that are no numbers, or infinite, become 0"))
        if float(np.mean(values > 1)) > 0.5:
            raise InputError(f"floating point values up to {values.max():g}; scale them to 0 to 1 first")
        outside = int(((values < 0) | (values > 1)).sum())
        if outside and "range" not in known:
            losses.append(Loss("range", f"{outside} values outside 0 to 1 are clipped"))
        if "depth" not in known:
            losses.append(Loss("depth", f"{bits}-bit floating point becomes 16-bit integers"))
        return to_depth(values, np.uint16)
    if bits in (8, 16):
        return pixels.astype(f"u{bits // 8}", copy=False)
    if bits > 16 and "depth" not in known:
        losses.append(Loss("depth", f"{bits} bits become 16"))
    target = 8 if bits < 8 else 16
    scale = ((1 << target) - 1) / ((1 << bits) - 1)
    if bits < 16:
        table: Samples = np.floor(np.arange(1 << bits) * scale + 0.5).astype(f"u{target // 8}")
        return np.take(table, pixels.view(np.uint8) if pixels.dtype.kind == "b" else pixels)
    out: Samples = np.floor(pixels.astype(np.float64) * scale + 0.5).astype(f"u{target // 8}")
    return out


def _look_up(index: Samples, colormap: Any) -> Samples:
    """Colours of a palette; gray where all that are used are gray. Maps of old programs hold 8 bits, not 16."""
    table: Samples = np.asarray(colormap, np.uint16).T  # (entries, 3)
    if index.size and int(index.max()) >= len(table):
        raise InputError(f"the palette has {len(table)} entries, the pixels name more")
    if table.max(initial=0) > 255:
        table = table >> 8
    table = table.astype(np.uint8)
    used = table[np.unique(index)]
    if bool((used == used[:, :1]).all()):
        table = table[:, :1]
    return table[index]


def _from_cmyk(ink: Samples, icc: bytes) -> Samples:
    """SRGB of CMYK at the same depth: by its profile, else (1 - C)(1 - K)."""
    if exif.icc_space(icc) == "CMYK":
        try:
            import imagecodecs

            out: Samples = imagecodecs.cms_transform(
                np.ascontiguousarray(ink), icc, imagecodecs.cms_profile("srgb"), colorspace="cmyk", outcolorspace="rgb"
            )
            return out
        except (RuntimeError, ValueError):
            pass  # a damaged profile: the plain formula below
    top = np.iinfo(ink.dtype).max
    part = ink.astype(np.float32) / top
    return ((1 - part[..., :3]) * (1 - part[..., 3:]) * top + 0.5).astype(ink.dtype)


def _tag(page: tifffile.TiffPage, code: int) -> Any:
    tag = page.tags.get(code)
    return None if tag is None else tag.value


def _white(value: Any) -> tuple[float, float] | None:
    """Chromaticity of two fractions."""
    if not isinstance(value, tuple) or len(value) != 4 or not (value[1] and value[3]):
        return None
    return value[0] / value[1], value[2] / value[3]


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    return bytes(value) if isinstance(value, tuple) else b""
