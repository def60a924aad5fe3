"""``varestorer restore`` as people and scripts use it: words, files, exit codes."""

import io
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from conftest import Ran, load, photo, rows, save, tree
from PIL import Image, ImageCms

from varestorer_cli.core.imageio import decode

Cli = Callable[..., Ran]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, without home directory and network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("restore opened a connection"))
    return tmp_path


def pictures() -> None:
    save(Path("in/a.png"), photo(10, 14))
    save(Path("in/sub/b.jpg"), photo(9, 9, seed=1))
    Path("in/notes.txt").write_text("x")


def test_a_folder(cli: Cli) -> None:
    pictures()
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
    pictures()
    ran = cli("restore", "in", "out")
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert re.match(
        r"varestorer \S+: cpu \(torch .*\), (fp32|bf16) .*; model fake \(auto\) [0-9a-f]{12}; tiles of 32", lines[0]
    )
    assert lines[1] == "plan: 2 pictures -> out/, scale 4; existing outputs: skip"
    assert lines[2:4] == ["ignored 1 path:", "  in/notes.txt: not a type that is read (.txt)"]
    assert re.match(
        r"2 pictures restored, 0 failed, 1 ignored in \S+ s \(\S+ images/s, \S+ MP/s; model \d+ %, decode \d+ %, "
        r"encode \d+ %, rest \d+ %\); report: out/metrics.csv",
        lines[-1],
    )
    assert any(line.startswith("Progress: 100% (2/2 pictures") for line in lines)


def test_a_second_run_says_it_did_nothing(cli: Cli) -> None:
    pictures()
    cli("restore", "in", "out")
    before = tree(Path("out"))
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == (
        "0 pictures restored, 2 already up to date, 0 failed, 1 ignored; report: out/metrics.csv"
    )
    assert tree(Path("out")) == before


