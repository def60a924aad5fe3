"""``varestorer runs``: the table, the settings that differ, the page; odd folders."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from varestorer_cli.app import run
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.run_folder import Best, write_best
from varestorer_cli.core.training.runs import chosen_figures, differences, find_runs, read_run
from varestorer_cli.core.training.runs_report import runs_page
from varestorer_cli.core.training.tool_options import RunsOptions

RECORD: dict[str, Any] = {
    "stage": "distill", "preset": "smoke", "seed": 0, "cache": "crops-1", "frozen": {"teacher": "aa"},
    "recipe": {"steps": 40, "batch": 2, "learning_rate": 0.001, "losses": {"kl": 0.1}, "betas": [0.9, 0.99]},
    "config": {"name": "smoke", "teacher": {"width": 32}, "recipes": {"teacher": {"steps": 30}}},
    "starts": [{"time": "2026-01-01"}],
}  # fmt: skip


def made(folder: Path, gain: float = 0.0, log: str = "", **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**RECORD, **changes}))
    with (folder / "log.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kind", "step", "name", "value"])
        for step in range(1, 41):
            writer.writerow(["train", step, "loss", 1 / step])
            writer.writerow(["train", step, "kl/1", 0.25])
        for step in (0, 20, 40):
            writer.writerows([["validation", step, "psnr_y", 20 + gain + step / 10], ["validation", step, "kl", 0.5]])
            writer.writerows([["validation", step, "kl/1", 0.125], ["validation", step, "kl/2", 0.375]])
        stream.write(log)
    return folder


def test_the_table_has_a_row_per_run_and_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {**RECORD["recipe"], "losses": {"kl": 0.5}, "learning_rate": 0.01}
    a, b = made(tmp_path / "runs" / "a"), made(tmp_path / "runs" / "b", 1.5, recipe=recipe, seed=3)
    (b / "checkpoint_00000020.pt").touch()
    write_best(b, Best("psnr_y", 23.5, 20))
    assert run(["runs", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:8] == ["run", "stage", "preset", "step", "batch", "lr", "seed", "loss"]
    assert lines[0][8:] == ["psnr_y", "kl", "best"]
    assert ["a", "distill", "smoke", "40/40", "2", "0.001", "0", "0.025", "24", "0.5"] in lines
    best = ["psnr_y", "23.5", "at", "20"]
    assert ["b", "distill", "smoke", "40/40", "2", "0.01", "3", "0.025", "25.5", "0.5", *best] in lines
    differing = out[out.index("differs") :]
    assert re.findall(r"^ *(\S+)", differing, re.MULTILINE)[0] == "differs"
    assert {"seed", "recipe.learning_rate", "recipe.losses.kl"} == {
        line.split()[0] for line in differing.splitlines()[2:]
    }
    whole = run(["runs", str(tmp_path / "runs"), "--figures", "kl/2,psnr_y"]), capsys.readouterr().out
    assert whole[0] == 0 and whole[1].splitlines()[0].split()[8:10] == ["kl/2", "psnr_y"]


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_has_the_curves_and_asks_for_nothing(tmp_path: Path) -> None:
    runs = [made(tmp_path / f"r{n}", n, seed=n) for n in range(3)]
    target = tmp_path / "page" / "runs.html"
    target.parent.mkdir()
    assert run(["runs", *map(str, runs), "--report", str(target)]) == 0
    text = target.read_text()
    page = Page(text)
    lines = [attributes["class"] for tag, attributes in page.tags if tag == "polyline"]
    # psnr_y, kl and loss over steps, kl over the scales; the newest points of three runs in each
    assert sorted(lines) == sorted(["curve c0", "curve c1", "curve c2"] * 4)
    points = next(a["points"] for tag, a in page.tags if tag == "polyline")
    assert points is not None and len(points.split()) == 3
    for title in ("psnr_y", "loss", "kl", "Settings that differ", "r0", "r2"):
        assert title in text
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text) and "default-src 'none'" in text
    assert not [a for _, a in page.tags if "style" in a], "the page's policy forbids styles of single elements"
    assert run(["runs", str(runs[0]), "--report", str(target)]) == 0, "a page of our own is written anew"
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    assert run(["runs", str(runs[0]), "--report", str(tmp_path / "mine.html")]) == 2
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    odd = [made(tmp_path / "<b>x&"), made(tmp_path / "<i>\x1b[31m", seed=2)]
    runs = [read_run(path, name) for path, name in find_runs(odd)]
    from varestorer_cli.core.report.page import render

    text = render(runs_page(runs, chosen_figures(runs, None)))
    assert "<b>x" not in text and "<i>" not in text and "\x1b" not in text and "&lt;b&gt;x&amp;" in text


def test_a_run_that_is_going_on_is_read_as_far_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "a", log="train,41,loss,nan\nother,1,x,2\ntrain,42,lo")
    found = read_run(folder)
    assert found.step == 41 and found.skipped == 2
    assert run(["runs", str(folder)]) == 0
    said = capsys.readouterr()
    assert "nan" in said.out and "2 rows cannot be read" in said.err


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "record", "list"])
def test_what_is_no_run_is_refused_with_code_2(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    if kind in ("record", "list"):
        made(path)
        (path / "run.json").write_text("{" if kind == "record" else "[]")
    elif kind == "file":
        path.touch()
    elif kind == "empty":
        path.mkdir()
    assert run(["runs", str(path)]) == 2
    assert "x" in capsys.readouterr().err


def test_figures_are_asked_for_by_name(tmp_path: Path) -> None:
    runs = [read_run(made(tmp_path / "a"))]
    assert chosen_figures(runs, None) == ("psnr_y", "kl")
    assert chosen_figures(runs, "kl/1, psnr_y") == ("kl/1", "psnr_y")
    with pytest.raises(UsageError, match="--figures psnr: no run has it; did you mean psnr_y"):
        chosen_figures(runs, "psnr")
    with pytest.raises(UsageError, match="no run is given"):
        find_runs(RunsOptions().runs)


def test_runs_of_different_stages_are_compared_by_what_all_have(tmp_path: Path) -> None:
    runs = [read_run(made(tmp_path / "a", head="bits")), read_run(made(tmp_path / "b", stage="teacher", seed=1))]
    assert differences(runs) == {"stage": ("distill", "teacher"), "seed": (0, 1)}
    runs = [read_run(made(tmp_path / "c", head="bits")), read_run(made(tmp_path / "d"))]
    assert differences(runs) == {"head": ("bits", None)}


def test_names_tell_runs_apart_and_equal_runs_do_not_differ(tmp_path: Path) -> None:
    found = find_runs([made(tmp_path / "1" / "distill"), made(tmp_path / "2" / "distill")])
    assert len({name for _, name in found}) == 2
    assert differences([read_run(path, name) for path, name in found]) == {}
    assert len(find_runs([tmp_path / "1", tmp_path / "1" / "distill"])) == 1
