"""Valid files of every kind and rules that damage them: the cases of ``fuzzing.py``, each made from (seed, number)."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms


def valid_files() -> dict[str, bytes]:
    """One small valid file of every kind, by name."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.random((4, 5, 4)), (33, 21)) * 255
    rgb = smooth[..., :3].astype(np.uint8)
    alpha = smooth[..., 3].astype(np.uint8)
    deep = (rgb.astype(np.uint16) << 8) | rgb
    image, gray = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    clear = Image.fromarray(np.dstack([rgb, alpha]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8825)[1] = "N"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    said: dict[str, Any] = {"exif": exif, "icc_profile": icc, "xmp": b"<x:xmpmeta/>"}
    more = {"save_all": True, "append_images": [image.rotate(180)]}

    def pil(photo: Image.Image, format: str, **settings: Any) -> bytes:
        stream = io.BytesIO()
        photo.save(stream, format, **settings)
        return stream.getvalue()

    def tiff(pixels: Any, **settings: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, **settings)
        return stream.getvalue()

    def cv(pixels: Any, suffix: str, *settings: int) -> bytes:
        return bytes(cv2.imencode(suffix, pixels, list(settings))[1].tobytes())

    return {
        "rgb.png": pil(image, "PNG", **{k: v for k, v in said.items() if k != "xmp"}),
        "gray.png": pil(gray, "PNG", dpi=(300, 300)),
        "alpha.png": pil(clear, "PNG"),
        "palette.png": pil(image.quantize(16), "PNG", transparency=3),
        "bilevel.png": pil(gray.convert("1"), "PNG"),
        "deep.png": cv(deep[..., ::-1], ".png"),
        "animated.png": pil(image, "PNG", **more),
        "base.jpg": pil(image, "JPEG", comment="x", **said),
        "progressive.jpg": pil(image, "JPEG", progressive=True, quality=90),
        "gray.jpg": pil(gray, "JPEG"),
        "cmyk.jpg": pil(image.convert("CMYK"), "JPEG"),
        "restarts.jpg": cv(rgb[..., ::-1], ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        "lossless.webp": pil(clear, "WEBP", lossless=True, **said),
        "lossy.webp": pil(image, "WEBP", quality=80),
        "animated.webp": pil(image, "WEBP", **more),
        "plain.tif": pil(image, "TIFF", dpi=(72, 72), icc_profile=icc),
        "lzw.tif": pil(image, "TIFF", compression="tiff_lzw", exif=exif),
        "packed.tif": pil(gray, "TIFF", compression="packbits"),
        "jpeg.tif": pil(image, "TIFF", compression="jpeg"),
        "fax.tif": pil(gray.convert("1"), "TIFF", compression="group4"),
        "deep.tif": tiff(deep, photometric="rgb", compression="adobe_deflate", predictor=True, iccprofile=icc),
        "deep_lzw.tif": cv(deep[..., ::-1], ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiled.tif": tiff(np.tile(deep, (2, 2, 1)), photometric="rgb", tile=(16, 16)),
        "planes.tif": tiff(np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate"),
        "big.tif": tiff(rgb, photometric="rgb", bigtiff=True),
        "pages.tif": pil(image, "TIFF", **more),
        "rgb.bmp": pil(image, "BMP"),
        "palette.bmp": pil(image.quantize(16), "BMP"),
        "plain.gif": pil(image, "GIF"),
        "animated.gif": pil(image, "GIF", duration=40, loop=0, **more),
    }


def _flip(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _header(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    for _ in range(rng.choice([1, 2, 4])):
        data[rng.randrange(min(len(data), 64))] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)])
    return data


def _number(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    place, order = rng.randrange(len(data)), rng.choice("<>")
    value = rng.choice([0, 1, 0xFF, 0x7FFF, 0xFFFF, 60000, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
    kind = rng.choice(["H", "I"])
    packed = struct.pack(order + kind, value & (0xFFFF if kind == "H" else 0xFFFFFFFF))
    data[place : place + len(packed)] = packed
    return data


def _cut(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    return data[: rng.randrange(len(data))]


def _splice(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _remove(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 2, 4, 12, 100, 1000]) :]


def _repeat(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + rng.choice([1, 4, 30, 500])] * rng.choice([2, 3, 50]) + data[start:]


def _zeros(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    start = rng.randrange(len(data))
    size = min(len(data) - start, rng.choice([4, 100, 4096]))
    data[start : start + size] = bytes(size)
    return data


def _tail(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    return data + rng.randbytes(rng.choice([1, 7, 5000]))


_RULES: list[Callable[[bytearray, random.Random, list[bytes]], bytearray]] = [
    _flip, _flip, _header, _header, _number, _number, _cut, _splice, _remove, _repeat, _zeros, _tail,
]  # fmt: skip


def _checksums_made_right(data: bytes) -> bytes:
    """The same PNG with fitting checksums, so that damage gets past them into the decoders."""
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        size = int.from_bytes(out[place : place + 4], "big")
        if place + 12 + size > len(out):
            break
        body = out[place + 4 : place + 8 + size]
        out[place + 8 + size : place + 12 + size] = zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return bytes(out)


def case(seed: int, number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Name and bytes of one case. The first round of numbers are the files as they are."""
    names = sorted(files)
    name = names[number % len(names)]
    if number < len(names):
        return name, files[name]
    rng = random.Random(f"{seed}/{number}")
    data = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 1, 2])):
        if data:
            data = rng.choice(_RULES)(data, rng, list(files.values()))
    if name.endswith(".png") and rng.random() < 0.7:
        return name, _checksums_made_right(bytes(data))
    return name, bytes(data)
