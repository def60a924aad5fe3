"""Crop caches as they are built: what they hold, what they refuse, what a fault leaves."""

import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from crop_photos import CONFIG, SMALL, only_photos, photo

from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.training.data import crop_builder, crop_cache
from varestorer_cli.core.training.data.crop_cache import CropCache, CropCacheConfig, list_photos
from varestorer_cli.core.training.data.crops import held_out


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


def test_a_cache_that_another_process_made_meanwhile_is_taken(tmp_path, monkeypatch):
    folder, config = only_photos(tmp_path / "in", 1), replace(SMALL, crops=2)
    other = CropCache.build(folder, tmp_path / "other", config)
    run = crop_builder.CropBuilder.run

    def overtaken(builder, photos, scratch):
        shutil.copytree(other.path, tmp_path / "cache" / other.path.name)
        run(builder, photos, scratch)

    monkeypatch.setattr(crop_builder.CropBuilder, "run", overtaken)
    taken = CropCache.build(folder, tmp_path / "cache", config)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [taken.path.name]


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
