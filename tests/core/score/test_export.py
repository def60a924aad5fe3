import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from varestorer_cli.core.errors import ExitCode, OutputError, UsageError
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.metrics.protocols import PROTOCOLS
from varestorer_cli.core.score import export, tables
from varestorer_cli.core.score.pairing import Pair, PairPlan
from varestorer_cli.core.score.published import PublishedRow
from varestorer_cli.core.score.scorer import PairScore
from varestorer_cli.core.score.summary import ScoreReport, Summary, summarize

# --- means -----------------------------------------------------------------------------------------------------------


def test_the_interval_is_seeded_and_holds_the_mean() -> None:
    values = list(np.random.default_rng(0).normal(25, 2, 100))
    summary = summarize(values, seed=5)
    assert summary == summarize(values, seed=5) and summary != summarize(values, seed=6)
    assert summary.interval is not None and summary.mean == pytest.approx(np.mean(values))
    # The normal interval is mean +- 1.96 s / sqrt(n) = 0.39 for s = 2.
    half = 1.96 * np.std(values) / 10
    assert summary.interval == (
        pytest.approx(np.mean(values) - half, abs=0.06),
        pytest.approx(np.mean(values) + half, abs=0.06),
    )


def test_few_and_infinite_scores_are_said() -> None:
    assert summarize([]) == Summary(None, None, 0, 0)
    assert summarize([3.0]) == Summary(3.0, None, 1, 0)
    assert summarize([math.inf, math.inf]) == Summary(math.inf, None, 0, 2)
    mixed = summarize([20.0, math.inf, 30.0])
    assert (mixed.mean, mixed.count, mixed.infinite) == (25.0, 2, 1)


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def report() -> ScoreReport:
    """Two scored pairs, one of them identical, and a failed one."""
    pairs = [Pair(name, Path(f"out/{name}.png"), Path(f"gt/{name}.png")) for name in ("a", "b", "c")]
    scores = (
        PairScore(pairs[0], {"psnr_y": 24.987654321, "niqe": 5.5}, (30, 20)),
        PairScore(pairs[1], {"psnr_y": math.inf, "niqe": 4.5}, (30, 20), note="psnr_y infinite: identical images"),
        PairScore(pairs[2], reason="sizes differ, or so"),
    )
    metrics = (
        MetricInfo("psnr_y", "PSNR-Y", True, False, "varestorer 1"),
        MetricInfo("niqe", "NIQE", False, True, "pyiqa 2 on cpu"),
    )
    return ScoreReport(scores, metrics, PROTOCOLS["osediff"], 4, PairPlan(tuple(pairs)), subject="out against gt")


def test_the_title_says_what_the_numbers_mean(report: ScoreReport) -> None:
    text = "\n".join(export.title(report))
    for words in (
        "out against gt: 2 pairs scored, 1 failed",
        "Protocol osediff: PSNR and SSIM on Y of YCbCr (ITU-R BT.601, 16-235), MANIQA of PIPAL; 8 bit, border crop 4",
        "Computed by varestorer 1, pyiqa 2 on cpu",
        "95% bootstrap interval (2000 draws, seed 0)",
    ):
        assert words in text
    assert "PARTIAL" not in text
    partial = replace(report, plan=PairPlan(report.plan.pairs, ("x",), ("y", "z")))
    assert "PARTIAL: 3 files without partner left out (x, y, z)" in export.title(partial)


def row(method: str, convention: str, values: dict[str, str], second_hand: bool = False) -> PublishedRow:
    return PublishedRow(method, "1", convention, f"{method}'s paper", second_hand, values)


def test_the_table_has_arrows_and_means(report: ScoreReport) -> None:
    table = export.table(report)
    assert table.head == ("metric", "mean", "95% interval")
    assert table.rows == (("PSNR-Y ↑", "24.99", "-"), ("NIQE ↓", "5.0000", "[4.5000, 5.5000]"))
    assert export.table(report, down="v").rows[1][0] == "NIQE v"
    assert export.footnotes(report) == ["PSNR-Y: 1 identical pair (infinite) not in the mean"]


def test_published_rows_stand_beside_ours_by_convention(report: ScoreReport) -> None:
    rows = (
        row("One", "osediff", {"psnr_y": "25.10", "lpips": "0.3"}),
        row("Two", "osediff", {"niqe": "5.50"}, second_hand=True),
        row("Three", "osediff", {"lpips": "0.2"}),
        row("Four", "paper", {"psnr_rgb": "22.00", "niqe": "4.41"}),
    )
    own, osediff, paper = export.blocks(replace(report, published=rows))
    assert len(own.table.rows) == 2 and "One" not in str(own)
    assert osediff.above[0].startswith("Published under convention osediff: PSNR and SSIM on Y")
    assert osediff.table.head == ("method-steps", "PSNR-Y ↑", "NIQE ↓", "source")
    assert osediff.table.rows == (
        ("this run", "24.99", "5.0000", ""),
        ("One-1", "25.10", "-", "[1]"),
        ("Two-1", "-", "5.50", "[2]"),
    )
    assert osediff.below == (
        "this run leaves out 1 file of the set",
        "[1] One's paper",
        "[2] Two's paper (second-hand)",
    )
    # psnr_rgb was not computed here, so only the shared metric has a column.
    assert paper.table == tables.Table(
        ("method-steps", "NIQE ↓", "source"), (("this run", "5.0000", ""), ("Four-1", "4.41", "[1]"))
    )


def test_markdown(report: ScoreReport) -> None:
    text = tables.markdown(export.blocks(report))
    assert "| metric | mean | 95% interval |\n| --- | ---: | ---: |\n| PSNR-Y ↑ | 24.99 | - |\n" in text
    assert "Protocol osediff" in text and text.endswith("not in the mean\n")
    barred = tables.Block(("a",), tables.Table(("h|x",), (("1",),)))
    assert "| h\\|x |" in tables.markdown([barred])


