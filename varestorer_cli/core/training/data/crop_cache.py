"""Training pairs: photographs to a cache of crops on disk, and from there to batches.

A crop cache holds sharp crops and ready-made degraded versions of each as flat uint8 arrays that are mapped
into memory, so that reading a batch costs nearly nothing. Everything that is drawn depends on the seed and on
the photograph or the step, never on order or state: the same call builds the same bytes, and a run resumes
exactly by asking for the batch of its next step.

Crops are (side, side, 3) RGB; a degraded crop is ``scale`` times smaller and aligned with its sharp one.
"""

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from varestorer_cli.core.atomic import part_path, remove_stale_parts
from varestorer_cli.core.degradation.pipeline import Bytes, DegradationConfig, degrade, load_recipe
from varestorer_cli.core.errors import InputError, OutputError, UsageError
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.training.data.crop_builder import CropBuilder, cache_key, named_photos
from varestorer_cli.core.training.data.crops import CropCacheConfig, list_photos

__all__ = ["CropCache", "CropCacheConfig", "PairBatch", "PairBatches", "list_photos"]

Indices = npt.NDArray[np.int64]
LabelOf = Callable[[int, int], Bytes]
"""(row, version) -> what another restorer makes of that degraded crop, (crop, crop, 3) uint8 RGB."""


