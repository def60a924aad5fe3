"""``varestorer restore`` as people and scripts use it: words, files, exit codes."""

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import fakes
import pytest
from conftest import Ran, broken_folder, images, load, photo, rows, save, tree
from PIL import Image

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


def test_a_folder(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert sorted(tree(Path("out"))) == ["a.png", "sub/b.jpg"]
    assert load(Path("out/a.png")).shape == (40, 56, 3)
    assert load(Path("out/sub/b.jpg")).shape == (36, 36, 3)
    assert [(row["input"], row["status"]) for row in rows(Path("out/metrics.csv"))] == [
        ("in/a.png", "done"),
        ("in/notes.txt", "ignored"),
        ("in/sub/b.jpg", "done"),
    ]


def test_what_is_said_and_where(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out")
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert lines[0] == "plan: 2 images -> out/, scale 4, with the model fake on the CPU; existing outputs: skip"
    assert lines[1:3] == ["ignored 1 path:", "  in/notes.txt: not a type that is read (.txt)"]
    assert re.match(
        r"2 images restored, 0 failed, 1 ignored in \S+ s \(\S+ images/s, \S+ MP/s; model \d+ %, decode \d+ %, "
        r"encode \d+ %, rest \d+ %\); report: out/metrics.csv",
        lines[-1],
    )
    assert any(line.startswith("Progress: 100% (2/2 images") for line in lines)


def test_the_technical_line_is_said_with_v(cli: Cli) -> None:
    images()
    assert re.match(
        r"varestorer \S+: cpu \(torch .*\), (fp32|bf16) .*; model fake \(auto\) [0-9a-f]{12}; tiles of 32",
        cli("restore", "in", "out", "-v").err,
    )


def test_a_second_run_says_it_did_nothing(cli: Cli) -> None:
    images()
    cli("restore", "in", "out")
    before = tree(Path("out"))
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == (
        "0 images restored, 2 already up to date, 0 failed, 1 ignored; report: out/metrics.csv"
    )
    assert tree(Path("out")) == before


def test_quiet_says_nothing(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_one_file_to_one_file(cli: Cli) -> None:
    save(Path("a.jpg"), photo(10, 14))
    ran = cli("restore", "a.jpg", "b.tif", "--scale", "1.5")
    assert ran.code == 0
    assert load(Path("b.tif")).shape == (15, 21, 3)
    assert "plan: 1 image -> b.tif, scale 1.5 (the model is made for scale 4;" in ran.err


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--scale", "1"], (14, 10)),
        (["--scale", "2.5"], (35, 25)),
        (["--scale", "8"], (112, 80)),
        (["--size", "50x20"], (50, 20)),
        (["--long-side", "70"], (70, 50)),
        (["--short-side", "30"], (42, 30)),
        (["--megapixels", "0.0035"], (70, 50)),
        (["--long-side", "7"], (7, 5)),
    ],
)
def test_sizes(cli: Cli, options: list[str], size: tuple[int, int]) -> None:
    save(Path("in/a.png"), photo(10, 14))
    assert cli("restore", "in", "out", *options).code == 0
    assert load(Path("out/a.png")).shape == (size[1], size[0], 3)


def test_options_reach_model_and_report(cli: Cli) -> None:
    save(Path("in/a.png"), photo(10, 14))
    model = fakes.FakeModel(tile_sides=(32, 16))
    words = ["--tile", "32", "--overlap", "3", "--batch", "2", "--precision", "bf16", "--fidelity", "0.5"]
    more = ["--sampling", "sample", "--color-fix", "none", "--seed", "7", "--threads", "1", "--model", "x"]
    assert cli("restore", "in", "out", *words, *more, model=model).code == 0
    call = model.calls[0]
    assert call["shape"] == (2, 3, 32, 32) and call["autocast"]
    assert (call["sampling"], call["color_fix"], call["fidelity"]) == ("sample", "none", 0.5)
    assert tuple(call["uniforms"].shape) == (2, 5, 4, 2)
    (row,) = rows(Path("out/metrics.csv"))
    assert (row["tile"], row["precision"], row["seed"], row["device"]) == ("32", "bf16", "7", "cpu")


def test_the_released_way_is_said_and_warned_about_emulation(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from varestorer_cli.core import runtime

    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: False)
    save(Path("in/a.png"), photo(8, 8))
    ran = cli("restore", "in", "out", "-v", "--compat", "released", model=fakes.Noisy())
    assert ran.code == 0 and "bf16:" not in ran.err
    assert "fp32 (--compat released)" in ran.err and "at a time, the released script's way" in ran.err
    (row,) = rows(Path("out/metrics.csv"))
    assert (row["precision"], row["tiles"]) == ("fp32", "4")
    emulated = cli("restore", "in", "out", "-v", "--precision", "bf16")
    assert "this CPU has no bf16 arithmetic" in emulated.err and "bf16 (asked for; emulated)" in emulated.err


# --- what exists already


def test_existing_error_stops_before_work(cli: Cli) -> None:
    images()
    cli("restore", "in", "out")
    before = tree(Path("out"))
    model = fakes.FakeModel()
    ran = cli("restore", "in", "out", "--existing", "error", "--scale", "2", model=model)
    assert ran.code == 2
    assert "out/a.png, out/sub/b.jpg exist already (--existing error); nothing was done" in ran.err
    assert tree(Path("out")) == before and not model.calls


def test_existing_overwrite_redoes_everything(cli: Cli) -> None:
    images()
    cli("restore", "in", "out")
    save(Path("out/a.png"), photo(3, 3))
    ran = cli("restore", "in", "out", "--existing", "overwrite")
    assert "2 images restored" in ran.err
    assert load(Path("out/a.png")).shape == (40, 56, 3)


def test_a_foreign_file_is_kept_and_said(cli: Cli) -> None:
    images()
    save(Path("out/a.png"), photo(3, 3))
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert "warning: out/a.png: the output exists and was not made by varestorer; kept (--existing overwrite" in ran.err
    assert "1 image restored, 1 existing file kept, 0 failed" in ran.err
    assert load(Path("out/a.png")).shape == (3, 3, 3)


@pytest.mark.parametrize("change", ["scale", "model", "input"])
def test_only_stale_files_are_redone(cli: Cli, change: str) -> None:
    images()
    cli("restore", "in", "out")
    if change == "input":
        save(Path("in/a.png"), photo(10, 14, seed=9))
    words = ["--scale", "2"] if change == "scale" else []
    ran = cli("restore", "in", "out", *words, name="other" if change == "model" else "fake")
    expected = "1 image restored, 1 already up to date" if change == "input" else "2 images restored, 0 failed"
    assert expected in ran.err


# --- for scripts


def test_json_lines(cli: Cli) -> None:
    broken_folder()
    ran = cli("restore", "in", "out", "--json")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert {one["input"] for one in found if one["status"] == "failed"} == {
        "in/cut.jpg", "in/empty.png", "in/loop.png", "in/text.png"
    }  # fmt: skip
    good = next(one for one in found if one["input"] == "in/good.png")
    assert (good["out_width"], good["retries"], good["reason"]) == (56, 0, None)


def test_dry_run_writes_nothing_and_says_what_it_would_take(cli: Cli) -> None:
    broken_folder()
    before = sorted(Path().rglob("*"))
    ran = cli("restore", "in", "out", "--dry-run", model=fakes.Slow())
    assert ran.code == 0
    assert "in/good.png -> out/good.png  14x10 -> 56x40, 4 tiles\n" in ran.out
    assert "in/text.png: would fail: text, not an image\n" in ran.out
    # A cut-off image has a whole header: it is found by the real run only.
    assert "dry run: 3 images would be restored, 3 would fail, 0 ignored" in ran.err
    assert re.search(r"time: about [1-9]\d*\.\d s on cpu with model fake", ran.err)  # 145 tiles of 0.05 s
    assert re.search(r"memory: \S+ [MG]B on cpu with the model and its calls", ran.err)
    assert re.search(r"disk: about \S+ kB of output, \S+ GB free", ran.err)
    assert sorted(Path().rglob("*")) == before


def test_dry_run_on_a_machine_that_lacks_the_device(cli: Cli) -> None:
    images()
    ran = cli("restore", "in", "out", "--dry-run", "--device", "cuda:7", "--json")
    assert ran.code == 0
    assert "warning: tiles and time are not estimated: --device cuda" in ran.err
    assert "memory: up to 43.4 kB for 8-bit pixels, beside the model" in ran.err
    assert [json.loads(line)["tiles"] for line in ran.out.splitlines()] == [None, None]


def test_dry_run_warns_of_a_full_disk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    images()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2, 1, 1))  # type: ignore[attr-defined]
    assert "will hardly fit" in cli("restore", "in", "out", "--dry-run").err