def test_latex(report: ScoreReport) -> None:
    text = tables.latex(export.blocks(replace(report, subject="out_1 & 50%")))
    assert r"\caption{out\_1 \& 50\%: 2 pairs scored, 1 failed. Protocol osediff" in text
    assert "\\begin{tabular}{lrr}\n\\toprule\nmetric & mean & 95\\% interval \\\\\n\\midrule\n" in text
    assert r"PSNR-Y $\uparrow$ & 24.99 & - \\" in text and r"NIQE $\downarrow$" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_the_terminal_gets_whole_cells(report: ScoreReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = tables.terminal(export.blocks(report))
    assert "[4.5000, 5.5000]" in text and "\x1b" not in text


@pytest.mark.parametrize("piped", [True, False])
def test_numbers_are_whole_in_a_pipe_and_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, piped: bool) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    if not piped:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
    head = ("metric", "A", "B", "B - A", "95% interval", "A better", "B better", "ties", "sign test p")
    row = (
        "PSNR-Y of a long name ↑",
        "24.8291",
        "25.2244",
        "+0.3953",
        "[-0.2134, +0.6123]",
        "1234",
        "5678",
        "0",
        "1.2e-09",
    )
    short = ("PSNR-RGB ↑", *row[1:])
    text = tables.terminal([tables.Block(("above",), tables.Table(head, (row, short)))])
    assert short[0] in text, "a short name keeps its arrow"
    for cell in row[1:]:
        assert cell in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    if piped:
        lines = text.splitlines()
        assert any(all(cell in line for cell in row) for line in lines) and any("sign test p" in line for line in lines)


def test_whole_sets_have_one_number(report: ScoreReport) -> None:
    fid = MetricInfo("fid", "FID", True, True, "pyiqa 2 on cpu", whole_set=True)
    with_fid = replace(report, metrics=(*report.metrics, fid), set_values={"fid": 117.234})
    assert export.table(with_fid).rows[2] == ("FID ↓", "117.23", "-")
    assert "FID: one number for all 2 pairs, so it has no interval" in export.footnotes(with_fid)
    assert "fid" not in export.csv_text(with_fid).splitlines()[0]
    content = json.loads(export.json_text(with_fid))
    assert content["summary"]["fid"]["mean"] == 117.234 and "fid" not in content["images"][0]
    failed = replace(with_fid, set_values={})
    assert export.table(failed).rows[2][1] == "-"


def test_csv_has_no_infinity_and_no_nan(report: ScoreReport) -> None:
    text = export.csv_text(report)
    assert "inf," not in text and "nan" not in text.lower()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["status"] for row in rows] == ["scored", "scored", "failed"]
    assert rows[0]["psnr_y"] == "24.987654" and rows[0]["width"] == "30"
    assert rows[1]["psnr_y"] == "" and "identical" in rows[1]["note"]
    assert rows[2]["psnr_y"] == rows[2]["niqe"] == "" and rows[2]["reason"] == "sizes differ, or so"


def test_json_is_standard_json(report: ScoreReport) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(export.json_text(report), parse_constant=refuse)
    assert content["protocol"] == "osediff" and content["crop_border"] == 4 and content["failed"] == 1
    assert content["summary"]["psnr_y"] == {
        "label": "PSNR-Y", "needs_reference": True, "whole_set": False,
        "mean": 24.987654, "low": None, "high": None, "count": 1, "infinite": 1,
        "lower_better": False, "library": "varestorer 1",
    }  # fmt: skip
    assert content["images"][1]["psnr_y"] is None and content["images"][1]["infinite"] == ["psnr_y"]
    assert content["images"][2]["reason"] == "sizes differ, or so"
    assert report.exit_code == ExitCode.SOME_FAILED


def test_a_mean_of_nothing_is_no_number(report: ScoreReport) -> None:
    nothing = replace(report, scores=report.scores[2:])
    assert export.table(nothing).rows[0][1] == "-"
    assert json.loads(export.json_text(nothing))["summary"]["niqe"]["mean"] is None


def test_a_name_that_is_no_unicode_is_escaped(report: ScoreReport, tmp_path: Path) -> None:
    odd = PairScore(Pair("\udcff", Path("out/\udcff.png"), None), {"psnr_y": 1.0, "niqe": 1.0}, (1, 1))
    for make, name in ((export.csv_text, "s.csv"), (export.json_text, "s.json")):
        export.write_text(tmp_path / name, make(replace(report, scores=(odd,))))
    assert json.loads((tmp_path / "s.json").read_text("utf-8"))["images"][0]["name"] == "\udcff"
    assert "\\udcff" in (tmp_path / "s.csv").read_text("utf-8")


def test_targets_are_no_images_and_can_be_written(tmp_path: Path) -> None:
    for wrong in (tmp_path / "a.png", tmp_path):
        with pytest.raises(UsageError, match="text file such as"):
            export.check_target(wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export.check_target(tmp_path / "file" / "scores.csv")
    export.check_target(tmp_path / "new" / "scores.csv")
    assert (tmp_path / "new").is_dir()


def test_only_our_own_files_are_replaced_unasked(report: ScoreReport, tmp_path: Path) -> None:
    for text in (export.csv_text(report), export.json_text(report)):
        (tmp_path / "ours").write_text(text)
        assert export.is_ours(tmp_path / "ours")
    (tmp_path / "theirs").write_text("name,points\nanna,3\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert not export.is_ours(tmp_path / "theirs") and not export.is_ours(tmp_path / "binary")
    assert export.is_ours(tmp_path / "absent")