@dataclass(frozen=True)
class PairBatch:
    """Aligned pairs: ``hq`` (B, 3, P, P) and ``lq`` (B, 3, P/scale, P/scale) uint8 RGB; rows of the cache.

    ``label`` is another restorer's result on ``lq``, (B, 3, P, P) uint8, where the run asks for it.
    Where a step's batch is shared out, ``first`` is the place of the first pair in the whole batch of ``whole`` pairs.
    """

    hq: torch.Tensor
    lq: torch.Tensor
    indices: torch.Tensor
    first: int = 0
    whole: int = 0
    label: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.hq)

    def parts(self, count: int) -> "list[PairBatch]":
        """The batch in ``count`` parts in order, none empty where there are enough pairs, sizes at most one apart."""
        cuts = [len(self) * part // count for part in range(count + 1)]
        return [
            PairBatch(
                self.hq[a:b],
                self.lq[a:b],
                self.indices[a:b],
                self.first + a,
                self.whole or len(self),
                None if self.label is None else self.label[a:b],
            )
            for a, b in itertools.pairwise(cuts)
        ]

    def drawn(self, draw: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """Random numbers for this part, sliced from one draw for the whole batch: the same however it is split.

        Args:
            draw: number of pairs -> one row of numbers each.
        """
        return draw(self.whole or len(self))[self.first : self.first + len(self)]


class CropCache:
    """Crops on disk; build one with ``build``, or open a finished one.

    Attributes:
        path: The folder with ``hq.npy``, ``lq.npy`` and ``index.json``.
        config: What it was built from.
        hq: (N, crop, crop, 3) uint8, mapped read-only.
        lq: (N, versions, crop/scale, crop/scale, 3) uint8, mapped read-only.
        train_indices: Rows for training, int64.
        val_indices: Rows of the held-out photographs, int64; no photograph is in both.
        sources: One entry per photograph: name, first row, number of rows, whether held out.
        skipped: (path, reason) of each photograph left out.
    """

    def __init__(self, path: Path) -> None:
        """Open a finished cache.

        Raises:
            InputError: ``path`` holds no finished cache.
        """
        self.path = path
        try:
            index = json.loads((path / "index.json").read_text(encoding="utf-8"))
            self.config = CropCacheConfig(**index["config"])
            self.hq: Bytes = np.load(path / "hq.npy", mmap_mode="r")
            self.lq: Bytes = np.load(path / "lq.npy", mmap_mode="r")
            self.sources: list[dict[str, Any]] = index["sources"]
            self.skipped: list[tuple[str, str]] = [(name, why) for name, why in index["skipped"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no finished crop cache: {error}. Build it again.") from error
        self.train_indices = self._rows(held_out=False)
        self.val_indices = self._rows(held_out=True)

    def _rows(self, held_out: bool) -> Indices:
        spans = [
            np.arange(source["first"], source["first"] + source["crops"], dtype=np.int64)
            for source in self.sources
            if source["held_out"] is held_out
        ]
        return np.concatenate(spans) if spans else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.train_indices) + len(self.val_indices)

    def read(self, indices: Sequence[int] | Indices, version: int = 0, labels: LabelOf | None = None) -> PairBatch:
        """Whole crops, not augmented: for validation.

        Args:
            indices: Rows of the cache.
            version: Which degraded version.
            labels: Makes the labels; none where left out.

        Returns:
            The pairs in the order asked for.
        """
        rows = np.asarray(indices, dtype=np.int64)
        made = None if labels is None else [labels(int(row), version) for row in rows]
        return _batch([self.hq[row] for row in rows], [self.lq[row, version] for row in rows], rows, made)

    @classmethod
    def build(
        cls,
        data: Path,
        cache_dir: Path,
        config: CropCacheConfig,
        on_progress: Callable[[int, int], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        workers: int | None = None,
    ) -> "CropCache":
        """Build the cache for ``data``, or reuse the one that the same call built before.

        Args:
            data: Folder or list file of photographs, see ``list_photos``.
            cache_dir: Where caches live; this one gets a sub-folder named by what it holds.
            config: What to build.
            on_progress: Called with (crops done, crops in all).
            on_warning: Called with one sentence for each photograph that is skipped.
            workers: Threads; one per processor when left out.

        Returns:
            The open cache.

        Raises:
            InputError: No photographs, too many unreadable ones, or none large enough.
            OutputError: The cache cannot be written.
        """
        recipe = load_recipe(config.recipe)
        photos = named_photos(data)
        target = cache_dir / f"crops-{cache_key(config, recipe, photos)}"
        if (target / "index.json").is_file():
            return cls(target)
        builder = CropBuilder(config, recipe, on_progress, on_warning, workers or os.cpu_count() or 1)
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            remove_stale_parts({cache_dir})
            name = part_path(target).name  # tells the process, so that the next run can remove what a dead one left
            prefix = f".{target.name}"
            scratch = Path(tempfile.mkdtemp(prefix=f"{prefix}-", suffix=name.removeprefix(prefix), dir=cache_dir))
        except OSError as error:
            raise OutputError(f"Cannot write the crop cache to {cache_dir}: {reason_of(error)}.") from error
        try:
            builder.run(photos, scratch)
            scratch.chmod(0o755)
            try:
                scratch.rename(target)
            except OSError:
                if not (target / "index.json").is_file():  # else another process was faster with the same
                    raise
        except OSError as error:
            raise OutputError(f"Cannot write the crop cache to {target}: {reason_of(error)}.") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return cls(target)


def _batch(hq: Sequence[Bytes], lq: Sequence[Bytes], rows: Indices, labels: Sequence[Bytes] | None = None) -> PairBatch:
    def planes(images: Sequence[Bytes]) -> torch.Tensor:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    label = None if labels is None else planes(labels)
    return PairBatch(planes(hq), planes(lq), torch.from_numpy(rows.copy()), label=label)


class PairBatches:
    """Batches of training pairs as a pure function of the step: resuming needs no state.

    Each epoch is its own permutation of the training crops; a batch may reach into the next epoch. Version (or a
    degradation of its own), flip, quarter turn and sub-patch are drawn for each sample.
    """

    def __init__(
        self,
        cache: CropCache,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        patch: int | None = None,
        labels: LabelOf | None = None,
        recipe: DegradationConfig | None = None,
    ) -> None:
        """Describe the batches.

        Args:
            cache: Where the pairs are.
            batch_size: Samples of all ranks together, at least one each.
            seed: Of order and augmentation.
            world_size: Number of ranks; they share each batch without overlap, in parts at most one apart in size.
            rank: This rank, from 0.
            patch: Side of the sharp sub-patch, a multiple of the scale; the whole crop when left out.
            labels: Makes the labels of the pairs; none where left out.
            recipe: Degrades each crop anew when it is drawn, from the seed and its place in the run; where left out,
                one of the versions in the cache is taken.

        Raises:
            UsageError: The numbers do not fit each other or the cache.
        """
        crop, scale = cache.config.crop, cache.config.scale
        self.patch = crop if patch is None else patch
        if self.patch % scale or not 0 < self.patch <= crop:
            raise UsageError(f"The patch {patch} must be a multiple of the scale {scale} and at most the crop {crop}.")
        if batch_size < world_size:
            raise UsageError(f"The batch size {batch_size} must give each of the {world_size} ranks a sample.")
        if not 0 <= rank < world_size:
            raise UsageError(f"Rank {rank} is not one of {world_size} ranks.")
        if not len(cache.train_indices):
            raise UsageError(f"The crop cache {cache.path} holds no training crops.")
        self.cache = cache
        self.batch_size = batch_size
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.labels = labels
        self.recipe = recipe
        self._order: tuple[int, Indices] | None = None

    def batch(self, step: int) -> PairBatch:
        """This rank's part of the batch of ``step`` (from 0)."""
        first, last = (self.batch_size * rank // self.world_size for rank in (self.rank, self.rank + 1))
        start = step * self.batch_size
        hq, lq, rows, labels = [], [], [], []
        for position in range(start + first, start + last):
            row = self._row(position)
            sharp, degraded, label = self._augmented(row, position)
            hq.append(sharp)
            lq.append(degraded)
            rows.append(row)
            labels += [] if label is None else [label]
        pairs = _batch(hq, lq, np.asarray(rows, dtype=np.int64), labels or None)
        return replace(pairs, first=first, whole=self.batch_size)

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self.cache.train_indices))
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, 0, epoch])
            self._order = (epoch, rng.permutation(self.cache.train_indices))
        return int(self._order[1][place])

    def _augmented(self, row: int, position: int) -> tuple[Bytes, Bytes, Bytes | None]:
        config, rng = self.cache.config, np.random.default_rng([self.seed, 1, position])
        version = int(rng.integers(config.versions))
        side, scale = self.patch // config.scale, config.scale
        top, left = rng.integers(config.crop // scale - side + 1, size=2)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def oriented(image: Bytes, factor: int) -> Bytes:
            cut = image[factor * top :, factor * left :][: factor * side, : factor * side]
            return np.rot90(cut[:, ::-1] if flip else cut, turns)

        label = None if self.labels is None else oriented(self.labels(row, version), scale)
        return oriented(self.cache.hq[row], scale), oriented(self._degraded(row, version, position), 1), label

    def _degraded(self, row: int, version: int, position: int) -> Bytes:
        """The whole crop's degraded image: of the cache, or made now."""
        if self.recipe is None:
            return np.asarray(self.cache.lq[row, version])
        rng = np.random.default_rng([self.seed, 2, position])
        return degrade(np.asarray(self.cache.hq[row]), self.cache.config.scale, self.recipe, rng)
