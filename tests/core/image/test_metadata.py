"""Metadata of files as cameras and programs write them: kept, fitted to the output, or named."""

import io
import struct
import zlib
from pathlib import Path
from xml.dom import minidom

import pytest
from conftest import photo
from PIL import Image

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.image import exif, jpeg, png, xmp
from varestorer_cli.core.image.geometry import Geometry
from varestorer_cli.core.image.image_data import DecodedImage, Loss, OutputImage
from varestorer_cli.core.image.metadata import fitted
from varestorer_cli.core.image.reader import decode, probe
from varestorer_cli.core.image.writer import write_image

CASES = Path(__file__).parents[2] / "data" / "cases"


def read(name: str) -> DecodedImage:
    return decode((CASES / name).read_bytes())


def losses(image: DecodedImage) -> list[str]:
    assert all(loss.strict for loss in image.losses)
    return sorted(loss.name for loss in image.losses)


def rewritten(image: DecodedImage, format: ImageFormat, scale: int = 4) -> DecodedImage:
    """The image, enlarged by repeating pixels, written and read again."""
    size = (image.width * scale, image.height * scale)
    pixels = image.model_input().repeat(scale, 0).repeat(scale, 1)
    stream = io.BytesIO()
    write_image(stream, OutputImage(pixels, image.gray, None, fitted(image, size)), format, 95, "varestorer")
    return decode(stream.getvalue())


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("ultrahdr.jpg", ["gainmap"]),
        ("motionphoto.jpg", ["video"]),
        ("app11_c2pa.jpg", ["c2pa"]),
        ("icc_part_missing.jpg", ["icc"]),
        ("jfif_aspect.jpg", ["aspect"]),
        ("bkgd_time_scal.png", ["background", "c2pa", "scale", "time"]),
        ("exif_before_xmp_after.png", []),  # orientation 6
        ("ifd0_size_subject.jpg", []),
        ("xmp_sizes.jpg", []),
        ("gpano.jpg", []),
        ("irb_thumbnail.jpg", []),
        ("ztxt_2M.png", []),
        ("itxt_xmp_2M_compressed.png", []),
    ],
)
def test_cases(name: str, named: list[str]) -> None:
    image = read(name)
    assert losses(image) == named
    assert (image.width, image.height) == probe(CASES / name)
    assert (image.width, image.height) == ((64, 96) if image.orientation == 6 else (96, 64))


@pytest.mark.parametrize("name", ["ultrahdr.jpg", "motionphoto.jpg"])
@pytest.mark.parametrize("format", [ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.TIFF, ImageFormat.WEBP])
def test_xmp_claims_nothing_that_is_gone(name: str, format: ImageFormat) -> None:
    packet = rewritten(read(name), format).extras.xmp
    minidom.parseString(packet)
    for word in (b"hdrgm:", b"Directory", b"MotionPhoto", b"MicroVideo", b"GainMap"):
        assert word not in packet


def test_xmp_behind_the_pixels_is_kept() -> None:
    image = read("exif_before_xmp_after.png")
    assert b"xmpmeta" in image.extras.xmp and image.extras.exif is not None
    assert rewritten(image, ImageFormat.PNG).extras.xmp == image.extras.xmp


def test_long_texts_of_a_png() -> None:
    image = read("ztxt_2M.png")
    assert [name for name, _ in image.extras.png_chunks] == [b"zTXt"]
    assert len(read("itxt_xmp_2M_compressed.png").extras.xmp) > 1_000_000


def test_exif_sizes_follow_the_output() -> None:
    tree = rewritten(read("ifd0_size_subject.jpg"), ImageFormat.JPEG).extras.exif
    assert tree is not None
    values = {tag: struct.unpack(f"{tree.order}{len(e.value) // 2}H", e.value) for tag, e in tree.photo.items()}
    assert (tree.short(exif.IMAGE_WIDTH), tree.short(exif.IMAGE_HEIGHT)) == (384, 256)
    assert values[exif.SUBJECT_AREA] == (192, 128, 80, 80)
    assert values[exif.SUBJECT_LOCATION] == (192, 128)
    assert tree.photo[exif.FOCAL_X_RESOLUTION].value == struct.pack(tree.order + "II", 1200, 1)


def test_xmp_sizes_follow_the_output() -> None:
    packet = rewritten(read("xmp_sizes.jpg"), ImageFormat.PNG).extras.xmp
    for said in (b'tiff:ImageWidth="384"', b'tiff:ImageLength="256"', b'exif:PixelXDimension="384"'):
        assert said in packet
    packet = rewritten(read("gpano.jpg"), ImageFormat.PNG).extras.xmp
    for said in (b'FullPanoWidthPixels="384"', b'CroppedAreaImageHeightPixels="256"', b'CroppedAreaLeftPixels="0"'):
        assert said in packet


