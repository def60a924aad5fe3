"""Writes TIFF files through tifffile, strip by strip, with the Exif and GPS directories that it does not write."""

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import tifffile

from varestorer_cli.core.image import exif
from varestorer_cli.core.image.deflate import deflater_for
from varestorer_cli.core.image.image_data import OutputImage

_LARGE_TIFF = 3 << 30  # bytes of pixels above which a TIFF file is a BigTIFF


def write_tiff(stream: BinaryIO, output: OutputImage, software: str) -> None:
    """Write an image with all its pages; their Software tags say ``software``."""
    trees = [page.extras.exif or exif.Exif() for page in output.pages]
    order = next((tree.order for tree in trees if len(tree.main) > 1 or tree.photo or tree.gps), trees[0].order)
    large = sum(page.height * page.width * page.channels * page.color.itemsize for page in output.pages) > _LARGE_TIFF
    with tifffile.TiffWriter(stream, byteorder="<" if order == "<" else ">", bigtiff=large) as file:
        for page, tree in zip(output.pages, trees, strict=True):
            _write_page(file, page, tree, order, software)
    for number, tree in enumerate(trees):
        below = [(tag, part) for tag, part in ((exif.EXIF_IFD, tree.photo), (exif.GPS_IFD, tree.gps)) if part]
        inner = [(exif.INTEROP_IFD, tree.interop)] if tree.interop and tree.photo else []
        if below:
            _append_directories(stream, inner + below, order, number)


def _write_page(file: tifffile.TiffWriter, output: OutputImage, tree: exif.Exif, order: str, software: str) -> None:
    """Write the pixels and the main directory of a page; values of ``tree`` are in the file's byte order."""
    extras = output.extras
    tags: list[tuple[int, int, int, Any, bool]] = []
    for tag, entry in tree.main.items():
        if tag in exif.KEPT_OF_TIFF and tag != exif.SOFTWARE:
            tags.append((tag, entry.type, entry.count, _value(entry, order), True))
    if extras.xmp:
        tags.append((700, 1, len(extras.xmp), extras.xmp, True))
    file.write(
        data=_deflated_strips(output, order),
        shape=(output.height, output.width, output.channels) if output.channels > 1 else (output.height, output.width),
        dtype=output.color.dtype,
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


def _value(entry: exif.ExifTag, order: str) -> Any:
    """A tag's value for tifffile, which miscounts fractions that come as bytes."""
    kind = {5: "I", 10: "i"}.get(entry.type)
    return entry.value if kind is None else struct.unpack(f"{order}{2 * entry.count}{kind}", entry.value)


def _deflated_strips(output: OutputImage, order: str) -> Iterator[bytes]:
    """Strips as TIFF stores them: differences of neighbours (predictor 2), deflated."""
    deflater = deflater_for(output)
    for strip in output.strips():
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]
        stored = differences.astype(strip.dtype.newbyteorder("<" if order == "<" else ">"), copy=False)
        packer = deflater()
        yield packer.compress(stored.tobytes()) + packer.flush()


def _append_directories(stream: BinaryIO, below: list[tuple[int, exif.Directory]], order: str, number: int) -> None:
    """Add the Exif and GPS directories of a page, which tifffile does not write.

    The interoperability directory, to which Exif's points, is written first. All go to the end of the file, followed
    by a copy of the page's directory with the two pointers in it; what named that directory then names its copy.
    """
    stream.seek(0)
    layout = exif.BIG if b"+" in stream.read(4) else exif.CLASSIC
    pointer, counted = order + layout.pointer, order + layout.count
    place = layout.first
    for page in range(number + 1):
        stream.seek(place)
        (directory,) = struct.unpack(pointer, stream.read(layout.inline))
        stream.seek(directory)
        (length,) = struct.unpack(counted, stream.read(struct.calcsize(counted)))
        if page < number:
            place = directory + struct.calcsize(counted) + layout.entry * length
    entries = [stream.read(layout.entry) for _ in range(length)]
    following = stream.read(layout.inline)
    kind = 4 if layout == exif.CLASSIC else 16  # LONG, LONG8
    inside: dict[int, exif.ExifTag] = {}
    for tag, part in below:
        offset = _even_end(stream)
        if tag == exif.EXIF_IFD:
            part = {**part, **inside}
        stream.write(exif.build_directory(part, order, offset, layout))
        if tag == exif.INTEROP_IFD:
            inside[tag] = exif.ExifTag(kind, 1, struct.pack(pointer, offset))
            continue
        entries.append(struct.pack(f"{order}HH{layout.pointer}{layout.pointer}", tag, kind, 1, offset))
    entries.sort(key=lambda entry: int(struct.unpack(order + "H", entry[:2])[0]))
    offset = _even_end(stream)
    stream.write(struct.pack(counted, len(entries)) + b"".join(entries) + following)
    stream.seek(place)
    stream.write(struct.pack(pointer, offset))


def _even_end(stream: BinaryIO) -> int:
    """Go to the end of a file, to an even offset as TIFF wants it."""
    offset = stream.seek(0, io.SEEK_END)
    if offset % 2:
        stream.write(b"\0")
    return offset + offset % 2
