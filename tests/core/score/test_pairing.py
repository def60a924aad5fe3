import unicodedata
from pathlib import Path

import pytest
from conftest import photo, save

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.score.pairing import Pair, PairPlan, plan_pairs


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with three pairs; names agree without suffix, one lies deeper, other files lie about."""
    out, gt = tmp_path / "out", tmp_path / "gt"
    for i, (left, right) in enumerate((("a.png", "a.png"), ("b.jpg", "b.png"), ("deep/c.png", "deep/c.tif"))):
        save(gt / right, photo(seed=i))
        save(out / left, photo(seed=i))
    for stray in ("scores.csv", "metrics.csv", "Thumbs.db", ".hidden.png", ".git/a.png", "x.png.part"):
        (out / stray).parent.mkdir(exist_ok=True)
        (out / stray).write_text("no image")
    return out, gt


def test_files_pair_by_path_without_suffix(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    plan = plan_pairs(out, gt)
    assert plan.pairs == (
        Pair("a", out / "a.png", gt / "a.png"),
        Pair("b", out / "b.jpg", gt / "b.png"),
        Pair("deep/c", out / "deep/c.png", gt / "deep/c.tif"),
    )
    assert plan.unpaired_restored == plan.unpaired_reference == ()


def test_files_without_partner_are_refused_and_named(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    save(out / "extra.png", photo())
    (gt / "b.png").unlink()
    with pytest.raises(UsageError) as caught:
        plan_pairs(out, gt)
    text = str(caught.value)
    assert text.startswith("2 files pair by name")
    assert f"2 only in {out}: b, extra" in text and "only in " + str(gt) not in text
    assert "--partial" in text
    plan = plan_pairs(out, gt, partial=True)
    assert [pair.name for pair in plan.pairs] == ["a", "deep/c"]
    assert plan.unpaired_restored == ("b", "extra")


def test_equal_counts_of_different_names_are_not_paired_by_order(tmp_path: Path) -> None:
    save(tmp_path / "out/a_x4.png", photo())
    save(tmp_path / "gt/a.png", photo())
    for partial in (False, True):
        with pytest.raises(UsageError, match=r"0 files pair by name.*a_x4.*only in .*gt: a\."):
            plan_pairs(tmp_path / "out", tmp_path / "gt", partial=partial)


def test_a_long_list_of_strays_is_cut_with_a_count(tmp_path: Path) -> None:
    save(tmp_path / "gt/a.png", photo())
    for i in range(14):
        save(tmp_path / f"out/{i:02}.png", photo(8, 8))
    save(tmp_path / "out/a.png", photo())
    with pytest.raises(UsageError, match=r"14 only in .*: 00, 01, .*, 09 and 4 more"):
        plan_pairs(tmp_path / "out", tmp_path / "gt")


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    for form, folder in (("NFC", "out"), ("NFD", "gt")):
        save(tmp_path / folder / (unicodedata.normalize("NFC" if form == "NFC" else "NFD", "ü ñ") + ".png"), photo())
    assert len(plan_pairs(tmp_path / "out", tmp_path / "gt").pairs) == 1


def test_two_files_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    save(out / "a.webp", photo())
    with pytest.raises(UsageError, match=r"a\.png and a\.webp"):
        plan_pairs(out, gt)


def test_single_files_pair_whatever_their_names(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    assert plan_pairs(out / "a.png", gt / "b.png").pairs == (Pair("a", out / "a.png", gt / "b.png"),)
    with pytest.raises(UsageError, match="one is a file, the other a folder"):
        plan_pairs(out / "a.png", gt)


def test_without_reference_every_image_stands_alone(folders: tuple[Path, Path]) -> None:
    plan = plan_pairs(folders[0], None)
    assert [(pair.name, pair.reference) for pair in plan.pairs] == [("a", None), ("b", None), ("deep/c", None)]


def test_useless_folders_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out, gt = folders
    with pytest.raises(UsageError, match="compared with itself"):
        plan_pairs(out, out / ".." / "out")
    with pytest.raises(UsageError, match="nowhere does not exist"):
        plan_pairs(tmp_path / "nowhere", gt)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image"):
        plan_pairs(tmp_path / "empty", gt)


def test_a_shard_keeps_its_pairs_and_the_strays(tmp_path: Path) -> None:
    pairs = tuple(Pair(name, tmp_path / name, None) for name in "abc")
    assert PairPlan(pairs, ("x",)).only({"a", "c"}) == PairPlan((pairs[0], pairs[2]), ("x",))