def test_the_thumbnail_of_photoshop_is_left_out_and_the_caption_stays() -> None:
    resources = rewritten(read("irb_thumbnail.jpg"), ImageFormat.JPEG).extras.photoshop
    assert b"Caption" in resources and b"\xff\xd8" not in resources and b"8BIM\x04\x0c" not in resources


# --- coordinates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_point_goes_where_its_pixel_goes(orientation: int) -> None:
    """Held against the pixels of the reader: one bright pixel, found again in the upright image."""
    pixels = photo(20, 30) // 4
    pixels[3, 7] = 255
    tags = Image.Exif()
    tags[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=tags)
    image = decode(stream.getvalue())
    row, column = divmod(int(image.color.min(axis=2).argmax()), image.width)
    geometry = Geometry(image.orientation, (image.width, image.height), (image.width * 2, image.height * 2))
    assert geometry.point(7.5, 3.5) == ((column + 0.5) * 2, (row + 0.5) * 2)
    assert geometry.stored == (30, 20)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" {}>{}</rdf:Description></rdf:RDF></x:xmpmeta>'
)


def packet(namespaces: str, body: str) -> bytes:
    return XMP.format(namespaces, body).encode()


def test_regions_of_faces_turn_with_the_image() -> None:
    regions = packet(
        'xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
        'xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" '
        'xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"',
        '<mwg-rs:Regions rdf:parseType="Resource">'
        '<mwg-rs:AppliedToDimensions stDim:w="100" stDim:h="50" stDim:unit="pixel"/>'
        '<mwg-rs:RegionList><rdf:Bag><rdf:li rdf:parseType="Resource">'
        '<mwg-rs:Area stArea:x="0.1" stArea:y="0.2" stArea:w="0.05" stArea:h="0.4" stArea:unit="normalized"/>'
        "</rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>",
    )
    after = xmp.fitted(regions, Geometry(6, (50, 100), (100, 200)))
    assert b'stDim:w="100" stDim:h="200"' in after
    assert b'stArea:x="0.8" stArea:y="0.1" stArea:w="0.4" stArea:h="0.05"' in after


def test_a_panorama_that_covers_a_part() -> None:
    before = packet(
        'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"',
        "<GPano:FullPanoWidthPixels>400</GPano:FullPanoWidthPixels>"
        "<GPano:FullPanoHeightPixels>200</GPano:FullPanoHeightPixels>"
        "<GPano:CroppedAreaImageWidthPixels>100</GPano:CroppedAreaImageWidthPixels>"
        "<GPano:CroppedAreaImageHeightPixels>50</GPano:CroppedAreaImageHeightPixels>"
        "<GPano:CroppedAreaLeftPixels>30</GPano:CroppedAreaLeftPixels>"
        "<GPano:CroppedAreaTopPixels>20</GPano:CroppedAreaTopPixels>",
    )
    after = xmp.fitted(before, Geometry(3, (100, 50), (200, 100)))
    for said in (b"FullPanoWidthPixels>800<", b"CroppedAreaLeftPixels>540<", b"CroppedAreaTopPixels>260<"):
        assert said in after


def test_a_packet_without_sizes_is_copied_byte_for_byte() -> None:
    plain = (
        b"<?xpacket begin='' id='x'?>\n"
        + packet('xmlns:dc="d"', "<dc:title>a &amp; b</dc:title>")
        + b"\n<?xpacket end='w'?>"
    )
    assert xmp.fitted(plain, Geometry(1, (8, 8), (32, 32))) == plain
    assert xmp.without_claims(plain, []) == plain


def test_xmp_orientation_is_reset_in_text_that_is_no_xml() -> None:
    turned = Geometry(6, (8, 8), (32, 32))
    assert xmp.fitted(b'<x tiff:Orientation="6"/>', turned) == b'<x tiff:Orientation="1"/>'
    assert xmp.fitted(b"<tiff:Orientation>8</", turned) == b"<tiff:Orientation>1</"


def test_entities_do_not_expand() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 10000 + b'">'
    for name, inner in zip("bcdefgh", "abcdefg", strict=True):
        bomb += f'<!ENTITY {name} "{f"&{inner};" * 50}">'.encode()
    bomb += b"]><x>&h;</x>"
    assert xmp.fitted(bomb, Geometry(1, (8, 8), (32, 32))) == bomb


# --- segments --------------------------------------------------------------------------------------------------------


