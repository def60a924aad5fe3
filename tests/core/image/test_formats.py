"""What files are by their first bytes."""

import pytest

from varestorer_cli.core.image.formats import camera_raw, describe_unknown, raw_kind, sniff


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video by its content.*ffmpeg"),
        (b"%PDF-1.7\n", "pdftoppm"),
        (b"\0\0\0\x0cjP  \r\n", "opj_decompress"),
        (b"8BPS\0\1\0\0", r"Photoshop document.*convert 'IN.psd\[0\]' OUT.png"),
        (b"\0\0\1\0\1\0\x20\x20", "Windows icon"),
        (b"qoif\0\0\0\x30", "QOI"),
        (b"II\xbc\1", "JPEG XR.*JxrDecApp"),
        (b"#?RADIANCE\n", "Radiance HDR.*oiiotool"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"P6\n48 32\n255\n", "PNM"),
        (b"P3\n48 32\n65535\n", "PNM"),
        (b"PF\n48 32\n", "PFM"),
        (b"\1\xda\1\1\0\3", "SGI"),
    ],
)
def test_kinds_that_are_not_read_are_named_with_what_to_do(head: bytes, said: str) -> None:
    assert sniff(head) is None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(describe_unknown(head))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "Canon CR3"),
        (b"II*\0\x10\0\0\0CR\2\0", "Canon CR2"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAF"),
        (b"IIRS\x08\0\0\0", "Olympus ORF"),
        (b"IIU\0\x18\0\0\0", "Panasonic RW2"),
    ],
)
def test_camera_raw_is_told_by_its_first_bytes(head: bytes, kind: str) -> None:
    assert (sniff(head), raw_kind(head)) == ("camera raw", kind)
    assert kind in camera_raw(kind) and "darktable-cli" in camera_raw(kind)


def test_avif_and_tiff_are_still_read() -> None:
    assert sniff(b"\0\0\0\x20ftypavif\0\0\0\0") == "AVIF"
    assert sniff(b"II*\0\x08\0\0\0\x10\0") == "TIFF"
