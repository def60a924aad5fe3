"""Make LQ/HQ pairs from a folder of photographs, the way DIV2K-Val was made.

Every photograph gives its central 512x512 crop and a x4 degraded copy by the Real-ESRGAN recipe, as StableSR made
DIV2K_V2_val (Wang et al. 2024, section 4.1). What was done stands in ``recipe.json``: seed, recipe, and of every
photograph the hash, the crop and the hashes of the pair. The folder's name carries a hash of all that decides its
content, so an existing folder is this set, or another folder's.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from varestorer_cli.core.atomic import atomic_file, check_writable
from varestorer_cli.core.degradation.pipeline import RECIPES, degrade
from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.metrics.base import Image8
from varestorer_cli.core.phrases import count, named
from varestorer_cli.core.score.datasets import Dataset, open_folder
from varestorer_cli.core.score.options import SYNTHETIC
from varestorer_cli.core.score.pairing import find_images
from varestorer_cli.core.score.scorer import read_rgb8
from varestorer_cli.version import __version__

CROP, SCALE, SMALLEST = 512, 4, 64
RECIPE = "realesrgan"
RECIPE_FILE = "recipe.json"
VERSION = 1  # raised when the same photographs give other pairs


@dataclass(frozen=True)
class SyntheticPair:
    """One photograph in the recipe file."""

    name: str
    source_sha256: str
    crop: tuple[int, int, int, int]  # left, top, width, height
    lq_sha256: str
    gt_sha256: str


def make_set(
    photos: Path, parent: Path, *, seed: int = 0, on_done: Callable[[int, int], None] = lambda done, count: None
) -> Dataset:
    """Make the pairs of a folder of photographs, or open those that were made before.

    Args:
        photos: folder of sharp photographs.
        parent: where the set's folder is made.
        seed: of every draw; a photograph's pair depends on the seed and its own name only.
        on_done: called with (done, all) photographs.

    Returns:
        The set; its note names photographs that gave no pair.

    Raises:
        UsageError: no folder, no photograph in it, or none that is readable and large enough.
        OutputError: the set cannot be written.
    """
    if not photos.is_dir():
        raise UsageError(f"--dataset {SYNTHETIC} makes pairs from a folder of photographs, and {photos} is none")
    sources = find_images(photos)
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sources.items()}
    settings = {
        "version": VERSION,
        "seed": seed,
        "scale": SCALE,
        "crop": CROP,
        "degradation": RECIPE,
        "parameters": asdict(RECIPES[RECIPE]),
    }
    identity = hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()
    name = f"{SYNTHETIC}-{photos.resolve().name}-{identity[:8]}"
    folder = parent / name
    if not (folder / RECIPE_FILE).is_file():
        check_writable(folder)
        entries, refused = _make_pairs(sources, digests, folder, seed, on_done)
        if not entries:
            raise UsageError(f"{photos}: no photograph gives a pair: {_said(refused)}")
        content = {
            "tool": "varestorer score",
            "tool_version": __version__,
            "photographs": str(photos),
            **settings,
            "refused": refused,
            "pairs": [asdict(entry) for entry in entries],
        }
        with atomic_file(folder / RECIPE_FILE) as stream:  # last: with it the set is whole
            stream.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    return _opened(folder, name)


def _opened(folder: Path, name: str) -> Dataset:
    found = open_folder(folder, name)
    refused: dict[str, str] = json.loads((folder / RECIPE_FILE).read_text("utf-8"))["refused"]
    note = f"made by the recipe in {folder / RECIPE_FILE}: stand-ins for DIV2K-Val, not its images"
    if refused:
        note += f"; {count(len(refused), 'photograph')} gave no pair: {_said(refused)}"
    return Dataset(found.name, found.degraded, found.references, found.folder, note=note)


def _said(refused: dict[str, str]) -> str:
    return named([f"{name} ({reason})" for name, reason in refused.items()], 10)


def _make_pairs(
    sources: dict[str, Path], digests: dict[str, str], folder: Path, seed: int, on_done: Callable[[int, int], None]
) -> tuple[list[SyntheticPair], dict[str, str]]:
    entries: list[SyntheticPair] = []
    refused: dict[str, str] = {}
    for number, (name, path) in enumerate(sources.items(), 1):
        try:
            image, _ = read_rgb8(path)
            crop = _central_crop(image)
        except InputError as error:
            refused[name] = str(error)
            continue
        left, top, width, height = crop
        sharp = np.ascontiguousarray(image[top : top + height, left : left + width])
        # Drawn from seed and name: a photograph added or taken away changes no other pair.
        digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
        small = degrade(sharp, SCALE, RECIPES[RECIPE], np.random.default_rng(int.from_bytes(digest[:16], "big")))
        hashes = [_write(folder / half / f"{name}.png", pixels) for half, pixels in (("lq", small), ("gt", sharp))]
        entries.append(SyntheticPair(name, digests[name], crop, *hashes))
        on_done(number, len(sources))
    return entries, refused


def _central_crop(image: Image8) -> tuple[int, int, int, int]:
    """Left, top, width, height: 512x512, or what a smaller image has of it in multiples of the scale."""
    height, width = (min(CROP, side // SCALE * SCALE) for side in image.shape[:2])
    if min(height, width) < SMALLEST:
        raise InputError(f"{image.shape[1]}x{image.shape[0]} is under {SMALLEST} pixels on a side")
    return (image.shape[1] - width) // 2, (image.shape[0] - height) // 2, width, height


def _write(path: Path, pixels: Any) -> str:
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    if not done:
        raise InputError(f"{path}: cannot be encoded")
    with atomic_file(path) as stream:
        stream.write(data.tobytes())
    return hashlib.sha256(data.tobytes()).hexdigest()