def with_segments(*segments: bytes, behind: bytes = b"") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo(16, 24)).save(stream, "JPEG")
    data = stream.getvalue()
    return data[:2] + b"".join(segments) + data[2:] + behind


def test_unknown_segments_are_named_in_one_warning() -> None:
    data = with_segments(jpeg.segment(0xE3, b"Meta\0abc"), jpeg.segment(0xEA, b"\1\2"), jpeg.segment(0xEF, b"Q 100"))
    (loss,) = decode(data).losses
    assert (loss.name, loss.text[:45]) == ("segment", "the segments APP3 Meta, APP10, APP15 are dropp"[:45])


def test_all_comments_are_kept() -> None:
    image = decode(with_segments(jpeg.segment(0xFE, b"one"), jpeg.segment(0xFE, b"two")))
    assert rewritten(image, ImageFormat.JPEG).extras.jpeg_comments == (b"one", b"two")


@pytest.mark.parametrize(
    ("behind", "named"),
    [
        (b"\0" * 40, []),
        (b"SEFH" + bytes(range(60)), ["trailer"]),
        (b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data\0\0\0\x18ftypmp42", ["video"]),
        (with_segments(), ["frames"]),
        (with_segments(jpeg.segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0")), ["gainmap"]),
        (bytes(32) + with_segments() + b"rest of it", ["frames", "trailer"]),
    ],
)
def test_what_lies_behind_the_image(behind: bytes, named: list[str]) -> None:
    assert losses(decode(with_segments(behind=behind))) == named


def test_a_profile_in_parts() -> None:
    from encoding import SRGB

    head, tail = SRGB[:300], SRGB[300:]
    parts = [b"ICC_PROFILE\0" + bytes([n, 2]) + part for n, part in ((2, tail), (1, head))]
    image = decode(with_segments(*(jpeg.segment(0xE2, part) for part in parts)))
    assert image.extras.icc == SRGB and losses(image) == []


def test_damaged_exif_tags_are_counted() -> None:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110] = "Camera maker", "Camera model"
    block = bytearray(tags.tobytes()[6:])
    place = block.index(struct.pack("<HH" if block[:2] == b"II" else ">HH", 0x0110, 2)) + 8
    block[place : place + 4] = b"\xff\xff\xff\xff"
    (loss,) = decode(with_segments(jpeg.segment(0xE1, b"Exif\0\0" + bytes(block)))).losses
    assert (loss.name, loss.text) == ("exif", "1 EXIF tag is damaged and dropped")


@pytest.mark.parametrize("said", [b'{"shape": [9, 9, 3]}', b"ImageJ=1.11a\nimages=3", b"<OME>...</OME>"])
def test_a_description_of_the_old_pixels_is_left_out(said: bytes) -> None:
    tree = exif.Exif(main={exif.DESCRIPTION: exif.ExifTag(2, len(said) + 1, said + b"\0")})
    image = decode(with_segments(jpeg.segment(0xE1, b"Exif\0\0" + exif.build(tree))))
    assert losses(image) == ["description"]
    assert image.extras.exif is not None and exif.DESCRIPTION not in image.extras.exif.main


def test_dynamic_depth_that_is_left_out_is_named_once() -> None:
    said = packet(
        'xmlns:Device="http://ns.google.com/photos/dd/1.0/device/"',
        "<Device:VendorInfo>x</Device:VendorInfo><Device:Pose>y</Device:Pose>",
    )
    named: list[Loss] = []
    assert b"Device:" not in xmp.without_claims(said, named).replace(b"xmlns:Device", b"")
    assert [(loss.name, loss.strict) for loss in named] == [("depthmap", True)]


def test_a_packet_of_too_many_parts_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte of PNG can hold millions of tags, each of which takes 300 bytes in memory."""
    said = packet('xmlns:a="http://a/"', "<a:b/>" * (1 << 18))
    monkeypatch.setattr(xmp.minidom, "parseString", lambda text: pytest.fail("it was taken apart"))
    named: list[Loss] = []
    assert xmp.without_claims(said, named) == said and not named
    claim = said.replace(b"<a:b/>", b"<GPano:x/>", 1)
    assert xmp.without_claims(claim, named) == b"" and [loss.name for loss in named] == ["xmp"]


def test_compressed_texts_of_a_png_are_bounded_together() -> None:
    block = zlib.compress(bytes(1 << 24), 9)
    body = b"XML:com.adobe.xmp\0\1\0\0\0" + block
    found = png._collect([(b"iTXt", body)] * 5)
    assert len(found.xmp) == 1 << 24
    assert [loss.text for loss in found.losses].count("the XMP packet is damaged or too large and was dropped") == 3
