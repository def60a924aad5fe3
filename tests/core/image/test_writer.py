import errno
import io
import itertools
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from conftest import photo
from PIL import Image, ImageCms

from varestorer_cli.core.atomic import allocate, atomic_file
from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.image import writer
from varestorer_cli.core.image.exif import Exif, ExifTag
from varestorer_cli.core.image.image_data import Extras, OutputImage
from varestorer_cli.core.image.png import write_png
from varestorer_cli.core.image.reader import decode
from varestorer_cli.core.image.resample import to_depth
from varestorer_cli.core.image.writer import SCENE, check_side, losses_of, read_software, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = Exif(
    "<",
    {0x010F: ExifTag(2, 7, b"Camera\0"), 0x010E: ExifTag(2, 9, b"a scan \xe9\0"), 0x8298: ExifTag(2, 3, b"me\0")},
    {0x9003: ExifTag(2, 20, b"2001:02:03 04:05:06\0"), 0x829A: ExifTag(5, 1, bytes([1, 0, 0, 0, 250, 0, 0, 0]))},
    {1: ExifTag(2, 2, b"N\0")},
)
EXTRAS = Extras(SRGB, EXIF, b"<x:xmpmeta>caf\xc3\xa9</x:xmpmeta>", (300.0, 300.0))
LOSSLESS = [ImageFormat.PNG, ImageFormat.TIFF]


def write(color: Any, format: ImageFormat, *, gray: bool = False, alpha: Any = None, extras: Extras = EXTRAS) -> bytes:
    rows = (
        None if alpha is None else lambda top, bottom: alpha[top:bottom].astype(np.float32) / np.iinfo(alpha.dtype).max
    )
    stream = io.BytesIO()
    write_image(stream, OutputImage(color, gray, rows, extras), format, 95, "varestorer test; fingerprint 0")
    return stream.getvalue()


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("clear", [False, True])
def test_pixels_survive(format: ImageFormat, depth: int, gray: bool, clear: bool) -> None:
    color = photo(37, 53, 1 if gray else 3, depth)
    alpha = photo(37, 53, 1, depth, seed=3)[..., 0] if clear else None
    extras = Extras()
    opened = decode(write(np.broadcast_to(color, (37, 53, 3)), format, gray=gray, alpha=alpha, extras=extras))
    assert (opened.gray, opened.depth) == (gray, depth)
    np.testing.assert_array_equal(opened.color, color)
    if clear:
        np.testing.assert_array_equal(opened.alpha, alpha)
    else:
        assert opened.alpha is None


