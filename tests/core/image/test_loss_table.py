"""Nothing in a file disappears without a name: blocks of every kind put into files, restored, looked for.

Each block carries a text of its own. It is in the output, or one warning more is given than without the block; only
the blocks listed here as storage may go silently. The table of the program is not asked.
"""

import io
import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import photo
from encoding import SRGB
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.image import exif
from varestorer_cli.core.image.image_data import OutputImage
from varestorer_cli.core.image.loss_table import fate_of, name_losses
from varestorer_cli.core.image.metadata import fitted
from varestorer_cli.core.image.reader import decode
from varestorer_cli.core.image.writer import losses_of, write_image

FORMATS = {
    "PNG": ImageFormat.PNG,
    "JPEG": ImageFormat.JPEG,
    "WebP": ImageFormat.WEBP,
    "TIFF": ImageFormat.TIFF,
    "AVIF": ImageFormat.PNG,
}


def restored(data: bytes) -> tuple[bytes, list[str]]:
    """The output in the input's own format, and all warnings."""
    image = decode(data)
    format = FORMATS[image.source]
    output = OutputImage(image.model_input(), image.gray, None, fitted(image, (image.width, image.height)))
    stream = io.BytesIO()
    write_image(stream, output, format, 90, "varestorer")
    lost = losses_of(format, depth=8, alpha=False, source=image.source, extras=image.extras)
    return stream.getvalue(), [loss.text for loss in image.losses + lost]


def plain(format: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo(8, 12)).save(stream, format)
    return stream.getvalue()


def check(build: Callable[[list[int]], bytes], texts: list[bytes], silent: set[int]) -> None:
    """Restore a file with all blocks, then without each that is gone: its warning goes with it."""
    everything = list(range(len(texts)))
    output, warnings = restored(build(everything))
    readable = output + b"".join(_inflated(output))
    for number, text in enumerate(texts):
        if text in readable:
            continue
        _, without = restored(build([n for n in everything if n != number]))
        if number in silent:
            assert without == warnings
        else:
            assert sorted(without) != sorted(warnings), text


def _inflated(data: bytes) -> list[bytes]:
    """Compressed texts and profiles of a PNG."""
    found = []
    for name in (b"zTXt", b"iTXt", b"iCCP"):
        place = 0
        while (place := data.find(name, place)) > 0:
            start = data.find(b"x\x9c", place, place + 99)
            if start > 0:
                found.append(zlib.decompressobj().decompress(data[start:]))
            place += 4
    return found


def text_of(number: int) -> bytes:
    return b"block%05d" % number


# --- PNG -------------------------------------------------------------------------------------------------------------

PNG_BODIES: dict[bytes, Callable[[bytes], bytes]] = {
    b"tEXt": lambda text: b"Comment\0" + text,
    b"zTXt": lambda text: b"Title\0\0" + zlib.compress(text),
    b"iTXt": lambda text: b"Author\0\0\0\0\0" + text,
    b"bKGD": lambda text: text[-6:],
    b"tIME": lambda text: text[:7],
    b"sCAL": lambda text: b"\1" + text + b"\0" + b"1",
    b"pCAL": lambda text: text + b"\0" + bytes(10) + b"m\0a\0b",
    b"oFFs": lambda text: text[:9],
    b"sPLT": lambda text: text + b"\0\x08" + bytes(6),
    b"sBIT": lambda text: b"\5\6\5",
    b"caBX": lambda text: text,
    b"sTER": lambda text: b"\1",
    b"dSIG": lambda text: text,
    b"iDOT": lambda text: text,
    b"CgBI": lambda text: text,
    b"hIST": lambda text: text[:4],
    b"PLTE": lambda text: text[:9],
    b"pHYs": lambda text: b"\1" + text[:8],
    b"eXIf": lambda text: b"II*\0\x08\0\0\0\1\0\x0e\1\2\0\x0b\0\0\0\x1a\0\0\0\0\0\0\0" + text + b"\0",
}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


private = st.from_regex(r"[a-z][a-z][A-Z][a-z]", fullmatch=True).map(str.encode)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(PNG_BODIES)) | private, st.booleans()), max_size=8, unique_by=lambda b: b[0]
    )
)
def test_chunks_of_a_png(blocks: list[tuple[bytes, bool]]) -> None:
    data = plain("PNG")
    head, pixels, end = data[:33], data[33:-12], data[-12:]
    texts = [text_of(n) for n in range(len(blocks))]
    bodies = [PNG_BODIES.get(name, lambda text: text)(texts[n]) for n, (name, _) in enumerate(blocks)]

    def build(chosen: list[int]) -> bytes:
        before = [chunk(blocks[n][0], bodies[n]) for n in chosen if not blocks[n][1]]
        behind = [chunk(blocks[n][0], bodies[n]) for n in chosen if blocks[n][1]]
        return head + b"".join(before) + pixels + b"".join(behind) + end

    check(build, texts, set())


