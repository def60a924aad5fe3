"""JPEG XL images (extra ``jxl``): pixels through imagecodecs, profile and EXIF through pillow-jxl-plugin."""

from typing import Any, BinaryIO

import numpy as np

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.image.image_data import FileMetadata, Loss, Samples
from varestorer_cli.core.image.resample import to_depth

_MISSING = (
    "a JPEG XL image, which needs the extra jxl: install pillow-jxl-plugin in this environment, or convert it to PNG "
    "first: djxl IN.jxl OUT.png"
)
_CONTAINER = b"\0\0\0\x0cJXL "
_HEADER_BYTES = 1 << 16
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height; ISO 18181-1, D.2
_MOST_DIFFERENCE = 2.0  # of the means of two decoders, in 8-bit steps


class _Bits:
    """Reads numbers of a codestream, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:64], "little")

    def take(self, count: int) -> int:
        """The next ``count`` bits."""
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def size(self) -> int:
        """A side of the image."""
        return self.take((9, 13, 18, 30)[self.take(2)]) + 1


def probe(source: BinaryIO) -> tuple[int, int]:
    """(width, height) upright, from the header of the codestream (ISO 18181-1, D.2 and D.3).

    Raises:
        InputError: the extra is missing, or there is no header.
    """
    if not is_installed("jxl"):
        raise InputError(_MISSING)
    bits = _Bits(_codestream(source.read(_HEADER_BYTES)))
    if bits.take(16) != 0x0AFF:
        raise InputError("the header is damaged or cut off")
    small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if small else bits.size()
    ratio = bits.take(3)
    if ratio:
        width = height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1]
    else:
        width = 8 * (bits.take(5) + 1) if small else bits.size()
    plain = bits.take(1) or not bits.take(1)
    return (height, width) if not plain and bits.take(3) >= 4 else (width, height)


def _codestream(data: bytes) -> bytes:
    """The beginning of the codestream in a file (ISO 18181-2: box ``jxlc``, or the first ``jxlp``)."""
    place = 0
    while data.startswith(_CONTAINER) and place + 16 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        head = 16 if size == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            return data[place + head + (4 if kind == b"jxlp" else 0) :]
        place += max(head, int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size)
    return b"" if data.startswith(_CONTAINER) else data


def read(data: bytes) -> tuple[Samples, Samples | None, FileMetadata] | bytes:
    """Decode an image; the decoder turns it upright.

    Returns:
        (H, W, 1 or 3) colour and (H, W) alpha or None, uint8 or uint16, and metadata; or the JPEG file of which it is a
        lossless copy.

    Raises:
        InputError: the extra is missing, or there are more than colour and alpha.
    """
    if not is_installed("jxl"):
        raise InputError(_MISSING)
    import imagecodecs
    from pillow_jxl import Decoder

    is_jpeg, info, samples, icc, boxes = Decoder(num_threads=0)(data)
    if is_jpeg:
        return bytes(samples)
    found = FileMetadata(icc=bytes(icc or b""))
    pixels: Samples = np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1))
    shape = (int(info.height), int(info.width))
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[:2] != shape):  # (frames, H, W[, channels])
        found.losses.append(Loss("frames", f"only the first of {len(pixels)} frames is restored"))
        pixels = pixels[0]
    pixels = pixels.reshape(*shape, -1)
    if pixels.shape[2] > 4:
        raise InputError(f"JPEG XL images of {pixels.shape[2]} channels are not supported; convert it to PNG first")
    if pixels.dtype.kind == "f":
        found.losses.append(Loss("depth", "floating point becomes 16-bit integers"))
        pixels = to_depth(pixels.astype(np.float32), np.uint16)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"JPEG XL images of {pixels.dtype} samples are not supported; convert it to PNG first")
    if len(samples) == pixels.size:  # 8 bits in the space that the profile describes: is the other in the same?
        plain = np.frombuffer(samples, np.uint8).reshape(pixels.shape)
        scale = np.iinfo(pixels.dtype).max / 255
        if np.abs(pixels.mean((0, 1)) / scale - plain.mean((0, 1))).max() > _MOST_DIFFERENCE:
            found.losses.append(Loss("depth", "16 bits become 8, in which alone its colours are known"))
            pixels = plain
    _read_boxes(boxes, found)
    colors = 1 if pixels.shape[2] < 3 else 3
    alpha = np.ascontiguousarray(pixels[..., colors]) if pixels.shape[2] > colors else None
    return np.ascontiguousarray(pixels[..., :colors]), alpha, found


def _read_boxes(boxes: Any, found: FileMetadata) -> None:
    """Metadata boxes of the container; what is not kept is named."""
    dropped = []
    for box in boxes:
        kind, body = box.box_type, bytes(box.data)
        if kind == b"Exif" and not found.exif:
            found.exif = body[4 + int.from_bytes(body[:4], "big") :] if body[4:6] in (b"II", b"MM") else body
        elif kind == b"xml " and not found.xmp:
            found.xmp = body
        elif kind == b"jumb":
            found.losses.append(Loss("c2pa", "the JUMBF box (content credentials, or others) is dropped"))
        elif kind not in (b"JXL ", b"ftyp", b"jxll", b"jxlc", b"jxlp", b"jxli", b"jbrd"):
            dropped.append(kind.decode("latin-1"))
    if dropped:
        found.losses.append(Loss("box", f"boxes of the JPEG XL file are dropped ({', '.join(sorted(set(dropped)))})"))
