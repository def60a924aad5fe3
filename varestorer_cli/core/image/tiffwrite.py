"""TIFF files, 8 and 16 bit, deflated strip by strip, with their Exif and GPS directories."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import tifffile

from varestorer_cli.core.image import exif as metadata
from varestorer_cli.core.image.output import Output

_DEFLATE_LEVEL = 4
_LARGE_TIFF = 3 << 30  # bytes of pixels above which a TIFF file is a BigTIFF


def write_tiff(stream: BinaryIO, output: Output, software: str) -> None:
    """Write a picture; its Software tag says ``software``."""
    extras = output.extras
    exif = extras.exif or metadata.Exif()
    tags: list[tuple[int, int, int, Any, bool]] = []
    for tag, entry in exif.main.items():
        if tag in metadata.KEPT_OF_TIFF and tag != metadata.SOFTWARE:
            tags.append((tag, entry.type, entry.count, _value(entry, exif.order), True))
    if extras.xmp:
        tags.append((700, 1, len(extras.xmp), extras.xmp, True))
    below = [(tag, part) for tag, part in ((metadata.EXIF_IFD, exif.photo), (metadata.GPS_IFD, exif.gps)) if part]
    inner = [(metadata.INTEROP_IFD, exif.interop)] if exif.interop and exif.photo else []
    large = output.height * output.width * output.channels * output.color.itemsize > _LARGE_TIFF
    tifffile.imwrite(
        stream,
        data=_deflated_strips(output, exif.order),
        shape=(output.height, output.width, output.channels) if output.channels > 1 else (output.height, output.width),
        dtype=output.color.dtype,
        byteorder="<" if exif.order == "<" else ">",
        bigtiff=large,
        photometric="minisblack" if output.gray else "rgb",
        planarconfig="contig",
        extrasamples=["unassalpha"] if output.alpha_rows is not None else None,
        compression="adobe_deflate",
        predictor=True,
        rowsperstrip=output.strip,
        maxworkers=1,
        iccprofile=extras.icc or None,
        resolution=extras.dpi,
        resolutionunit="inch" if extras.dpi else None,
        software=software,
        metadata=None,
        extratags=tags,
    )
    if below:
        _append_directories(stream, inner + below, exif.order)


def _value(entry: metadata.Entry, order: str) -> Any:
    """A tag's value for tifffile, which miscounts fractions that come as bytes."""
    kind = {5: "I", 10: "i"}.get(entry.type)
    return entry.value if kind is None else struct.unpack(f"{order}{2 * entry.count}{kind}", entry.value)


def _deflated_strips(output: Output, order: str) -> Iterator[bytes]:
    """Strips as TIFF stores them: differences of neighbours (predictor 2), deflated."""
    for strip in output.strips():
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]
        stored = differences.astype(strip.dtype.newbyteorder("<" if order == "<" else ">"), copy=False)
        yield zlib.compress(stored.tobytes(), _DEFLATE_LEVEL)


def _append_directories(stream: BinaryIO, below: list[tuple[int, metadata.Directory]], order: str) -> None:
    """Add the Exif and GPS directories, which tifffile does not write.

    The one for interoperability, which hangs on Exif's, comes before it. All go to the end of the file, followed by a
    copy of its first directory with the two pointers in it; the header then names that copy as the first.
    """
    stream.seek(0)
    layout = metadata.BIG if b"+" in stream.read(4) else metadata.CLASSIC
    pointer, count = order + layout.pointer, order + layout.count
    stream.seek(layout.first)
    (first,) = struct.unpack(pointer, stream.read(layout.inline))
    stream.seek(first)
    (number,) = struct.unpack(count, stream.read(struct.calcsize(count)))
    entries = [stream.read(layout.entry) for _ in range(number)]
    kind = 4 if layout == metadata.CLASSIC else 16  # LONG, LONG8
    inside: dict[int, metadata.Entry] = {}
    for tag, part in below:
        offset = _even_end(stream)
        if tag == metadata.EXIF_IFD:
            part = {**part, **inside}
        stream.write(metadata.build_directory(part, order, offset, layout))
        if tag == metadata.INTEROP_IFD:
            inside[tag] = metadata.Entry(kind, 1, struct.pack(pointer, offset))
            continue
        entries.append(struct.pack(f"{order}HH{layout.pointer}{layout.pointer}", tag, kind, 1, offset))
    entries.sort(key=lambda entry: int(struct.unpack(order + "H", entry[:2])[0]))
    offset = _even_end(stream)
    stream.write(struct.pack(count, len(entries)) + b"".join(entries) + struct.pack(pointer, 0))
    stream.seek(layout.first)
    stream.write(struct.pack(pointer, offset))


def _even_end(stream: BinaryIO) -> int:
    """Go to the end of a file, to an even offset as TIFF wants it."""
    offset = stream.seek(0, io.SEEK_END)
    if offset % 2:
        stream.write(b"\0")
    return offset + offset % 2
