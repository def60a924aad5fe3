"""Captions of images: which row, which file, and what a captioner adds."""

import os
from pathlib import Path

import pytest

from varestorer_cli.core.choices import Captioning, ImageFormat
from varestorer_cli.core.errors import OutputError, UsageError
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.options import RestoreOptions, TextOptions
from varestorer_cli.core.text.captions import BESIDE, CaptionsFile, Texts, clean, find_captions, read_table


def job(key: str, root: str = "in") -> Job:
    return Job(f"{root}/{key}", key, Path("out") / key, f"{root}/./{key}")


JOBS = [job("a.jpg"), job("sub/b.png"), job("c, d.tif")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(text: str | bytes) -> str:
    Path("t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return "t.csv"


@pytest.mark.parametrize(
    "text",
    [
        'path,caption\na.jpg,a cat\nsub/b.png,a dog\n"c, d.tif","two, trees"\n',
        '\ufeffPath, Caption\r\na.jpg,a cat\r\nsub/b.png,a dog\r\n"c, d.tif","two, trees"',
        "caption;path\na cat;a.jpg\na dog;sub/b.png\ntwo, trees;c, d.tif\n",
        "path\tother\tcaption\n./a.jpg\t1\t a  cat \nsub//b.png\t2\ta dog\nc, d.tif\t3\ttwo, trees\n",
        'input,output,status,caption\nin/a.jpg,,done,a cat\nin/sub/b.png,,,a dog\n"in/c, d.tif",,,"two, trees"\n',
    ],
    ids=["plain", "excel", "semicolons", "tabs", "report"],
)
def test_tables(text: str) -> None:
    found = find_captions(table(text), JOBS)
    assert found.by_key == {"a.jpg": "a cat", "sub/b.png": "a dog", "c, d.tif": "two, trees"}
    assert found.unused == [] and found.problems == []


def test_absolute_paths_and_links(here: Path) -> None:
    Path("in").mkdir()
    Path("link").symlink_to("in")
    text = f"path,caption\n{here}/in/a.jpg,a cat\n{here}/link/sub/b.png,a dog\n{here}/in/z.png,nobody\n"
    found = find_captions(table(text), JOBS)
    assert found.by_key == {"a.jpg": "a cat", "sub/b.png": "a dog"}
    assert found.unused == [str(here.resolve() / "in/z.png")]


def test_a_row_without_caption_is_no_caption() -> None:
    assert find_captions(table("path,caption\na.jpg,\nsub/b.png,  \nc, d.tif\n,orphan\n"), JOBS).by_key == {}


def test_names_that_are_no_utf_8() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    found = find_captions(table(b"path,caption\ncaf\xe9.jpg,a caf\xe9 \xff\n"), [job(name)])
    assert found.by_key == {name: "a caf? ?"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,text\na.jpg,a cat\n", "its first line is 'name,text', a header with the columns path and caption"),
        ("", "its first line is ''"),
        ("path,caption\na.jpg,x\nsub/b.png,y\n./a.jpg,z\n", "lines 2 and 4 give ./a.jpg two different captions"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a header with the columns"),
        ("path,caption\na.jpg," + "x" * 200_000, "is no CSV"),
    ],
)
def test_tables_that_are_none(text: str | bytes, words: str) -> None:
    with pytest.raises(UsageError, match=r"--captions t\.csv:") as error:
        find_captions(table(text), JOBS)
    assert words in str(error.value)


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"--captions none.csv: cannot be read \(No such file"):
        find_captions("none.csv", JOBS)


def test_the_same_row_twice_is_no_contradiction() -> None:
    assert read_table(Path(table("path,caption\na.jpg,x\na.jpg,x\n"))) == {"a.jpg": "x"}


def test_text_files() -> None:
    for folder in ("in", "texts"):
        Path(folder, "sub").mkdir(parents=True)
        Path(folder, "a.txt").write_text(f"a cat\nin {folder}\n")
        Path(folder, "sub/b.txt").write_text("\ufeffa dog")
    found = find_captions("texts", JOBS)
    assert found.by_key == {"a.jpg": "a cat in texts", "sub/b.png": "a dog"}
    assert found.files == {os.path.realpath("texts/a.txt"), os.path.realpath("texts/sub/b.txt")}
    assert find_captions(BESIDE, JOBS).by_key == {"a.jpg": "a cat in in", "sub/b.png": "a dog"}


def test_text_files_that_cannot_be_used_are_named() -> None:
    Path("in/sub/b.txt").mkdir(parents=True)
    Path("in/a.txt").write_bytes(b"x" * 70_000)
    Path("in/c, d.txt").write_text("\n \n")
    found = find_captions(BESIDE, JOBS)
    assert found.by_key == {}
    assert found.problems == [
        "in/a.txt: above 65536 bytes, that is no caption",
        "in/sub/b.txt: cannot be read (Is a directory)",
    ]


def test_captions_are_one_line() -> None:
    assert clean(" a\tcat\r\n\x00 on\u2028a  mat\ud800 ") == "a cat on a mat?"
    assert clean("猫") == "猫"


def test_the_captioners_file_grows_and_keeps_what_is_there() -> None:
    path = Path("deep/captions.csv")
    file = CaptionsFile(path)
    file.add("a.jpg", "a cat")
    file.add("c, d.tif", 'two "trees"')
    assert path.read_text() == 'path,caption\na.jpg,a cat\n"c, d.tif","two ""trees"""\n'
    path.write_text("caption;done;path\nan edited cat;yes;a.jpg")  # by hand: another layout, no last newline
    again = CaptionsFile(path)
    assert [again.of(one) for one in JOBS] == ["an edited cat", None, None]
    again.add("sub/b.png", "a dog")
    assert find_captions(str(path), JOBS).by_key == {"a.jpg": "an edited cat", "sub/b.png": "a dog"}


def test_a_captions_file_that_is_none_is_left_alone() -> None:
    Path("notes.csv").write_text("my notes")
    with pytest.raises(UsageError, match=r"--captions-file notes\.csv"):
        CaptionsFile(Path("notes.csv"))
    Path("file").write_text("x")
    with pytest.raises(OutputError, match="captions cannot be written"):
        CaptionsFile(Path("file/captions.csv")).add("a.jpg", "x")


def test_texts_of_images_and_what_decides_their_bytes() -> None:
    texts = Texts({"a.jpg": "a cat", "b.jpg": "plain"}, "plain", "e" * 64, stored="plain")
    assert [texts.of(key) for key in ("a.jpg", "b.jpg", "c.jpg")] == ["a cat", "plain", "plain"]
    assert texts.identity("a.jpg") == ("e" * 64, "a cat")
    assert texts.identity("b.jpg") == texts.identity("c.jpg") == ("", "plain")
    assert Texts().of("a.jpg") is None and Texts().identity("a.jpg") is None

    def settings(text: tuple[str, str] | None) -> str:
        return RestoreOptions().settings_sha256(overlap=8, sampling="argmax", format=ImageFormat.PNG, text=text)

    hashes = [settings(identity) for identity in (None, ("", "a cat"), ("e" * 64, "a cat"), ("", "plain"))]
    assert len(set(hashes)) == 4 and hashes[2] == settings(texts.identity("a.jpg"))


def test_options_that_contradict_each_other() -> None:
    for settings in ({"prompt": " "}, {"captioner": "x"}, {"captions_file": "x"}):
        with pytest.raises(UsageError):
            TextOptions(**settings)  # type: ignore[arg-type]
    assert TextOptions().asked_by == ""
    assert TextOptions(captions="x").asked_by == "--captions"
    assert TextOptions(captioning=Captioning.AUTO).asked_by == "--caption auto"
