"""What files are by their first bytes."""

import pytest

from varestorer_cli.core.image.formats import describe_unknown, sniff


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\0", r"camera raw file by its content \(Canon CR3\).*darktable-cli"),
        (b"II*\0\x10\0\0\0CR\2\0", r"camera raw file by its content \(Canon CR2\)"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAF"),
        (b"IIRS\x08\0\0\0", "Olympus ORF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video by its content.*ffmpeg"),
        (b"%PDF-1.7\n", "pdftoppm"),
        (b"\0\0\0\x0cJXL \r\n", "djxl"),
        (b"\0\0\0\x0cjP  \r\n", "opj_decompress"),
    ],
)
def test_kinds_that_are_not_read_are_named_with_what_to_do(head: bytes, said: str) -> None:
    assert sniff(head) is None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(describe_unknown(head))


def test_avif_and_tiff_are_still_read() -> None:
    assert sniff(b"\0\0\0\x20ftypavif\0\0\0\0") == "AVIF"
    assert sniff(b"II*\0\x08\0\0\0\x10\0") == "TIFF"
