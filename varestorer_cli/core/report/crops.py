"""Crops and thumbnails for the HTML page, embedded in it or as small files beside it."""

import base64
import hashlib
import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.image.image_data import DecodedImage
from varestorer_cli.core.image.reader import decode, probe, read_bytes
from varestorer_cli.core.image.resample import Resampler, to_depth, to_float
from varestorer_cli.core.phrases import reason_of

CROP = (640, 512)  # width, height
MOST_CARDS = 60
MOST_BYTES = 24_000_000
THUMBNAIL = (240, 180)  # width, height that it fits into
MOST_THUMBNAILS = 600
MOST_THUMBNAIL_BYTES = 12_000_000
MOST_CARDS_APART = 300  # where the images are files, each of which is read when it is seen
LARGEST = 100_000_000  # pixels; larger images would take gigabytes to look for their crop
QUALITY = 90
_THUMBNAIL_QUALITY = 80
_STEP = 16
_STRIP = 256
_LOOKED_AT = 16_000_000  # pixels; larger differences are reduced before the largest is looked for
_BACKGROUND = 200

Bytes = npt.NDArray[np.uint8]
Address = Callable[[bytes], str]


def data_address(jpeg: bytes) -> str:
    """A JPEG file as a ``data:`` address."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


class ImageFolder:
    """A folder beside a page that holds its crops and thumbnails, each named by its hash.

    Args:
        folder: made where it is missing; of its files only those with such names are ever replaced or removed.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: the folder of the page's images cannot be made ({reason_of(error)})"
            ) from error

    def __call__(self, jpeg: bytes) -> str:
        """Write a JPEG file unless it is there; returns its address as seen from the page.

        Raises:
            OutputError: it cannot be written.
        """
        name = f"{hashlib.sha256(jpeg).hexdigest()[:20]}.jpg"
        if not (self.folder / name).exists():
            with atomic_file(self.folder / name) as stream:
                stream.write(jpeg)
        return f"./{quote(self.folder.name)}/{name}"

    def remove_others(self, page: str) -> None:
        """Remove images that a page does not name: those of an earlier one, and thumbnails it had no use for."""
        for path in self.folder.iterdir():
            if re.fullmatch(r"[0-9a-f]{20}\.jpg", path.name) and path.name not in page:
                with suppress(OSError):
                    path.unlink()


@dataclass(frozen=True)
class Crops:
    """The same part of several states of an image.

    Attributes:
        images: addresses, empty where a state could not be read.
        window: left, top, width and height of the part in the whole.
        whole: (width, height) of the whole.
        problems: why a state could not be read.
        thumbnail: address of the whole of one state, small.
    """

    images: tuple[str, ...]
    window: tuple[int, int, int, int]
    whole: tuple[int, int]
    problems: tuple[str, ...] = ()
    thumbnail: str = ""

    @property
    def bytes(self) -> int:
        """What the images add to the page."""
        return sum(map(len, self.images))

    @property
    def caption(self) -> str:
        """Where the part is from; empty where it is the whole."""
        left, top, width, height = self.window
        return "" if (width, height) == self.whole else f"{width}x{height} at {left}, {top}"


class Embedder:
    """Decides, entry by entry in the order of a page, what it shows: crops for the first, thumbnails for all.

    Args:
        folder: holds them; None embeds them in the page, so that their number is limited.

    Attributes:
        embedded: entries with crops so far.
        left_out: entries without a thumbnail because the page is full.
    """

    def __init__(self, folder: ImageFolder | None = None) -> None:
        self.folder = folder
        self.embedded = 0
        self.left_out = 0
        self._bytes = 0
        self._thumbnails = 0
        self._thumbnail_bytes = 0

    def add(
        self, paths: Sequence[Path | None], base: int, compared: tuple[int, int], shown: int, *, crop: bool = True
    ) -> tuple[Crops | None, str]:
        """Crops of one entry and its thumbnail; None and empty where the page is full or nothing can be read.

        Args:
            paths: one file per state; None where there is none.
            base: index of the state that gives the size of crops.
            compared: indices of the states whose difference chooses the window.
            shown: index of the state that the thumbnail shows.
            crop: whether crops are wanted.
        """
        crops, thumbnail = None, ""
        address: Address = self.folder or data_address
        if self.folder is not None:
            room, room_below = self.embedded < MOST_CARDS_APART, True
        else:
            room = self.embedded < MOST_CARDS and self._bytes < MOST_BYTES
            room_below = self._thumbnails < MOST_THUMBNAILS and self._thumbnail_bytes < MOST_THUMBNAIL_BYTES
        if crop and room:
            crops = cut_crops(paths, base, compared, shown=shown, address=address)
        if crops is not None:
            self.embedded += 1
            self._bytes += crops.bytes
            thumbnail = crops.thumbnail
        if not room_below:
            self.left_out += 1
            return crops, ""
        if not thumbnail:
            state = _read(paths[shown], [])
            thumbnail = "" if state is None else address(_thumbnail(state))
        self._thumbnails += bool(thumbnail)
        self._thumbnail_bytes += len(thumbnail)
        return crops, thumbnail


