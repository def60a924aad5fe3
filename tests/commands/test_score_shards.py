"""``score --shard`` and ``--merge``: parts that make the whole."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, many, rows

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("no_pyiqa")


def test_shards_are_restored_scored_and_joined(cli: Cli, tmp_path: Path) -> None:
    many(tmp_path)
    words = ("score", "--dataset", "mine", "--metrics", "psnr_rgb,ssim_y")
    whole = cli(*words, "--restored", "whole", model="mini")
    assert whole.code == 0 and "7 pairs scored" in whole.out
    for i in range(3):
        ran = cli(*words, "--shard", f"{i}/3", model="mini")
        assert ran.code == 0 and f"PARTIAL: shard {i}/3 only" in ran.out
    folder = tmp_path / "scores/mine-mini"
    assert sorted(path.name for path in folder.glob("p*.png")) == [f"p{i}.png" for i in range(7)]
    merged = cli("score", folder, "--merge")
    assert merged.code == 0 and "mini on mine: 7 pairs scored, 0 failed" in merged.out and "PARTIAL" not in merged.out
    table = [line for line in whole.out.splitlines() if line.startswith((" PSNR", " SSIM"))]
    assert len(table) == 2 and all(line in merged.out for line in table)
    assert sorted(r["name"] for r in csv.DictReader((folder / "scores.csv").open())) == [f"p{i}" for i in range(7)]


def test_missing_and_different_shards_are_refused(cli: Cli, tmp_path: Path) -> None:
    many(tmp_path)
    words = ("score", "--dataset", "mine", "--metrics", "psnr_rgb")
    cli(*words, "--restored", "w", "--model", "compact")
    cli(*words, "--restored", "out", "--shard", "0/2", "--model", "compact")
    ran = cli("score", "out", "--merge")
    assert ran.code == 2 and "the scores of 1 of 2 shards are missing: 1/2" in ran.err and ran.out == ""
    partial = cli("score", "out", "--merge", "--partial")
    assert partial.code == 0 and "shards missing: 1/2" in partial.out
    cli(*words, "--restored", "out", "--shard", "1/2", "--model", "compact", "--crop-border", "1")
    ran = cli("score", "out", "--merge")
    assert ran.code == 2 and "under another crop_border than" in ran.err
    cli(
        "score", "--dataset", "mine", "--restored", "out", "--shard", "1/2", "--model", "compact", "--metrics", "ssim_y"
    )
    assert "under another metrics than" in cli("score", "out", "--merge").err
    cli(*words, "--restored", "out", "--shard", "1/3", "--model", "compact")
    assert "scores of runs with 2, 3 shards" in cli("score", "out", "--merge").err
    assert "holds no scores of shards" in cli("score", "w", "--merge").err
    assert "name their folder" in cli("score", "--merge").err
    (tmp_path / "x").mkdir()
    (tmp_path / "x/scores.0-of-1.json").write_text('{"tool": "other"}')
    assert "holds no scores of this program" in cli("score", "x", "--merge").err
    whole = json.loads((tmp_path / "out/scores.0-of-2.json").read_text())
    for name in ("images", "unpaired", "summary", "bootstrap"):
        for damaged in ({**whole, name: 3}, {key: value for key, value in whole.items() if key != name}):
            (tmp_path / "x/scores.0-of-1.json").write_text(json.dumps(damaged))
            ran = cli("score", "x", "--merge")
            assert ran.code == 2 and "is no whole report of scores" in ran.err, ran.err


def test_shards_of_scored_folders_hold_each_pair_once(cli: Cli, out: Path) -> None:
    for i in range(2):
        assert cli("score", "out", "-r", "gt", "--shard", f"{i}/2").code == 0
    merged = cli("score", "out", "--merge", "--table", "markdown")
    assert "out against gt: 3 pairs scored" in merged.out
    for i in range(2):
        assert cli("score", "out", "-r", "gt", "--shard", f"{i}/2", "--csv", "s.csv", "--json", "s.json").code == 0
    found = [line["name"] for i in range(2) for line in rows(Path(f"s.{i}-of-2.csv"))]
    assert sorted(found) == ["a", "b", "c"] and Path("s.1-of-2.json").is_file()
    assert cli("score", "out", "-r", "gt", "--table", "markdown").out == merged.out
