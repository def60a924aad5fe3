"""Metadata of decoded images: checked, freed of what describes the old file, fitted to the output's pixel grid."""

import re
from dataclasses import replace

from varestorer_cli.core.image import bmp, exif, jpeg, photoshop, png, webp, xmp
from varestorer_cli.core.image.geometry import Geometry
from varestorer_cli.core.image.image_data import DAMAGED_MARK, DecodedImage, Extras, FileMetadata, Loss, empty_block
from varestorer_cli.core.image.loss_table import dropped

READERS = {"JPEG": jpeg.read_metadata, "PNG": png.read_metadata, "WebP": webp.read_metadata, "BMP": bmp.read_metadata}
# Descriptions that programs write to find their own pixels again: tifffile, ImageJ, SCIFIO, OME-TIFF, Aperio.
_OWN_LAYOUT = re.compile(rb"\s*(\{\s*\"shape\"|shape=\(|ImageJ=|SCIFIO=|Aperio )|OME>\s*\0*\s*$")


def extras_of(found: FileMetadata, losses: list[Loss]) -> Extras:
    """Metadata of a file, checked.

    Args:
        found: as the file holds it.
        losses: takes what the file's own losses are and what is dropped here.
    """
    losses += found.losses
    tree: exif.Exif | None = None
    if found.exif:
        block = found.exif
        if block.startswith(b"Exif\0"):  # a whole one is gone by now
            losses.append(DAMAGED_MARK)
            block = block[6:]
        tree = exif.parse(block)
        if tree is None or (tree.damaged and not (tree.main or tree.photo or tree.gps)):
            tree = None
            losses.append(Loss("exif", "the EXIF block is damaged and was dropped"))
    if tree is not None and not (tree.damaged or tree.main or tree.photo or tree.gps or tree.interop):
        tree = None
        losses.append(empty_block("exif"))
    tree = checked(tree, losses)
    return Extras(
        icc=found.icc,
        exif=tree,
        xmp=xmp.without_claims(found.xmp, losses),
        dpi=found.dpi or (tree.dpi() if tree else None),
        png_chunks=found.png_chunks,
        jpeg_comments=found.jpeg_comments,
        photoshop=found.photoshop,
    )


def orientation_of(extras: Extras) -> int:
    """EXIF orientation, 1 to 8: of the EXIF block, or of XMP where that has none."""
    if extras.exif is None or exif.ORIENTATION not in extras.exif.main:
        return xmp.orientation_of(extras.xmp)
    value = extras.exif.short(exif.ORIENTATION)
    return value if value is not None and 1 <= value <= 8 else 1


def checked(tree: exif.Exif | None, losses: list[Loss]) -> exif.Exif | None:
    """An EXIF tree without a description of the old file's layout; damaged tags are said."""
    if tree is None:
        return None
    if tree.damaged:
        tags = "tag is" if tree.damaged == 1 else "tags are"
        losses.append(Loss("exif", f"{tree.damaged} EXIF {tags} damaged and dropped"))
    said = tree.main.get(exif.DESCRIPTION)
    if said is not None and _OWN_LAYOUT.search(said.value):
        losses.append(Loss("description", "the ImageDescription holds the layout of the old pixels and is dropped"))
        tree = tree.without(exif.DESCRIPTION)
    return tree


def tiff_tree(data: bytes, first: int | None, losses: list[Loss]) -> exif.Exif | None:
    """Tags of a TIFF page that describe the image, and its Exif and GPS directories.

    Args:
        data: the file.
        first: offset of the page's directory; None takes the first.
        losses: takes the tags that are dropped.
    """
    whole = exif.parse(data, first)
    if whole is None:
        return None
    others = sorted(set(whole.main) - exif.KEPT_OF_TIFF - exif.STORAGE)
    if others:
        said = ", ".join(str(tag) for tag in others[:6]) + (" ..." if len(others) > 6 else "")
        losses.append(dropped("tags", len(others), "TIFF tag", "that may not fit the new image", said))
    main = {tag: entry for tag, entry in whole.main.items() if tag in exif.KEPT_OF_TIFF}
    if exif.PHOTOSHOP in main:
        turned = (whole.short(exif.ORIENTATION) or 1) > 1
        kept = photoshop.kept_resources(main[exif.PHOTOSHOP].value, turned=turned, losses=losses)
        main[exif.PHOTOSHOP] = exif.ExifTag(1, len(kept), kept)
        if not kept:
            del main[exif.PHOTOSHOP]
    tree = checked(replace(whole, main=main), losses)
    return tree if tree is not None and (tree.main or tree.photo or tree.gps) else None


def fitting_profile(extras: Extras, *, gray: bool, losses: list[Loss]) -> Extras:
    """Drop a profile that describes other channels than the image has."""
    if not extras.icc:
        return extras
    space = exif.icc_space(extras.icc)
    if space == ("GRAY" if gray else "RGB"):
        return extras
    if space != "CMYK" or not any(loss.name == "cmyk" for loss in losses):
        said = f"the ICC profile ({space or 'damaged'}) does not fit a {'gray' if gray else 'RGB'} image"
        losses.append(Loss("icc", f"{said} and was dropped"))
    return replace(extras, icc=b"")


def fitted(image: DecodedImage, size: tuple[int, int]) -> Extras:
    """Metadata of an image as its output of ``size`` (width, height) carries it: upright, sizes and places scaled."""
    extras = image.extras
    geometry = Geometry(image.orientation, (image.width, image.height), size)
    tree = extras.exif.fitted(geometry) if extras.exif else None
    return replace(extras, exif=tree, xmp=xmp.fitted(extras.xmp, geometry))
