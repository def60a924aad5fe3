"""HEIC images: depth, turn, profile, EXIF, alpha; a sentence where pillow-heif is missing."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photo
from encoding import SRGB
from PIL import Image

from varestorer_cli.core import extras
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.formats import sniff
from varestorer_cli.core.image.reader import decode, probe


def heic(pixels: Any, mode: str = "RGB", **settings: Any) -> bytes:
    """A lossless file."""
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    file = pillow_heif.from_bytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
    file.save(stream, quality=-1, chroma=444, **settings)
    return stream.getvalue()


def test_eight_bits_with_everything(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x010F] = "Phone"
    data = heic(photo(24, 32), exif=tags.tobytes(), xmp=b"<x/>", icc_profile=SRGB)
    image = decode(data)
    assert (image.source, image.depth, image.alpha, image.losses) == ("HEIF", 8, None, [])
    assert np.abs(image.color.astype(int) - photo(24, 32)).max() <= 2  # YCbCr and back
    assert image.extras.icc == SRGB and image.extras.xmp == b"<x/>"
    assert image.extras.exif is not None and image.extras.exif.text(0x010F) == "Phone"
    (tmp_path / "a.heic").write_bytes(data)
    assert probe(tmp_path / "a.heic") == (32, 24)


def test_ten_bits_fill_the_range_of_sixteen() -> None:
    pixels = np.zeros((16, 16, 3), np.uint16)
    pixels[:, 8:] = 65535
    image = decode(heic(pixels, "RGB;16"))
    assert image.depth == 16
    assert image.color[0, 0].max() < 200 and image.color[0, -1].min() > 65300
    assert [(loss.name, loss.strict) for loss in image.losses] == [("depth", False)]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_it_is_turned_once(orientation: int, tmp_path: Path) -> None:
    """The file turns itself and says so in EXIF, too."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # upper left
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = heic(pixels, exif=tags.tobytes())
    image = decode(data)
    expected = {3: np.rot90(pixels, 2), 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}[orientation]
    assert image.color.shape == expected.shape
    assert np.abs(image.color.astype(int) - expected).max() <= 2
    assert image.orientation == orientation
    (tmp_path / "a.heic").write_bytes(data)
    assert probe(tmp_path / "a.heic") == (image.width, image.height)


def test_alpha() -> None:
    pixels = np.dstack([photo(16, 16), np.linspace(0, 255, 256).reshape(16, 16).astype(np.uint8)])
    image = decode(heic(pixels, "RGBA"))
    assert image.alpha is not None and np.abs(image.alpha.astype(int) - pixels[..., 3]).max() <= 1


def test_more_than_one_image_is_said() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    file = pillow_heif.from_bytes("RGB", (16, 16), photo(16, 16).tobytes())
    file.add_frombytes("RGB", (16, 16), photo(16, 16, seed=1).tobytes())
    file.save(stream, quality=-1)
    assert [loss.name for loss in decode(stream.getvalue()).losses] == ["frames"]


def test_damaged_files_fail_with_a_reason() -> None:
    data = heic(photo(24, 32))
    for end in (40, len(data) // 2, len(data) - 5):
        with pytest.raises(InputError):
            decode(data[:end])


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    assert sniff(head) == "HEIF"
    with pytest.raises(InputError, match=r"HEIC/HEIF image by its content.*install pillow-heif.*heif-convert"):
        decode(head)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc", "HEIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", None),
    ],
)
def test_brands(head: bytes, kind: str | None) -> None:
    assert sniff(head) == kind
