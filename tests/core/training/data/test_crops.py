"""Photographs to sharp crops: finding, reading, halving, sharing out, cutting."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.training.data import crops as cropping
from varestorer_cli.core.training.data.crops import (
    CropCacheConfig,
    cut_crop,
    halvings,
    list_photos,
    load_photo,
    share_out,
    sharpness,
)

# ------------------------------------------------------------------ finding and reading photographs


def test_a_folder_gives_its_images_sorted_and_nothing_else(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt", "._a.png", "Thumbs.db", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_photos(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG", tmp_path / "deep/er/c.webp"]


def test_a_list_file_gives_its_lines(tmp_path):
    absolute = tmp_path / "else where" / "ü.png"
    listing = tmp_path / "train.txt"
    listing.write_text(f"# training\n\nsub/b.png\n{absolute}\n sub/a.png \nsub/b.png\n", encoding="utf-8")
    expected = [absolute, tmp_path / "sub/a.png", tmp_path / "sub/b.png"]
    assert list_photos(listing) == sorted(expected)


def test_nothing_to_train_on_is_said(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        list_photos(tmp_path / "none")
    with pytest.raises(UsageError, match="gives no photographs"):
        list_photos(tmp_path)
    (tmp_path / "list.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        list_photos(tmp_path / "list.bin")


def test_photographs_come_upright_and_as_rgb(tmp_path):
    image = Image.fromarray(photo(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_photo(tmp_path / "turned.png"), np.rot90(np.asarray(image), -1))

    image.convert("L").save(tmp_path / "gray.png")
    assert load_photo(tmp_path / "gray.png").shape == (40, 60, 3)

    clear = image.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert (load_photo(tmp_path / "clear.png") == 255).all()


def test_a_broken_photograph_is_an_input_error(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(photo(70, 90)).save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    for name in ("text.png", "cut.jpg", "missing.png"):
        with pytest.raises(InputError, match=f"Cannot read .*{name}"):
            load_photo(tmp_path / name)


# ------------------------------------------------------------------ sizes, shares and windows


@pytest.mark.parametrize(
    ("width", "height", "times"),
    [(720, 360, 0), (1920, 1080, 1), (1280, 1024, 0), (4032, 3024, 1), (6000, 4000, 2), (8000, 400, 0)],
)
def test_large_photographs_are_halved(width, height, times):
    assert halvings(width, height, CropCacheConfig()) == times


def test_crops_follow_the_area_up_to_the_cap_and_add_up():
    config = CropCacheConfig(crops=1000, area_cap=1.0)
    sources = [
        cropping.Photo(name, Path(name), size) for name, size in [("a", 0.25), ("b", 0.5), ("c", 1.0), ("d", 9.0)]
    ]
    shared = share_out(sources, config)
    counts = np.array([source.crops for source in shared])
    assert counts.sum() == 1000
    assert np.abs(counts - 1000 * np.array([0.25, 0.5, 1, 1]) / 2.75).max() < 1
    assert [source.first for source in shared] == [0, *np.cumsum(counts)[:-1]]


def test_fewer_crops_than_photographs_are_spread():
    sources = [cropping.Photo(f"{index:03d}", Path("x"), 0.3) for index in range(100)]
    chosen = [s.name for s in share_out(sources, CropCacheConfig(crops=10)) if s.crops]
    assert len(chosen) == 10
    assert int(max(chosen)) > 50 > int(min(chosen)), "not simply the first ten"


def test_flat_windows_are_mostly_passed_over_but_some_stay():
    image = np.full((200, 200, 3), 128, np.uint8)
    image[:, 120:] = photo(200, 80)

    def flat_share(config: CropCacheConfig) -> float:
        crops = [cut_crop(image, config, np.random.default_rng(i)) for i in range(300)]
        return float(np.mean([sharpness(crop) < 1 for crop in crops]))

    config = CropCacheConfig(crop=32, min_sharpness=4.0, flat_share=0.0)
    assert sharpness(photo(200, 80)) > 6, "or this test says nothing"
    assert flat_share(config) < 0.02
    always = flat_share(replace(config, flat_share=1.0))
    assert always > 0.3
    assert flat_share(replace(config, flat_share=0.2)) == pytest.approx(0.2 * always, abs=0.06)


def test_a_flat_photograph_still_gives_crops():
    image = np.full((40, 40, 3), 9, np.uint8)
    crop = cut_crop(image, CropCacheConfig(crop=32), np.random.default_rng(0))
    assert crop.shape == (32, 32, 3)


def test_crops_are_reduced_by_random_factors():
    # On a ramp of one level per pixel, the mean gradient of a crop is its reduction.
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None].repeat(200, axis=0), 3, axis=2)
    config = CropCacheConfig(crop=64, min_sharpness=0.0, min_reduction=0.5)
    steps = [2 * sharpness(cut_crop(ramp, config, np.random.default_rng(i))) for i in range(100)]
    assert min(steps) == pytest.approx(1.0, abs=0.1)
    assert max(steps) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("changes", [{"crop": 30}, {"crop": 0}, {"crops": 0}, {"versions": 0}, {"min_reduction": 0.0}])
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(UsageError):
        CropCacheConfig(**changes)
