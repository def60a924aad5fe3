import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from conftest import photo
from encoding import SRGB, deep, encode
from PIL import Image, PngImagePlugin, features

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import reader
from varestorer_cli.core.image.reader import decode, probe

RGB = photo(12, 18)
GRAY = RGB[..., 0]
ALPHA = photo(12, 18, 1, seed=5)[..., 0]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_rgb(format: str) -> None:
    opened = decode(encode(Image.fromarray(RGB), format, **({"lossless": True} if format == "WEBP" else {})))
    np.testing.assert_array_equal(opened.color, RGB)
    assert (opened.width, opened.height, opened.depth, opened.gray, opened.alpha) == (
        18,
        12,
        8,
        False,
        None,
    )
    assert opened.losses == []


def test_jpeg() -> None:
    opened = decode(encode(Image.fromarray(RGB), "JPEG", quality=100, subsampling=0))
    assert np.abs(opened.color.astype(int) - RGB).mean() < 2
    assert opened.source == "JPEG"


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "BMP"])
def test_gray_stays_gray(format: str) -> None:
    opened = decode(encode(Image.fromarray(GRAY), format))
    assert opened.gray and opened.color.shape == (12, 18, 1)
    if format != "JPEG":
        np.testing.assert_array_equal(opened.color[..., 0], GRAY)
    assert opened.model_input().shape == (12, 18, 3)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("gray", [True, False])
def test_alpha_is_apart(format: str, gray: bool) -> None:
    pixels = np.dstack([GRAY if gray else RGB, ALPHA])
    opened = decode(
        encode(Image.fromarray(pixels, "LA" if gray else "RGBA") if gray else Image.fromarray(pixels), format)
    )
    np.testing.assert_array_equal(opened.alpha, ALPHA)
    np.testing.assert_array_equal(opened.color, pixels[..., :-1])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_not_reduced(suffix: str, channels: int) -> None:
    pixels = photo(12, 18, channels, depth=16)
    opened = decode(deep(pixels if channels > 1 else pixels[..., 0], suffix))
    assert opened.depth == 16
    np.testing.assert_array_equal(opened.color, pixels[..., :3])
    assert len(np.unique(opened.color)) > 150
    if channels == 4:
        np.testing.assert_array_equal(opened.alpha, pixels[..., 3])


def test_sixteen_bit_gray_alpha_png() -> None:
    pixels = photo(12, 18, 2, depth=16)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 18, 12, 16, 4, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    opened = decode(data)
    assert opened.gray
    np.testing.assert_array_equal(opened.color[..., 0], pixels[..., 0])
    np.testing.assert_array_equal(opened.alpha, pixels[..., 1])


def test_a_dark_sixteen_bit_image_is_not_taken_for_eight() -> None:
    pixels = (photo(12, 18, 3) // 2).astype(np.uint16)
    opened = decode(deep(pixels, ".png"))
    assert opened.depth == 16
    np.testing.assert_array_equal(opened.color, pixels)


@pytest.mark.parametrize(
    "settings",
    [
        {"photometric": "rgb", "compression": "adobe_deflate", "predictor": True},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"photometric": "rgb", "byteorder": ">", "tile": (16, 16)},
        {"photometric": "rgb", "bigtiff": True},
    ],
    ids=["deflate", "planes", "tiled", "big"],
)
def test_kinds_of_sixteen_bit_tiff(settings: dict[str, Any]) -> None:
    pixels = photo(12, 18, depth=16)
    stream = io.BytesIO()
    data = np.moveaxis(pixels, -1, 0) if "planarconfig" in settings else pixels
    tifffile.imwrite(stream, data, **settings)
    np.testing.assert_array_equal(decode(stream.getvalue()).color, pixels)