NO_TAGS = b"II*\0\x08\0\0\0\0\0\0\0\0\0"  # an EXIF block
ODD_CHUNKS = {
    "empty EXIF": chunk(b"eXIf", b""),
    "EXIF of a mark only": chunk(b"eXIf", b"Exif\0\0"),
    "EXIF without tags": chunk(b"eXIf", NO_TAGS),
    "empty XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0"),
    "empty profile": chunk(b"iCCP", b""),
    "two profiles": b"".join(chunk(b"iCCP", b"a\0\0" + zlib.compress(icc)) for icc in (SRGB, SRGB[:-4] + b"abcd")),
    "resolution cut off": chunk(b"pHYs", bytes(5)),
    "resolution of zero": chunk(b"pHYs", bytes(8) + b"\1"),
    "resolution of an unknown unit": chunk(b"pHYs", b"\0\0\0\1\0\0\0\1\7"),
    "pixels that are square": chunk(b"pHYs", b"\0\0\0\1\0\0\0\1\0"),
    "two resolutions": chunk(b"pHYs", b"\0\0\x0b\x13" * 2 + b"\1") + chunk(b"pHYs", b"\0\0\x1b\x13" * 2 + b"\1"),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_odd_chunks_of_a_png_are_named(name: str) -> None:
    data = plain("PNG")
    image = decode(data[:33] + ODD_CHUNKS[name] + data[33:])
    assert len(image.losses) == 1
    assert decode(data).losses == []


def test_what_says_nothing_about_the_image_does_not_fail_under_strict() -> None:
    data = plain("PNG")
    for name in ("empty EXIF", "empty XMP", "EXIF without tags", "pixels that are square"):
        assert [loss.strict for loss in decode(data[:33] + ODD_CHUNKS[name] + data[33:]).losses] == [False], name
    assert [loss.strict for loss in decode(data[:33] + chunk(b"iDOT", bytes(28)) + data[33:]).losses] == [False]
    late = decode(data[:-12] + chunk(b"acTL", b"\0\0\0\1\0\0\0\0") + data[-12:])
    assert [(loss.name, loss.strict) for loss in late.losses] == [("frames", False)]


# --- JPEG ------------------------------------------------------------------------------------------------------------

SEGMENTS: dict[str, tuple[int, bytes]] = {
    "comment": (0xFE, b""),
    "profile": (0xE2, b"ICC_PROFILE\0\1\2"),  # of which part 2 is missing
    "gain map": (0xE2, b"urn:iso:std:iso:ts:21496:-1\0"),
    "extended": (0xE1, b"http://ns.adobe.com/xmp/extension/\0"),
    "thermal": (0xE1, b"FLIR\0\1\0\0"),
    "c2pa": (0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumbc2pa"),
    "jumbf": (0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumbxxxx"),
    "caption": (0xED, b"Photoshop 3.0\08BIM\4\4\0\0\0\0\0\x0a"),
    "slices": (0xED, b"Photoshop 3.0\08BIM\4\x1a\0\0\0\0\0\x0a"),
    "meta": (0xE3, b"Meta\0"),
    "image info": (0xEC, b"[image info]"),
    "ducky": (0xEC, b"Ducky"),
    "adobe": (0xEE, b"Adobe\0\x64\0\0\0\0\1"),
    "thumbnail": (0xE0, b"JFXX\0\x10"),
    "index": (0xE2, b"MPF\0"),
}
SILENT_SEGMENTS = {"adobe", "thumbnail", "index"}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(sorted(SEGMENTS)) | st.sampled_from([f"app{n}" for n in (4, 5, 6, 7, 8, 9, 10, 15)]),
        max_size=8,
        unique=True,
    ),
    st.sampled_from([b"", b"something behind", b"\0\0\0\x18ftypmp42video"]),
)
def test_segments_of_a_jpeg(names: list[str], behind: bytes) -> None:
    data = plain("JPEG")
    texts = [text_of(n) for n in range(len(names))] + [behind or text_of(0)]

    def build(chosen: list[int]) -> bytes:
        parts = []
        for n in chosen:
            if n < len(names):
                marker, start = SEGMENTS.get(
                    names[n], (0xE0 + int(names[n][3:] or 0) if names[n][:3] == "app" else 0, b"")
                )
                body = start + texts[n]
                parts.append(b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body)
        return data[:2] + b"".join(parts) + data[2:] + (behind if len(names) in chosen else b"")

    silent = {n for n, name in enumerate(names) if name in SILENT_SEGMENTS}
    check(build, texts, silent | (set() if behind else {len(names)}))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_damaged_mark_of_an_exif_block_is_named(format: str) -> None:
    """Readers do not agree on such blocks: what was read is said."""
    block, stream = Image.Exif(), io.BytesIO()
    block[274] = 6
    Image.fromarray(photo(8, 12)).save(stream, format, **({"exif": block.tobytes()} if format == "JPEG" else {}))
    data = stream.getvalue()
    if format == "PNG":
        body = block.tobytes()
        data = data[:33] + chunk(b"eXIf", body.replace(b"Exif\0\0", b"Exif\0\xff")) + data[33:]
    image = decode(data.replace(b"Exif\0\0", b"Exif\0\xff"))
    assert [(loss.name, loss.strict) for loss in image.losses] == [("exif", False)]
    assert (image.width, image.height) == (8, 12)