def test_quiet_says_nothing(cli: Cli) -> None:
    pictures()
    ran = cli("restore", "in", "out", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_one_file_to_one_file(cli: Cli) -> None:
    save(Path("a.jpg"), photo(10, 14))
    ran = cli("restore", "a.jpg", "b.tif", "--scale", "1.5")
    assert ran.code == 0
    assert load(Path("b.tif")).shape == (15, 21, 3)
    assert "plan: 1 picture -> b.tif, scale 1.5 (the model is made for scale 4;" in ran.err


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
    ran = cli("restore", "in", "out", "--compat", "released", model=fakes.Noisy())
    assert ran.code == 0 and "bf16:" not in ran.err
    assert "fp32 (--compat released)" in ran.err and "at a time, the released script's way" in ran.err
    (row,) = rows(Path("out/metrics.csv"))
    assert (row["precision"], row["tiles"]) == ("fp32", "4")
    emulated = cli("restore", "in", "out", "--precision", "bf16")
    assert "this CPU has no bf16 arithmetic" in emulated.err and "bf16 (asked for; emulated)" in emulated.err


# --- failures


def broken_folder() -> list[str]:
    """Good and bad files; returns the bad ones."""
    save(Path("in/good.png"), photo(10, 14))
    save(Path("in/フォト/ü ñ.jpg"), photo(8, 8))
    Path("in/empty.png").touch()
    Path("in/text.png").write_text("I am no picture\n")
    data = save(Path("in/cut.jpg"), photo(64, 64)).read_bytes()
    Path("in/cut.jpg").write_bytes(data[: len(data) // 2])
    Path("in/loop.png").symlink_to("loop.png")
    return ["in/cut.jpg", "in/empty.png", "in/loop.png", "in/text.png"]


def test_bad_files_are_named_and_stop_nothing(cli: Cli) -> None:
    bad = broken_folder()
    ran = cli("restore", "in", "out")
    assert ran.code == 1
    assert sorted(tree(Path("out"))) == ["failed.txt", "good.png", "フォト/ü ñ.jpg"]
    status = {row["input"]: row["status"] for row in rows(Path("out/metrics.csv"))}
    assert sorted(name for name, state in status.items() if state == "failed") == bad
    assert "error: in/empty.png: the file is empty (0 bytes)" in ran.err
    assert "error: in/text.png: text, not a picture" in ran.err
    assert "2 pictures restored, 4 failed" in ran.err
    assert "to try only these again: give @out/failed.txt as the input" in ran.err
    assert "Traceback" not in ran.err


def test_failures_can_be_fed_back(cli: Cli) -> None:
    broken_folder()
    Path("in/loop.png").unlink()
    assert cli("restore", "in", "out").code == 1
    save(Path("in/empty.png"), photo(5, 5))
    ran = cli("restore", "@out/failed.txt", "out")
    assert ran.code == 1
    assert "1 picture restored, 2 failed" in ran.err
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
        (["in/*.webp", "out"], 0, "nothing to do: no picture in in/*.webp"),
        (["in/notes.txt", "in/notes.txt", "out"], 0, "nothing to do: no picture in in/notes.txt"),
    ],
)
def test_codes_and_words(cli: Cli, words: list[str], code: int, message: str) -> None:
    pictures()
    ran = cli("restore", *words)
    assert ran.code == code
    assert message in ran.err
    assert not tree(Path("out")) if Path("out").exists() else True


def test_the_output_cannot_be_written(cli: Cli) -> None:
    pictures()
    Path("file").touch()
    ran = cli("restore", "in", "file/out")
    assert ran.code == 5
    assert "file/out: nothing can be written there" in ran.err


def test_out_of_memory(cli: Cli) -> None:
    pictures()
    ran = cli("restore", "in", "out", model=fakes.Hungry())
    assert ran.code == 6
    assert "one tile of 32x32 does not fit" in ran.err
    assert tree(Path("out")) == {}


def test_a_smaller_tile_is_said_and_reported(cli: Cli) -> None:
    pictures()
    ran = cli("restore", "in", "out", "--batch", "2", model=fakes.Hungry(tile_sides=(32, 16), fits=256))
    assert ran.code == 0
    assert "in/a.png: out of memory, went on with a smaller batch 2->1, tile 32->16" in ran.err
    splits = {row["input"]: row["oom_split"] for row in rows(Path("out/metrics.csv"))}
    assert splits["in/a.png"] == "batch 2->1, tile 32->16" and splits["in/sub/b.jpg"] == ""
    assert cli("restore", "in", "out", model=fakes.FakeModel(tile_sides=(32, 16))).err.count("up to date") == 1


def test_a_model_that_returns_rubbish_writes_nothing(cli: Cli) -> None:
    pictures()
    ran = cli("restore", "in", "out", model=fakes.Faulty(fault="nan"))
    assert ran.code == 1
    assert "not finite, in fp32 too; nothing was written" in ran.err
    assert sorted(tree(Path("out"))) == ["failed.txt"]


# --- what exists already


def test_existing_error_stops_before_work(cli: Cli) -> None:
    pictures()
    cli("restore", "in", "out")
    before = tree(Path("out"))
    model = fakes.FakeModel()
    ran = cli("restore", "in", "out", "--existing", "error", "--scale", "2", model=model)
    assert ran.code == 2
    assert "out/a.png, out/sub/b.jpg exist already (--existing error); nothing was done" in ran.err
    assert tree(Path("out")) == before and not model.calls


def test_existing_overwrite_redoes_everything(cli: Cli) -> None:
    pictures()
    cli("restore", "in", "out")
    save(Path("out/a.png"), photo(3, 3))
    ran = cli("restore", "in", "out", "--existing", "overwrite")
    assert "2 pictures restored" in ran.err
    assert load(Path("out/a.png")).shape == (40, 56, 3)


def test_a_foreign_file_is_kept_and_said(cli: Cli) -> None:
    pictures()
    save(Path("out/a.png"), photo(3, 3))
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert "warning: out/a.png: the output exists and was not made by varestorer; kept (--existing overwrite" in ran.err
    assert "1 picture restored, 1 existing file kept, 0 failed" in ran.err
    assert load(Path("out/a.png")).shape == (3, 3, 3)


@pytest.mark.parametrize("change", ["scale", "model", "input"])
def test_only_stale_files_are_redone(cli: Cli, change: str) -> None:
    pictures()
    cli("restore", "in", "out")
    if change == "input":
        save(Path("in/a.png"), photo(10, 14, seed=9))
    words = ["--scale", "2"] if change == "scale" else []
    ran = cli("restore", "in", "out", *words, name="other" if change == "model" else "fake")
    expected = "1 picture restored, 1 already up to date" if change == "input" else "2 pictures restored, 0 failed"
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
    assert "in/text.png: would fail: text, not a picture\n" in ran.out
    # A cut-off picture has a whole header: it is found by the real run only.
    assert "dry run: 3 pictures would be restored, 3 would fail, 0 ignored" in ran.err
    assert re.search(r"time: about [1-9]\d*\.\d s on cpu with model fake", ran.err)  # 145 tiles of 0.05 s
    assert re.search(r"disk: about \S+ kB of output, \S+ GB free", ran.err)
    assert sorted(Path().rglob("*")) == before


def test_dry_run_on_a_machine_that_lacks_the_device(cli: Cli) -> None:
    pictures()
    ran = cli("restore", "in", "out", "--dry-run", "--device", "cuda:7", "--json")
    assert ran.code == 0
    assert "warning: tiles and time are not estimated: --device cuda" in ran.err
    assert [json.loads(line)["tiles"] for line in ran.out.splitlines()] == [None, None]


def test_dry_run_warns_of_a_full_disk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2, 1, 1))  # type: ignore[attr-defined]
    assert "will hardly fit" in cli("restore", "in", "out", "--dry-run").err


