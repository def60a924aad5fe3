"""From photographs to sharp crops: which files, how far reduced, where cut, how many from each.

Photographs are (H, W, 3) uint8 RGB. What is drawn for one photograph depends on its name and a number, never
on the photographs around it.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from varestorer_cli.core.degradation.pipeline import Bytes
from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.training.data import tar_shards

PHOTO_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
# Folders of known training sets beside the photographs themselves.
_SHARP = re.compile(r"(^|_)HR$")
_REDUCED = re.compile(r"(^|_)LR(_|$)|^X\d$")
_OTHER = re.compile(r"^DIV2K_valid|^thumbnails128x128$")
_ATTEMPTS = 12  # windows tried for a crop with enough detail before the best so far is taken


@dataclass(frozen=True)
class CropCacheConfig:
    """What a crop cache holds.

    Attributes:
        crop: Side of the sharp crops in pixels, a multiple of ``scale``.
        scale: How many times smaller the degraded crops are.
        crops: How many crops all photographs give together.
        versions: Degraded versions of each crop.
        recipe: Degradation recipe, by name or file (see ``degradation.load_recipe``).
        seed: Of every draw.
        min_sharpness: Least mean gradient, in 8-bit levels per pixel, of a crop that counts as detailed.
        flat_share: Share of the crops that may be flat (sky, walls), so that flat areas are learned too.
        halve_above: Megapixels above which a photograph is halved, which sheds sensor blur and codec blur.
        halve_again_above: Megapixels above which it is halved once more, repeatedly.
        min_reduction: Crops are reduced further by a random factor between this and 1.
        area_cap: Megapixels (after halving) beyond which a larger photograph gives no more crops.
        validation_share: Share of the photographs that is held out.
        max_unreadable: Share of unreadable photographs above which the build fails; a single one never does.
    """

    crop: int = 256
    scale: int = 4
    crops: int = 8000
    versions: int = 2
    recipe: str = "moderate"
    seed: int = 0
    min_sharpness: float = 6.0
    flat_share: float = 0.1
    halve_above: float = 1.5
    halve_again_above: float = 4.0
    min_reduction: float = 0.5
    area_cap: float = 1.0
    validation_share: float = 0.04
    max_unreadable: float = 0.01

    def __post_init__(self) -> None:
        if self.crop <= 0 or self.scale <= 0 or self.crop % self.scale:
            raise UsageError(f"The crop {self.crop} must be a positive multiple of the scale {self.scale}.")
        if self.crops < 1 or self.versions < 1:
            raise UsageError(f"Ask for at least one crop and version, not {self.crops} and {self.versions}.")
        if not 0 < self.min_reduction <= 1:
            raise UsageError(f"min_reduction is {self.min_reduction}: it must lie above 0 and at most at 1.")


@dataclass(frozen=True)
class Photo:
    """A readable photograph, its share of the crops and where they begin."""

    name: str
    path: Path
    megapixels: float
    first: int = 0
    crops: int = 0


def list_photos(data: Path) -> list[Path]:
    """The photographs of a folder, recursively, of a tar shard, or of a list file with one path per line.

    Known training sets may be given as they unpack: of a folder ``HR`` and its reduced neighbours (DIV2K, LSDIR) only
    the former counts, and neither DIV2K's validation images nor FFHQ's thumbnails do.

    Args:
        data: A folder, a shard, or a text file; its relative paths start from the file's folder, blank lines and
            lines that start with # are skipped.

    Returns:
        Sorted paths; a folder's hidden files (``._x.jpg``), hidden folders and other types are left out. Photographs
        in a shard are paths below it, see ``tar_shards``.

    Raises:
        UsageError: ``data`` does not exist or gives no photograph.
        InputError: a shard cannot be read.
    """
    if data.is_dir():
        found = _in_folder(data)
    elif data.suffix == tar_shards.SUFFIX and data.is_file():
        found = _in_shard(data)
    elif data.is_file():
        try:
            lines = [line.strip() for line in data.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise UsageError(f"{data} is not a text file; give a folder of photographs, or a list of paths") from error
        listed = [data.parent / line for line in lines if line and not line.startswith("#")]
        found = [
            photo for path in listed for photo in (_in_shard(path) if path.suffix == tar_shards.SUFFIX else [path])
        ]
    else:
        raise UsageError(f"{data}: no such file or folder; give a folder of photographs, or a list of paths")
    if not found:
        wanted = ", ".join(sorted(PHOTO_SUFFIXES))
        raise UsageError(f"{data} gives no photographs: none of its files ends in {wanted}; give another folder")
    return sorted(set(found))


def _in_folder(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        sharp = any(_SHARP.search(name) for name in folders)
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and not _OTHER.search(name) and not (sharp and _REDUCED.search(name))
        ]
        paths = [Path(place) / name for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]
        found += [photo for path in paths if path.suffix == tar_shards.SUFFIX for photo in _in_shard(path)]
    return found


def _in_shard(shard: Path) -> list[Path]:
    return [shard / name for name in tar_shards.members(shard) if Path(name).suffix.lower() in PHOTO_SUFFIXES]


def load_photo(path: Path) -> Bytes:
    """One photograph upright as (H, W, 3) uint8 RGB; transparent parts on white.

    Raises:
        InputError: Not an image, damaged, or cut off.
    """
    try:
        with tar_shards.open_file(path) as stream, Image.open(stream) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright)
            return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"Cannot read {path}: {reason_of(error)}.") from error


def sharpness(image: Bytes) -> float:
    """Mean size of the luma gradient in 8-bit levels per pixel; about 2 for sky, 10 to 30 for detail."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float((np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()) / 2)


