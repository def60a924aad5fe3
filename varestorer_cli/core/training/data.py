"""What a run learns from: crops and held-out crops."""

import sys
import time
from collections.abc import Callable

from varestorer_cli.core.dataset import CropCache, CropCacheConfig, PairBatch
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.presets import Preset, Recipe
from varestorer_cli.core.training.options import TrainOptions

VALIDATION_TILES = 12


def speaker(quiet: bool) -> Callable[[str], None]:
    """Something that writes a line to stderr, or nothing."""

    def say(text: str) -> None:
        if not quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    return say


def crop_cache(options: TrainOptions, chosen: Preset, recipe: Recipe, say: Callable[[str], None]) -> CropCache:
    """The crops a run uses, cut from its photographs unless they are there already."""
    config = CropCacheConfig(
        crop=chosen.tokenizer.tile,
        scale=chosen.restorer.scale,
        crops=options.crops or chosen.crops,
        recipe=options.recipe,
    )
    if recipe.patch > config.crop:
        raise UsageError(f"the recipe's patch {recipe.patch} is larger than the cached crops ({config.crop})")
    folder = options.cache or options.out.parent / "cache"
    last = [0.0]

    def progress(done: int, total: int) -> None:
        if time.monotonic() - last[0] > 5 or done == total:
            last[0] = time.monotonic()
            say(f"cutting crops: {done}/{total}")

    return CropCache.build(options.data, folder, config, on_progress=progress, on_warning=say, workers=options.threads)


def validation_batches(cache: CropCache) -> list[PairBatch]:
    """Some crops of held-out photographs, spread over them."""
    rows = cache.val_indices
    if not len(rows):
        return []
    spread = [int(rows[i * len(rows) // VALIDATION_TILES]) for i in range(min(VALIDATION_TILES, len(rows)))]
    return [cache.read(spread[i : i + 4]) for i in range(0, len(spread), 4)]