def test_sixteen_bit_lzw_tiff() -> None:
    pixels = photo(12, 18, depth=16)
    ok, data = cv2.imencode(".tiff", pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert ok
    np.testing.assert_array_equal(decode(data.tobytes()).color, pixels)


def test_premultiplied_and_inverted_tiff() -> None:
    alpha = np.full((12, 18, 1), 32768, np.uint16)
    color = photo(12, 18, depth=16)
    stream = io.BytesIO()
    half = np.round(color * (32768 / 65535)).astype(np.uint16)
    tifffile.imwrite(stream, np.dstack([half, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(decode(stream.getvalue()).color.astype(int), color, atol=2)
    stream = io.BytesIO()
    tifffile.imwrite(stream, 65535 - color[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(decode(stream.getvalue()).color[..., 0], color[..., 0])


def test_palettes_are_expanded() -> None:
    image = Image.fromarray(RGB).quantize(32)
    opened = decode(encode(image, "PNG"))
    np.testing.assert_array_equal(opened.color, np.asarray(image.convert("RGB")))
    assert [(loss.name, loss.strict) for loss in opened.losses] == [("palette", False)]


def test_a_palette_of_grays_is_gray_and_transparency_is_alpha() -> None:
    image = Image.fromarray(GRAY).convert("P")
    assert decode(encode(image, "PNG")).gray
    opened = decode(encode(Image.fromarray(RGB).quantize(8), "PNG", transparency=0))
    assert opened.alpha is not None
    assert set(np.unique(opened.alpha)) == {0, 255}


def test_one_bit_becomes_gray() -> None:
    image = Image.fromarray(GRAY > 128)
    opened = decode(encode(image, "PNG"))
    assert opened.gray
    np.testing.assert_array_equal(opened.color[..., 0], np.where(GRAY > 128, 255, 0))
    assert [loss.name for loss in opened.losses] == ["bilevel"]


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted_and_said(format: str) -> None:
    exact = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    opened = decode(encode(Image.fromarray(RGB).convert("CMYK"), format, **exact))
    assert np.abs(opened.color.astype(int) - RGB).mean() < 4
    assert [(loss.name, loss.strict) for loss in opened.losses] == [("cmyk", True)]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames(format: str) -> None:
    other = Image.fromarray(255 - RGB)
    data = encode(
        Image.fromarray(RGB), format, save_all=True, append_images=[other, Image.fromarray(photo(12, 18, seed=9))]
    )
    opened = decode(data)
    near, far = (np.abs(opened.color.astype(int) - np.asarray(p)).mean() for p in (RGB, other))
    assert near < far
    word = "pages" if format == "TIFF" else "frames"
    assert any(f"only the first of 3 {word} is restored; for all, " in loss.text for loss in opened.losses)


# --- orientation and metadata


def turned(orientation: int) -> Image.Image:
    """The image as a camera held that way would store it."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(RGB)
    return image if orientation == 1 else image.transpose(back[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_is_applied(format: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    data = encode(turned(orientation), format, exif=exif, **exact)
    opened = decode(data)
    assert np.abs(opened.color.astype(int) - RGB).mean() < (2 if format == "JPEG" else 1e-9)
    path = tmp_path / "x"
    path.write_bytes(data)
    assert probe(path) == (18, 12)


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_sixteen_bit_tiff(orientation: int) -> None:
    pixels = photo(12, 18, depth=16)
    stored = np.rot90(pixels, {3: 2, 6: 1}[orientation])
    stream = io.BytesIO()
    tifffile.imwrite(stream, stored, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_array_equal(decode(stream.getvalue()).color, pixels)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_profile_exif_and_resolution_are_read(format: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    if format != "TIFF":  # Pillow does not write these directories to a TIFF file; the round trips do
        exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
        exif.get_ifd(0x8825)[1] = "N"
    extra = {} if format == "WEBP" else {"dpi": (300, 300)}
    opened = decode(encode(Image.fromarray(RGB), format, icc_profile=SRGB, exif=exif, **extra))
    assert opened.extras.icc == SRGB
    assert opened.extras.exif is not None
    assert opened.extras.exif.text(0x010F) == "Camera"
    if format != "TIFF":
        assert opened.extras.exif.photo[0x9003].value.startswith(b"2001:02:03")
        assert opened.extras.exif.gps[1].value == b"N\0"
    if format != "WEBP":
        assert opened.extras.dpi == pytest.approx((300, 300), abs=0.1)


def test_a_profile_of_other_channels_is_dropped_and_said() -> None:
    opened = decode(encode(Image.fromarray(GRAY), "PNG", icc_profile=SRGB))
    assert opened.extras.icc == b""
    assert [loss.name for loss in opened.losses] == ["icc"]


def test_profiles_that_imagemagick_hides_in_text_are_read_and_their_turn_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    block = exif.tobytes()
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", text, zip=True)
    info.add_text("Raw profile type xmp", f"\nxmp\n{5:8}\n{b'<xmp>'.hex()}\n")
    info.add_text("Raw profile type APP12", "not hexadecimal")
    opened = decode(encode(turned(6), "PNG", pnginfo=info))
    np.testing.assert_array_equal(opened.color, RGB)
    assert opened.extras.exif is not None and opened.extras.exif.text(0x010F) == "Camera"
    assert opened.extras.xmp == b"<xmp>"
    assert [body.partition(b"\0")[0] for _, body in opened.extras.png_chunks] == [b"Raw profile type APP12"]


def test_resolution_of_a_webp_comes_from_its_exif() -> None:
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 118.11, 118.11, 3
    assert decode(encode(Image.fromarray(RGB), "WEBP", exif=exif)).extras.dpi == pytest.approx((300, 300), abs=0.1)


def test_avif_is_read_where_pillow_can_and_depth_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encode(Image.fromarray(RGB), "AVIF", quality=100, subsampling="4:4:4")
    opened = decode(data)
    assert np.abs(opened.color.astype(int) - RGB).mean() < 2 and opened.losses == []
    place = data.index(b"av1C") + 6
    deeper = data[:place] + bytes([data[place] | 0x40]) + data[place + 1 :]
    assert reader._avif_depth(deeper) == 10
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InputError, match="AVIF image, which this Pillow cannot read"):
        decode(data)


def test_what_cannot_be_carried_is_said_when_reading() -> None:
    jpeg = encode(Image.fromarray(RGB), "JPEG")
    body = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
    long = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    assert [loss.name for loss in decode(long).losses] == ["xmp"]
    gif = encode(Image.fromarray(RGB), "GIF", comment=b"hello")
    assert "comment" in [loss.name for loss in decode(gif).losses]


def test_bleeding_replaces_invisible_colours_only() -> None:
    red = np.zeros((40, 40, 4), np.uint8)
    y, x = np.mgrid[:40, :40]
    red[(y - 20) ** 2 + (x - 20) ** 2 < 100] = (200, 10, 10, 255)
    opened = decode(encode(Image.fromarray(red), "PNG"))
    bled = opened.model_input()
    np.testing.assert_array_equal(bled[red[..., 3] > 0], red[red[..., 3] > 0][:, :3])
    np.testing.assert_allclose(bled.reshape(-1, 3), np.tile([[200, 10, 10]], (1600, 1)), atol=1)


@pytest.mark.parametrize(("kind", "channels", "key"), [(0, 1, (1000,)), (2, 3, (1000, 2000, 3000))])
def test_the_clear_colour_of_a_sixteen_bit_png_is_alpha(kind: int, channels: int, key: tuple[int, ...]) -> None:
    pixels = photo(6, 7, channels, depth=16)
    pixels[2, 3] = key

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 6, 16, kind, 0, 0, 0))
    data += (
        chunk(b"tRNS", struct.pack(f">{channels}H", *key)) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    opened = decode(data)
    np.testing.assert_array_equal(opened.color, pixels)
    assert opened.alpha is not None and opened.alpha.dtype == np.uint16
    clear = np.zeros((6, 7), bool)
    clear[2, 3] = True
    np.testing.assert_array_equal(opened.alpha, np.where(clear, 0, 65535))


@pytest.mark.parametrize(("bits", "stored"), [(1, 1), (2, 1), (4, 5), (8, 90), (8, 256 + 90)])
def test_the_clear_gray_of_a_png_of_few_bits_is_alpha(bits: int, stored: int) -> None:
    """Pillow compares the stored value with values scaled to 8 bits; bits beyond the depth say nothing."""
    values = np.arange(16 * 24).reshape(16, 24) % (1 << bits)
    lines = b"".join(
        b"\0" + np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -bits:]).tobytes() for row in values
    )

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    opened = decode(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 16, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", stored))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    top = (1 << bits) - 1
    np.testing.assert_array_equal(opened.color[..., 0], values * 255 // top)
    np.testing.assert_array_equal(opened.alpha, np.where(values == stored & top, 0, 255))
