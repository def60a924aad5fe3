"""Batches out of a crop cache: a function of seed and step alone, sharp and degraded patches on each other."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from crop_photos import CONFIG, only_photos
from PIL import Image

from varestorer_cli.core.degradation.pipeline import RECIPES
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.data import crop_cache
from varestorer_cli.core.training.data.crop_cache import CropCache, PairBatches


def same(a: crop_cache.PairBatch, b: crop_cache.PairBatch) -> bool:
    return torch.equal(a.hq, b.hq) and torch.equal(a.lq, b.lq) and torch.equal(a.indices, b.indices)


def test_batches_have_the_promised_shape(cache):
    batch = PairBatches(cache, 4, seed=0, patch=16).batch(0)
    assert batch.hq.shape == (4, 3, 16, 16)
    assert batch.lq.shape == (4, 3, 4, 4)
    assert batch.hq.dtype == batch.lq.dtype == torch.uint8
    assert batch.indices.dtype == torch.int64
    assert PairBatches(cache, 4, seed=0).batch(0).hq.shape == (4, 3, 32, 32)


def test_a_batch_depends_on_seed_and_step_alone(cache):
    one, two = PairBatches(cache, 4, seed=1, patch=16), PairBatches(cache, 4, seed=1, patch=16)
    forward = [one.batch(step) for step in range(40)]
    backward = [two.batch(step) for step in reversed(range(40))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not same(forward[0], forward[1])
    assert not same(forward[0], PairBatches(cache, 4, seed=2, patch=16).batch(0))


def test_each_epoch_covers_every_training_crop_once_in_its_own_order(cache):
    count = len(cache.train_indices)
    batches = PairBatches(cache, 1, seed=0)
    epochs = [[int(batches.batch(e * count + i).indices) for i in range(count)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(cache.train_indices)
    assert epochs[0] != epochs[1]


def test_batches_run_over_the_end_of_an_epoch(cache):
    count = len(cache.train_indices)
    assert count % 7, "or this test says nothing"
    batches = PairBatches(cache, 7, seed=0)
    rows = torch.cat([batches.batch(step).indices for step in range(count)])
    assert np.array_equal(np.bincount(rows, minlength=60)[cache.train_indices], np.full(count, 7))


def test_ranks_share_each_batch_without_overlap(cache):
    whole = PairBatches(cache, 6, seed=5, patch=16)
    parts = [PairBatches(cache, 6, seed=5, world_size=3, rank=rank, patch=16) for rank in range(3)]
    for step in range(5):
        shares = [part.batch(step) for part in parts]
        assert len({int(row) for share in shares for row in share.indices}) == 6
        assert torch.equal(torch.cat([share.hq for share in shares]), whole.batch(step).hq)


def test_degraded_patches_lie_on_their_sharp_ones(cache):
    batches = PairBatches(cache, 8, seed=0, patch=24)

    def likeness(sharp: np.ndarray, degraded: np.ndarray) -> float:
        return float(np.corrcoef(sharp.ravel(), degraded.ravel())[0, 1])

    aligned, shifted = [], []
    for step in range(8):
        batch = batches.batch(step)
        for sharp, degraded in zip(batch.hq, batch.lq, strict=True):
            image = Image.fromarray(sharp.permute(1, 2, 0).numpy())
            small = np.asarray(image.resize((6, 6), Image.Resampling.BICUBIC), dtype=float)
            other = degraded.permute(1, 2, 0).numpy().astype(float)
            aligned.append(likeness(small, other))
            shifted += [likeness(np.roll(small, 1, axis), other) for axis in (0, 1)]
            # Any of the other seven orientations would fit worse than the right one.
            turned = [likeness(np.rot90(small, k), other) for k in (1, 2, 3)]
            mirrored = [likeness(np.rot90(small[:, ::-1], k), other) for k in range(4)]
            assert aligned[-1] > max(turned + mirrored)
    assert np.mean(aligned) > 0.88
    assert np.mean(shifted) < np.mean(aligned) - 0.2


def test_flips_turns_patches_and_versions_all_occur(cache):
    batches = PairBatches(cache, 1, seed=0)
    count = len(cache.train_indices)
    seen = set()
    for step in range(count * 3):
        batch = batches.batch(step)
        sharp = cache.hq[int(batch.indices)]
        drawn = batch.hq[0].permute(1, 2, 0).numpy()
        small = batch.lq[0].permute(1, 2, 0).numpy()
        for flip in (False, True):
            for turns in range(4):
                if np.array_equal(np.rot90(sharp[:, ::-1] if flip else sharp, turns), drawn):
                    for version in range(2):
                        degraded = cache.lq[int(batch.indices), version]
                        if np.array_equal(np.rot90(degraded[:, ::-1] if flip else degraded, turns), small):
                            seen.add((flip, turns, version))
    assert len(seen) == 16

    cut = PairBatches(cache, 1, seed=0, patch=16)
    corners = set()
    for step in range(count):
        batch = cut.batch(step)
        sharp = torch.from_numpy(cache.hq[int(batch.indices)].copy()).permute(2, 0, 1)
        windows = sharp.unfold(1, 16, 4).unfold(2, 16, 4)
        for top in range(5):
            for left in range(5):
                if sorted(windows[0, top, left].flatten().tolist()) == sorted(batch.hq[0, 0].flatten().tolist()):
                    corners.add((top, left))
    assert len(corners) > 10


def test_reading_gives_whole_crops_as_they_are(cache):
    batch = cache.read(cache.val_indices[:3], version=1)
    for position, row in enumerate(cache.val_indices[:3]):
        assert np.array_equal(batch.hq[position].permute(1, 2, 0), cache.hq[row])
        assert np.array_equal(batch.lq[position].permute(1, 2, 0), cache.lq[row, 1])
    assert batch.indices.tolist() == list(cache.val_indices[:3])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"patch": 18}, "patch 18 must be a multiple of the scale 4"),
        ({"patch": 36}, "at most the crop 32"),
        ({"patch": 0}, "patch 0"),
        ({"batch_size": 1, "world_size": 2}, "batch size 1 must give each of the 2 ranks a sample"),
        ({"world_size": 2, "rank": 2}, "Rank 2 is not one of 2 ranks"),
    ],
)
def test_batches_that_do_not_fit_are_refused(cache, arguments, words):
    with pytest.raises(UsageError, match=words):
        PairBatches(**{"cache": cache, "batch_size": 4, "seed": 0, **arguments})


def test_a_cache_without_training_crops_is_refused(tmp_path):
    config = replace(CONFIG, crops=4, validation_share=1.0)
    built = CropCache.build(only_photos(tmp_path / "in", 2), tmp_path / "cache", config, workers=os.cpu_count())
    with pytest.raises(UsageError, match="holds no training crops"):
        PairBatches(built, 2, seed=0)


def test_degraded_on_the_fly_each_draw_is_new_and_repeats_exactly(cache: CropCache) -> None:
    recipe = RECIPES["mild"]
    one, again = (PairBatches(cache, 4, seed=1, recipe=recipe) for _ in range(2))
    cached = PairBatches(cache, 4, seed=1)
    seen: dict[int, set[bytes]] = {}
    for step in range(40):
        pair = one.batch(step)
        assert torch.equal(pair.lq, again.batch(step).lq) and torch.equal(pair.hq, cached.batch(step).hq)
        for row, lq in zip(pair.indices.tolist(), pair.lq, strict=True):
            seen.setdefault(row, set()).add(lq.numpy().tobytes())
    assert min(len(draws) for draws in seen.values()) >= 2, "more draws of a crop than versions in the cache"
    drawn = sum(len(draws) for draws in seen.values())
    assert drawn == 160, "no draw comes twice"
    parts = [PairBatches(cache, 4, seed=1, world_size=2, rank=rank, recipe=recipe).batch(7) for rank in range(2)]
    assert torch.equal(torch.cat([part.lq for part in parts]), one.batch(7).lq)


def test_what_is_degraded_on_the_fly_lies_on_its_sharp_patch(cache: CropCache) -> None:
    """Without a flip or turn between them: reduced, the sharp patch is near its degraded one, far from a mirrored."""
    batches = PairBatches(cache, 8, seed=2, patch=16, recipe=RECIPES["mild"])
    near, far = [], []
    for step in range(6):
        pair = batches.batch(step)
        small = torch.nn.functional.avg_pool2d(pair.hq.float(), 4)
        near.append((small - pair.lq.float()).abs().mean())
        far.append((small.flip(-1) - pair.lq.float()).abs().mean())
    assert float(torch.stack(near).mean()) < 0.6 * float(torch.stack(far).mean())
