"""TIFF pixels: every accepted compression, depth, arrangement and predictor, held against libtiff; hostile sizes."""

import io
import itertools
import struct
import subprocess
import sys
import textwrap
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import photo
from PIL import Image, ImageCms

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.reader import decode, probe

_RNG = np.random.default_rng(3)
CARD8 = _RNG.integers(0, 256, (37, 53, 3), np.uint8)
CARD16 = _RNG.integers(0, 65536, (37, 53, 3), np.uint16)


def tiff(pixels: Any, **settings: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **settings)
    return stream.getvalue()


WITH_PREDICTOR = ("lzw", "zlib", "zstd", "lzma")


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [*((name, False) for name in (None, "packbits", *WITH_PREDICTOR)), *((name, True) for name in WITH_PREDICTOR)],
)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_matrix_equals_libtiff(compression: str | None, depth: int, planes: str, predictor: bool) -> None:
    card = CARD8 if depth == 8 else CARD16
    stored = card if planes == "contig" else np.moveaxis(card, -1, 0)
    for tiled, big, order in itertools.product((False, True), (False, True), "<>"):
        shape = {"tile": (16, 32)} if tiled else {"rowsperstrip": 11}
        data = tiff(
            stored,
            photometric="rgb",
            planarconfig=planes,
            compression=compression,
            predictor=predictor,
            bigtiff=big,
            byteorder=order,
            **shape,
        )
        found = decode(data)
        np.testing.assert_array_equal(found.color, card)
        assert found.color.dtype == card.dtype
        assert found.alpha is None
        if compression not in ("zstd", "lzma"):  # not in every libtiff
            np.testing.assert_array_equal(stored, imagecodecs.tiff_decode(data).reshape(stored.shape))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("depth", [8, 16])
def test_orientation_is_applied_once(orientation: int, compression: str | None, depth: int) -> None:
    card = CARD8 if depth == 8 else CARD16
    turns = {1: card, 2: card[:, ::-1], 3: card[::-1, ::-1], 4: card[::-1], 5: card.swapaxes(0, 1)}
    turns |= {6: np.rot90(card), 7: card[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(card, -1)}
    stored = np.ascontiguousarray(turns[orientation])
    tag = (274, 3, 1, orientation, True)
    data = tiff(stored, photometric="rgb", compression=compression, extratags=[tag])
    np.testing.assert_array_equal(decode(data).color, card)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_gray_of_every_depth(bits: int, white_is_zero: bool) -> None:
    top = (1 << bits) - 1
    values = _RNG.integers(0, top + 1, (9, 16), np.uint64)
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    photometric = "miniswhite" if white_is_zero else "minisblack"
    found = decode(tiff(values.astype(kind), photometric=photometric, bitspersample=bits))
    largest = 255 if bits <= 8 else 65535
    wanted = np.floor(values / top * largest + 0.5)
    np.testing.assert_array_equal(found.color[..., 0], largest - wanted if white_is_zero else wanted)
    assert {loss.name for loss in found.losses} == ({"bilevel"} if bits == 1 else {"depth"} if bits > 16 else set())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_point_is_read_and_said(kind: Any) -> None:
    values = np.linspace(0, 1, 12 * 10 * 3).reshape(12, 10, 3).astype(kind)
    values[0, 0] = (-1, 2, np.nan)
    found = decode(tiff(values, photometric="rgb", compression="zlib", predictor=3))
    assert found.color[0, 0].tolist() == [0, 65535, 0]
    np.testing.assert_allclose(found.color[1:] / 65535, values[1:], atol=1e-5)
    assert {loss.name for loss in found.losses} == {"depth", "nan", "range"}
    bits = np.dtype(kind).itemsize * 8
    assert f"{bits}-bit floating point becomes 16-bit integers" in [loss.text for loss in found.losses]
    with pytest.raises(InputError, match="scale them to 0 to 1"):
        decode(tiff(np.full((4, 4), 200, kind), photometric="minisblack"))


def test_a_damaged_arrangement_of_planes_is_not_taken_for_planes() -> None:
    for big in (False, True):
        stream = io.BytesIO()
        tifffile.imwrite(stream, CARD8, photometric="rgb", bigtiff=big, metadata=None)
        with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as file:
            place = file.pages[0].tags[284].valueoffset
        data = bytearray(stream.getvalue())
        data[place : place + 2] = b"\0\xff"
        if big:
            with pytest.raises(InputError, match="not supported"):
                decode(bytes(data))
        else:  # Pillow takes it for pixels side by side
            np.testing.assert_array_equal(decode(bytes(data)).color, CARD8)


def test_doubles_beyond_the_range_of_floats_become_0_without_a_warning() -> None:
    values = np.full((4, 4), 0.5)
    values[0, 0] = 1e300
    found = decode(tiff(values, photometric="minisblack"))
    assert found.color[:, :, 0].tolist()[0] == [0, 32768, 32768, 32768]
    assert {loss.name for loss in found.losses} == {"depth", "nan"}


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    ("kinds", "place", "lost"),
    [
        (["unassalpha"], 0, 0),
        (["assocalpha"], 0, 0),
        (["unspecified"], None, 1),
        (["unspecified", "unassalpha"], 1, 1),
        (["unassalpha", "unspecified"], 0, 1),
    ],
)
def test_extra_channels_are_alpha_or_said(depth: int, kinds: list[str], place: int | None, lost: int) -> None:
    card = CARD8 if depth == 8 else CARD16
    top = np.iinfo(card.dtype).max
    extras = [np.full(card.shape[:2], top - 7 * i, card.dtype) for i in range(len(kinds))]
    found = decode(tiff(np.dstack([card, *extras]), photometric="rgb", extrasamples=kinds, compression="lzw"))
    np.testing.assert_array_equal(found.color, card)
    if place is None:
        assert found.alpha is None
    else:
        np.testing.assert_array_equal(found.alpha, extras[place])
    assert [loss.name for loss in found.losses if loss.strict] == ["channels"] * lost