@pytest.mark.parametrize("format", LOSSLESS)
def test_large_images_are_written_in_strips(format: ImageFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varestorer_cli.core.image.image_data._STRIP_BYTES", 4000)
    color = photo(101, 67, depth=16)
    np.testing.assert_array_equal(decode(write(color, format)).color, color)


@pytest.mark.parametrize("format", [ImageFormat.PNG, ImageFormat.TIFF, ImageFormat.JPEG, ImageFormat.WEBP])
@pytest.mark.parametrize("order", ["<", ">"])
def test_metadata_survives(format: ImageFormat, order: str) -> None:
    exif = EXIF
    if order == ">":
        exif = Exif(">", EXIF.main, {**EXIF.photo, 0x829A: ExifTag(5, 1, bytes([0, 0, 0, 1, 0, 0, 0, 250]))}, EXIF.gps)
    extras = decode(write(photo(), format, extras=Extras(SRGB, exif, EXTRAS.xmp, EXTRAS.dpi))).extras
    assert extras.icc == SRGB
    assert extras.xmp == EXTRAS.xmp
    assert extras.exif is not None
    assert extras.exif.main[0x010F].value == b"Camera\0"
    assert extras.exif.main[0x010E].value == EXIF.main[0x010E].value
    assert extras.exif.text(0x8298) == "me"
    assert extras.exif.text(0x0131) == "varestorer test; fingerprint 0"
    assert extras.exif.photo[0x9003].value == EXIF.photo[0x9003].value
    assert extras.exif.photo[0x829A].value == exif.photo[0x829A].value
    assert extras.exif.gps[1].value == b"N\0"
    assert extras.dpi == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("format", [ImageFormat.PNG, ImageFormat.TIFF, ImageFormat.JPEG, ImageFormat.WEBP])
def test_other_readers_agree(format: ImageFormat) -> None:
    color = photo(40, 60)
    with Image.open(io.BytesIO(write(color, format))) as image:
        exif = image.getexif()
        assert exif[0x0131].startswith("varestorer test")
        assert exif.get_ifd(0x8769)[0x9003] == "2001:02:03 04:05:06"
        assert image.info["icc_profile"] == SRGB
        assert np.abs(np.asarray(image).astype(int) - color).mean() < 12


def test_tiff_is_one_page_that_tifffile_reads() -> None:
    color = photo(40, 60, depth=16)
    with tifffile.TiffFile(io.BytesIO(write(color, ImageFormat.TIFF))) as file:
        assert len(file.pages) == 1
        np.testing.assert_array_equal(file.pages[0].asarray(), color)
        assert file.pages[0].tags["ExifTag"].value["DateTimeOriginal"] == "2001:02:03 04:05:06"


def test_the_same_image_gives_the_same_bytes() -> None:
    for format in set(ImageFormat) - (set() if is_installed("vfx") else {ImageFormat.EXR, ImageFormat.DPX}):
        assert write(photo(), format) == write(photo(), format), format


@pytest.mark.parametrize("format", [ImageFormat.JPEG, ImageFormat.WEBP, ImageFormat.BMP])
def test_sixteen_bits_are_rounded_for_formats_of_eight(format: ImageFormat) -> None:
    color = photo(40, 60)
    deep = color.astype(np.uint16) * 257
    assert write(deep, format) == write(color, format)


def test_png_text_and_jpeg_segments_stay_in_their_format() -> None:
    extras = Extras(
        png_chunks=((b"tEXt", b"Author\0me"), (b"gAMA", b"\0\0\xb1\x8f")),
        jpeg_comments=(b"hello",),
        photoshop=b"8BIM\x04\x04\0\0\0\0\0\2ab",
    )
    png = decode(write(photo(), ImageFormat.PNG, extras=extras))
    assert {(b"tEXt", b"Author\0me"), (b"gAMA", b"\0\0\xb1\x8f")} <= set(png.extras.png_chunks)
    jpeg = decode(write(photo(), ImageFormat.JPEG, extras=extras))
    assert (jpeg.extras.jpeg_comments, jpeg.extras.photoshop) == (
        (b"hello",),
        b"8BIM\x04\x04\0\0\0\0\0\2ab",
    )


@pytest.mark.parametrize(
    ("format", "names"),
    [
        (ImageFormat.PNG, ["iptc", "comment"]),
        (ImageFormat.TIFF, ["iptc", "comment", "text"]),
        (ImageFormat.JPEG, ["depth", "alpha", "text"]),
        (ImageFormat.WEBP, ["depth", "iptc", "comment", "text"]),
        (ImageFormat.BMP, ["depth", "alpha", "icc", "exif", "xmp", "iptc", "comment", "text"]),
    ],
)
def test_every_loss_has_a_name(format: ImageFormat, names: list[str]) -> None:
    extras = Extras(SRGB, EXIF, b"<x>", None, ((b"tEXt", b"a\0b"),), b"hello", (b"x",))
    losses = losses_of(format, depth=16, alpha=True, source="PNG", extras=extras)
    assert [loss.name for loss in losses] == names
    assert losses_of(format, depth=8, alpha=False, source="PNG", extras=Extras()) == []


@pytest.mark.parametrize("gray", [False, True])
def test_a_jpeg_from_pixels_in_a_file_is_the_same(gray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photo(200, 300)
    output = OutputImage(pixels, gray, None, Extras())
    in_memory, released = io.BytesIO(), []
    write_image(in_memory, output, ImageFormat.JPEG, 100, "varestorer")
    monkeypatch.setattr(writer, "allocate", lambda *what: allocate(*what, limit=1))
    monkeypatch.setattr(writer, "_WRITES_PER_RELEASE", 1)
    monkeypatch.setattr(writer, "release", lambda array: released.append(type(array)))
    with (tmp_path / "a.jpg").open("wb+") as stream:
        write_image(stream, output, ImageFormat.JPEG, 100, "varestorer")
    assert (tmp_path / "a.jpg").read_bytes() == in_memory.getvalue()
    assert len(released) > 1 and set(released) == {np.memmap}
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_metadata_too_large_for_jpeg_is_dropped_and_said() -> None:
    huge = Exif("<", {0x010F: ExifTag(2, 70000, b"x" * 70000)})
    extras = Extras(exif=huge, xmp=b"y" * 70000)
    names = [loss.name for loss in losses_of(ImageFormat.JPEG, depth=8, alpha=False, source="JPEG", extras=extras)]
    assert names == ["exif", "xmp"]
    opened = decode(write(photo(), ImageFormat.JPEG, extras=extras))
    assert opened.extras.exif is not None and opened.extras.exif.text(0x0131)


def test_sides_too_long_for_a_format() -> None:
    check_side(ImageFormat.PNG, 100000, 5)
    with pytest.raises(InputError, match="20000x5 does not fit WebP, whose sides end at 16383; use --format png"):
        check_side(ImageFormat.WEBP, 20000, 5)
    with pytest.raises(InputError, match="JPEG"):
        check_side(ImageFormat.JPEG, 5, 70000)


@pytest.mark.parametrize("order", ["<", ">"])
def test_directories_are_added_to_big_tiff_too(order: Any) -> None:
    from varestorer_cli.core.image.tiff_writer import _append_directories

    stream = io.BytesIO()
    tifffile.imwrite(stream, photo(), photometric="rgb", bigtiff=True, byteorder=order, metadata=None)
    _append_directories(stream, [(0x8825, {1: ExifTag(2, 2, b"N\0")})], order, 0)
    with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as file:
        assert file.is_bigtiff and len(file.pages) == 1
        np.testing.assert_array_equal(file.pages[0].asarray(), photo())
        assert file.pages[0].tags["GPSTag"].value == {"GPSLatitudeRef": "N"}


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_tiff_metadata_is_read_back(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varestorer_cli.core.image.tiff_writer._LARGE_TIFF", 100)
    exif = Exif(order, EXIF.main, {0x9003: EXIF.photo[0x9003]}, EXIF.gps)
    data = write(photo(), ImageFormat.TIFF, extras=Extras(exif=exif))
    assert data[2:4] in (b"+\0", b"\0+")
    read = decode(data).extras.exif
    assert read is not None
    assert read.photo == exif.photo and read.gps == exif.gps and read.text(0x010F) == "Camera"


def test_iptc_of_a_tiff_stays_in_a_tiff() -> None:
    exif = Exif("<", {33723: ExifTag(7, 6, b"\x1c\x02\x05\0\x01x"), 0x010F: ExifTag(2, 7, b"Camera\0")})
    extras = Extras(exif=exif)
    assert losses_of(ImageFormat.TIFF, depth=8, alpha=False, source="TIFF", extras=extras) == []
    read = decode(write(photo(), ImageFormat.TIFF, extras=extras)).extras.exif
    assert read is not None and read.main[33723] == exif.main[33723]
    for format in (ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP):
        (loss,) = losses_of(format, depth=8, alpha=False, source="TIFF", extras=extras)
        assert loss.name == "iptc"
        read = decode(write(photo(), format, extras=extras)).extras.exif
        assert read is not None and read.text(0x010F) == "Camera" and 33723 not in read.main


@pytest.mark.parametrize(
    ("chunk", "lost"),
    [
        ((b"cICP", bytes([9, 16, 0, 1])), True),  # BT.2020 with the PQ curve: HDR
        ((b"cICP", bytes([1, 13, 0, 1])), False),
        ((b"gAMA", (100000).to_bytes(4, "big")), True),
        ((b"gAMA", (45455).to_bytes(4, "big")), False),
        (
            (b"cHRM", b"".join(v.to_bytes(4, "big") for v in (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))),
            True,
        ),
    ],
)
def test_png_colour_that_is_not_srgb_is_kept_or_said(chunk: tuple[bytes, bytes], lost: bool) -> None:
    extras = Extras(png_chunks=(chunk,))
    for format in (ImageFormat.TIFF, ImageFormat.JPEG, ImageFormat.WEBP):
        names = [loss.name for loss in losses_of(format, depth=8, alpha=False, source="PNG", extras=extras)]
        assert names == (["colour"] if lost else [])
    assert losses_of(ImageFormat.PNG, depth=8, alpha=False, source="PNG", extras=extras) == []
    assert chunk in decode(write(photo(), ImageFormat.PNG, extras=extras)).extras.png_chunks


@pytest.mark.parametrize("format", [ImageFormat.PNG, ImageFormat.TIFF, ImageFormat.JPEG, ImageFormat.WEBP])
def test_interoperability_and_maker_note_survive(format: ImageFormat) -> None:
    note = ExifTag(7, 12, b"maker note..")
    interop = {1: ExifTag(2, 4, b"R03\0"), 2: ExifTag(7, 4, b"0100")}
    extras = Extras(exif=Exif("<", EXIF.main, {**EXIF.photo, 0x927C: note}, EXIF.gps, interop, 600))
    read = decode(write(photo(), format, extras=extras)).extras.exif
    assert read is not None and read.interop == interop and read.photo[0x927C] == note
    names = [loss.name for loss in losses_of(format, depth=8, alpha=False, source="JPEG", extras=extras)]
    if format == ImageFormat.TIFF:
        assert names == ["makernote"]
    else:
        assert names == [] and read.note_offset == 600


@pytest.mark.parametrize("format", [ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP])
@pytest.mark.parametrize(("more", "moves"), [(0, True), (12, False)])
def test_a_maker_note_moves_where_the_entries_that_are_added_need_its_place(
    format: ImageFormat, more: int, moves: bool
) -> None:
    """Software always, and the resolution in a WebP: each is an entry of 12 bytes before the note."""
    added = 4 if format == ImageFormat.WEBP else 1
    at = 8 + 6 + 12 * (2 + added) - 12 + more  # behind a directory of Make, the pointer and what is added
    note = ExifTag(7, 40, b"maker" + bytes(35))
    exif = Exif("<", {0x010F: ExifTag(2, 7, b"Camera\0")}, {0x927C: note}, note_offset=at)
    extras = Extras(exif=exif, dpi=(300.0, 300.0))
    losses = losses_of(format, depth=8, alpha=False, source="JPEG", extras=extras)
    assert [(loss.name, loss.strict) for loss in losses] == ([("makernote", True)] if moves else [])
    read = decode(write(photo(), format, extras=extras)).extras.exif
    assert read is not None and read.photo[0x927C] == note and (read.note_offset != at) == moves


def test_a_maker_note_of_four_bytes_holds_no_offsets() -> None:
    extras = Extras(exif=Exif("<", EXIF.main, {0x927C: ExifTag(7, 4, b"note")}))
    for format in (ImageFormat.TIFF, ImageFormat.JPEG):
        assert losses_of(format, depth=8, alpha=False, source="JPEG", extras=extras) == []


@pytest.mark.parametrize(("length", "lost"), [(65500 - 100, False), (65500 - 60, True)])
def test_exif_that_only_our_own_entry_makes_too_large_for_jpeg_is_said(length: int, lost: bool) -> None:
    software = "varestorer test; fingerprint 0"  # 31 bytes and an entry
    extras = Extras(exif=Exif("<", {0x010E: ExifTag(2, length, b"x" * length)}))
    losses = losses_of(ImageFormat.JPEG, depth=8, alpha=False, source="JPEG", extras=extras, software=software)
    assert [loss.name for loss in losses] == (["exif"] if lost else [])
    read = decode(write(photo(), ImageFormat.JPEG, extras=extras)).extras.exif
    assert read is not None and (0x010E in read.main) == (not lost)


def test_a_gray_profile_does_not_go_into_a_webp() -> None:
    gray = b"\0" * 16 + b"GRAY" + b"\0" * 16 + b"acsp" + b"\0" * 88
    extras = Extras(icc=gray)
    assert [loss.name for loss in losses_of(ImageFormat.WEBP, depth=8, alpha=False, source="PNG", extras=extras)] == [
        "icc"
    ]
    assert decode(write(photo(), ImageFormat.WEBP, gray=True, extras=extras)).extras.icc == b""
    assert decode(write(photo(), ImageFormat.PNG, gray=True, extras=extras)).extras.icc == gray


def test_the_software_field_of_a_image_beyond_pillows_limit_is_read(tmp_path: Path) -> None:
    """Results are often larger than what Pillow takes for an attack; an unread field makes them look foreign."""
    data = bytearray(write(photo(), ImageFormat.PNG))
    data[16:24] = struct.pack(">II", 20000, 20000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "large.png").write_bytes(data)
    assert read_software(tmp_path / "large.png") == "varestorer test; fingerprint 0"


def test_a_resolution_that_no_device_has_is_dropped() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, photo(depth=16), photometric="rgb", metadata=None, resolution=(4e9, 4e9), resolutionunit=2)
    opened = decode(stream.getvalue())
    assert opened.extras.dpi is None
    for format in (ImageFormat.PNG, ImageFormat.TIFF, ImageFormat.JPEG, ImageFormat.WEBP):
        assert decode(write(opened.color, format, extras=opened.extras)).color.shape == (24, 32, 3)


def skip_without_oiio(format: ImageFormat) -> None:
    if format in SCENE:
        pytest.importorskip("OpenImageIO")


@pytest.mark.parametrize("format", list(ImageFormat))
@pytest.mark.parametrize("missing", [1, 4000])
def test_a_file_that_is_cut_off_while_it_is_written_never_gets_its_name(
    format: ImageFormat, missing: int, tmp_path: Path
) -> None:
    """A limit on the size of files makes the last write short, as a full disk does."""
    resource = pytest.importorskip("resource")
    skip_without_oiio(format)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    size = len(write(noise, format))
    assert size > missing
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, before[1]))
    try:
        # OpenImageIO writes a temporary file of its own, whose fault is the input's failure.
        expected: type[Exception] = InputError if format in SCENE else OutputError
        with pytest.raises(expected, match=r"cannot be (written|encoded)"), atomic_file(tmp_path / "a.out") as stream:
            write_image(stream, OutputImage(noise, False, None, EXTRAS), format, 95, "varestorer test; fingerprint 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


class FailingFile(io.BufferedRandom):
    """A file whose n-th write, or whose end, fails as a full or broken disk does."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(io.FileIO(path, "wb+"))
        self.fault, self.writes = fault, 0

    def write(self, data: Any, /) -> int:
        self.writes += 1
        if self.fault == f"write {self.writes}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def flush(self) -> None:
        super().flush()
        if self.fault == "flush":
            raise OSError(errno.EIO, "Input/output error")

    def close(self) -> None:
        super().close()
        if self.fault == "close":
            self.fault = ""
            raise OSError(errno.EDQUOT, "Disk quota exceeded")


WRITTEN_AT_ONCE = (ImageFormat.WEBP, ImageFormat.JPEG, *SCENE)


@pytest.mark.parametrize(
    ("format", "fault"),
    [
        *itertools.product(ImageFormat, ["write 1", "flush", "fsync", "close"]),
        *((format, "write 2") for format in ImageFormat if format not in WRITTEN_AT_ONCE),
    ],
)
def test_every_failure_of_a_file_counts_for_every_format(
    format: ImageFormat, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_oiio(format)
    plain, failed = Path.open, []

    def open_file(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if mode != "wb+":
            return plain(path, mode, *args, **more)
        failed.append(FailingFile(path, fault))
        return failed[-1]

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", open_file)
    if fault == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    with pytest.raises(OutputError, match="cannot be written"), atomic_file(tmp_path / "a.out") as stream:
        write_image(stream, OutputImage(noise, False, None, EXTRAS), format, 95, "varestorer test; fingerprint 0")
    assert len(failed) == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("even", [False, True])
def test_png_pixels_come_back_and_stay_small(dtype: type, gray: bool, even: bool) -> None:
    """Photograph-like and even images, over several blocks of lines, against Pillow's encoder at its default level."""
    y, x = np.mgrid[:700, :900]
    smooth = 0.5 + 0.3 * np.sin(x / 40) * np.cos(y / 55) + np.random.default_rng(0).normal(0, 0.01, (700, 900))
    plane = (np.hypot(x - 400, y - 300) < 250).astype(float) if even else smooth
    pixels = to_depth(np.repeat(plane[..., None], 3, 2).astype(np.float32), dtype)
    pixels[..., 2] = pixels[..., 0] if gray else pixels[::-1, :, 0]
    stream = io.BytesIO()
    write_png(stream, OutputImage(pixels, gray, None, Extras()), "s")
    found = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, pixels[..., 0] if gray else pixels[..., ::-1])
    other = io.BytesIO()
    if dtype == np.uint8:
        Image.fromarray(pixels[..., 0] if gray else pixels).save(other, "PNG")
        assert len(stream.getvalue()) < 1.1 * len(other.getvalue()) + 1000