def name_number(name: str) -> int:
    """A 64-bit number that depends on a photograph's name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def halvings(width: int, height: int, config: CropCacheConfig) -> int:
    """How often a photograph is halved before crops are cut; never below the size of a crop."""
    times = 0
    limit = config.halve_above
    while width * height > limit * 1e6 and min(width, height) // 2 >= config.crop:
        width, height, times, limit = width // 2, height // 2, times + 1, config.halve_again_above
    return times


def held_out(name: str, config: CropCacheConfig) -> bool:
    """Whether a photograph is for validation: by its name alone, so that adding others moves none."""
    return name_number(f"held out {name}") / 2**64 < config.validation_share


def share_out(sources: Sequence[Photo], config: CropCacheConfig) -> list[Photo]:
    """Divide the crops by capped area, the largest remainders first; rows of a photograph are adjacent."""
    weights = np.array([min(source.megapixels, config.area_cap) for source in sources])
    exact = weights / weights.sum() * config.crops
    counts = np.floor(exact).astype(int)
    # A draw by name breaks ties, so that small caches of large sets are not all from the first folder.
    ties = [name_number(source.name) for source in sources]
    order = sorted(range(len(sources)), key=lambda i: (counts[i] - exact[i], ties[i]))
    counts[order[: config.crops - int(counts.sum())]] += 1
    firsts = np.cumsum(counts) - counts
    return [
        replace(source, first=int(first), crops=int(count))
        for source, first, count in zip(sources, firsts, counts, strict=True)
    ]


def cut_crop(photo: Bytes, config: CropCacheConfig, rng: np.random.Generator) -> Bytes:
    """One crop at a random place and reduction, with detail unless the draw allows a flat one.

    Args:
        photo: (H, W, 3) uint8, no side below ``config.crop``.
        config: Size, reduction and sharpness.
        rng: Of every draw.

    Returns:
        (crop, crop, 3) uint8.
    """
    height, width = photo.shape[:2]
    least = max(config.min_reduction, config.crop / min(height, width))
    may_be_flat = rng.random() < config.flat_share
    best, best_sharpness = photo, -1.0
    for _ in range(_ATTEMPTS):
        side = min(round(config.crop / rng.uniform(least, 1)), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        window = photo[top : top + side, left : left + side]
        if side != config.crop:
            size = (config.crop, config.crop)
            window = np.asarray(Image.fromarray(window).resize(size, Image.Resampling.BICUBIC))
        measured = sharpness(window)
        if may_be_flat or measured >= config.min_sharpness:
            return window
        if measured > best_sharpness:
            best, best_sharpness = window, measured
    return best
