"""TIFF files that Pillow does not read as they are: their tags and their pixels.

Pillow reduces 16-bit colour to 8 bits or does not know it, and stumbles over BigTIFF; tifffile reads the tags and most
compressions, OpenCV the rest (LZW, PackBits). Other files are left to Pillow, which knows more of their kinds.
"""

import io
import logging
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.exif import plausible_dpi
from varestorer_cli.core.image.picture import Loss, Samples

# Photometric kind -> colour channels: white is zero, black is zero, RGB, CMYK.
_COLORS = {0: 1, 1: 1, 2: 3, 5: 4}


@dataclass(frozen=True)
class TiffInfo:
    """Tags of the first picture of a TIFF file."""

    width: int
    height: int
    bits: int
    big: bool
    pages: int
    orientation: int
    icc: bytes
    xmp: bytes
    dpi: tuple[float, float] | None


def inspect(source: bytes | BinaryIO) -> TiffInfo:
    """Read the tags of a file; pixels are not touched.

    Raises:
        InputError: there is no first picture.
    """
    logger = logging.getLogger("tifffile")
    if not logger.handlers:  # what it says of damaged files belongs in our reason, not on the terminal
        logger.addHandler(logging.NullHandler())
    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        page = _first(file)
        bits = page.bitspersample
        dpi: tuple[float, float] | None = None
        if page.resolutionunit in (2, 3):
            dpi = plausible_dpi(*page.get_resolution("inch"))
        orientation = _tag(page, 274)
        return TiffInfo(
            width=int(page.imagewidth),
            height=int(page.imagelength),
            big=file.is_bigtiff,
            bits=max(bits) if isinstance(bits, tuple) else int(bits),
            pages=len(file.pages),
            orientation=int(orientation) if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
            icc=bytes(page.iccprofile or b""),
            xmp=_bytes(_tag(page, 700)),
            dpi=dpi,
        )


def read_pixels(data: bytes, losses: list[Loss]) -> tuple[Samples, Samples | None]:
    """Pixels of a TIFF file with 8 or 16-bit samples.

    Args:
        data: the file.
        losses: takes what could not be kept.

    Returns:
        (H, W, 1 or 3) gray or RGB, and (H, W) alpha or None; uint8 or uint16.

    Raises:
        InputError: cut off, or a kind that is not supported.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _first(file)
        form = page.dtype
        if form is None or form.kind != "u" or page.bitspersample not in (8, 16):
            kind = {"f": " floating point", "i": " signed integer"}.get(form.kind if form is not None else "", "")
            raise InputError(
                f"{page.bitspersample}-bit{kind} samples are not supported; convert it to 16-bit integers first"
            )
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset + size > len(data):
                raise InputError(f"the TIFF file is cut off after {len(data)} bytes")
        photometric, extra = int(page.photometric), [int(e) for e in page.extrasamples]
        separate = int(page.planarconfig or 1) == 2 and page.samplesperpixel > 1
        try:
            pixels: npt.NDArray[Any] = page.asarray()
        except (ValueError, KeyError):  # a compression that needs another package
            pixels, separate = _with_opencv(data), False
    if separate:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(*pixels.shape[:2], -1).astype(form.newbyteorder("="), copy=False)
    colors = _COLORS.get(photometric)
    if colors is None or pixels.shape[2] < colors:
        raise InputError(f"this TIFF file (photometric kind {photometric}) is not supported; convert it to RGB first")
    return _split(pixels, colors, photometric, extra, losses)


def _split(
    pixels: Samples, colors: int, photometric: int, extra: list[int], losses: list[Loss]
) -> tuple[Samples, Samples | None]:
    color, alpha = pixels[..., :colors], None
    top, kind = np.iinfo(pixels.dtype).max, pixels.dtype
    if pixels.shape[2] > colors:
        # 1 premultiplied, 2 straight; a fourth channel without a word is alpha by custom.
        if not extra or extra[0] in (1, 2):
            alpha = np.ascontiguousarray(pixels[..., colors])
        if pixels.shape[2] > colors + (alpha is not None):
            losses.append(Loss("channels", "extra channels of the TIFF file are dropped"))
    if photometric == 0:
        color = top - color
    if alpha is not None and extra[:1] == [1]:
        cover = np.maximum(alpha, 1).astype(np.float32)[..., None] / top
        color = np.clip(color / cover + 0.5, 0, top).astype(kind)
    if photometric == 5:
        losses.append(Loss("cmyk", "CMYK is converted to sRGB"))
        ink = color.astype(np.float32) / top
        color = ((1 - ink[..., :3]) * (1 - ink[..., 3:]) * top + 0.5).astype(kind)
    return np.ascontiguousarray(color), alpha


def _with_opencv(data: bytes) -> Samples:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError("the TIFF data is damaged or its compression is not supported")
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    out: Samples = pixels
    return out


def _first(file: tifffile.TiffFile) -> tifffile.TiffPage:
    if not len(file.pages):
        raise InputError("the TIFF file is cut off: its directory lies behind its end")
    page = file.pages[0]
    if not isinstance(page, tifffile.TiffPage):
        raise InputError("the TIFF file's first page is not a picture")
    return page


def _tag(page: tifffile.TiffPage, code: int) -> Any:
    tag = page.tags.get(code)
    return None if tag is None else tag.value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    return bytes(value) if isinstance(value, tuple) else b""
