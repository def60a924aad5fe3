"""Files that are no images, or no longer: refused with a reason, and never decoded at any price."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import photo
from encoding import deep, encode
from PIL import Image

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import reader
from varestorer_cli.core.image.reader import decode, read_bytes

RGB = photo(12, 18)


def test_damaged_exif_costs_the_exif_only() -> None:
    pixels = decode(encode(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0garbage that is no TIFF header"))
    assert pixels.extras.exif is None
    assert [loss.name for loss in pixels.losses] == ["exif"]


def bad_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    idat = struct.pack(">I", 4) + b"IDATabcd" + struct.pack(">I", zlib.crc32(b"IDATabcd"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + idat + end


GOOD = {
    "PNG": encode(Image.fromarray(RGB), "PNG"),
    "deep PNG": deep(photo(12, 18, depth=16), ".png"),
    "JPEG": encode(Image.fromarray(photo(64, 64)), "JPEG"),
    "WebP": encode(Image.fromarray(RGB), "WEBP"),
    "TIFF": encode(Image.fromarray(RGB), "TIFF"),
    "deep TIFF": deep(photo(12, 18, depth=16), ".tiff"),
    "BMP": encode(Image.fromarray(RGB), "BMP"),
    "GIF": encode(Image.fromarray(RGB), "GIF"),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_cut_off_files_are_refused(kind: str, part: float) -> None:
    data = GOOD[kind]
    with pytest.raises(InputError):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", ["PNG", "deep PNG"])
def test_a_flipped_bit_in_a_png_is_found(kind: str) -> None:
    data = bytearray(GOOD[kind])
    data[len(data) // 2] ^= 4
    with pytest.raises(InputError, match="damaged"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"Dear diary,\n", "text, not an image"),
        (bytes(500), "zero bytes only"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00", "AppleDouble"),
        (b"%PDF-1.4\x80\x90", "a PDF document"),
        (bad_header(60000, 60000), "60000x60000 = 3600 megapixels, the limit is 268"),
        (
            bad_header(16000, 16000),
            r"16000x16000 = 256 megapixels, the file has \d+ bytes: that is damage",
        ),
        (bad_header(0, 5), "damaged"),
        (b"\x89PNG\r\n\x1a\n", "cut off after 8 bytes"),
        (b"\xff\xd8\xff", "JPEG data is damaged or cut off"),
    ],
)
def test_reasons(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        decode(data)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lossless WebP of one colour takes next to nothing."""
    data = encode(Image.new("RGB", (16000, 64)), "WEBP", lossless=True)
    assert len(data) < 400
    assert decode(data).width == 16000
    monkeypatch.setattr(reader, "_PLAUSIBLE_PIXELS", 1_000_000)
    monkeypatch.setattr(reader, "_MOST_PIXELS_PER_BYTE", 1000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match="decompression bomb"):
        decode(data)


def test_signed_tiff_is_refused_with_its_kind() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, photo(12, 18).astype(np.int16), photometric="rgb")
    with pytest.raises(InputError, match="16-bit signed integer samples are not supported"):
        decode(stream.getvalue())


def test_reading_names_the_cause(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_bytes(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match="empty"):
        read_bytes(tmp_path / "empty.png")


def test_content_counts_not_the_suffix() -> None:
    assert decode(GOOD["PNG"]).source == "PNG"  # whatever the file is called


def test_pillows_own_limit_is_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode(GOOD["PNG"])
    assert before == Image.MAX_IMAGE_PIXELS


def test_kinds_of_jpeg_that_are_not_read_are_named_and_not_called_damage() -> None:
    deep = photo(16, 16, depth=16)
    kinds = {
        "a JPEG file of 12 bits": imagecodecs.jpeg_encode(deep >> 4, bitspersample=12),
        "a JPEG-LS file": imagecodecs.jpegls_encode(deep),
        "a lossless JPEG file": imagecodecs.ljpeg_encode(deep[..., 0]),
    }
    for said, data in kinds.items():
        with pytest.raises(InputError, match=said):
            decode(bytes(data))