def test_shards_make_the_whole(cli: Cli) -> None:
    for i in range(12):
        save(Path(f"in/{i}.png"), photo(5, 6, seed=i))
    assert cli("restore", "in", "whole").code == 0
    for i in range(3):
        assert cli("restore", "in", "out", "--shard", f"{i}/3").code == 0
    assert tree(Path("out")) == tree(Path("whole"))
    reports = sorted(path.name for path in Path("out").glob("*.csv"))
    assert reports == [f"metrics.{i}-of-3.csv" for i in range(3)]
    assert sum(len(rows(Path("out") / name)) for name in reports) == 12
    ran = cli("restore", "in", "out")  # a single process knows the reports of the shards
    assert "12 already up to date" in ran.err


def test_lists_on_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures()

    class Stdin:
        buffer = io.BytesIO(b"in/a.png\0in/sub/b.jpg\0")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert cli("restore", "-0", "-", "out").code == 0
    assert sorted(tree(Path("out"))) == ["in/a.png", "in/sub/b.jpg"]


def test_the_report_goes_elsewhere_or_nowhere(cli: Cli) -> None:
    pictures()
    assert cli("restore", "in", "out", "--metrics-csv", "my.csv").code == 0
    assert len(rows(Path("my.csv"))) == 3
    assert not list(Path("out").glob("*.csv"))
    assert cli("restore", "in", "out", "--metrics-csv", "none").code == 0
    assert not list(Path("out").glob("*.csv"))
    Path("foreign.csv").write_text("a,b\n")
    ran = cli("restore", "in", "out", "--metrics-csv", "foreign.csv")
    assert ran.code == 2 and "not a varestorer report" in ran.err


def test_umask_and_strange_surroundings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures()
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
    pictures()
    for _ in range(2):
        assert cli("restore", "in", "in/out").code == 0
        assert sorted(tree(Path("in/out"))) == ["a.png", "sub/b.jpg"]
    assert cli("restore", "in", "in/out2").code == 0
    assert sorted(tree(Path("in/out2"))) == ["a.png", "sub/b.jpg"]


# --- modes and formats


MODES = ["L", "LA", "P", "1", "RGB", "RGBA", "CMYK", "I;16", "RGB16"]
FORMATS = ["png", "tif", "jpg", "webp"]
HOLDS = {
    "png": {"L", "LA", "P", "1", "RGB", "RGBA", "I;16", "RGB16"},
    "tif": {"L", "LA", "P", "1", "RGB", "RGBA", "I;16", "RGB16", "CMYK"},
    "jpg": {"L", "RGB", "CMYK"},
    "webp": {"RGB", "RGBA"},
}


