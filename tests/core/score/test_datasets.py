from pathlib import Path

import pytest
from conftest import photo, save

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.inputs.plan import make_plan
from varestorer_cli.core.score import datasets as benchmarks
from varestorer_cli.core.sharding import Shard


def make(folder: Path, lq: str = "test_LR", gt: str = "test_HR", names: tuple[str, ...] = ("a", "deep/b")) -> Path:
    for name in names:
        save(folder / lq / f"{name}.png", photo(8, 8))
        save(folder / gt / f"{name}.png", photo(32, 32))
    return folder


@pytest.mark.parametrize("place", ["StableSR_testsets/RealSRVal_crop128", "RealSRVal_crop128", "benchmark_realsr"])
@pytest.mark.parametrize(("lq", "gt"), [("lq", "gt"), ("test_LR", "test_HR"), ("LR", "HR")])
def test_a_known_set_is_found_under_its_aliases(tmp_path: Path, place: str, lq: str, gt: str) -> None:
    folder = make(tmp_path / place, lq, gt)
    found = benchmarks.open_dataset("RealSR", tmp_path)
    assert found.name == "realsr"
    assert found.degraded == {"a": folder / lq / "a.png", "deep/b": folder / lq / "deep/b.png"}
    assert found.references["deep/b"] == folder / gt / "deep/b.png"
    assert found.benchmark == "realsr"
    assert "holds 2 pairs, the released realsr 100" in found.note


def test_a_known_set_that_is_not_there_says_where_to_get_and_put_it(tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(MissingDependencyError) as caught:
            benchmarks.open_dataset("drealsr", root)
        text = str(caught.value)
        assert "https://huggingface.co/datasets/Iceclear/StableSR-TestSets" in text
        assert "DATA_ROOT/StableSR_testsets/DrealSRVal_crop128 holds the 93 pairs" in text
        assert "--data-root" in text and "VARESTORER_DATA" in text
    assert str(tmp_path / "StableSR_testsets/DrealSRVal_crop128") in text


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    found = benchmarks.open_dataset(str(make(tmp_path / "mine", "lq", "hq")))
    assert (found.name, len(found.references), found.benchmark, found.note) == ("mine", 2, "", "")


def test_folders_that_are_no_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a known test set"):
        benchmarks.open_dataset(str(tmp_path / "nowhere"))
    save(tmp_path / "half/gt/a.png", photo())
    with pytest.raises(UsageError, match="no folder of degraded images; it should be called lq or test_LR or LR"):
        benchmarks.open_dataset(str(tmp_path / "half"))
    make(tmp_path / "twice")
    save(tmp_path / "twice/gt/a.png", photo())
    with pytest.raises(UsageError, match="several folders of references: gt, test_HR"):
        benchmarks.open_dataset(str(tmp_path / "twice"))


def test_a_set_whose_halves_do_not_pair_is_refused(tmp_path: Path) -> None:
    (make(tmp_path / "set") / "test_LR/a.png").unlink()
    with pytest.raises(UsageError, match=r"1 only in .*test_HR: a"):
        benchmarks.open_dataset(str(tmp_path / "set"))


def test_a_manifest(tmp_path: Path) -> None:
    make(tmp_path / "set")
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("﻿gt,lq\nset/test_HR/a.png,set/test_LR/a.png\nset/test_HR/deep/b.png,set/test_LR/deep/b.png\n")
    found = benchmarks.open_dataset(str(manifest))
    assert found.name == "pairs" and set(found.degraded) == {"a", "b"}
    assert found.references["b"] == tmp_path / "set/test_HR/deep/b.png"
    assert found.inputs == (str(tmp_path / "set/test_LR/a.png"), str(tmp_path / "set/test_LR/deep/b.png"))
    assert [pair.restored for pair in found.plan_outputs(Path("o")).pairs] == [Path("o/a.png"), Path("o/b.png")]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("a,b\n", UsageError, "needs lq and gt"),
        ("lq,gt\n", UsageError, "0 pairs"),
        ("lq,gt\nset/test_LR/a.png,\n,\n", UsageError, "lines 2 name only one"),
        ("lq,gt\nnone.png,set/test_HR/a.png\n", MissingDependencyError, "1 files that do not exist: .*none.png"),
        (
            "lq,gt\nset/test_LR/a.png,set/test_HR/a.png\nset/test_LR/a.png,set/test_HR/a.png\n",
            UsageError,
            "1 different",
        ),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, kind: type[Exception], words: str) -> None:
    make(tmp_path / "set")
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(kind, match=words):
        benchmarks.open_dataset(str(tmp_path / "pairs.csv"))


