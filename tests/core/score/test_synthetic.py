import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import load, photo, save, tree

from varestorer_cli.core.degradation.pipeline import RECIPES, degrade
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.score import synthetic


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A wide photograph, a small one of odd sides, one that is too small, one that is broken."""
    folder = tmp_path / "hq"
    save(folder / "wide.png", photo(520, 531, seed=1))
    save(folder / "deep/odd.jpg", photo(71, 102, seed=2))
    save(folder / "tiny.png", photo(40, 200))
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def test_pairs_are_central_crops_and_their_degraded_copies(photos: Path, tmp_path: Path) -> None:
    found = synthetic.make_set(photos, tmp_path / "work", seed=3)
    assert list(found.degraded) == ["deep/odd", "wide"] and found.name.startswith("div2k-synth-hq-")
    sharp, small = load(found.references["wide"]), load(found.degraded["wide"])
    np.testing.assert_array_equal(sharp, load(photos / "wide.png")[4:516, 9:521])
    assert sharp.shape == (512, 512, 3) and small.shape == (128, 128, 3)
    assert load(found.references["deep/odd"]).shape == (68, 100, 3) and load(found.degraded["deep/odd"]).shape == (
        17,
        25,
        3,
    )
    assert "2 photographs gave no pair: broken (" in found.note and "tiny (200x40 is under 64 pixels" in found.note


def test_the_recipe_is_enough_to_make_a_pair_again(photos: Path, tmp_path: Path) -> None:
    found = synthetic.make_set(photos, tmp_path / "work", seed=3)
    recipe = json.loads((tmp_path / "work" / found.name / "recipe.json").read_text())
    assert (recipe["seed"], recipe["scale"], recipe["degradation"]) == (3, 4, "realesrgan")
    assert recipe["parameters"]["jpeg_range"] == [30, 95]
    entry = recipe["pairs"][1]
    assert (entry["name"], entry["crop"]) == ("wide", [9, 4, 512, 512])
    assert entry["source_sha256"] == hashlib.sha256((photos / "wide.png").read_bytes()).hexdigest()
    assert entry["lq_sha256"] == hashlib.sha256(found.degraded["wide"].read_bytes()).hexdigest()
    left, top, width, height = entry["crop"]
    digest = hashlib.sha256(f"{recipe['seed']}\0{entry['name']}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    crop = load(photos / "wide.png")[top : top + height, left : left + width]
    np.testing.assert_array_equal(degrade(crop, 4, RECIPES["realesrgan"], rng), load(found.degraded["wide"]))


def test_the_same_photographs_give_the_same_bytes_and_are_kept(photos: Path, tmp_path: Path) -> None:
    first = synthetic.make_set(photos, tmp_path / "one")
    again = synthetic.make_set(photos, tmp_path / "two")
    files = tree(tmp_path / "one" / first.name)
    assert files == tree(tmp_path / "two" / again.name) and len(files) == 5
    made: list[int] = []
    assert synthetic.make_set(photos, tmp_path / "one", on_done=lambda done, count: made.append(done)) == first
    assert made == []


def test_another_seed_or_photograph_is_another_set_and_moves_no_other_pair(photos: Path, tmp_path: Path) -> None:
    first = synthetic.make_set(photos, tmp_path)
    other = synthetic.make_set(photos, tmp_path, seed=1)
    assert other.name != first.name
    assert load(other.degraded["wide"]).tobytes() != load(first.degraded["wide"]).tobytes()
    save(photos / "another.png", photo(80, 80))
    more = synthetic.make_set(photos, tmp_path)
    assert len({first.name, other.name, more.name}) == 3 and "another" in more.degraded
    assert more.degraded["wide"].read_bytes() == first.degraded["wide"].read_bytes()


def test_a_set_that_was_not_finished_is_made_again(photos: Path, tmp_path: Path) -> None:
    first = synthetic.make_set(photos, tmp_path)
    folder = tmp_path / first.name
    expected = tree(folder)
    (folder / "recipe.json").unlink()
    first.degraded["wide"].write_bytes(b"half")
    synthetic.make_set(photos, tmp_path)
    assert tree(folder) == expected


def test_folders_without_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is none"):
        synthetic.make_set(tmp_path / "nowhere", tmp_path)
    save(tmp_path / "small/a.png", photo(20, 20))
    with pytest.raises(UsageError, match=r"no photograph gives a pair: a \(20x20 is under 64"):
        synthetic.make_set(tmp_path / "small", tmp_path / "work")