def sample(mode: str, format: str) -> Path:
    """A file of this mode and format with a profile, EXIF and orientation 6."""
    path = Path(f"in/{mode.replace(';', '')}.{format}")
    path.parent.mkdir(exist_ok=True)
    if mode in ("I;16", "RGB16"):
        pixels = photo(10, 14, 1 if mode == "I;16" else 3, depth=16)
        return save(path, pixels[..., 0] if mode == "I;16" else pixels)
    rgb = Image.fromarray(photo(10, 14))
    if mode == "P":
        image = rgb.quantize(40)
    elif mode in ("LA", "RGBA"):
        image = rgb.convert(mode)
        image.putalpha(Image.fromarray(photo(10, 14, 1, seed=2)[..., 0]))
    else:
        image = rgb.convert(mode)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    settings: dict[str, Any] = {"exif": exif}
    if mode in ("RGB", "RGBA", "P"):
        settings["icc_profile"] = SRGB
    image.save(path, **settings)
    return path


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize(("mode", "source"), [(m, f) for f in FORMATS for m in MODES if m in HOLDS[f]])
def test_every_mode_and_format(cli: Cli, mode: str, source: str, target: str) -> None:
    sample(mode, source)
    ran = cli("restore", "in", "out", "--scale", "2", "--format", target)
    assert ran.code == 0, ran.err
    (output,) = Path("out").glob(f"*.{target}")
    picture = decode(output.read_bytes())
    (row,) = rows(Path("out/metrics.csv"))
    names = {warning.partition(":")[0] for warning in row["warnings"].split("; ")} - {""}
    deep, clear, gray = mode in ("I;16", "RGB16"), mode in ("LA", "RGBA"), mode in ("L", "LA", "1", "I;16")
    # Upright: the stored 14x10 was held sideways, save for the files without EXIF.
    assert (picture.width, picture.height) == ((28, 20) if deep else (20, 28))
    expected = {
        "depth": deep and target in ("jpg", "webp"),
        "alpha": clear and target == "jpg",
        "palette": mode == "P",
        "bilevel": mode == "1",
        "cmyk": mode == "CMYK",
    }
    assert names == {name for name, lost in expected.items() if lost}
    assert picture.depth == (16 if deep and target in ("png", "tif") else 8)
    assert (picture.alpha is not None) == (clear and target != "jpg")
    if target != "webp":
        assert picture.gray == gray
    if mode in ("RGB", "RGBA", "P"):
        assert picture.extras.icc == SRGB
    if not deep:
        assert picture.extras.exif is not None
        assert picture.extras.exif.text(0x010F) == "Camera"
        assert picture.extras.exif.short(0x0112) in (None, 1)
    strict = cli("restore", "in", "strict", "--scale", "2", "--format", target, "--strict")
    assert strict.code == (1 if names - {"palette", "bilevel"} else 0)
    assert bool(tree(Path("strict")).keys() - {"failed.txt"}) == (strict.code == 0)


def test_no_dark_fringe_around_transparency(cli: Cli) -> None:
    disc = np.zeros((40, 40, 4), np.uint8)
    y, x = np.mgrid[:40, :40]
    disc[(y - 20) ** 2 + (x - 20) ** 2 < 150] = (220, 20, 20, 255)
    save(Path("in/disc.png"), disc)
    assert cli("restore", "in", "out").code == 0
    result = load(Path("out/disc.png"))
    visible = result[result[..., 3] > 0]
    assert np.abs(visible[:, :3].astype(int) - (220, 20, 20)).max() <= 2
    assert {0, 255} <= set(np.unique(result[..., 3]))


def test_the_first_of_several_frames_is_said(cli: Cli) -> None:
    Path("in").mkdir()
    frames = [Image.fromarray(photo(8, 8, seed=i)) for i in range(3)]
    frames[0].save("in/a.gif", save_all=True, append_images=frames[1:])
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert "warning: in/a.gif: only the first of 3 frames is restored" in ran.err
    assert load(Path("out/a.png")).shape == (32, 32, 3)


