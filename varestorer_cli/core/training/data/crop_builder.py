"""Building a cache of crops: probe the photographs, share out the crops, cut and degrade them, in threads.

The same configuration and photographs give the same bytes, whatever the number of threads.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from varestorer_cli.core.degradation.pipeline import Bytes, DegradationConfig, degrade
from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.training.data import tar_shards
from varestorer_cli.core.training.data.crops import (
    CropCacheConfig,
    Photo,
    cut_crop,
    halvings,
    held_out,
    list_photos,
    load_photo,
    name_number,
    share_out,
)

_FORMAT = 1  # raise when the same configuration gives other bytes: old caches are then not reused


def named_photos(data: Path) -> dict[str, Path]:
    """Photographs by a name that does not change when the folder moves."""
    root = data if data.is_dir() else data.parent
    return {
        (path.relative_to(root) if path.is_relative_to(root) else path).as_posix(): path for path in list_photos(data)
    }


def cache_key(config: CropCacheConfig, recipe: DegradationConfig, photos: dict[str, Path]) -> str:
    """Name of the cache that these make: other settings, recipes or photographs have another."""
    sizes = [(name, tar_shards.file_bytes(path)) for name, path in photos.items()]
    # how many may be missing changes nothing in the others: a constant, the one that older caches were named with
    contents = asdict(config) | {"max_unreadable": 0.1}
    text = json.dumps([_FORMAT, contents, asdict(recipe), sizes])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class CropBuilder:
    """One build: probe the photographs, share out the crops, cut and degrade them."""

    def __init__(
        self,
        config: CropCacheConfig,
        recipe: DegradationConfig,
        on_progress: Callable[[int, int], None] | None,
        on_warning: Callable[[str], None] | None,
        workers: int,
    ) -> None:
        self.config = config
        self.recipe = recipe
        self.on_progress = on_progress or (lambda done, total: None)
        self.on_warning = on_warning or (lambda message: None)
        self.workers = workers
        self.skipped: list[tuple[str, str]] = []
        self.unreadable: list[tuple[str, str]] = []

    def run(self, photos: dict[str, Path], folder: Path) -> None:
        """Write ``hq.npy``, ``lq.npy`` and, last, ``index.json`` into ``folder``."""
        config, side = self.config, self.config.crop // self.config.scale
        self._check_space(folder)
        with ThreadPoolExecutor(self.workers) as pool:
            probed = pool.map(self._probe, photos, photos.values())
            found = [source for source in probed if source is not None]
            self._check_unreadable(len(photos))
            if not found:
                raise InputError(
                    f"None of the {len(photos)} photographs is at least {config.crop} pixels on both sides: "
                    "give larger ones, or ask for smaller crops."
                )
            sources = share_out(found, config)
            hq = np.lib.format.open_memmap(
                folder / "hq.npy", "w+", np.uint8, (config.crops, config.crop, config.crop, 3)
            )
            lq = np.lib.format.open_memmap(
                folder / "lq.npy", "w+", np.uint8, (config.crops, config.versions, side, side, 3)
            )
            done, kept = 0, []
            try:
                for source, written in pool.map(lambda source: self._cut(source, hq, lq), sources):
                    done += source.crops
                    kept += [source] if written else []
                    self.on_progress(done, config.crops)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C ends now, not after all crops
                raise
        self._check_unreadable(len(photos))
        hq.flush()
        lq.flush()
        index = {
            "config": asdict(config),
            "recipe": asdict(self.recipe),
            "sources": [
                {"name": s.name, "first": s.first, "crops": s.crops, "held_out": held_out(s.name, config)} for s in kept
            ],
            "skipped": sorted(self.skipped),
        }
        (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")

    def _check_space(self, folder: Path) -> None:
        """Check the free space: on a full disk, writing to a mapped file would kill the process without a message."""
        config = self.config
        pixels = config.crop**2 + config.versions * (config.crop // config.scale) ** 2
        need, free = 3 * config.crops * pixels, shutil.disk_usage(folder).free
        if need > free:
            raise OutputError(
                f"The crop cache needs {need / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB free. "
                "Ask for fewer crops, or choose another cache folder."
            )

    def _skip(self, path: Path, reason: str, unreadable: bool) -> None:
        self.skipped.append((str(path), reason))
        self.unreadable += [(str(path), reason)] if unreadable else []
        self.on_warning(f"Skipped {path}: {reason}")

    def _check_unreadable(self, total: int) -> None:
        if len(self.unreadable) > max(1, self.config.max_unreadable * total):
            name, reason = min(self.unreadable)
            raise InputError(
                f"{len(self.unreadable)} of {total} photographs cannot be read, more than the "
                f"{self.config.max_unreadable:.0%} that may be; one is {name} ({reason}). Look at the folder."
            )

    def _probe(self, name: str, path: Path) -> Photo | None:
        """Size from the header alone; decoding waits until the crops are cut."""
        try:
            with tar_shards.open_file(path) as stream, Image.open(stream) as image:
                width, height = image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, InputError) as error:
            self._skip(path, f"cannot be read: {reason_of(error)}", unreadable=True)
            return None
        times = halvings(width, height, self.config)
        width, height = width >> times, height >> times
        if min(width, height) < self.config.crop:
            reason = f"{width}x{height} is smaller than the crop {self.config.crop}"
            self._skip(path, reason, unreadable=False)
            return None
        return Photo(name, path, width * height / 1e6)

    def _cut(self, source: Photo, hq: Bytes, lq: Bytes) -> tuple[Photo, bool]:
        if source.crops == 0:
            return source, False
        try:
            photo = load_photo(source.path)
        except InputError as error:
            # Its rows stay black and belong to no split.
            self._skip(source.path, str(error), unreadable=True)
            return source, False
        for _ in range(halvings(photo.shape[1], photo.shape[0], self.config)):
            size = (photo.shape[1] // 2, photo.shape[0] // 2)
            photo = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        number = name_number(source.name)
        for index in range(source.crops):
            row = source.first + index
            crop = cut_crop(photo, self.config, np.random.default_rng([self.config.seed, number, index, 0]))
            hq[row] = crop
            for version in range(self.config.versions):
                rng = np.random.default_rng([self.config.seed, number, index, 1 + version])
                lq[row, version] = degrade(crop, self.config.scale, self.recipe, rng)
        return source, True
