"""The help as it is read, and what the shell completes."""

import re
from pathlib import Path

import pytest

from varestorer_cli import app
from varestorer_cli.core.shared_options import GROUPS
from varestorer_cli.core.training.options import PRESET_NAMES
from varestorer_cli.core.training.presets import preset_names


def helped(words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert app.run([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["restore", "score", "distill", "train teacher"])
@pytest.mark.parametrize("columns", [60, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(command.split(), columns, monkeypatch, capsys)
    options = text[text.index("\nInput\n") :]
    assert max(map(len, options.splitlines())) <= columns
    assert "\x1b" not in text, "no colours in a pipe"
    if columns == 100:
        assert max(map(len, options.splitlines())) > 90, "the width is used"


def test_restore_takes_two_screens_with_its_headings_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(["restore"], 100, monkeypatch, capsys)
    assert len(text.splitlines()) <= 104, "two screens of 52 lines: shorten a help, most fit into one line"
    headings = re.findall(r"^\n(\w+)\n(?=  )", text, flags=re.MULTILINE)
    assert headings == [group for group in GROUPS if group in headings]
    assert {"Input", "Output", "Size", "Quality", "Model", "Farm", "Metadata"} <= set(headings)


@pytest.mark.parametrize("words", [[], ["train"], ["weights"]])
def test_sentences_of_commands_are_wrapped_and_not_cut_off(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(words, 60, monkeypatch, capsys).partition("\nCommands:\n")[2]
    assert "..." not in text and max(map(len, text.splitlines())) <= 60
    assert len(re.findall(r"^  \w+  ", text, flags=re.MULTILINE)) >= 5 and "texts" not in text


@pytest.mark.parametrize(
    "words", [["runs"], ["weights", "pull"], ["doctor"], ["train", "average"], ["train"], ["texts"]]
)
def test_few_options_stand_under_one_heading_in_plain_words(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(words, 80, monkeypatch, capsys)
    assert re.findall(r"^\n(\w+)\n(?=  )", text, flags=re.MULTILINE) == ["Options"]
    assert not re.search(r"<\w|list\[|default: \(", text) and max(map(len, text.splitlines())) <= 80


def test_no_word_is_broken_and_no_default_is_said_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = helped(["restore"], 100, monkeypatch, capsys)
    assert "released-square" in text
    assert "-m, --model TEXT " in text and "[default: auto]" not in text and "[default: 95]" in text
    assert "--existing skip|overwrite|error" in text and "auto, bar, lines," in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("restore --model ", {"auto", "fine", "compact", "mini"}),
        ("restore --model co", {"compact"}),
        ("restore --model mine/", {"mine/a.safetensors"}),
        ("restore --format ", {"png", "jpg", "webp", "tif", "bmp", "exr", "dpx"}),
        ("restore --device c", {"cpu", "cuda", "cuda:0"}),
        ("restore --existing o", {"overwrite"}),
        ("score --model f", {"fine"}),
        ("score --dataset d", {"div2k", "drealsr", "dped", "div2k-synth"}),
        ("score --metrics psnr_", {"psnr_y", "psnr_rgb"}),
        ("score --protocol p", {"paper"}),
        ("train teacher --preset ", {"compact", "fine", "mini", "smoke", "2b"}),
        ("weights pull t", {"teacher", "text"}),
    ],
)
def test_the_shell_completes_values(
    words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert set(PRESET_NAMES) == set(preset_names())
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/a.safetensors").write_bytes(b"")
    monkeypatch.setenv("VARESTORER_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("_VARESTORER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"varestorer {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    app.run([])
    assert set(capsys.readouterr().out.split()) == expected