def test_outputs_are_expected_where_restore_puts_them(tmp_path: Path) -> None:
    folder = make(tmp_path / "set")
    save(folder / "test_LR/c.jpg", photo(8, 8))
    save(folder / "test_HR/c.png", photo(32, 32))
    found = benchmarks.open_dataset(str(folder))
    plan = found.plan_outputs(Path("o"), {folder / "test_LR/a.png": "damaged"})
    assert [str(pair.restored) for pair in plan.pairs] == ["o/a.png", "o/c.png", "o/deep/b.png"]
    assert [pair.problem for pair in plan.pairs] == ["not restored: damaged", "", ""]
    assert found.inputs == (str(folder / "test_LR"),)


def test_restored_files_pair_with_the_references(tmp_path: Path) -> None:
    found = benchmarks.open_dataset(str(make(tmp_path / "set")))
    save(tmp_path / "out/a.png", photo(32, 32))
    with pytest.raises(UsageError, match=r"only in the references of set: deep/b"):
        found.plan(tmp_path / "out")
    assert len(found.plan(tmp_path / "out", partial=True).pairs) == 1
    with pytest.raises(UsageError, match="is no folder"):
        found.plan(tmp_path / "out/a.png")
    plan = found.plan(tmp_path / "out", partial=True)
    assert plan.unpaired_reference == ("deep/b",)


@pytest.mark.parametrize("root", [".", "..", "sets"])
def test_a_root_may_be_the_set_or_the_archive(tmp_path: Path, root: str) -> None:
    make(tmp_path / "sets/stablesr_TESTSETS" / "x", names=("a",))  # another folder beside it
    folder = make(tmp_path / "sets/StableSR_testsets/dRealSRval_crop128", names=("a",))
    found = benchmarks.open_dataset("drealsr", {".": folder, "..": folder.parent, "sets": tmp_path / "sets"}[root])
    assert found.degraded == {"a": folder / "test_LR/a.png"}


def test_a_set_without_references(tmp_path: Path) -> None:
    save(tmp_path / "DPED/lq/a.jpg", photo(8, 8))
    found = benchmarks.open_dataset("dped", tmp_path)
    assert found.references == {} and found.degraded == {"a": tmp_path / "DPED/lq/a.jpg"}
    (pair,) = found.plan_outputs(Path("o")).pairs
    assert (pair.restored, pair.reference) == (Path("o/a.png"), None)
    save(tmp_path / "out/a.png", photo(32, 32))
    assert found.plan(tmp_path / "out").pairs[0].reference is None
    save(tmp_path / "out/b.png", photo(32, 32))
    with pytest.raises(UsageError, match=r"1 only in .*out: b"):
        found.plan(tmp_path / "out")


def test_a_partial_set_leaves_out_what_has_no_partner(tmp_path: Path) -> None:
    folder = make(tmp_path / "set")
    (folder / "test_HR/a.png").unlink()
    found = benchmarks.open_dataset(str(folder), partial=True)
    assert set(found.degraded) == set(found.references) == {"deep/b"} and found.unpaired == ("a",)
    assert found.plan_outputs(Path("o")).unpaired_reference == ("a",)


def test_shards_hold_each_pair_once_as_restore_does(tmp_path: Path) -> None:
    found = benchmarks.open_dataset(str(make(tmp_path / "set", names=("a", "b", "c", "deep/d"))))
    held = [found.held(Shard(i, 3)) for i in range(3)]
    assert sorted(name for part in held for name in part) == ["a", "b", "c", "deep/d"]
    for i, names in enumerate(held):
        plan = make_plan(list(found.inputs), f"{tmp_path / 'o'}/", format=ImageFormat.PNG, shard=Shard(i, 3))
        mine = {pair.restored for pair in found.plan_outputs(tmp_path / "o").only(names).pairs}
        assert mine == {job.output for job in plan.jobs}


@pytest.mark.parametrize("data", [b"lq,gt\n\xff.png,b.png\n", b'lq,gt\n"' + b"x" * 200_000])
def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pairs.csv").write_bytes(data)
    with pytest.raises(UsageError, match=r"pairs\.csv: cannot be read as a manifest"):
        benchmarks.open_dataset(str(tmp_path / "pairs.csv"))