def cut_crops(
    paths: Sequence[Path | None],
    base: int,
    compared: tuple[int, int],
    most: tuple[int, int] = CROP,
    *,
    shown: int | None = None,
    address: Address = data_address,
) -> Crops | None:
    """Cut the part that differs most between two states out of all of them.

    States of another size are enlarged or reduced to the size of the base (bicubic), so that all align.

    Args:
        paths: one file per state; None where there is none.
        base: index of the state that gives the size.
        compared: indices of the states whose difference chooses the part.
        most: largest (width, height) of the part.
        shown: index of the state of the thumbnail, None for no thumbnail.
        address: keeps a JPEG file and returns its address.

    Returns:
        The crops, or None where the base cannot be read.
    """
    problems: list[str] = []
    states = [_read(path, problems) for path in paths]
    whole = states[base]
    if whole is None:
        return None
    height, width = whole.pixels.shape[:2]
    first, second = states[compared[0]], states[compared[1]]
    side = (min(most[0], width), min(most[1], height))
    window = (0, 0, *side)
    if first is not None and second is not None:
        window = (*_most_changed(first.pixels, second.pixels, (width, height), side), *side)
    else:
        window = ((width - side[0]) // 2, (height - side[1]) // 2, *side)
    images = tuple("" if state is None else address(_embed(state, (width, height), window)) for state in states)
    small = states[shown] if shown is not None else None
    thumbnail = "" if small is None else address(_thumbnail(small))
    return Crops(images, window, (width, height), tuple(problems), thumbnail)


@dataclass(frozen=True)
class _State:
    pixels: Bytes
    icc: bytes


def _read(path: Path | None, problems: list[str]) -> _State | None:
    """A file as (H, W, 3) 8-bit pixels, alpha over a plain background."""
    if path is None:
        return None
    try:
        width, height = probe(path)
        if width * height > LARGEST:
            raise InputError(f"{width}x{height} is more than {LARGEST // 10**6} megapixels")
        decoded = decode(read_bytes(path))
    except InputError as error:
        problems.append(f"{path.name}: {error}")
        return None
    return _State(_to_bytes(decoded), b"" if decoded.gray else decoded.extras.icc)


def _to_bytes(image: DecodedImage) -> Bytes:
    """Samples of any kind as 8-bit RGB, strip by strip: floats of a whole image could be gigabytes."""
    color, alpha = image.color, image.alpha
    out = np.empty((*color.shape[:2], 3), np.uint8)
    if alpha is None and color.dtype == np.uint8:
        out[:] = color
        return out
    for top in range(0, len(out), _STRIP):
        strip = slice(top, top + _STRIP)
        part = to_float(color[strip])
        if alpha is not None:
            share = to_float(alpha[strip])[..., None]
            part = part * share + np.float32(_BACKGROUND / 255) * (1 - share)
        out[strip] = to_depth(part, np.uint8)
    return out


def _most_changed(one: Bytes, two: Bytes, size: tuple[int, int], side: tuple[int, int]) -> tuple[int, int]:
    """Left and top of the window with the largest mean difference; the middle where nothing differs."""
    gray = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (one, two)]
    gray = [g if g.shape[::-1] == size else cv2.resize(g, size, interpolation=cv2.INTER_CUBIC) for g in gray]
    difference = cv2.absdiff(gray[0], gray[1])
    factor = math.ceil(math.sqrt(difference.size / _LOOKED_AT))
    if factor > 1:  # the sums of a whole image of this size would be most of a gigabyte
        small = (max(1, size[0] // factor), max(1, size[1] // factor))
        difference = cv2.resize(difference, small, interpolation=cv2.INTER_AREA)
    left, top = _window(difference, (max(1, side[0] // factor), max(1, side[1] // factor)))
    return min(left * factor, size[0] - side[0]), min(top * factor, size[1] - side[1])


def _window(difference: npt.NDArray[Any], side: tuple[int, int]) -> tuple[int, int]:
    """Left and top of the window with the largest sum."""
    size = difference.shape[::-1]
    side = (min(side[0], size[0]), min(side[1], size[1]))
    sums: npt.NDArray[Any] = cv2.integral(difference, sdepth=cv2.CV_64F)
    lefts, tops = _places(size[0], side[0]), _places(size[1], side[1])
    rights, bottoms = lefts + side[0], tops + side[1]
    total = sums[np.ix_(bottoms, rights)] - sums[np.ix_(tops, rights)]
    total += sums[np.ix_(tops, lefts)] - sums[np.ix_(bottoms, lefts)]
    if total.max() <= total.min():
        return (size[0] - side[0]) // 2, (size[1] - side[1]) // 2
    row, column = np.unravel_index(int(total.argmax()), total.shape)
    return int(lefts[column]), int(tops[row])


def _places(length: int, side: int) -> npt.NDArray[np.int64]:
    return np.unique(np.append(np.arange(0, length - side + 1, _STEP), length - side))


def _embed(state: _State, size: tuple[int, int], window: tuple[int, int, int, int]) -> bytes:
    """One window of a state, at the size of the base, as a JPEG file in sRGB."""
    left, top, width, height = window
    pixels = state.pixels
    if pixels.shape[1::-1] == size:
        part = pixels[top : top + height, left : left + width]
    else:
        resampler = Resampler(pixels.shape[:2], (size[1], size[0]))
        found = resampler.window(pixels, top, left, top + height, left + width)
        part = np.floor(found.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return _jpeg(part, state.icc, QUALITY, subsampling=0)


def _thumbnail(state: _State) -> bytes:
    """The whole of a state, small, as a JPEG file in sRGB."""
    height, width = state.pixels.shape[:2]
    factor = min(1.0, THUMBNAIL[0] / width, THUMBNAIL[1] / height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(state.pixels, size, interpolation=cv2.INTER_AREA)
    return _jpeg(np.asarray(small, np.uint8), state.icc, _THUMBNAIL_QUALITY, subsampling=2)


def _jpeg(pixels: Bytes, icc: bytes, quality: int, *, subsampling: int) -> bytes:
    image = _to_srgb(Image.fromarray(np.ascontiguousarray(pixels)), icc)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    if icc:
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return found if found is not None else image
    return image
