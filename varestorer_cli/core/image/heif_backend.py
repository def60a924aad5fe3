"""HEIC and HEIF images through pillow-heif (extra ``heif``): the primary image, upright, at its own depth."""

import io
from typing import Any, BinaryIO

import numpy as np

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.image import isobmff
from varestorer_cli.core.image.exif import plausible_dpi
from varestorer_cli.core.image.image_data import FileMetadata, Loss, Samples

_MISSING = (
    "a HEIC/HEIF image by its content, which needs the extra heif: install pillow-heif in this environment, or convert "
    "it to PNG first, for example with heif-convert IN.heic OUT.png"
)


def _open(source: BinaryIO) -> Any:
    if not is_installed("heif"):
        raise InputError(_MISSING)
    import pillow_heif

    return pillow_heif.open_heif(source, convert_hdr_to_8bit=False, hdr_to_16bit=False)[0]


def probe(source: BinaryIO) -> tuple[int, int]:
    """(width, height) upright, from the header alone.

    Raises:
        InputError: pillow-heif is missing.
    """
    width, height = _open(source).size
    return int(width), int(height)


def read(data: bytes) -> tuple[Samples, Samples | None, FileMetadata, bool]:
    """Decode the primary image; the decoder turns and crops it as the file says.

    Returns:
        (H, W, 1 or 3) colour and (H, W) alpha or None, uint8 or uint16 over their whole range; metadata; whether the
        pixels were turned or mirrored.

    Raises:
        InputError: pillow-heif is missing.
    """
    image = _open(io.BytesIO(data))
    bits = int(image.info.get("bit_depth") or 8)
    pixels: Samples = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype == np.uint16 and bits < 16:
        top = (1 << bits) - 1
        pixels = ((pixels.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
    colors = 1 if pixels.shape[2] < 3 else 3
    alpha = np.ascontiguousarray(pixels[..., colors]) if pixels.shape[2] > colors else None
    color = np.ascontiguousarray(pixels[..., :colors])
    if alpha is not None and image.premultiplied_alpha:
        limit = np.iinfo(color.dtype).max
        cover = np.maximum(alpha, 1).astype(np.float32)[..., None] / limit
        color = np.clip(color / cover + 0.5, 0, limit).astype(color.dtype)
    info = image.info
    said = info.get("dpi")
    found = FileMetadata(
        icc=bytes(info.get("icc_profile") or b""),
        exif=bytes(info.get("exif") or b"").removeprefix(b"Exif\0\0"),
        xmp=bytes(info.get("xmp") or b""),
        dpi=plausible_dpi(*said) if said else None,
    )
    if 8 < bits < 16:
        found.losses.append(Loss("depth", f"{bits} bits become 16", strict=False))
    boxes = isobmff.name_contents(data, "HEIF", icc=bool(found.icc), losses=found.losses)
    return color, alpha, found, bool({"property irot", "property imir"} & boxes)