def test_an_exif_block_that_a_webp_does_not_announce_is_read_and_named() -> None:
    block, stream = Image.Exif(), io.BytesIO()
    block[274] = 6
    Image.fromarray(photo(8, 12)).save(stream, "WEBP", exif=block)
    data = bytearray(stream.getvalue())
    assert decode(bytes(data)).losses == []
    data[20] &= ~0x08
    image = decode(bytes(data))
    assert [(loss.name, loss.strict) for loss in image.losses] == [("exif", False)]
    assert (image.width, image.height) == (8, 12)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


ODD_SEGMENTS = {
    "empty EXIF": segment(0xE1, b"Exif\0\0"),
    "EXIF without tags": segment(0xE1, b"Exif\0\0" + NO_TAGS),
    "empty XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "empty profile": segment(0xE2, b"ICC_PROFILE\0\1\1"),
    "other resolution": segment(0xE0, b"JFIF\0\1\1\1\1\x48\1\x48\0\0"),
    "bytes between segments": b"between",
    "comment of Photoshop": segment(0xEC, b"Ducky\0\1\0\4\0\0\0\x3c\0\2\0\7\0\0\0\3abc\0\0"),
}


@pytest.mark.parametrize("name", ODD_SEGMENTS)
def test_odd_segments_of_a_jpeg_are_named(name: str) -> None:
    data = plain("JPEG")
    assert len(decode(data[:20] + ODD_SEGMENTS[name] + data[20:]).losses) == 1
    quality = segment(0xEC, b"Ducky\0\1\0\4\0\0\0\x3c\0\0")
    assert decode(data[:20] + quality + b"\xff\xff" + data[20:]).losses == []


# --- WebP, AVIF ------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([b"C2PA", b"META", b"JUNK", b"abcd", b"XMP ", b"ICCP"]), max_size=5, unique=True))
def test_chunks_of_a_webp(names: list[bytes]) -> None:
    data = plain("WEBP")
    pixels = data[12:]
    texts = [SRGB if name == b"ICCP" else text_of(n) for n, name in enumerate(names)]

    def build(chosen: list[int]) -> bytes:
        head = [b"VP8X" + struct.pack("<I", 10) + bytes([0x24, 0, 0, 0]) + b"\x0b\0\0\x07\0\0"]
        parts = [names[n] + struct.pack("<I", len(texts[n])) + texts[n] + b"\0" * (len(texts[n]) % 2) for n in chosen]
        before = [part for part in parts if part[:4] == b"ICCP"]
        body = b"WEBP" + b"".join(head + before) + pixels + b"".join(p for p in parts if p[:4] != b"ICCP")
        return b"RIFF" + struct.pack("<I", len(body)) + body

    check(build, texts, set())


@pytest.mark.parametrize("name", [b"EXIF", b"XMP ", b"ICCP"])
def test_empty_chunks_of_a_webp_are_named(name: bytes) -> None:
    parts = [b"VP8X" + struct.pack("<I", 10) + bytes([0x2C, 0, 0, 0]) + b"\x0b\0\0\x07\0\0", plain("WEBP")[12:]]
    parts.insert(1 if name == b"ICCP" else 2, name + bytes(4))
    body = b"WEBP" + b"".join(parts)
    losses = decode(b"RIFF" + struct.pack("<I", len(body)) + body).losses
    assert [(loss.text[:8], loss.strict) for loss in losses] == [("an empty", False)]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([b"uuid", b"jumb", b"abcd", b"free", b"skip"]), max_size=5, unique=True))
def test_boxes_of_an_avif(names: list[bytes]) -> None:
    data = plain("AVIF")
    texts = [text_of(n) * 4 for n in range(len(names))]

    def build(chosen: list[int]) -> bytes:
        return data + b"".join(struct.pack(">I", 8 + len(texts[n])) + names[n] + texts[n] for n in chosen)

    check(build, texts, {n for n, name in enumerate(names) if name in (b"free", b"skip")})


