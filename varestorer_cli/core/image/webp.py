"""Metadata of WebP files: the chunks of their RIFF container (RFC 9649, section 2)."""

from varestorer_cli.core.image.image_data import FileMetadata, Loss, empty_block
from varestorer_cli.core.image.loss_table import dropped, name_losses

_EXIF_FLAG = 0x08  # of the chunk VP8X


def read_metadata(data: bytes) -> FileMetadata:
    """Metadata of a WebP file; a chunk that is cut off is left to the decoder."""
    found = FileMetadata()
    blocks: dict[str, list[bytes]] = {"ICCP": [], "EXIF": [], "XMP ": []}
    names: list[str] = []
    flags = 0
    place, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while place + 8 <= end:
        name = data[place : place + 4].decode("latin-1")
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if name == "VP8X":
            flags = data[place + 8] if place + 8 < end else 0
        if name in blocks:
            blocks[name].append(data[place + 8 : place + 8 + size])
        names.append(name)
        place += 8 + size + size % 2
    if blocks["EXIF"] and not flags & _EXIF_FLAG:  # which other readers then leave out, the orientation with it
        said = "the header of the WebP file does not announce its EXIF block, which is read all the same"
        found.losses.append(Loss("exif", said, strict=False))
    for name, bodies in blocks.items():
        what = {"ICCP": "icc", "EXIF": "exif", "XMP ": "xmp"}[name]
        if bodies and not bodies[0]:
            found.losses.append(empty_block(what))
        if any(body != bodies[0] for body in bodies[1:]):
            found.losses.append(Loss(what, f"a second {name.strip()} chunk is dropped"))
    first = {name: bodies[0] if bodies else b"" for name, bodies in blocks.items()}
    found.icc, found.xmp = first["ICCP"], first["XMP "]
    found.exif = first["EXIF"].removeprefix(b"Exif\0\0")
    name_losses("WebP", names, found.losses)
    if data[end + end % 2 :].strip(b"\0"):
        found.losses.append(dropped("trailer", len(data) - end, "byte", "behind the image"))
    return found
