"""BMP files with bit fields that Pillow does not know, and with colour profiles."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from encoding import SRGB
from PIL import Image

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.reader import decode, probe


def bmp(width: int, height: int, bits: int, masks: tuple[int, ...], body: bytes, *, behind: bytes = b"") -> bytes:
    """A file of a version 5 header; ``behind`` is its embedded profile."""
    space = 0x4D424544 if behind else 0x73524742
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, bits, 3, len(body), 11811, 11811, 0, 0)
    head += struct.pack("<5I", *masks, space) + bytes(48) + struct.pack("<4I", 4, 124 + len(body), len(behind), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(body), 0, 0, 138) + head + body + behind


@pytest.mark.parametrize("upside_down", [True, False])
@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF00, 0xF0, 0xF, 0)),
        (16, (0xF00, 0xF0, 0xF, 0xF000)),
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (32, (0xFF, 0xFF00, 0xFF0000, 0)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
    ],
)
def test_bit_fields(bits: int, masks: tuple[int, ...], upside_down: bool, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 1 << bits, (5, 7), np.uint64).astype(f"<u{bits // 8}")
    stored = values[::-1] if upside_down else values
    padding = bytes(-(7 * bits // 8) % 4)
    data = bmp(7, 5 if upside_down else -5, bits, masks, b"".join(row.tobytes() + padding for row in stored))
    found = decode(data)

    def channel(mask: int) -> np.ndarray:
        low = mask & -mask
        return np.floor((values & mask) // low * (255 / (mask // low)) + 0.5)

    np.testing.assert_array_equal(found.color, np.stack([channel(mask) for mask in masks[:3]], axis=-1))
    if masks[3]:
        np.testing.assert_array_equal(found.alpha, channel(masks[3]))
    else:
        assert found.alpha is None
    assert [loss.name for loss in found.losses] == (["depth"] if masks[2] == 0x3FF else [])
    assert found.extras.dpi is not None and round(found.extras.dpi[0]) == 300
    path = tmp_path / "a.bmp"
    path.write_bytes(data)
    assert probe(path) == (7, 5)
    with pytest.raises(InputError, match="cut off"):
        decode(data[:-4])


def test_an_embedded_profile_is_kept_and_others_are_named() -> None:
    data = bmp(2, 1, 32, (0xFF0000, 0xFF00, 0xFF, 0), bytes(8), behind=SRGB)
    assert decode(data).extras.icc == SRGB
    for space, at, named in ((0x4C494E4B, 0, "icc"), (0, 60, "colour")):
        other = bytearray(bmp(2, 1, 32, (0xFF0000, 0xFF00, 0xFF, 0), bytes(8)))
        struct.pack_into("<I", other, 14 + 56, space)
        other[14 + 60] = 1 if at else 0
        assert [loss.name for loss in decode(bytes(other)).losses] == [named]


def test_plain_files_stay_as_they_were() -> None:
    for image in (Image.fromarray(photo(6, 7)), Image.fromarray(photo(6, 7)).convert("P"), Image.new("RGBA", (3, 2))):
        stream = io.BytesIO()
        image.save(stream, "BMP", dpi=(200, 200))
        found = decode(stream.getvalue())
        np.testing.assert_array_equal(found.color, np.asarray(image.convert("RGB")))
        assert found.extras.dpi is not None and round(found.extras.dpi[0]) == 200
