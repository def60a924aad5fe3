"""Photographs and a crop cache of them, which tests only read."""

from pathlib import Path

import pytest
from crop_photos import CONFIG, photo

from varestorer_cli.core.training.data.crop_cache import CropCache


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(14):
        (folder / f"set{index % 3}").mkdir(exist_ok=True)
        photo(index, 70 + 10 * (index % 4), 90 + 40 * (index % 3)).save(
            folder / f"set{index % 3}" / f"photo {index}.png"
        )
    return folder


@pytest.fixture(scope="session")
def cache(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CropCache:
    return CropCache.build(photos, tmp_path_factory.mktemp("cache"), CONFIG, workers=2)
