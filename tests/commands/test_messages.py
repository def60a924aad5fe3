"""What a newcomer reads after a slip: what happened, why, what to type; in this program's own words."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, images, save
from fakes import FakeModel

from varestorer_cli.core import extras
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.image import formats
from varestorer_cli.core.restore import encode_stage, run
from varestorer_cli.core.signals import StopFlag

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")
LONG = "x" * 300


def lone_image() -> None:
    save(Path("in/a.png"), np.full((12, 16, 3), 90, np.uint8))


def test_one_image_is_one_image_everywhere(cli: Cli) -> None:
    lone_image()
    said = cli("restore", "in", "out", "--dry-run").err + cli("restore", "in", "out", "--progress", "lines").err
    assert "dry run: 1 image would be restored" in said
    assert "Progress: 100% (1/1 image done" in said and "1 image restored" in said
    assert cli("restore", "in", "out", "--shard", "1/2").err.startswith("nothing to do: 1 image of in belongs to")
    assert not re.search(r"\b1 (images|files|paths|tiles|reports)\b", said)


def test_the_bar_names_the_image_and_not_the_long_way_to_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("in/sub/a.png"), np.full((12, 16, 3), 90, np.uint8))
    seen: list[str] = []
    monkeypatch.setattr(Console, "update", lambda self, done, note="", current="": seen.append(current))
    assert cli("restore", str(Path("in").resolve()), "out").code == 0
    assert set(filter(None, seen)) == {"sub/a.png"}


def test_a_dry_run_says_what_it_waits_for(cli: Cli) -> None:
    save(Path("in/a.png"), np.full((8, 30, 3), 90, np.uint8))
    said = cli("restore", "in", "out", "--dry-run").err.splitlines()
    assert said[0] == "dry run: loading the model, to say tiles and time; nothing is written"
    place = next(n for n, line in enumerate(said) if line.startswith("timing the model on tiles of "))
    assert said[place + 1].startswith("time: about ")
    assert not Path("out").exists()
    assert cli("restore", "in", "out", "--dry-run", "-q").err == ""


def test_a_dry_run_names_tiles_as_width_and_height(cli: Cli) -> None:
    save(Path("in/a.png"), np.full((4, 10, 3), 90, np.uint8))
    model = FakeModel(tile_sides=(32, 40), small_sides=(8, 16, 24))
    said = cli("restore", "in", "out", "--dry-run", model=model).err
    assert "timing the model on tiles of 40x16 pixels on cpu" in said
    assert {call["shape"][2:] for call in model.calls} == {(16, 40)}, "what it says is what it times"


@pytest.mark.parametrize("code", [ExitCode.TERMINATED, ExitCode.INTERRUPTED])
def test_a_signal_that_comes_after_the_last_image_leaves_nothing_to_do(
    code: ExitCode, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    lone_image()
    flags: list[StopFlag] = []
    on_signals, write = run.stop_on_signals, encode_stage.write_image

    class Seen:
        def __init__(self, *arguments: Any) -> None:
            self.block = on_signals(*arguments)

        def __enter__(self) -> StopFlag:
            flags.append(self.block.__enter__())
            return flags[-1]

        def __exit__(self, *error: Any) -> None:
            self.block.__exit__(*error)

    def told_while_writing(*arguments: Any) -> None:
        write(*arguments)
        flags[-1].request(code)

    monkeypatch.setattr(run, "stop_on_signals", Seen)
    monkeypatch.setattr(encode_stage, "write_image", told_while_writing)
    ran = cli("restore", "in", "out")
    assert ran.code == 0 and Path("out/a.png").is_file()
    assert "told to stop when nothing was left to do" in ran.err and "again" not in ran.err


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--report", "page.html"]])
def test_a_folder_whose_name_is_too_long_is_named_with_the_reason(more: list[str], cli: Cli) -> None:
    lone_image()
    ran = cli("restore", "in", LONG, *more)
    assert ran.code == 5
    assert f"error: {LONG}: cannot be an output folder (File name too long); choose another name" in ran.err
    assert "report" not in ran.err.replace(LONG, "")
    assert cli("restore", "--merge", LONG).err.startswith(f"error: {LONG}: cannot be an output folder (File name too")


def test_an_empty_folder_hears_of_every_format_that_is_read(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    names = [one.name for one in formats.FORMATS_READ]
    assert {"OpenEXR", "DPX", "HEIC/HEIF", "JPEG XL", "camera raw", "AVIF"} <= set(names)
    monkeypatch.setattr(extras, "find_spec", lambda package: object())
    ran = cli("restore", "empty", "out")
    assert ran.code == 0 and f"{', '.join(names[:-1])} and {names[-1]} files are read" in ran.err
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    said = cli("restore", "empty", "out").err
    assert "PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF files are read; for OpenEXR and DPX: pip install " in said
    assert all(f"for {name}: pip install " in said for name in ("HEIC/HEIF", "JPEG XL", "camera raw"))


def test_every_format_of_the_table_is_found_by_its_suffixes() -> None:
    everything = formats.SUFFIXES.keys() | formats.RAW_SUFFIXES
    assert everything == {suffix for one in formats.FORMATS_READ for suffix in one.suffixes}
    assert {one.extra for one in formats.FORMATS_READ} - {""} <= extras.EXTRAS.keys()


@pytest.mark.parametrize("name", ["-dash.png", "--dash.png", "-o.png"])
def test_a_file_that_looks_like_an_option(name: str, cli: Cli) -> None:
    save(Path(name), np.full((8, 8, 3), 90, np.uint8))
    ran = cli("restore", name, "out")
    if name != "-o.png":  # the option -o with its value
        assert ran.code == 2 and f"{name} is a file here: write ./{name} for it" in ran.err
    assert cli("restore", f"./{name}", "out").code == 0 and Path("out", name).is_file()
    assert "is a file here" not in cli("restore", "--bogus", "out").err


@pytest.mark.parametrize("address", ["https://example.org/a.png", "http://example.org/a.png?x=1", "s3://bucket/a.png"])
def test_an_address_is_to_be_downloaded_first(address: str, cli: Cli) -> None:
    ran = cli("restore", address, "out")
    assert ran.code == 2 and "addresses are not read: download it first, and name the file" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("restore in out --only-below abc", "'--only-below': 'abc': a whole number is needed."),
        ("restore in out --threads=1.5", "'--threads': '1.5': a whole number is needed."),
        ("restore in out --scale x", "'--scale' / '-s': 'x': a number is needed."),
        ("restore in out --existing skipp", "'skipp' is not known; possible are skip, overwrite and error."),
        ("weights pull nosuch", "'nosuch' is not known; possible are 2b, teacher, text and captioner."),
        ("train teacher in --out run --batch few", "'--batch': 'few': a whole number is needed."),
        ("train photos", "Commands are prerestorer, tokenizer, teacher, average and dial."),
        ("in out", "To restore in: varestorer restore in OUTPUT"),
    ],
)
def test_wrong_values_are_said_in_our_own_words(words: str, said: str, cli: Cli) -> None:
    images()
    ran = cli(*words.split())
    assert ran.code == 2 and said in ran.err
    assert "Input should be" not in ran.err and "Value error" not in ran.err


@pytest.mark.parametrize("command", ["train prerestorer", "train tokenizer", "distill"])
@pytest.mark.parametrize(("data", "said"), [("none", "no such file or folder"), ("empty", "gives no photographs")])
def test_training_without_photographs_is_bad_usage(command: str, data: str, said: str, cli: Cli) -> None:
    Path("empty").mkdir()
    teacher = ["--teacher", "mini"] if command == "distill" else []
    ran = cli(*command.split(), data, "--out", "run", "--preset", "smoke", *teacher)
    assert ran.code == 2 and f"{data}" in ran.err and said in ran.err


def test_a_file_is_no_folder_of_models(cli: Cli) -> None:
    Path("a.pth").write_bytes(b"x")
    ran = cli("weights", "verify", "--weights", "a.pth")
    assert ran.code == 2
    assert "a.pth: is a file, and the folder of installed models is needed; name a folder" in ran.err


def test_reasons_carry_no_error_numbers_and_no_path_twice(cli: Cli) -> None:
    lone_image()
    ran = cli("train", "prerestorer", "in", "--out", "in/a.png", "--preset", "smoke")
    assert ran.code == 5 and "in/a.png: the run folder cannot be used (File exists); choose another --out" in ran.err
    save(Path("gt/b.png"), np.full((12, 16, 3), 90, np.uint8))
    save(Path("gt/a.png"), np.full((12, 16, 3), 90, np.uint8))
    assert "1 file pairs by name" in cli("score", "in", "--reference", "gt").err


def test_a_file_that_is_no_model_gets_no_advice_of_torch(cli: Cli) -> None:
    Path("a.pth").write_bytes(b"x")
    ran = cli("weights", "import", "a.pth", "--weights", "root")
    assert ran.code == 4 and "a.pth: " in ran.err
    assert "weights_only" not in ran.err and "PyTorch 2.6" not in ran.err
