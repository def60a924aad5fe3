"""Photographs, and a chain of runs that several files of tests look at and go on from; none changes it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from training_runs import options

from varestorer_cli.core.training.data.crops import CropCacheConfig, held_out
from varestorer_cli.core.training.run import train


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven small images with edges and texture, one of which is held out for validation."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    names = [name for name in (f"photo_{n}.png" for n in range(200)) if held_out(name, CropCacheConfig())][:1]
    for index, name in enumerate([*names, *(f"training_{n}.png" for n in range(6))]):
        image = cv2.resize(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8), (200, 160), interpolation=cv2.INTER_CUBIC)
        image = cv2.circle(image, (60 + 10 * index, 80), 40, (20, 200, 90), -1)
        cv2.imwrite(str(folder / name), image)
    return folder


@pytest.fixture(scope="session")
def chain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages of the smoke preset, a few steps each."""
    run = tmp_path_factory.mktemp("run")
    for stage in ("prerestorer", "tokenizer", "teacher", "distill"):
        train(options(stage, photos, run, steps=6))
    return run
