"""JPEG, WebP and BMP files through Pillow, which takes a whole picture at once."""

import struct
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from varestorer_cli.core.image import exif as metadata
from varestorer_cli.core.image.image_data import OutputImage
from varestorer_cli.core.options import ImageFormat

LARGEST_SEGMENT = metadata.LARGEST_BLOCK  # bytes of EXIF or XMP in a JPEG


def write_pillow(stream: BinaryIO, output: OutputImage, format: ImageFormat, quality: int) -> None:
    """Write a picture of at most 8 bits."""
    extras = output.extras
    if format in (ImageFormat.JPEG, ImageFormat.BMP):
        output = replace(output, alpha_rows=None)
    mode = {1: "L", 2: "RGBA", 3: "RGB", 4: "RGBA"}[output.channels]
    image = Image.new(mode, (output.width, output.height))
    top = 0
    for strip in output.strips():
        if strip.dtype == np.uint16:
            strip = ((strip.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        if strip.shape[2] == 2:  # WebP has no gray
            strip = strip[..., [0, 0, 0, 1]]
        image.paste(Image.fromarray(strip[..., 0] if strip.shape[2] == 1 else strip), (0, top))
        top += len(strip)
    if format == ImageFormat.BMP:
        image.save(stream, "BMP", dpi=extras.dpi or (96, 96))
        return
    exif = extras.exif or metadata.Exif()
    settings: dict[str, Any] = {"quality": quality}
    if extras.icc:
        settings["icc_profile"] = extras.icc
    if format == ImageFormat.WEBP:
        if extras.xmp:
            settings["xmp"] = extras.xmp
        if metadata.icc_space(extras.icc) == "GRAY":
            settings.pop("icc_profile")
        settings["exif"] = metadata.build(exif)
        image.save(stream, "WEBP", method=4, exact=True, **settings)
        return
    block = metadata.build(exif)
    if len(block) > LARGEST_SEGMENT:
        software = {t: e for t, e in exif.main.items() if t == metadata.SOFTWARE}
        block = metadata.build(metadata.Exif(exif.order, software))
    settings["exif"] = b"Exif\0\0" + block
    if extras.xmp and len(extras.xmp) <= LARGEST_SEGMENT:
        settings["xmp"] = extras.xmp
    if extras.dpi and max(extras.dpi) < 65535:
        settings["dpi"] = (max(1, round(extras.dpi[0])), max(1, round(extras.dpi[1])))
    if extras.jpeg_comment:
        settings["comment"] = extras.jpeg_comment
    settings["extra"] = b"".join(b"\xff\xed" + struct.pack(">H", len(s) + 2) + s for s in extras.iptc)
    image.save(stream, "JPEG", subsampling=0, **settings)