def test_gray_with_alpha_and_palette() -> None:
    gray = CARD16[..., :1]
    found = decode(
        tiff(np.dstack([gray, gray]), photometric="minisblack", extrasamples=["unassalpha"], compression="lzw")
    )
    np.testing.assert_array_equal(found.color, gray)
    np.testing.assert_array_equal(found.alpha, gray[..., 0])
    table = _RNG.integers(0, 256, (3, 256), np.uint16)
    for scale, big in itertools.product((256, 257), (False, True)):
        data = tiff(CARD8[..., 0], photometric="palette", colormap=table * np.uint16(scale), bigtiff=big)
        np.testing.assert_array_equal(decode(data).color, table.T[CARD8[..., 0]])


def test_inks_of_both_depths_agree() -> None:
    inks = _RNG.integers(0, 256, (20, 30, 4), np.uint8)
    shallow = decode(tiff(inks, photometric="separated"))
    deep = decode(tiff(inks.astype(np.uint16) * 257, photometric="separated", compression="lzw"))
    assert np.abs(deep.color / 257 - shallow.color).max() <= 1
    cover = np.full((20, 30, 1), 99, np.uint8)
    found = decode(tiff(np.dstack([inks, cover]), photometric="separated", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(found.color, shallow.color)
    assert found.alpha is not None
    assert (found.alpha == 99).all()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_inside_equals_libtiff(big: bool, subsampling: tuple[int, int]) -> None:
    smooth = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
    settings = {
        "photometric": "rgb",
        "compression": "jpeg",
        "subsampling": subsampling,
        "tile": (32, 32),
        "bigtiff": big,
    }
    data = tiff(smooth, **settings)
    difference = np.abs(decode(data).color.astype(int) - imagecodecs.tiff_decode(data))
    assert difference.max() <= 2


def test_thumbnail_before_the_image_is_passed_over() -> None:
    for flag in (1, 0):  # marked as reduced, or only looking like it
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream) as writer:
            writer.write(CARD8[:18, :26][::1], photometric="rgb", subfiletype=flag, metadata=None)
            writer.write(np.tile(CARD8, (2, 2, 1))[:72, :104], photometric="rgb", subfiletype=0, metadata=None)
        found = decode(stream.getvalue())
        assert found.color.shape == (72, 104, 3)
        assert [loss.name for loss in found.losses] == ["thumbnail"]
        assert "26x18" in found.losses[0].text


def test_compressions_not_read_are_named(tmp_path: Any) -> None:
    data = bytearray(tiff(CARD16, photometric="rgb"))
    place = data.index(b"\x03\x01\x03\x00\x01\x00\x00\x00") + 8
    data[place : place + 2] = (34887).to_bytes(2, "little")
    with pytest.raises(InputError, match="LERC is not supported"):
        decode(bytes(data))
    path = tmp_path / "a.tif"
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="LERC is not supported"):
        probe(path)