def test_decoders_do_not_talk_over_us(cli: Cli) -> None:
    Path("in").mkdir()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    Image.fromarray(photo(8, 8)).save("in/a.jpg", exif=exif)
    ran = cli("restore", "in", "out", "-q")
    assert (ran.code, ran.err) == (0, "warning: in/a.jpg: the EXIF block is damaged and was dropped\n")


def test_provenance_is_in_the_file(cli: Cli) -> None:
    pictures()
    cli("restore", "in", "out")
    for name in ("out/a.png", "out/sub/b.jpg"):
        with Image.open(name) as image:
            assert re.match(
                r"varestorer \S+; model fake [0-9a-f]{12}; scale 4; tile 32; seed 0; fingerprint [0-9a-f]{64}$",
                image.getexif()[0x0131],
            )


class Inverting(fakes.FakeModel):
    """Returns bright tiles as their negative, which is another picture."""

    def restore(self, degraded: Any, settings: dict[str, Any]) -> Any:
        return 1 - degraded if float(degraded.mean()) > 0.8 else degraded


class Darkening(fakes.FakeModel):
    """Takes 20 steps from bright tiles: too little for a fault."""

    def restore(self, degraded: Any, settings: dict[str, Any]) -> Any:
        return (degraded - 20 / 255).clamp(0, 1) if float(degraded.mean()) > 0.8 else degraded


def test_a_tile_of_another_picture_is_never_written(cli: Cli) -> None:
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


def test_a_model_that_does_so_to_every_picture_is_taken_as_it_is(cli: Cli) -> None:
    for name in ("a", "b"):
        save(Path(f"in/{name}.png"), photo(8, 8))
    ran = cli("restore", "in", "out", model=Painting())
    assert ran.code == 0
    assert "in/a.png: the model spoils even a plain test picture (is it trained?)" in ran.err
    assert [row["retries"] for row in rows(Path("out/metrics.csv"))] == ["0", "0"]
    assert all("unchecked: " in row["warnings"] for row in rows(Path("out/metrics.csv")))


def test_pictures_unlike_the_rest_are_named_in_the_summary(cli: Cli) -> None:
    for i in range(9):
        save(Path(f"in/{i}.png"), photo(8, 8, seed=i))
    save(Path("in/bright.png"), np.clip(photo(8, 8) / 8 + 220, 0, 255).astype(np.uint8))
    ran = cli("restore", "in", "out", model=Darkening())
    assert ran.code == 0
    assert "1 came out unlike the rest of the run" in ran.err
    assert re.search(r"  bright\.png: 20\.0 8-bit steps of mean colour shift, the median is 0\.\d", ran.err)


def test_quality_does_not_make_a_png_stale(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    save(Path("in/b.jpg"), photo(8, 8))
    cli("restore", "in", "out")
    before = tree(Path("out"))
    ran = cli("restore", "in", "out", "--quality", "50")
    assert "1 picture restored, 1 already up to date" in ran.err
    after = tree(Path("out"))
    assert before["a.png"] == after["a.png"] and before["b.jpg"] != after["b.jpg"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_strip_leaves_what_decides_the_look(cli: Cli, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    exif.get_ifd(0x8825)[1] = "N"
    Path("in").mkdir()
    xmp = b"<x:xmpmeta>secret</x:xmpmeta>"
    Image.fromarray(photo(8, 12)).save(f"in/a.{suffix}", exif=exif, icc_profile=SRGB, dpi=(300, 300), xmp=xmp)
    assert cli("restore", "in", "out", "--strip").code == 0
    data = Path(f"out/a.{suffix}").read_bytes()
    extras = decode(data).extras
    assert b"secret" not in data and b"Camera" not in data and extras.xmp == b""
    assert extras.exif is None or (extras.exif.gps, set(extras.exif.main) - {0x0131}) == ({}, set())
    assert extras.icc == SRGB
    assert load(Path(f"out/a.{suffix}")).shape == (48, 32, 3)
    assert "1 already up to date" in cli("restore", "in", "out", "--strip").err
