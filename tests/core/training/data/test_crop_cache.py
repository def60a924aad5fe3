import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from varestorer_cli.core.degradation.pipeline import RECIPES
from varestorer_cli.core.errors import InputError, OutputError, UsageError
from varestorer_cli.core.training.data import crop_builder, crop_cache
from varestorer_cli.core.training.data.crop_cache import CropCache, CropCacheConfig, PairBatches, list_photos
from varestorer_cli.core.training.data.crops import held_out

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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(14):
        (folder / f"set{index % 3}").mkdir(exist_ok=True)
        photo(index, 70 + 10 * (index % 4), 90 + 40 * (index % 3)).save(
            folder / f"set{index % 3}" / f"photo {index}.png"
        )
    return folder


@pytest.fixture(scope="module")
def cache(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CropCache:
    return CropCache.build(photos, tmp_path_factory.mktemp("cache"), CONFIG, workers=2)


def only_photos(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(start, start + count):
        photo(index).save(folder / f"{index}.png")
    return folder


# ------------------------------------------------------------------ the cache


def test_the_cache_holds_what_was_asked_for(cache):
    assert cache.hq.shape == (60, 32, 32, 3)
    assert cache.lq.shape == (60, 2, 8, 8, 3)
    assert cache.hq.dtype == cache.lq.dtype == np.uint8
    assert not cache.hq.flags.writeable
    assert sorted([*cache.train_indices, *cache.val_indices]) == list(range(60))
    assert len(cache) == 60
    assert cache.skipped == []
    assert cache.config == CONFIG
    assert all(crop.std() > 5 for crop in cache.hq)
    assert not np.array_equal(cache.lq[:, 0], cache.lq[:, 1])


def test_no_photograph_is_in_both_splits(cache):
    sides = {}
    for source in cache.sources:
        rows = range(source["first"], source["first"] + source["crops"])
        sides[source["name"]] = {bool(np.isin(row, cache.val_indices)) for row in rows}
    assert all(len(side) == 1 for side in sides.values())
    assert {True} in sides.values()
    assert {False} in sides.values()
    assert all(sides[name] == {held_out(name, CONFIG)} for name in sides)


def test_about_the_share_asked_for_is_held_out():
    share = np.mean([held_out(f"folder/photo {i}.jpg", CropCacheConfig()) for i in range(5000)])
    assert share == pytest.approx(0.04, abs=0.01)


def test_the_same_call_builds_the_same_bytes_with_any_number_of_workers(cache, photos, tmp_path):
    other = CropCache.build(photos, tmp_path, CONFIG, workers=1)
    assert other.path.name == cache.path.name
    for name in ("hq.npy", "lq.npy", "index.json"):
        assert (other.path / name).read_bytes() == (cache.path / name).read_bytes()


def test_the_same_call_again_reuses_the_cache(cache, photos, monkeypatch):
    monkeypatch.setattr(crop_cache, "CropBuilder", None)
    assert CropCache.build(photos, cache.path.parent, CONFIG).path == cache.path


@pytest.mark.parametrize("changes", [{"seed": 4}, {"recipe": "moderate"}, {"crops": 15}, {"flat_share": 0.2}])
def test_another_configuration_gets_another_place(tmp_path, changes):
    folder, config = only_photos(tmp_path / "in", 1), replace(SMALL, crops=2)
    first = CropCache.build(folder, tmp_path / "cache", config)
    assert CropCache.build(folder, tmp_path / "cache", replace(config, **changes)).path != first.path


def test_the_place_depends_on_the_photographs_not_on_where_they_lie(tmp_path):
    config = replace(SMALL, crops=4)
    first = CropCache.build(only_photos(tmp_path / "a", 2), tmp_path / "cache", config)
    moved = CropCache.build(only_photos(tmp_path / "b", 2), tmp_path / "cache", config)
    grown = CropCache.build(only_photos(tmp_path / "b", 3), tmp_path / "cache", config)
    assert moved.path == first.path != grown.path


def test_crops_of_a_photograph_do_not_depend_on_the_others(tmp_path):
    config = SMALL
    few = CropCache.build(only_photos(tmp_path / "few", 2), tmp_path, replace(config, crops=8))
    many = CropCache.build(only_photos(tmp_path / "many", 5), tmp_path, replace(config, crops=15))
    first = {source["name"]: source["first"] for source in few.sources}
    for source in many.sources:
        if source["name"] in first:
            rows = slice(source["first"], source["first"] + 3)
            expected = slice(first[source["name"]], first[source["name"]] + 3)
            assert np.array_equal(many.hq[rows], few.hq[expected])
            assert np.array_equal(many.lq[rows], few.lq[expected])


def test_broken_and_small_photographs_are_skipped_counted_and_named(tmp_path):
    folder = only_photos(tmp_path / "in", 12)
    (folder / "no.png").write_text("no image")
    photo(50, 31, 100).save(folder / "small.png")
    messages: list[str] = []
    built = CropCache.build(folder, tmp_path / "cache", SMALL, on_warning=messages.append)
    assert [Path(name).name for name, _ in built.skipped] == ["no.png", "small.png"]
    assert "cannot be read" in built.skipped[0][1]
    assert built.skipped[1][1] == "100x31 is smaller than the crop 32"
    assert len(messages) == 2
    assert len(built) == SMALL.crops
    assert {source["name"] for source in built.sources} == {f"{i}.png" for i in range(12)}


def test_a_photograph_that_breaks_off_leaves_no_crops(tmp_path):
    folder = only_photos(tmp_path / "in", 12)
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])  # the header is fine
    messages: list[str] = []
    built = CropCache.build(folder, tmp_path / "cache", SMALL, on_warning=messages.append)
    assert [Path(name).name for name, _ in built.skipped] == ["3.png"]
    assert "3.png" in messages[0]
    rows = np.concatenate([built.train_indices, built.val_indices])
    assert len(rows) == len(built) < SMALL.crops
    assert all(built.hq[row].any() for row in rows)


