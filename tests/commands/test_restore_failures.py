"""What ``varestorer restore`` does with bad files, bad words, full machines and models gone wrong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from conftest import Ran, broken_folder, images, load, photo, rows, save, tree

from varestorer_cli.core.report.rows import read_rows

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


def test_bad_files_are_named_and_stop_nothing(cli: Cli) -> None:
    bad = broken_folder()
    ran = cli("restore", "in", "out")
    assert ran.code == 1
    assert sorted(tree(Path("out"))) == ["failed.txt", "good.png", "フォト/ü ñ.jpg"]
    status = {row["input"]: row["status"] for row in rows(Path("out/metrics.csv"))}
    assert sorted(name for name, state in status.items() if state == "failed") == bad
    assert "error: in/empty.png: the file is empty (0 bytes)" in ran.err
    assert "error: in/text.png: text, not an image" in ran.err
    assert "2 images restored, 4 failed" in ran.err
    assert "to try only these again: give @out/failed.txt as the input" in ran.err
    assert "Traceback" not in ran.err


def test_failures_can_be_fed_back(cli: Cli) -> None:
    broken_folder()
    Path("in/loop.png").unlink()
    assert cli("restore", "in", "out").code == 1
    save(Path("in/empty.png"), photo(5, 5))
    ran = cli("restore", "@out/failed.txt", "out")
    assert ran.code == 1
    assert "1 image restored, 2 failed" in ran.err
    assert load(Path("out/empty.png")).shape == (20, 20, 3)
    for name in ("cut.jpg", "text.png"):
        Path(f"in/{name}").unlink()
    assert cli("restore", "in", "out").code == 0
    assert not Path("out/failed.txt").exists()


@pytest.mark.parametrize(("limit", "code"), [("3", 1), ("4", 0), ("50%", 1), ("70%", 0)])
def test_a_tolerated_number_of_failures(cli: Cli, limit: str, code: int) -> None:
    broken_folder()
    ran = cli("restore", "in", "out", "--max-failed", limit)
    assert ran.code == code
    assert "4 failed" in ran.err


def test_tracebacks_with_v(cli: Cli) -> None:
    broken_folder()
    assert "Traceback" in cli("restore", "in", "out", "-v").err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none", "out"], 2, "none: no such file or folder"),
        (["in", "in"], 2, "output and input are the same folder"),
        (["in", "out", "--scale", "2", "--long-side", "9"], 2, "--scale and --long-side contradict each other"),
        (["in", "out", "--tile", "48"], 2, "--tile 48: this model works on tiles of 32"),
        (["in", "out", "--shard", "3/3"], 2, "shards count from 0"),
        (["in", "out", "--format", "gif"], 2, "--format gif: possible are png, jpg"),
        (["in", "out", "--device", "cuda:7"], 3, "--device cuda"),
        (["in/*.webp", "out"], 0, "nothing to do: no image in in/*.webp"),
        (["in/notes.txt", "in/notes.txt", "out"], 0, "nothing to do: no image in in/notes.txt"),
    ],
)
def test_codes_and_words(cli: Cli, words: list[str], code: int, message: str) -> None:
    images()
    ran = cli("restore", *words)
    assert ran.code == code
    assert message in ran.err
    assert not tree(Path("out")) if Path("out").exists() else True


def test_the_output_cannot_be_written(cli: Cli) -> None:
    images()
    Path("file").touch()
    ran = cli("restore", "in", "file/out")
    assert ran.code == 5
    assert "file/out: nothing can be written there" in ran.err


def test_out_of_memory(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out", model=fakes.Hungry())
    assert ran.code == 6
    assert "one tile of 32x32 does not fit" in ran.err
    assert tree(Path("out")) == {}


def test_a_smaller_tile_is_said_and_reported(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out", "--batch", "2", model=fakes.Hungry(tile_sides=(32, 16), fits=256))
    assert ran.code == 0
    assert "in/a.png: out of memory, went on with a smaller batch 2->1, tile 32->16" in ran.err
    splits = {row["input"]: row["oom_split"] for row in rows(Path("out/metrics.csv"))}
    assert splits["in/a.png"] == "batch 2->1, tile 32->16" and splits["in/sub/b.jpg"] == ""
    assert cli("restore", "in", "out", model=fakes.FakeModel(tile_sides=(32, 16))).err.count("up to date") == 1


def test_a_model_that_returns_rubbish_writes_nothing(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out", model=fakes.Faulty(fault="nan"))
    assert ran.code == 1
    assert "not finite, in fp32 too; nothing was written" in ran.err
    assert sorted(tree(Path("out"))) == ["failed.txt"]


class Inverting(fakes.FakeModel):
    """Returns bright tiles as their negative, which is another image."""

    def restore(self, degraded: Any, settings: dict[str, Any]) -> Any:
        return 1 - degraded if float(degraded.mean()) > 0.8 else degraded


class Darkening(fakes.FakeModel):
    """Takes 20 steps from bright tiles: too little for a fault."""

    def restore(self, degraded: Any, settings: dict[str, Any]) -> Any:
        return (degraded - 20 / 255).clamp(0, 1) if float(degraded.mean()) > 0.8 else degraded


def test_a_tile_of_another_image_is_never_written(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    save(Path("in/b.png"), np.clip(photo(8, 8) / 8 + 220, 0, 255).astype(np.uint8))
    ran = cli("restore", "in", "out", model=Inverting())
    assert ran.code == 1
    assert sorted(tree(Path("out"))) == ["a.png", "failed.txt"]
    assert "in/b.png: the model's result for tile 1 of 1 is unlike its input, in fp32 too" in ran.err


class Painting(fakes.FakeModel):
    """Untrained: paints stripes over everything."""

    def restore(self, degraded: Any, settings: dict[str, Any]) -> Any:
        columns = torch.arange(degraded.shape[-1]).div(16, rounding_mode="floor") % 2
        return columns.float().expand_as(degraded).clone()


def test_a_model_that_does_so_to_every_image_is_taken_as_it_is(cli: Cli) -> None:
    for name in ("a", "b"):
        save(Path(f"in/{name}.png"), photo(8, 8))
    ran = cli("restore", "in", "out", model=Painting())
    assert ran.code == 0
    assert "in/a.png: the model spoils even a plain test image (is it trained?)" in ran.err
    assert [row["retries"] for row in rows(Path("out/metrics.csv"))] == ["0", "0"]
    assert all("unchecked: " in row["warnings"] for row in rows(Path("out/metrics.csv")))


def test_images_unlike_the_rest_are_named_in_the_summary(cli: Cli) -> None:
    for i in range(9):
        save(Path(f"in/{i}.png"), photo(8, 8, seed=i))
    save(Path("in/bright.png"), np.clip(photo(8, 8) / 8 + 220, 0, 255).astype(np.uint8))
    ran = cli("restore", "in", "out", model=Darkening())
    assert ran.code == 0
    assert "1 came out unlike the rest of the run" in ran.err
    assert re.search(r"  bright\.png: 20\.0 8-bit steps of mean colour shift, the median is 0\.\d", ran.err)


ATTACK = "openjd_env: A=1\nopenjd_env: B=\x1b[2J\u202e2\r\n=cmd().png"


@pytest.mark.parametrize("words", [[], ["-v"], ["--dry-run"]], ids=" ".join)
@pytest.mark.parametrize("progress", ["lines", "bar", "openjd", "deadline", "tractor"])
def test_names_write_no_line_of_their_own(cli: Cli, progress: str, words: list[str]) -> None:
    Path("in").mkdir()
    Path(f"in/{ATTACK}").write_text("no image")
    save(Path(f"in/x{ATTACK}"), photo(5, 5))
    ran = cli("restore", "in", "out", "--progress", progress, *words)
    said = ran.out + ran.err
    assert not any(line.startswith(("openjd_env", "=cmd")) for line in said.splitlines())
    assert "\x1b[2J" not in said and "\u202e" not in said
    assert "\\x0aopenjd_env: B=\\x1b[2J\\u202e2\\x0d\\x0a=cmd().png" in said


def test_reports_and_lists_hold_odd_names_safely_and_give_them_back(cli: Cli) -> None:
    Path("in").mkdir()
    Path(f"in/{ATTACK}").write_text("no image")
    Path("in/\\x41.png").write_text("no image")
    save(Path("in/=1+1.png"), photo(5, 5))
    assert cli("restore", "in", "out").code == 1
    for file in ("out/metrics.csv", "out/failed.txt"):
        text = Path(file).read_bytes().decode()
        assert "\x1b" not in text and "\u202e" not in text and "\r" not in text
        assert not any(line.startswith("openjd_env") for line in text.splitlines())
    assert "'=1+1.png" in Path("out/metrics.csv").read_text()
    kept = {row.input for row in read_rows(Path("out/metrics.csv"))}
    assert kept == {f"in/{ATTACK}", "in/\\x41.png", "in/=1+1.png"}
    save(Path(f"in/{ATTACK}"), photo(6, 6))
    save(Path("in/\\x41.png"), photo(6, 6))
    ran = cli("restore", "@out/failed.txt", "out")
    assert ran.code == 0 and "2 images restored, 0 failed" in ran.err
    assert Path(f"out/{ATTACK}").exists()
    assert "3 already up to date" in cli("restore", "in", "out").err


def test_a_shard_with_nothing_to_do_leaves_a_report(cli: Cli) -> None:
    save(Path("in/only.png"), photo(5, 5))
    for index in range(3):
        assert cli("restore", "in", "out", "--shard", f"{index}/3").code == 0
    assert len(list(Path("out").glob("metrics.*-of-3.csv"))) == 3
    ran = cli("restore", "--merge", "out")
    assert ran.code == 0 and "3 of 3 reports" in ran.err
    assert [row.output for row in read_rows(Path("out/metrics.csv"))] == ["only.png"]
