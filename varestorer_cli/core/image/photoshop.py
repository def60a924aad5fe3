"""Photoshop's image resources, IPTC among them (Adobe Photoshop File Formats, section "Image Resource Blocks")."""

import re

from varestorer_cli.core.image.image_data import Loss

_THUMBNAILS = frozenset({1033, 1036})  # of the old pixels, as the thumbnail of EXIF
_IN_PIXELS = {1032: "guides", 1050: "slices"}
_PATHS = range(2000, 2998)  # shares of width and height, not turned with the image


def kept_resources(data: bytes, *, turned: bool, losses: list[Loss]) -> bytes:
    """Resources that hold for the output.

    Args:
        data: resources one after another, without the identifier of a JPEG segment.
        turned: whether the image is turned upright.
        losses: takes what is dropped; thumbnails are not a loss.
    """
    kept: list[bytes] = []
    dropped: set[str] = set()
    place = 0
    while place < len(data):
        number = int.from_bytes(data[place + 4 : place + 6], "big")
        name = 1 + data[place + 6] if place + 6 < len(data) else 0
        start = place + 6 + name + name % 2
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        if not re.fullmatch(rb"[A-Za-z0-9]{4}", data[place : place + 4]) or end > len(data):
            if data[place:].strip(b"\0"):
                dropped.add(f"{len(data) - place} damaged bytes")
            break
        end += (end - start) % 2
        if turned and number in _PATHS:
            dropped.add("paths")
        elif number in _IN_PIXELS:
            dropped.add(_IN_PIXELS[number])
        elif number not in _THUMBNAILS:
            kept.append(data[place:end].ljust(end - place, b"\0"))
        place = end
    if dropped:
        said = ", ".join(sorted(dropped))
        losses.append(Loss("photoshop", f"Photoshop's image resources lose what fits the old pixels only: {said}"))
    return b"".join(kept)
