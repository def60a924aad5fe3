"""Names of inputs, outputs and reports on the command line, and what is said where they do not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, images, load, photo, rows, save, tree

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


def test_the_output_may_be_named_by_an_option(cli: Cli) -> None:
    images()
    save(Path("b.png"), photo(8, 8))
    assert cli("restore", "in/a.png", "b.png", "-o", "out").code == 0
    assert sorted(tree(Path("out"))) == ["a.png", "b.png"]
    assert cli("restore", "b.png", "--output", "c.png").code == 0
    assert load(Path("c.png")).shape == (32, 32, 3)


def test_one_image_to_one_file_leaves_nothing_else_unless_asked(cli: Cli) -> None:
    save(Path("a.png"), photo(8, 8))
    Path("bad.png").write_bytes(b"text")
    Path("out").mkdir()
    ran = cli("restore", "a.png", "out/b.png")
    assert ran.code == 0 and "report:" not in ran.err
    assert cli("restore", "bad.png", "out/bad.png").code == 1
    assert [path.name for path in Path("out").iterdir()] == ["b.png"]
    assert "1 already up to date" in cli("restore", "a.png", "out/b.png").err
    assert cli("restore", "a.png", "out/b.png", "--metrics-csv", "my.csv").code == 0
    assert [row["output"] for row in rows(Path("my.csv"))] == ["b.png"]


def test_one_image_leaves_the_list_of_failures_of_others_alone(cli: Cli) -> None:
    images()
    Path("in/bad.png").write_bytes(b"text")
    cli("restore", "in", "out")
    before = Path("out/failed.txt").read_bytes()
    assert cli("restore", "in/a.png", "out/z.png").code == 0
    assert Path("out/failed.txt").read_bytes() == before


def test_a_foreign_metrics_csv_stops_nothing(cli: Cli) -> None:
    images()
    Path("out").mkdir()
    Path("out/metrics.csv").write_text("epoch,loss\n1,0.5\n")
    for expected in ("2 images restored", "2 already up to date"):
        ran = cli("restore", "in", "out")
        assert ran.code == 0 and expected in ran.err
        assert (
            "out/metrics.csv is no report of varestorer and stays; the report is out/metrics.varestorer.csv" in ran.err
        )
    assert Path("out/metrics.csv").read_text() == "epoch,loss\n1,0.5\n"
    assert len(rows(Path("out/metrics.varestorer.csv"))) == 3


def test_shards_are_merged_beside_a_foreign_metrics_csv(cli: Cli) -> None:
    images()
    cli("restore", "in", "out", "--shard", "0/1")
    Path("out/metrics.csv").write_text("epoch,loss\n")
    ran = cli("restore", "out", "--merge")
    assert ran.code == 0 and "out/metrics.varestorer.csv" in ran.err
    assert Path("out/metrics.csv").read_text() == "epoch,loss\n"


def test_the_name_of_the_model_is_that_of_the_one_used(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    assert cli("restore", "in", "out", "--name", "{stem}-{model}").code == 0
    assert sorted(tree(Path("out"))) == ["a-fine.png"]
    assert cli("restore", "in", "out2", "--name", "{stem}-{{model}}").code == 0
    assert sorted(tree(Path("out2"))) == ["a-{model}.png"]


def test_what_is_said_of_a_clash_helps(cli: Cli) -> None:
    for name in ("a.png", "a.bmp"):
        save(Path("in") / name, photo(8, 8))
    ran = cli("restore", "in", "out", "--format", "png")
    assert ran.code == 2 and "add --name '{stem}_{ext}'" in ran.err
    assert cli("restore", "in", "out", "--format", "png", "--name", "{stem}_{ext}").code == 0
    assert sorted(tree(Path("out"))) == ["a_bmp.png", "a_png.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere/*.png"], "nowhere/*.png: there is no folder nowhere"),
        (["nowhere/a.####.png"], "nowhere"),
        (["My", "Photos/a.png"], "a name with spaces needs quotes: 'My Photos/a.png'"),
        (["in\\a.png"], "write / for \\ here: in/a.png"),
        (["C:Usersmea.png"], "a path with backslashes needs quotes, or / in their place"),
        (["no.png"], "no.png: no such file or folder; check the spelling and the current folder"),
    ],
)
def test_inputs_that_do_not_exist(cli: Cli, words: list[str], said: str) -> None:
    save(Path("My Photos/a.png"), photo(8, 8))
    ran = cli("restore", *words, "out")
    assert ran.code == 2 and said in ran.err
    assert not Path("out").exists()
