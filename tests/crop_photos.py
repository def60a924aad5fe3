"""Small photographs and configurations of crop caches, for tests of training data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from varestorer_cli.core.training.data.crop_cache import CropCacheConfig

CONFIG = CropCacheConfig(
    crop=32, crops=60, versions=2, recipe="mild", seed=3, validation_share=0.3, halve_above=0.02, area_cap=0.015
)


SMALL = replace(CONFIG, crops=14, versions=1)


def photo(seed: int, height: int = 70, width: int = 90) -> Image.Image:
    """Fine detail on coarse shapes, so that something survives the reduction by four."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0)
    for cell, strength in ((3, 0.4), (12, 0.8), (30, 0.8)):
        coarse = rng.integers(0, 256, (height // cell + 1, width // cell + 1, 3), dtype=np.uint8)
        grown = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += strength * (np.asarray(grown) - 128.0)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def only_photos(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(start, start + count):
        photo(index).save(folder / f"{index}.png")
    return folder