def test_properties_and_items_of_an_avif() -> None:
    """HDR properties appended to the list of properties, and a curve that is not sRGB's."""
    stream = io.BytesIO()
    Image.fromarray(photo(8, 12)).save(stream, "AVIF")
    data = stream.getvalue()
    hdr = data.replace(b"nclx\0\1\0\x0d", b"nclx\0\x09\0\x10")
    assert hdr != data
    assert [loss.name for loss in decode(hdr).losses] == ["colour"]
    assert [loss.name for loss in decode(data).losses] == []


# --- TIFF ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.integers(700, 65000) | st.sampled_from([270, 271, 301, 305, 315, 318, 319, 337, 33432, 34377, 50341]),
        max_size=6,
        unique=True,
    )
)
def test_tags_of_a_tiff(tags: list[int]) -> None:
    import tifffile

    own = exif.STORAGE | {exif.SOFTWARE, 50706, 34675, 700, 65000}
    tags = [tag for tag in tags if tag not in own]
    texts = [text_of(n) for n in range(len(tags))]

    def body(n: int) -> bytes:
        start = b"8BIM\4\4\0\0\0\0\0\x0a" if tags[n] == 34377 else b""
        return start + texts[n]

    def build(chosen: list[int]) -> bytes:
        stream = io.BytesIO()
        more = [(tags[n], 7, len(body(n)), body(n), True) for n in chosen]
        tifffile.imwrite(stream, photo(8, 12), photometric="rgb", metadata=None, software=False, extratags=more)
        return stream.getvalue()

    check(build, texts, set())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (None, None),
        ("smaller copy", None),
        ("image below", "1 image below the page (SubIFDs) is dropped"),
        ("mask", "the transparency mask is dropped"),
    ],
)
def test_further_images_of_a_tiff(kind: str | None, said: str | None) -> None:
    import tifffile

    stream, image = io.BytesIO(), photo(32, 48)
    below = kind in ("smaller copy", "image below")
    with tifffile.TiffWriter(stream) as writer:
        writer.write(image, photometric="rgb", metadata=None, subifds=1 if below else 0)
        if kind == "mask":
            marked = [(254, 4, 1, 4, True)]
            writer.write(image[..., 0], photometric="minisblack", metadata=None, extratags=marked)
        elif below:
            small = kind == "smaller copy"
            writer.write(image[:: 1 + small, :: 1 + small], photometric="rgb", metadata=None, subfiletype=int(small))
    assert [loss.text for loss in decode(stream.getvalue()).losses] == ([said] if said else [])


# --- the table and other programs ------------------------------------------------------------------------------------


def test_unknown_blocks_share_one_warning() -> None:
    found: list[object] = []
    name_losses("JPEG", ["APP5", "APP7 Q", "APP5", "COM", "APP14 Adobe"], found)  # type: ignore[arg-type]
    assert [getattr(loss, "text", "") for loss in found] == [
        "the segments APP5, APP7 Q are dropped: unknown, so it may not fit the new image"
    ]
    assert fate_of("PNG", "caBX").name == "c2pa"


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exiftool_finds_every_tag_again(suffix: str, tmp_path: Path) -> None:
    """Tags written by exiftool, read by exiftool before and after."""
    path, after = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    Image.fromarray(photo(8, 12)).save(path)
    tags = ["-Artist=A", "-Copyright=C", "-ImageDescription=D", "-Make=M", "-UserComment=U", "-ExposureTime=1/60"]
    tags += ["-GPSLatitude=10", "-GPSLatitudeRef=N", "-LensModel=L", "-XMP-dc:Title=T", "-XMP-photoshop:City=Y"]
    tags += ["-IPTC:Headline=H", "-IPTC:Keywords=K"] if suffix in ("jpg", "tif") else []
    subprocess.run(["exiftool", "-q", "-overwrite_original", *tags, str(path)], check=True)
    output, warnings = restored(path.read_bytes())
    after.write_bytes(output)

    def read(file: Path) -> dict[str, object]:
        run = subprocess.run(["exiftool", "-j", "-G1", str(file)], check=True, capture_output=True)
        tags: dict[str, object] = json.loads(run.stdout)[0]
        storage = ("File:", "ExifTool:", "System:", "Composite:", "JFIF:", "RIFF:", "SourceFile")
        return {name: value for name, value in tags.items() if not name.startswith(storage)}

    before, found = read(path), read(after)
    assert warnings == []
    ours = {"IFD0:Software", "PNG:Software", "IFD0:Compression", "IFD0:Predictor", "IFD0:StripOffsets"}
    ours |= {"IFD0:StripByteCounts", "PNG:Filter", "PNG:Interlace", "IFD0:YCbCrPositioning", "XMP-x:XMPToolkit"}
    gone = {name for name, value in before.items() if found.get(name) != value} - ours
    assert {name for name in gone if not name.startswith(("Photoshop:IPTCDigest", "IFD0:RowsPerStrip"))} == set()