def test_too_many_broken_photographs_fail_the_build(tmp_path):
    folder = only_photos(tmp_path / "in", 8)
    for name in ("a.png", "b.png"):
        (folder / name).write_text("no image")
    with pytest.raises(InputError, match=r"2 of 10 .*more than the 1%.*a\.png"):
        CropCache.build(folder, tmp_path / "cache", SMALL)
    assert list((tmp_path / "cache").iterdir()) == []


def test_photographs_in_tar_shards_give_the_crops_of_loose_ones(tmp_path):
    (tmp_path / "in").mkdir()
    folder = only_photos(tmp_path / "in" / "part.tar", 4)  # a folder of that name, so that names are equal
    loose = CropCache.build(folder.parent, tmp_path / "cache", SMALL)
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "part.tar", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
        archive.add(__file__, "0.txt")
    assert CropCache.build(packed, tmp_path / "cache", SMALL).path == loose.path  # the same bytes, hence the same cache
    built = CropCache.build(packed / "part.tar", tmp_path / "other", SMALL)
    assert len(built) == len(loose) and not built.skipped
    (packed / "part.tar").write_bytes((packed / "part.tar").read_bytes()[:700])
    with pytest.raises(InputError, match="Cannot read the shard"):
        list_photos(packed)


def test_known_training_sets_are_taken_as_they_unpack(tmp_path):
    wanted = ["DIV2K_train_HR/1.png", "LSDIR/train/HR/00/2.png", "images1024x1024/3.png", "own/X2/4.png"]
    others = [
        "DIV2K_train_LR_bicubic/X4/1x4.png",
        "DIV2K_valid_HR/9.png",
        "LSDIR/train/X4/00/2x4.png",
        "thumbnails128x128/3.png",
        ".hidden/5.png",
    ]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in list_photos(tmp_path)] == wanted


def test_only_small_photographs_fail_the_build(tmp_path):
    photo(0, 20, 20).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="None of the 1 photographs is at least 32 pixels"):
        CropCache.build(tmp_path, tmp_path / "cache", SMALL)


def test_a_build_that_breaks_off_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    folder = only_photos(tmp_path / "in", 3)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CropCache.build(folder, tmp_path / "cache", SMALL, on_progress=interrupt)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(CropCache.build(folder, tmp_path / "cache", SMALL)) == SMALL.crops


def test_progress_counts_to_the_end(tmp_path):
    folder, seen = only_photos(tmp_path / "in", 4), []
    CropCache.build(folder, tmp_path / "cache", SMALL, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (14, 14)
    assert seen == sorted(seen)


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    folder = only_photos(tmp_path / "in", 2)
    usage = crop_cache.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(crop_builder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"needs 0\.0 GB.*has 0\.0 GB free"):
        CropCache.build(folder, tmp_path / "cache", SMALL)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match="Cannot write the crop cache"):
        CropCache.build(only_photos(tmp_path / "in", 1), tmp_path / "cache", SMALL)


def test_an_unfinished_cache_does_not_open(tmp_path, cache):
    with pytest.raises(InputError, match="holds no finished crop cache"):
        CropCache(tmp_path)
    (tmp_path / "index.json").write_text((cache.path / "index.json").read_text())
    with pytest.raises(InputError, match="holds no finished crop cache"):
        CropCache(tmp_path)


# ------------------------------------------------------------------ batches


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


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        cv2.imwrite(str(photos / f"{index}.png"), rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    code = (
        "import os, sys; from pathlib import Path; from varestorer_cli.core.training.data import crop_cache as module\n"
        "module.CropBuilder.run = lambda self, photos, folder: os.kill(os.getpid(), 9)\n"
        "config = module.CropCacheConfig(crop=64, scale=4, crops=8, recipe='moderate')\n"
        "module.CropCache.build(Path(sys.argv[1]), Path(sys.argv[2]), config)"
    )
    words = [sys.executable, "-c", code, str(photos), str(tmp_path / "cache")]
    subprocess.run(words, cwd=Path(__file__).parents[4], check=False)
    assert len(list((tmp_path / "cache").glob(".crops-*.part"))) == 1
    built = CropCache.build(photos, tmp_path / "cache", CropCacheConfig(crop=64, scale=4, crops=8, recipe="moderate"))
    assert list((tmp_path / "cache").iterdir()) == [built.path]


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
