"""EXIF, maker notes, XMP and tags of TIFF files: read, changed, written again."""

import io

import pytest
import tifffile
from conftest import photo
from encoding import SRGB
from PIL import Image

from varestorer_cli.core.image.exif import MAKER_NOTE, ORIENTATION, Exif, ExifTag, build, parse
from varestorer_cli.core.image.geometry import Geometry
from varestorer_cli.core.image.image_data import OutputImage
from varestorer_cli.core.image.reader import decode
from varestorer_cli.core.image.tiff_writer import write_tiff


def test_exif_trees_survive_a_round_trip() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    exif.get_ifd(0x8769)[0xA002] = 18
    exif.get_ifd(0x8769)[0x927C] = b"maker note" * 5
    tree = parse(exif.tobytes())
    assert tree is not None and tree.short(ORIENTATION) == 6
    changed = tree.fitted(Geometry(6, (18, 12), (72, 48))).with_software("varestorer")
    again = Image.Exif()
    again.load(build(changed))
    assert (again[0x010F], again[0x0112], again[0x0131]) == ("Camera", 1, "varestorer")
    assert again.get_ifd(0x8769)[0xA002] == 72
    assert again.get_ifd(0x8769)[0x927C] == b"maker note" * 5


@pytest.mark.parametrize("length", [5, 300])
def test_a_maker_note_stays_where_its_own_offsets_count_from(length: int) -> None:
    """Its offsets count from the start of the block; a longer Software text must not move it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "Camera", "firmware"
    photo_tags = exif.get_ifd(0x8769)
    photo_tags[0x9003], photo_tags[0x9286] = "2001:02:03 04:05:06", b"comment" * 9
    photo_tags[0x927C] = b"maker" + bytes(200)
    photo_tags[0xA005] = {1: "R03", 2: b"0100"}
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    tree = parse(block)
    assert tree is not None and tree.note_offset == block.index(b"maker")
    changed = build(tree.with_software("x" * length))
    assert changed.index(b"maker") == tree.note_offset
    again = Image.Exif()
    again.load(changed)
    assert (again[0x010F], again[0x0131], again.get_ifd(0x8769)[0x9286]) == ("Camera", "x" * length, b"comment" * 9)
    assert again.get_ifd(0xA005) == {1: "R03", 2: b"0100"}
    assert parse(changed) == tree.with_software("x" * length)


def test_a_maker_note_without_room_moves() -> None:
    note = ExifTag(7, 9, b"maker" + bytes(4))
    crowded = Exif(photo={MAKER_NOTE: note}, note_offset=10)
    tree = parse(build(crowded))
    assert tree is not None and tree.photo == crowded.photo and tree.note_offset != 10


def test_exif_tags_in_the_first_directory_of_a_tiff_are_kept_and_private_ones_said() -> None:
    stream = io.BytesIO()
    more = [(0x829A, 5, 1, (1, 160), True), (33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(stream, photo(12, 18, depth=16), photometric="rgb", metadata=None, extratags=more)
    pixels = decode(stream.getvalue())
    assert pixels.extras.exif is not None and 0x829A in pixels.extras.exif.main
    output = io.BytesIO()
    write_tiff(output, OutputImage(pixels.color, False, None, pixels.extras), "x")
    assert decode(output.getvalue()).extras.exif.main[0x829A] == pixels.extras.exif.main[0x829A]  # type: ignore[union-attr]
    assert [(loss.name, loss.text[-17:]) for loss in pixels.losses] == [("tags", "is dropped (33550)"[-17:])]


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_never_raises(data: bytes) -> None:
    tree = parse(data)
    assert tree is None or tree.main == {}


def test_metadata_of_a_sixteen_bit_tiff() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        photo(12, 18, depth=16),
        photometric="rgb",
        iccprofile=SRGB,
        resolution=(300, 150),
        resolutionunit="inch",
        description="a scan",
        metadata=None,
        extratags=[(700, 1, 5, b"<xmp>", True), (271, 2, 7, b"Camera\0", True)],
    )
    extras = decode(stream.getvalue()).extras
    assert (extras.icc, extras.xmp, extras.dpi) == (SRGB, b"<xmp>", (300, 150))
    assert extras.exif is not None
    assert (extras.exif.text(0x010E), extras.exif.text(0x010F)) == ("a scan", "Camera")
