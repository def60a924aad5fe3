"""Images that Pillow decodes: opening them, and 8-bit pixels of every mode it knows."""

import io
import threading
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin, features

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import exif, oiio_backend
from varestorer_cli.core.image.image_data import Extras, Loss, Samples
from varestorer_cli.core.image.resample import to_depth

_D65 = (0.3127, 0.3290)
_D65_XYZ = np.array((0.95047, 1.0, 1.08883), np.float32)
_XYZ_TO_SRGB = np.array(  # IEC 61966-2-1
    ((3.2406255, -1.5372080, -0.4986286), (-0.9689307, 1.8757561, 0.0415175), (0.0557101, -0.2040211, 1.0569959)),
    np.float32,
)
_ROWS = 256  # copied at a time
_LOCK = threading.Lock()


def open_image(stream: Any, kind: str, *, libtiff: bool = False) -> Image.Image:
    """Open a file of a kind known to Pillow, without its global size limit; pixels are not decoded.

    Args:
        stream: the file.
        kind: its format.
        libtiff: whether libtiff reads uncompressed TIFF files, too: Pillow knows no subsampled YCbCr.
    """
    if kind == "AVIF" and not features.check("avif"):
        raise InputError("an AVIF image, which this Pillow cannot read; update it, or convert the image first")
    with _LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        own, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, libtiff
        try:
            return Image.open(stream, formats=(kind.upper(),))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            TiffImagePlugin.READ_LIBTIFF = own


def read_pixels(
    image: Image.Image, extras: Extras, losses: list[Loss], white: tuple[float, float] | None
) -> tuple[Samples, Samples | None]:
    """Pixels of at most 8 bits: (H, W, 1 or 3), and alpha; ``white`` is the white point that a file states."""
    image.load()
    mode = image.mode
    clear = image.info.get("transparency") is not None
    if mode == "1":
        losses.append(Loss("bilevel", "the 1-bit image becomes 8-bit gray", strict=False))
        image = image.convert("LA" if clear else "L")
    elif mode == "P":
        losses.append(Loss("palette", "the palette is expanded", strict=False))
        gray = not clear and _gray_palette(image) and exif.icc_space(extras.icc) in ("", "GRAY")
        image = image.convert("RGBA" if clear else "L" if gray else "RGB")
    elif mode == "PA":
        losses.append(Loss("palette", "the palette is expanded", strict=False))
        image = image.convert("RGBA")
    elif mode in ("L", "RGB") and clear:
        image = image.convert("LA" if mode == "L" else "RGBA")
    elif mode == "CMYK":
        losses.append(Loss("cmyk", "CMYK is converted to sRGB"))
        image = _from_cmyk(image, extras.icc)
    elif mode in ("La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode in ("YCbCr", "RGBX"):
        image = image.convert("RGB")
    elif mode == "LAB":
        losses.append(Loss("lab", "CIE Lab is converted to sRGB"))
        if white is not None and max(abs(white[0] - _D65[0]), abs(white[1] - _D65[1])) < 0.002:
            return _from_lab_of_d65(np.asarray(image)), None
        srgb = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB") or image
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        raise InputError(f"images of kind {mode!r} are not supported; convert it to 8 or 16-bit gray or RGB first")
    return _channels(image)


def _from_lab_of_d65(lab: Samples) -> Samples:
    """8-bit sRGB of CIE Lab relative to D65, the white of sRGB; Pillow knows that of D50 only, which Photoshop writes.

    Args:
        lab: (H, W, 3) L* in 1/255 of 100, a* and b* as signed bytes (TIFF 6.0, section 23).
    """
    lightness = (lab[..., 0].astype(np.float32) * np.float32(100 / 255) + 16) / 116
    signed = lab[..., 1:].astype(np.int8).astype(np.float32)
    f = np.stack([lightness + signed[..., 0] / 500, lightness, lightness - signed[..., 1] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * (3 * (6 / 29) ** 2)) * _D65_XYZ
    display = oiio_backend.to_display((xyz @ _XYZ_TO_SRGB.T).clip(0, 1))
    return to_depth(display, np.uint8)


def _channels(image: Image.Image) -> tuple[Samples, Samples | None]:
    """Colour (H, W, 1 or 3) and alpha of an 8-bit image, strip by strip: Pillow would copy the whole of it twice."""
    width, height = image.size
    bands = len(image.getbands())
    color = np.empty((height, width, bands if bands % 2 else bands - 1), np.uint8)
    alpha = None if bands % 2 else np.empty((height, width), np.uint8)
    for top in range(0, height, _ROWS):
        part = np.asarray(image.crop((0, top, width, min(top + _ROWS, height))))
        part = part.reshape(*part.shape[:2], bands)
        color[top : top + _ROWS] = part[..., : color.shape[2]]
        if alpha is not None:
            alpha[top : top + _ROWS] = part[..., -1]
    return color, alpha


def _gray_palette(image: Image.Image) -> bool:
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = [index for _, index in image.getcolors(256) or [] if isinstance(index, int) and index < len(palette)]
    colors = palette[used]
    return bool((colors == colors[:, :1]).all())


def _from_cmyk(image: Image.Image, icc: bytes) -> Image.Image:
    if exif.icc_space(icc) == "CMYK":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if found is not None:
                return found
        except ImageCms.PyCMSError:
            pass  # a damaged profile: the plain formula below
    return image.convert("RGB")
