"""JPEG XL images: depth, alpha, turn, EXIF, and JPEG files inside; a sentence where the extra is missing."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from conftest import photo
from encoding import encode
from PIL import Image

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import jxl_backend
from varestorer_cli.core.image.reader import decode, probe


def jxl(pixels: Any, **settings: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, **settings))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("container", [False, True])
def test_pixels_are_what_was_stored(depth: int, channels: int, container: bool, tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    pixels = photo(20, 30, channels, depth)
    data = jxl(pixels[..., 0] if channels == 1 else pixels, usecontainer=container)
    image = decode(data)
    assert (image.source, image.depth, image.gray) == ("JPEG XL", depth, channels < 3)
    colors = channels - (channels % 2 == 0)
    np.testing.assert_array_equal(image.color, pixels[..., :colors])
    assert (image.alpha is None) == (channels % 2 == 1)
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, pixels[..., -1])
    assert [loss for loss in image.losses if loss.strict] == []
    (tmp_path / "a.jxl").write_bytes(data)
    assert probe(tmp_path / "a.jxl") == (30, 20)


@pytest.mark.parametrize("size", [(8, 8), (256, 64), (1, 1), (300, 200), (64, 1000), (513, 40), (160, 90), (9000, 2)])
def test_the_header_says_the_size(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jxl_backend, "is_installed", lambda extra: True)
    for container in (False, True):
        data = jxl(np.zeros((size[1], size[0], 3), np.uint8), usecontainer=container)
        assert jxl_backend.probe(io.BytesIO(data)) == size


def test_a_jpeg_in_a_jpeg_xl_is_that_jpeg(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    (tmp_path / "a.jpg").write_bytes(encode(Image.fromarray(photo(24, 32)), "JPEG", quality=90))
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.jxl", lossless_jpeg=True)
    assert jxl_backend.read((tmp_path / "a.jxl").read_bytes()) == (tmp_path / "a.jpg").read_bytes()
    image = decode((tmp_path / "a.jxl").read_bytes())
    expected = decode((tmp_path / "a.jpg").read_bytes()).color
    assert image.source == "JPEG XL"
    np.testing.assert_array_equal(image.color, expected)


def test_damage_and_a_missing_extra_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jxl(photo(20, 30))
    for part in (data[: len(data) // 2], data[:3], b"\xff\n" + bytes(40)):
        with pytest.raises(InputError):
            decode(part)
    monkeypatch.setattr(jxl_backend, "is_installed", lambda extra: False)
    with pytest.raises(InputError, match=r"needs the extra jxl: install pillow-jxl-plugin.*djxl"):
        decode(data)


def test_exif_and_xmp_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    tags = Image.Exif()
    tags[0x010F] = "Phone"
    Image.fromarray(photo(24, 32)).save(tmp_path / "a.jxl", lossless=True, exif=tags.tobytes(), xmp=b"<x/>")
    image = decode((tmp_path / "a.jxl").read_bytes())
    assert image.extras.exif is not None and image.extras.exif.text(0x010F) == "Phone"
    assert image.extras.xmp == b"<x/>" and image.losses == []