def test_shards_make_the_whole(cli: Cli) -> None:
    for i in range(12):
        save(Path(f"in/{i}.png"), photo(5, 6, seed=i))
    drawn = ("--sampling", "sample", "--seed", "3")
    assert cli("restore", "in", "whole", *drawn, model="mini").code == 0
    for i in range(3):
        assert cli("restore", "in", "out", *drawn, "--shard", f"{i}/3", model="mini").code == 0
    assert tree(Path("out")) == tree(Path("whole"))
    reports = sorted(path.name for path in Path("out").glob("*.csv"))
    assert reports == [f"metrics.{i}-of-3.csv" for i in range(3)]
    assert sum(len(rows(Path("out") / name)) for name in reports) == 12
    ran = cli("restore", "in", "out", *drawn, model="mini")  # a single process knows the reports of the shards
    assert "12 already up to date" in ran.err


def test_lists_on_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    images()

    class Stdin:
        buffer = io.BytesIO(b"in/a.png\0in/sub/b.jpg\0")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert cli("restore", "-0", "-", "out").code == 0
    assert sorted(tree(Path("out"))) == ["in/a.png", "in/sub/b.jpg"]


def test_the_report_goes_elsewhere_or_nowhere(cli: Cli) -> None:
    images()
    assert cli("restore", "in", "out", "--metrics-csv", "my.csv").code == 0
    assert len(rows(Path("my.csv"))) == 3
    assert not list(Path("out").glob("*.csv"))
    assert cli("restore", "in", "out", "--metrics-csv", "none").code == 0
    assert not list(Path("out").glob("*.csv"))
    Path("foreign.csv").write_text("a,b\n")
    ran = cli("restore", "in", "out", "--metrics-csv", "foreign.csv")
    assert ran.code == 2 and "not a varestorer report" in ran.err


