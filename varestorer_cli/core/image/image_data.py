"""Pixels with everything their file says about them: decoded on the way in, to be encoded on the way out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from varestorer_cli.core.atomic import release
from varestorer_cli.core.image.exif import Exif
from varestorer_cli.core.image.resample import to_depth

Samples = npt.NDArray[Any]  # uint8 or uint16
_STRIP_BYTES = 1 << 23


@dataclass(frozen=True)
class Loss:
    """Something of the input that its output does not have.

    Attributes:
        name: short and stable, for the report's column.
        text: the sentence for people.
        strict: whether ``--strict`` makes the image fail; False for changes of storage that lose no pixel.
    """

    name: str
    text: str
    strict: bool = True


DAMAGED_MARK = Loss("exif", "the mark before the EXIF block is damaged; the block is read all the same", strict=False)


def empty_block(name: str) -> Loss:
    """An empty block of metadata is left out: named, but nothing that ``--strict`` should fail on."""
    return Loss(name, f"an empty {name.upper()} block is dropped", strict=False)


@dataclass(frozen=True)
class Scene:
    """What a film or render file says beyond its display values; see :mod:`varestorer_cli.core.image.oiio_backend`.

    Attributes:
        linear: whether its values are linear light.
        bits: per sample.
        floating: whether samples are floating point.
        gain: (H, W) float32 that each pixel was divided by, at least 1; None where nothing is above 1.
        origin: (x, y) of the data window.
        size: (width, height) of the data window, (0, 0) where there is none.
        display: (x, y, width, height) of the display window.
        attributes: (name, type, value) as OpenImageIO has them.
    """

    linear: bool
    bits: int
    floating: bool
    gain: npt.NDArray[np.float32] | None = None
    origin: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    display: tuple[int, int, int, int] = (0, 0, 0, 0)
    attributes: tuple[tuple[str, Any, Any], ...] = ()


@dataclass(frozen=True)
class Extras:
    """Metadata carried from file to file; empty where the file has none.

    Attributes:
        icc: colour profile.
        exif: camera, dates, position, as a tree.
        xmp: XMP packet.
        dpi: pixels per inch (x, y).
        png_chunks: colour and text chunks of a PNG, (type, data), copied to a PNG only.
        jpeg_comments: comments of a JPEG, copied to a JPEG only.
        photoshop: Photoshop's image resources of a JPEG, IPTC among them, copied to a JPEG only.
        scene: of OpenEXR and DPX files.
    """

    icc: bytes = b""
    exif: Exif | None = None
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    jpeg_comments: tuple[bytes, ...] = ()
    photoshop: bytes = b""
    scene: Scene | None = None

    def with_dpi(self, ppi: float) -> "Extras":
        """The same with another resolution, in pixels per inch."""
        exif = self.exif.with_dpi((ppi, ppi)) if self.exif is not None else None
        return replace(self, dpi=(ppi, ppi), exif=exif)

    def stripped(self) -> "Extras":
        """Only what decides how the image looks and prints: profile, colour chunks, resolution."""
        colour = tuple((name, body) for name, body in self.png_chunks if not is_text(name))
        scene = replace(self.scene, attributes=()) if self.scene else None
        return Extras(icc=self.icc, dpi=self.dpi, png_chunks=colour, scene=scene)


@dataclass
class FileMetadata:
    """Metadata as a file holds it, before it is checked.

    Attributes:
        icc: colour profile.
        exif: block from the TIFF header on, b"" without one.
        xmp: packet.
        dpi: pixels per inch (x, y) that the format itself states.
        png_chunks: colour and text chunks of a PNG.
        jpeg_comments: comments of a JPEG.
        photoshop: Photoshop's image resources.
        losses: what reading loses.
    """

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    jpeg_comments: tuple[bytes, ...] = ()
    photoshop: bytes = b""
    losses: list[Loss] = field(default_factory=list)


def is_text(chunk: bytes) -> bool:
    """Whether a PNG chunk type is one of the three that hold text."""
    return chunk in (b"tEXt", b"zTXt", b"iTXt")


class Sized:
    """What holds pixels, (H, W, channels), and has their size."""

    color: Samples

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.color.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.color.shape[1])


@dataclass
class DecodedImage(Sized):
    """Upright pixels of one image.

    Attributes:
        color: (H, W, 3) RGB or (H, W, 1) gray, straight (not premultiplied); uint8, uint16, or float32 in [0, 1].
        alpha: (H, W) of the same type, or None.
        source: format by content.
        extras: metadata.
        losses: what reading already lost.
        orientation: EXIF orientation by which the stored pixels were turned, 1 to 8.
        keep_hidden: colours under full transparency are what they are, not to be filled in.
        more: further pages of the file.
    """

    color: Samples
    alpha: Samples | None
    source: str
    extras: Extras = field(default_factory=Extras)
    losses: list[Loss] = field(default_factory=list)
    orientation: int = 1
    keep_hidden: bool = False
    more: tuple["DecodedImage", ...] = ()

    @property
    def pages(self) -> tuple["DecodedImage", ...]:
        """This page and all further ones."""
        return (self, *self.more)

    @property
    def depth(self) -> int:
        """Bits per sample: 8 or 16, or what a scene says."""
        if self.extras.scene is not None:
            return self.extras.scene.bits
        return 16 if self.color.dtype == np.uint16 else 8

    @property
    def gray(self) -> bool:
        """Whether there is one colour channel."""
        return int(self.color.shape[2]) == 1

    def model_input(self) -> Samples:
        """(H, W, 3) view for the model: gray is repeated; colours under full transparency are bled unless kept."""
        color = self.color
        if self.alpha is not None and not self.keep_hidden:
            color = bleed(color, self.alpha)
        return np.broadcast_to(color, (*color.shape[:2], 3))


def bleed(color: Samples, alpha: Samples) -> Samples:
    """Colours with the invisible ones (alpha 0) replaced by those of the nearest visible parts.

    Files often hold black under full transparency; a filter or a model would pull that into the visible edge. The
    fill is a pyramid of alpha-weighted means, finest level first.

    Args:
        color: (H, W, C), any sample type.
        alpha: (H, W).
    """
    hidden = np.equal(alpha, 0)
    if not hidden.any() or hidden.all():
        return color
    out: Samples = color.copy()
    for channel in range(color.shape[2]):  # one after another: the pyramid takes six times a channel's floats
        found = _filled(color[..., channel], hidden)[hidden]
        if color.dtype.kind == "u":
            found = np.clip(np.floor(found + 0.5), 0, np.iinfo(color.dtype).max)
        out[..., channel][hidden] = found.astype(color.dtype)
    return out


def _filled(channel: Samples, hidden: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """(H, W) float32: one channel, its hidden places filled from the visible ones."""
    weight: npt.NDArray[Any] = (~hidden).astype(np.float32)
    total: npt.NDArray[Any] = channel.astype(np.float32) * weight
    levels = [(total, weight)]
    while max(levels[-1][1].shape) > 1:
        total, weight = levels[-1]
        size = (max(1, (weight.shape[1] + 1) // 2), max(1, (weight.shape[0] + 1) // 2))
        half = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in (total, weight)]
        levels.append((half[0].reshape(size[1], size[0]), half[1].reshape(size[1], size[0])))
    total, weight = levels.pop()
    fill: npt.NDArray[Any] = total / np.maximum(weight, 1e-12)
    while levels:
        total, weight = levels.pop()
        shape = weight.shape
        fill = cv2.resize(fill, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR).reshape(shape)
        fill = np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), fill)
    return fill


@dataclass(frozen=True)
class OutputImage(Sized):
    """What is to be written.

    Attributes:
        color: (H, W, 3) RGB, uint8, uint16, or float32 in [0, 1], as the engine made it.
        gray: write one channel (the luma of ``color``).
        alpha_rows: (top, bottom) -> rows of alpha in [0, 1], float32; None without alpha.
        extras: metadata of the input, already for an upright image of this size.
        gain_rows: (top, bottom) -> rows of a scene's gain; None without one.
        more: further pages, written to TIFF only.
    """

    color: Samples
    gray: bool
    alpha_rows: Callable[[int, int], npt.NDArray[np.float32]] | None
    extras: Extras
    gain_rows: Callable[[int, int], npt.NDArray[np.float32]] | None = None
    more: tuple["OutputImage", ...] = ()

    @property
    def pages(self) -> tuple["OutputImage", ...]:
        """This page and all further ones."""
        return (self, *self.more)

    @property
    def channels(self) -> int:
        """Channels written: 1 to 4."""
        return (1 if self.gray else 3) + (self.alpha_rows is not None)

    @property
    def strip(self) -> int:
        """Rows handled at a time."""
        return max(1, min(self.height, _STRIP_BYTES // (self.width * 4 * self.color.itemsize)))

    def rows(self, top: int, bottom: int) -> Samples:
        """Finished rows, (rows, W, channels)."""
        part = self.color[top:bottom]
        dtype = part.dtype
        parts = [_luma(part) if self.gray else part]
        if self.alpha_rows is not None:
            parts.append(to_depth(self.alpha_rows(top, bottom), dtype)[..., None])
        return np.concatenate(parts, axis=2) if len(parts) > 1 else np.ascontiguousarray(parts[0])

    def strips(self) -> Iterator[Samples]:
        """All rows, strip by strip."""
        for top in range(0, self.height, self.strip):
            yield self.rows(top, min(top + self.strip, self.height))
            release(self.color)


def _luma(color: Samples) -> Samples:
    """Gray of an RGB image (Rec. 601 weights, which sum to one: equal channels stay as they are)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    gray = color.astype(np.float32) @ weights
    out: Samples = gray if color.dtype.kind == "f" else np.floor(gray + np.float32(0.5)).astype(color.dtype)
    return out[..., None]
