"""BMP files: bit fields that Pillow does not know, and the colour profile (Microsoft, BITMAPV5HEADER)."""

import struct
from dataclasses import dataclass

import numpy as np

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.exif import plausible_dpi
from varestorer_cli.core.image.image_data import FileMetadata, Loss, Samples

_HEADER = 14  # place of the information header
_INFO, _V3, _V5 = 40, 56, 124  # lengths of information headers
_BIT_FIELDS, _ALPHA_BIT_FIELDS = 3, 6
_CALIBRATED, _LINKED, _EMBEDDED = 0, 0x4C494E4B, 0x4D424544
_INCH = 0.0254  # metres
# Masks of red, green, blue, alpha that Pillow reads, of 16 bits without alpha only.
_KNOWN = {
    16: frozenset({(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)}),
    32: frozenset(
        {
            (0xFF0000, 0xFF00, 0xFF, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
            (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
            (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            (0, 0, 0, 0),
        }
    ),
}


@dataclass(frozen=True)
class BitFields:
    """How a file stores its pixels.

    Attributes:
        width: columns.
        height: rows.
        upside_down: whether the last row comes first.
        bits: per pixel.
        start: place of the first row.
        masks: of red, green, blue and alpha (0 for none).
    """

    width: int
    height: int
    upside_down: bool
    bits: int
    start: int
    masks: tuple[int, int, int, int]


def bit_fields(head: bytes) -> BitFields | None:
    """The bit fields of a file where they are others than Pillow reads, else None.

    Args:
        head: the file, or its first 70 bytes.
    """
    if len(head) < _HEADER + _V3:
        return None
    (start,) = struct.unpack_from("<I", head, 10)
    size, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", head, _HEADER)
    if size < _INFO or compression not in (_BIT_FIELDS, _ALPHA_BIT_FIELDS) or bits not in _KNOWN or width < 1:
        return None
    red, green, blue, alpha = struct.unpack_from("<4I", head, _HEADER + _INFO)
    if size < _V3 and compression != _ALPHA_BIT_FIELDS:  # there is no mask of alpha
        alpha = 0
    if (red, green, blue, alpha) in _KNOWN[bits] or not (red and green and blue):
        return None
    return BitFields(width, abs(height), height > 0, bits, start, (red, green, blue, alpha))


def read_pixels(data: bytes, fields: BitFields, losses: list[Loss]) -> tuple[Samples, Samples | None]:
    """(H, W, 3) colour and (H, W) alpha or None, uint8.

    Raises:
        InputError: the file is cut off.
    """
    stride = (fields.width * fields.bits // 8 + 3) // 4 * 4
    if fields.start + stride * fields.height > len(data):
        raise InputError(f"the BMP file is cut off after {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8, stride * fields.height, fields.start).reshape(fields.height, stride)
    values = rows.view(f"<u{fields.bits // 8}")[:, : fields.width]
    if fields.upside_down:
        values = values[::-1]
    if any((mask >> _shift(mask)).bit_length() > 8 for mask in fields.masks):
        losses.append(Loss("depth", "more than 8 bits per channel become 8"))
    channels = [_channel(values, mask) for mask in fields.masks if mask]
    return np.stack(channels[:3], axis=-1), channels[3] if fields.masks[3] else None


def _shift(mask: int) -> int:
    """Bits below a mask."""
    return (mask & -mask).bit_length() - 1 if mask else 0


def _channel(values: Samples, mask: int) -> Samples:
    top = mask >> _shift(mask)
    scaled: Samples = (((values & mask) >> _shift(mask)) * (255 / top) + 0.5).astype(np.uint8)
    return scaled


def read_metadata(data: bytes) -> FileMetadata:
    """Profile and resolution."""
    found = FileMetadata()
    if len(data) < _HEADER + _INFO:
        return found
    (size,) = struct.unpack_from("<I", data, _HEADER)
    if size < _INFO:
        return found
    x, y = struct.unpack_from("<ii", data, _HEADER + 24)
    found.dpi = plausible_dpi(x * _INCH, y * _INCH)
    if size < _V5 or len(data) < _HEADER + _V5:
        return found
    (space,) = struct.unpack_from("<I", data, _HEADER + 56)
    offset, length = struct.unpack_from("<II", data, _HEADER + 112)
    if space == _EMBEDDED:
        found.icc = data[_HEADER + offset : _HEADER + offset + length]
    elif space == _LINKED:
        found.losses.append(Loss("icc", "the link to a colour profile in another file is dropped"))
    elif space == _CALIBRATED and any(data[_HEADER + 60 : _HEADER + 108]):
        found.losses.append(Loss("colour", "primaries and gamma of the BMP header are dropped"))
    return found
