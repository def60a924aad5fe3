"""Images as the bytes of a file."""

import io
from typing import Any

import cv2
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encode(image: Image.Image, format: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **settings)
    return stream.getvalue()


def deep(pixels: Any, suffix: str) -> bytes:
    if pixels.shape[-1] in (3, 4):
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[-1])]]
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return bytes(data.tobytes())
