"""Reports of shards become one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, photo, rows, save, tree

Cli = Callable[..., Ran]
MEASURED = ("seconds", "peak_mb", "shard")  # differ from run to run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(7):
        save(Path(f"in/{i}.png"), photo(6, 6, seed=i))
    Path("in/bad.png").write_text("no image")
    Path("in/notes.txt").write_text("x")


def table(folder: str) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows(Path(folder, "metrics.csv"))]


def test_shards_merged_equal_one_run(cli: Cli) -> None:
    codes = {cli("restore", "in", "out", "--shard", f"{i}/3").code for i in range(3)}
    assert codes == {0, 1}
    assert not Path("out/metrics.csv").exists()
    merged = cli("restore", "--merge", "out", "--report", "page.html")
    assert merged.code == 1
    assert "in/bad.png" in Path("page.html").read_text()
    assert "3 of 3 reports: 7 images restored, 1 failed, 1 ignored; out/metrics.csv" in merged.err
    assert "in/bad.png: text, not an image" in merged.err
    cli("restore", "in", "one")
    assert table("out") == table("one")
    assert Path("out/failed.txt").read_text() == Path("one/failed.txt").read_text()
    assert cli("restore", "--merge", "out", "--max-failed", "1").code == 0


def test_a_merged_folder_can_be_sharded_again(cli: Cli) -> None:
    for settings in ([], ["--fidelity", "0.5"], ["--fidelity", "0.25"]):
        for i in range(2):
            ran = cli("restore", "in", "out", "--shard", f"{i}/2", "--max-failed", "1", *settings)
            assert ran.code == 0 and "kept" not in ran.err  # what an older report says is not held against a file
        cli("restore", "--merge", "out")
    cli("restore", "in", "one", "--fidelity", "0.25")
    assert {n: d for n, d in tree(Path("out")).items() if n.endswith("png")} == {
        n: d for n, d in tree(Path("one")).items() if n.endswith("png")
    }


def test_a_missing_shard_is_named(cli: Cli) -> None:
    for i in (0, 2):
        cli("restore", "in", "out", "--shard", f"{i}/3", "--max-failed", "9")
    ran = cli("restore", "--merge", "out", "--max-failed", "9")
    assert ran.code == 1
    assert "shard 1 of 3 has left no report; run it, then merge again" in ran.err


@pytest.mark.parametrize("words", [["--merge", "in"], ["--merge", "in", "out"], ["in"]])
def test_bad_usage(cli: Cli, words: list[str]) -> None:
    assert cli("restore", *words).code == 2