def test_tasks_that_share_a_report_file_do_not_overwrite_one_another(cli: Cli) -> None:
    for number in range(1, 5):
        save(Path(f"in/shot.{number:04}.png"), photo(8, 8, seed=number))
    for frames in ("1-2", "3-4"):
        assert cli("restore", "in/shot.####.png", "out", "--metrics-csv", "my.csv", "--frames", frames).code == 0
    found = {path.name: [row["input"][-8:-4] for row in rows(path)] for path in sorted(Path().glob("my*.csv"))}
    assert found == {"my.frames-1-2.csv": ["0001", "0002"], "my.frames-3-4.csv": ["0003", "0004"]}
    assert cli("restore", "in", "out", "--metrics-csv", "my.csv", "--shard", "0/1").code == 0
    assert len(rows(Path("my.0-of-1.csv"))) == 4


def test_umask_and_strange_surroundings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    images()
    for name, value in (("LANG", "de_DE"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    before = os.umask(0o027)
    try:
        ran = cli("restore", "in", "out")
    finally:
        os.umask(before)
    assert ran.code == 0
    assert "\x1b" not in ran.err and "," not in re.sub(r", ", "", ran.err.splitlines()[-1])
    assert {path.stat().st_mode & 0o777 for path in Path("out").rglob("*.*")} == {0o640}


def test_output_inside_the_input(cli: Cli) -> None:
    images()
    for _ in range(2):
        assert cli("restore", "in", "in/out").code == 0
        assert sorted(tree(Path("in/out"))) == ["a.png", "sub/b.jpg"]
    assert cli("restore", "in", "in/out2").code == 0
    assert sorted(tree(Path("in/out2"))) == ["a.png", "sub/b.jpg"]


def test_provenance_is_in_the_file(cli: Cli) -> None:
    images()
    cli("restore", "in", "out")
    for name in ("out/a.png", "out/sub/b.jpg"):
        with Image.open(name) as image:
            assert re.match(
                r"varestorer \S+; model fake [0-9a-f]{12}; scale 4; tile 32; seed 0; fingerprint [0-9a-f]{64}$",
                image.getexif()[0x0131],
            )


def test_quality_does_not_make_a_png_stale(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    save(Path("in/b.jpg"), photo(8, 8))
    cli("restore", "in", "out")
    before = tree(Path("out"))
    ran = cli("restore", "in", "out", "--quality", "50")
    assert "1 image restored, 1 already up to date" in ran.err
    after = tree(Path("out"))
    assert before["a.png"] == after["a.png"] and before["b.jpg"] != after["b.jpg"]