@pytest.mark.parametrize(
    ("pixels", "settings", "said"),
    [
        (CARD8.astype(np.int8), {"photometric": "rgb"}, "8-bit signed integer samples are not supported"),
        (CARD8, {"photometric": "rgb", "compression": "jpeg2000"}, "JPEG2000 is not supported"),
        (CARD8, {"photometric": "rgb", "compression": "png"}, "PNG is not supported"),
        (CARD8, {"photometric": "rgb", "compression": "webp"}, "WEBP is not supported; .*tiffcp"),
        (CARD8[..., 0] > 99, {"photometric": "mask"}, "MASK"),
        (CARD16[..., 0].astype(np.uint64), {"photometric": "minisblack"}, "64-bit samples .* 16-bit"),
        (
            np.stack([CARD8[..., 0]] * 4),
            {"photometric": "minisblack", "volumetric": True, "tile": (1, 16, 16)},
            "a volume of 4 slices",
        ),
    ],
)
def test_what_pillow_misreads_is_refused_by_name(
    pixels: Any, settings: dict[str, Any], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pillow takes signed samples for unsigned ones and one slice for the whole; libtiff speaks on stderr."""
    with pytest.raises(InputError, match=said):
        decode(tiff(pixels, **settings))
    assert capfd.readouterr().err == ""


_CAPPED = """
    import resource, sys
    from varestorer_cli.core.errors import InputError
    from varestorer_cli.core.image.reader import decode, probe, read_bytes
    import cv2, imagecodecs, tifffile
    def used():
        return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used() + (300 << 20),) * 2)
    for name in sys.argv[1:]:
        for how in (probe, lambda path: decode(read_bytes(path))):
            try:
                how(name)
            except InputError as error:
                assert "enough memory" not in str(error), (name, str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the cap on memory is Linux's")
def test_bombs_stay_below_a_memory_cap(tmp_path: Any) -> None:
    def bomb(packed: bytes, compression: int) -> bytes:
        pixels = np.zeros((16, 16, 3), np.uint16)
        data = bytearray(tiff(pixels, photometric="rgb", rowsperstrip=16))
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
            tags = file.pages[0].tags
            places = {code: tags[code].valueoffset for code in (259, 273, 279)}
        for code, value in ((259, compression), (273, len(data)), (279, len(packed))):
            size = 2 if code == 259 else 4
            data[places[code] : places[code] + size] = value.to_bytes(size, "little")
        return bytes(data) + packed

    deflate = zlib.compressobj(9)
    flat = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(600)) + deflate.flush()
    header = b"\0\0\0\rIHDR" + (16000).to_bytes(4, "big") * 2 + b"\x10\x06\0\0\0"
    end = zlib.crc32(header[4:]).to_bytes(4, "big")
    files = {
        "deflate.tif": bomb(flat, 8),
        "packbits.tif": bomb(b"\x81\0" * 4_000_000, 32773),
        "header.png": b"\x89PNG\r\n\x1a\n" + header + end + b"\0\0\0\x08IDAT" + bytes(12),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    heads = {"sparse.tif": b"II*\0\x08\0\0\0", "sparse.png": b"\x89PNG\r\n\x1a\n", "sparse.webp": b"RIFF\0\0\0\0WEBP"}
    heads |= {"sparse.jpg": b"\xff\xd8\xff\xe0", "sparse.gif": b"GIF89a", "zeros.png": b""}
    for name, head in heads.items():
        for size in (3 << 30, 40 << 30):
            with (tmp_path / f"{size >> 30}-{name}").open("wb") as stream:
                stream.write(head)
                stream.truncate(size)
    names = [str(tmp_path / name) for name in files]
    names += [str(tmp_path / f"{size}-{name}") for name in heads for size in (3, 40)]
    command = [sys.executable, "-c", textwrap.dedent(_CAPPED), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_gif_without_blocks_is_not_searched_byte_by_byte(tmp_path: Any) -> None:
    path = tmp_path / "zeros.gif"
    path.write_bytes(b"GIF89a\x09\0\x08\0\0\0\0" + bytes(1 << 20))
    assert probe(path) == (9, 8)
    with pytest.raises(InputError, match="no image follows its header"):
        decode(path.read_bytes())


def test_probe_reads_tiff(tmp_path: Any) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(CARD16, photometric="rgb"))
    assert probe(path) == (CARD16.shape[1], CARD16.shape[0])


def test_profile_of_inks_is_used_at_both_depths() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    inks = _RNG.integers(0, 256, (8, 8, 4), np.uint8)
    plain = decode(tiff(inks, photometric="separated")).color
    np.testing.assert_array_equal(decode(tiff(inks, photometric="separated", iccprofile=srgb)).color, plain)


def test_planes_of_jpeg_are_read_through_the_other_reader() -> None:
    planes = np.moveaxis(CARD16 >> 8, -1, 0).astype(np.uint8)
    data = tiff(planes, photometric="rgb", planarconfig="separate", compression="jpeg", compressionargs={"level": 100})
    assert np.abs(decode(data).color.astype(int) - (CARD16 >> 8)).max() <= 3


@pytest.mark.parametrize("white", [(0.3127, 0.3290), None])
def test_lab_is_relative_to_the_white_that_the_file_states(white: tuple[float, float] | None) -> None:
    """OpenCV's Lab is that of D65; without a white point the file's is taken for that of D50."""
    card = photo(16, 24)
    lab = cv2.cvtColor(card.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    stored = np.stack([np.rint(lab[..., 0] * 2.55), *np.rint(np.moveaxis(lab[..., 1:], -1, 0))], -1)
    tags: list[Any] = [] if white is None else [(318, 5, 2, (3127, 10000, 3290, 10000), True)]
    data = tiff(stored.astype(np.int16).astype(np.uint8), photometric="cielab", extratags=tags)
    differences = np.abs(decode(data).color.astype(int) - card)
    assert (differences.mean() < 1.5 and differences.max() < 16) == (white is not None), differences.mean()


@pytest.mark.parametrize("compression", ["jpeg2000", "lerc", "png", "webp", "jpegxl"])
def test_a_compression_that_is_not_read_is_named_and_not_called_damage(compression: str) -> None:
    with pytest.raises(InputError, match=r"TIFF compression \w+ is not supported; convert it first: tiffcp"):
        decode(tiff((CARD16 >> 8).astype(np.uint8), photometric="rgb", compression=compression))


def with_tags(data: bytes, **values: Any) -> bytes:
    """A file with other values of tags that it has."""
    stream = io.BytesIO(data)
    with tifffile.TiffFile(stream) as file:
        for name, value in values.items():
            file.pages[0].tags[name].overwrite(value)  # type: ignore[union-attr]
    return stream.getvalue()


@pytest.mark.parametrize("compression", [None, "lzw", "packbits", "zlib"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_one_bit_of_a_large_file(compression: str | None, white_is_zero: bool) -> None:
    page = CARD8[..., 0] > 127
    kind = "miniswhite" if white_is_zero else "minisblack"
    found = decode(tiff(page, photometric=kind, bigtiff=True, compression=compression))
    np.testing.assert_array_equal(found.color[..., 0], np.where(page ^ white_is_zero, 255, 0))
    assert [loss.name for loss in found.losses] == ["bilevel"]


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", "raw"])
def test_pages_of_a_fax(compression: str) -> None:
    page = CARD8[..., 0] > 127
    stream = io.BytesIO()
    images = [Image.fromarray(pixels) for pixels in (page, ~page)]
    images[0].save(stream, "TIFF", compression=compression, save_all=True, append_images=images[1:])
    gray = np.where(page, 255, 0)
    assert images[0].mode == "1"
    for pages, expected in (("all", [gray, 255 - gray]), ("2", [255 - gray]), ("first", [gray])):
        found = decode(stream.getvalue(), pages=pages)
        np.testing.assert_array_equal([one.color[..., 0] for one in found.pages], expected)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_several_channels_of_one_bit(planes: str) -> None:
    card = (CARD8 > 127).astype(np.uint8)
    # tifffile writes no such file: bits of each row one after another, or plane by plane.
    rows = np.moveaxis(card, -1, 0).reshape(-1, 53) if planes == "separate" else card.reshape(37, -1)
    body = b"".join(np.packbits(row).tobytes() for row in rows)
    strips = [len(body) // 3] * 3 if planes == "separate" else [len(body)]
    tags = [(256, 3, 1, 53), (257, 3, 1, 37), (258, 3, 1, 1), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
    tags += [(278, 3, 1, 37), (284, 3, 1, 2 if planes == "separate" else 1)]
    start = 8 + 2 + 12 * 10 + 4
    offsets = [start + 24 + sum(strips[:i]) for i in range(len(strips))]
    far = len(strips) > 1
    tags += [
        (273, 4, len(strips), start if far else offsets[0]),
        (279, 4, len(strips), start + 12 if far else strips[0]),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + bytes(4)
    values = struct.pack("<6I", *(offsets + [0] * 3)[:3], *(strips + [0] * 3)[:3])
    data = b"II*\0" + struct.pack("<I", 8) + directory + values + body
    np.testing.assert_array_equal(decode(data).color, card * np.uint8(255))


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_uncompressed_ycbcr_with_coarser_colour_is_read(across: int, down: int) -> None:
    """Units of across x down values of Y, then Cb and Cr (TIFF 6.0, section 21)."""
    height, width = 8, 16
    y = np.full((height, width), 120, np.uint8)
    y[:, 8:] = 180
    units = []
    for top in range(0, height, down):
        for left in range(0, width, across):
            units.append(y[top : top + down, left : left + across].tobytes() + bytes([100, 150]))
    body = b"".join(units)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 146), (259, 3, 1, 1), (262, 3, 1, 6), (277, 3, 1, 3)]
    tags += [(273, 4, 1, 152), (278, 3, 1, height), (279, 4, 1, len(body)), (530, 3, 2, across | down << 16)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8) + directory + bytes(146 - 8 - len(directory)) + struct.pack("<3H", 8, 8, 8)
    found = decode(data + body)
    right = np.array([[120 + 1.402 * 22, 120 + 0.344 * 28 - 0.714 * 22, 120 - 1.772 * 28]]) + np.array([[0], [60]])
    np.testing.assert_allclose(found.color[4, [2, 13]], right, atol=2)


@pytest.mark.parametrize(
    ("unit", "x", "y", "named"),
    [
        (1, (2, 1), (1, 1), ["aspect"]),
        (1, (1, 1), (1, 1), []),
        (2, (300, 1), (150, 1), []),
        (2, (5_000_000, 1), (5_000_000, 1), ["resolution"]),
        (2, (0, 1), (0, 1), []),
    ],
)
def test_a_resolution_that_no_output_says_is_named(
    unit: int, x: tuple[int, int], y: tuple[int, int], named: list[str]
) -> None:
    data = tiff(CARD8, photometric="rgb", resolution=(72, 72), resolutionunit="inch")
    found = decode(with_tags(data, XResolution=x, YResolution=y, ResolutionUnit=unit))
    assert [loss.name for loss in found.losses] == named
    assert found.extras.dpi == ((x[0], y[0]) if unit == 2 and not named and x[0] else None)


def test_a_palette_of_floats_is_refused_by_name() -> None:
    colormap = (320, 3, 768, [0] * 768, True)
    data = tiff(CARD8[..., 0].astype(np.float16), photometric="minisblack", extratags=[colormap])
    with pytest.raises(InputError, match="palette with floating point"):
        decode(with_tags(data, PhotometricInterpretation=3))
