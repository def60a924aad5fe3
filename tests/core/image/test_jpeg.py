"""Pixels of JPEG files: those of Pillow where the data is sound, one named loss where it is not."""

import io
import re
from itertools import pairwise

import numpy as np
import pytest
from conftest import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.reader import decode

IMAGE = Image.fromarray(photo(96, 128))
KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "gray": {},
    "CMYK": {},
}


def jpeg(kind: str = "baseline", **options: object) -> bytes:
    stream = io.BytesIO()
    image = IMAGE.convert({"gray": "L", "CMYK": "CMYK"}.get(kind, "RGB"))
    image.save(stream, "JPEG", quality=85, **KINDS[kind], **options)
    return stream.getvalue()


def restarts(data: bytes) -> list[int]:
    return [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data[data.find(b"\xff\xda") :])]


def scans(data: bytes) -> list[int]:
    return [found.start() for found in re.finditer(rb"\xff\xda\0[\x08\x0a\x0c]", data)]


def names(data: bytes) -> list[str]:
    return [loss.name for loss in decode(data).losses if loss.name != "cmyk"]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["L", "RGB"]),
    st.fixed_dictionaries(
        {"quality": st.integers(1, 100), "progressive": st.booleans(), "restart_marker_blocks": st.integers(0, 5)},
        optional={"subsampling": st.sampled_from([0, 1, 2, "4:1:1"])},
    ),
)
def test_sound_files_have_the_pixels_that_pillow_reads(
    height: int, width: int, mode: str, options: dict[str, object]
) -> None:
    stream = io.BytesIO()
    Image.fromarray(photo(height, width)).convert(mode).save(stream, "JPEG", **options)
    read = decode(stream.getvalue())
    assert read.losses == []
    assert np.array_equal(read.color.squeeze(2) if mode == "L" else read.color, np.asarray(Image.open(stream)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut out", "swapped", "segments swapped", "doubled"])
def test_damaged_restart_markers_are_named(kind: str, damage: str) -> None:
    data = jpeg(kind, restart_marker_blocks=4)
    assert names(data) == []
    start = data.find(b"\xff\xda")
    a, b, c = (start + place for place in restarts(data)[2:5])
    damaged = {
        "cut out": data[:a] + data[a + 2 :],
        "swapped": data[:a] + data[b : b + 2] + data[a + 2 : b] + data[a : a + 2] + data[b + 2 :],
        "segments swapped": data[:a] + data[b:c] + data[a:b] + data[c:],
        "doubled": data[:a] + data[a : a + 2] + data[a:],
    }[damage]
    image = decode(damaged)
    assert [loss.name for loss in image.losses if loss.name != "cmyk"] == ["damage"]
    assert all(loss.strict for loss in image.losses)
    assert "parts of the image may be wrong (libjpeg: " in image.losses[0].text


@pytest.mark.parametrize("kind", ["baseline", "progressive"])
@pytest.mark.parametrize("interval", [3, 5, 0])
def test_a_wrong_restart_interval_is_named(kind: str, interval: int) -> None:
    data = jpeg(kind, restart_marker_blocks=4)
    place = data.find(b"\xff\xdd\0\4")
    assert names(data[: place + 4] + bytes([0, interval]) + data[place + 6 :]) == ["damage"]


def test_an_interval_without_markers_is_named() -> None:
    data = jpeg()
    place = scans(data)[0]
    assert names(data[:place] + b"\xff\xdd\0\4\0\2" + data[place:]) == ["damage"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_end_marker_is_said(kind: str) -> None:
    data = jpeg(kind)
    whole, image = decode(data), decode(data[:-2])
    assert np.array_equal(image.color, whole.color)
    said = "the JPEG file ends without its end marker (EOI): the image is whole, what followed it is lost"
    assert [(loss.text, loss.strict) for loss in image.losses if loss.name != "cmyk"] == [(said, True)]


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 4}, {"progressive": True}])
@pytest.mark.parametrize("end", [-3, -20, -200])
def test_a_file_that_is_cut_off_says_where(options: dict[str, object], end: int) -> None:
    data = jpeg(**options)[:end]
    with pytest.raises(InputError, match=rf"the JPEG file is cut off after {len(data)} bytes"):
        decode(data)


def test_missing_scans_are_named() -> None:
    data = jpeg("progressive")
    starts = [*scans(data), len(data) - 2]
    assert len(starts) > 6
    for first, last in pairwise(starts[1:]):
        table = data.rfind(b"\xff\xc4", 0, last)  # the tables of the scan that follows stay
        last = table if table > first else last
        assert "damage" in names(data[:first] + data[last:])
    with pytest.raises(InputError, match="cut off"):  # exactly between two scans
        decode(data[: starts[3]])


def with_quirk(data: bytes, quirk: str) -> bytes:
    """Headers that libjpeg warns of and many programs write."""
    made = bytearray(data)
    if quirk == "revision":
        made[data.index(b"JFIF\0") + 5] = 2
    else:  # last coefficient of the scan
        start = data.index(b"\xff\xda") + 2
        made[start + int.from_bytes(data[start : start + 2], "big") - 2] = 0
    return bytes(made)


@pytest.mark.parametrize("quirk", ["revision", "scan"])
@pytest.mark.parametrize("kind", ["baseline", "4:4:4", "gray"])
def test_a_quirk_of_the_header_hides_no_damage(kind: str, quirk: str) -> None:
    """libjpeg tells its first warning only."""
    plain = jpeg(kind, restart_marker_blocks=4)
    data = with_quirk(plain, quirk)
    sound = decode(data)
    assert sound.losses == [] and np.array_equal(sound.color, decode(plain).color)
    with pytest.raises(InputError, match="cut off"):
        decode(data[: len(data) // 2])
    assert names(data[:-2]) == ["damage"]
    first = data.index(b"\xff\xda") + restarts(data)[2]
    assert names(data[:first] + data[first + 2 :]) == ["damage"]


def test_padding_before_the_end_is_no_damage() -> None:
    """Some cameras write a few bytes too many; their images are right."""
    data = jpeg()
    assert names(data[:-2] + b"\0\0\0" + data[-2:]) == []


def test_cmyk_has_the_pixels_that_pillow_reads() -> None:
    data = jpeg("CMYK")
    assert np.array_equal(decode(data).color, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
