import csv
import io
import json
import math
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photo, save

from varestorer_cli.core import score_output, scoring
from varestorer_cli.core.errors import ExitCode, InputError, OutputError, UsageError
from varestorer_cli.core.metrics import Metric, load_metrics
from varestorer_cli.core.scoring import PROTOCOLS, Pair, PairPlan, PairScore, ScoreReport

# --- what is computed ----------------------------------------------------------------------------------------------


def test_protocols_name_their_metrics() -> None:
    assert scoring.metric_names(PROTOCOLS["both"], None) == ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb")
    assert scoring.metric_names(PROTOCOLS["osediff"], None) == ("psnr_y", "ssim_y")
    assert scoring.metric_names(PROTOCOLS["rgb"], None) == ("psnr_rgb", "ssim_rgb")
    assert scoring.metric_names(PROTOCOLS["paper"], None) == ("psnr_rgb", "ssim_yiq")


def test_bare_psnr_and_ssim_are_those_of_the_protocol() -> None:
    assert scoring.metric_names(PROTOCOLS["osediff"], " PSNR, ssim,niqe ,niqe") == ("psnr_y", "ssim_y", "niqe")
    assert scoring.metric_names(PROTOCOLS["paper"], "ssim") == ("ssim_yiq",)
    assert scoring.metric_names(PROTOCOLS["both"], "psnr,ssim_yiq") == ("psnr_y", "psnr_rgb", "ssim_yiq")


def test_a_metric_of_another_colour_space_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--protocol osediff means .*16-235.*excludes psnr_rgb"):
        scoring.metric_names(PROTOCOLS["osediff"], "psnr_y,psnr_rgb")
    with pytest.raises(UsageError, match="names no metric"):
        scoring.metric_names(PROTOCOLS["both"], " ,")


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with three pairs; names agree without suffix, one lies deeper, other files lie about."""
    out, gt = tmp_path / "out", tmp_path / "gt"
    for i, (left, right) in enumerate((("a.png", "a.png"), ("b.jpg", "b.png"), ("deep/c.png", "deep/c.tif"))):
        save(gt / right, photo(seed=i))
        save(out / left, photo(seed=i))
    for stray in ("scores.csv", "metrics.csv", "Thumbs.db", ".hidden.png", ".git/a.png", "x.png.part"):
        (out / stray).parent.mkdir(exist_ok=True)
        (out / stray).write_text("no image")
    return out, gt


def test_files_pair_by_path_without_suffix(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    plan = scoring.plan_pairs(out, gt)
    assert plan.pairs == (
        Pair("a", out / "a.png", gt / "a.png"),
        Pair("b", out / "b.jpg", gt / "b.png"),
        Pair("deep/c", out / "deep/c.png", gt / "deep/c.tif"),
    )
    assert plan.unpaired_restored == plan.unpaired_reference == ()


def test_files_without_partner_are_refused_and_named(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    save(out / "extra.png", photo())
    (gt / "b.png").unlink()
    with pytest.raises(UsageError) as caught:
        scoring.plan_pairs(out, gt)
    text = str(caught.value)
    assert text.startswith("2 files pair by name")
    assert f"2 only in {out}: b, extra" in text and "only in " + str(gt) not in text
    assert "--partial" in text
    plan = scoring.plan_pairs(out, gt, partial=True)
    assert [pair.name for pair in plan.pairs] == ["a", "deep/c"]
    assert plan.unpaired_restored == ("b", "extra")


def test_equal_counts_of_different_names_are_not_paired_by_order(tmp_path: Path) -> None:
    save(tmp_path / "out/a_x4.png", photo())
    save(tmp_path / "gt/a.png", photo())
    for partial in (False, True):
        with pytest.raises(UsageError, match=r"0 files pair by name.*a_x4.*only in .*gt: a\."):
            scoring.plan_pairs(tmp_path / "out", tmp_path / "gt", partial=partial)


def test_a_long_list_of_strays_is_cut_with_a_count(tmp_path: Path) -> None:
    save(tmp_path / "gt/a.png", photo())
    for i in range(14):
        save(tmp_path / f"out/{i:02}.png", photo(8, 8))
    save(tmp_path / "out/a.png", photo())
    with pytest.raises(UsageError, match=r"14 only in .*: 00, 01, .*, 09 and 4 more"):
        scoring.plan_pairs(tmp_path / "out", tmp_path / "gt")


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    for form, folder in (("NFC", "out"), ("NFD", "gt")):
        save(tmp_path / folder / (unicodedata.normalize("NFC" if form == "NFC" else "NFD", "ü ñ") + ".png"), photo())
    assert len(scoring.plan_pairs(tmp_path / "out", tmp_path / "gt").pairs) == 1


def test_two_files_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    save(out / "a.webp", photo())
    with pytest.raises(UsageError, match=r"a\.png and a\.webp"):
        scoring.plan_pairs(out, gt)


def test_single_files_pair_whatever_their_names(folders: tuple[Path, Path]) -> None:
    out, gt = folders
    assert scoring.plan_pairs(out / "a.png", gt / "b.png").pairs == (Pair("a", out / "a.png", gt / "b.png"),)
    with pytest.raises(UsageError, match="one is a file, the other a folder"):
        scoring.plan_pairs(out / "a.png", gt)


def test_without_reference_every_image_stands_alone(folders: tuple[Path, Path]) -> None:
    plan = scoring.plan_pairs(folders[0], None)
    assert [(pair.name, pair.reference) for pair in plan.pairs] == [("a", None), ("b", None), ("deep/c", None)]


def test_useless_folders_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out, gt = folders
    with pytest.raises(UsageError, match="compared with itself"):
        scoring.plan_pairs(out, out / ".." / "out")
    with pytest.raises(UsageError, match="nowhere does not exist"):
        scoring.plan_pairs(tmp_path / "nowhere", gt)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image"):
        scoring.plan_pairs(tmp_path / "empty", gt)


# --- scores ----------------------------------------------------------------------------------------------------------


def score_one(restored: Path, reference: Path | None, names: str = "psnr_rgb", **settings: Any) -> PairScore:
    (score,) = scoring.score_pairs([Pair("a", restored, reference)], load_metrics(names.split(",")), **settings)
    return score


def test_a_score_is_what_the_metric_says(tmp_path: Path) -> None:
    reference = np.clip(photo(20, 30).astype(int), 5, 250).astype(np.uint8)
    score = score_one(save(tmp_path / "a.png", reference + 5), save(tmp_path / "b.png", reference))
    assert score.values["psnr_rgb"] == pytest.approx(20 * math.log10(51), abs=1e-3)
    assert (score.size, score.failed, score.note) == ((30, 20), False, "")


def test_the_border_is_cut_off_both_images(tmp_path: Path) -> None:
    reference = photo(20, 30)
    restored = reference.copy()
    restored[:2] = restored[-2:] = 255 - restored[0]
    restored[:, :2] = 0
    left, right = save(tmp_path / "a.png", restored), save(tmp_path / "b.png", reference)
    assert math.isfinite(score_one(left, right, crop_border=1).values["psnr_rgb"])
    assert math.isinf(score_one(left, right, crop_border=2).values["psnr_rgb"])
    nothing = score_one(left, right, crop_border=10)
    assert nothing.failed and "10 pixels leaves nothing of 30x20" in nothing.reason


def test_sizes_that_differ_fail_with_both_sizes(tmp_path: Path) -> None:
    score = score_one(save(tmp_path / "a.png", photo(20, 31)), save(tmp_path / "b.png", photo(20, 30)))
    assert score.failed and score.values == {}
    assert "restored 31x20, reference 30x20" in score.reason


@pytest.mark.parametrize("broken", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_unreadable_files_fail_by_name(tmp_path: Path, broken: bytes) -> None:
    good, bad = save(tmp_path / "b.png", photo()), tmp_path / "a.png"
    bad.write_bytes(broken)
    for score in (score_one(bad, good), score_one(good, bad)):
        assert score.failed and str(bad) in score.reason


def test_16_bit_alpha_and_gray_are_scored_as_8_bit_rgb(tmp_path: Path) -> None:
    gray = photo(20, 30, channels=1)
    deep = save(tmp_path / "deep.png", gray.astype(np.uint16) * 257 + 100)
    clear = save(tmp_path / "clear.png", np.concatenate([np.repeat(gray, 3, axis=2), gray], axis=2))
    plain = save(tmp_path / "plain.png", gray)
    score = score_one(deep, plain)
    assert math.isinf(score.values["psnr_rgb"])
    assert score.note == "psnr_rgb infinite: identical images; restored: 16 bit scored as 8"
    assert scoring.read_rgb8(clear) == (pytest.approx(np.repeat(gray, 3, axis=2)), "alpha ignored")


def test_a_failing_metric_fails_the_pair_and_no_other(tmp_path: Path) -> None:
    small, large = photo(10, 10), photo(20, 20)
    pairs = []
    for name, image in (("small", small), ("large", large)):
        left, right = save(tmp_path / f"{name}.png", image // 2), save(tmp_path / "gt" / f"{name}.png", image)
        pairs.append(Pair(name, left, right))
    seen: list[str] = []
    scores = scoring.score_pairs(
        pairs, load_metrics(["psnr_y", "ssim_y"]), on_done=lambda score: seen.append(score.pair.name)
    )
    assert seen == ["small", "large"]
    assert "ssim_y failed" in scores[0].reason and "11x11" in scores[0].reason
    assert scores[0].values == {} and set(scores[1].values) == {"psnr_y", "ssim_y"}


def test_not_a_number_is_a_failure(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", photo())
    metric = Metric("odd", "ODD", False, True, "test", lambda restored, reference: math.nan)
    (score,) = scoring.score_pairs([Pair("a", image, None)], [metric])
    assert score.reason == "odd is not a number for this image"


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: the file cannot be read"):
        scoring.read_rgb8(tmp_path / "none.png")


# --- means -----------------------------------------------------------------------------------------------------------


def test_the_interval_is_seeded_and_holds_the_mean() -> None:
    values = list(np.random.default_rng(0).normal(25, 2, 100))
    summary = scoring.summarize(values, seed=5)
    assert summary == scoring.summarize(values, seed=5) and summary != scoring.summarize(values, seed=6)
    assert summary.interval is not None and summary.mean == pytest.approx(np.mean(values))
    # The normal interval is mean +- 1.96 s / sqrt(n) = 0.39 for s = 2.
    half = 1.96 * np.std(values) / 10
    assert summary.interval == (
        pytest.approx(np.mean(values) - half, abs=0.06),
        pytest.approx(np.mean(values) + half, abs=0.06),
    )


def test_few_and_infinite_scores_are_said() -> None:
    assert scoring.summarize([]) == scoring.Summary(None, None, 0, 0)
    assert scoring.summarize([3.0]) == scoring.Summary(3.0, None, 1, 0)
    assert scoring.summarize([math.inf, math.inf]) == scoring.Summary(math.inf, None, 0, 2)
    mixed = scoring.summarize([20.0, math.inf, 30.0])
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
        Metric("psnr_y", "PSNR-Y", True, False, "varestorer 1", lambda a, b: 0),
        Metric("niqe", "NIQE", False, True, "pyiqa 2 on cpu", lambda a, b: 0),
    )
    return ScoreReport(scores, metrics, PROTOCOLS["osediff"], 4, PairPlan(tuple(pairs)), subject="out against gt")


def test_the_title_says_what_the_numbers_mean(report: ScoreReport) -> None:
    text = "\n".join(score_output.title(report))
    for words in (
        "out against gt: 2 pairs scored, 1 failed",
        "Protocol osediff: PSNR and SSIM on Y of YCbCr (ITU-R BT.601, 16-235); 8 bit, border crop 4",
        "Computed by varestorer 1, pyiqa 2 on cpu",
        "95% bootstrap interval (2000 draws, seed 0)",
    ):
        assert words in text
    assert "PARTIAL" not in text
    partial = replace(report, plan=PairPlan(report.plan.pairs, ("x",), ("y", "z")))
    assert "PARTIAL: 3 files without partner left out (x, y, z)" in score_output.title(partial)


def test_the_table_has_arrows_means_and_published_values(report: ScoreReport) -> None:
    published = {"Paper": {"psnr_y": 25.15, "lpips": 0.3}, "Other": {"lpips": 0.2}}
    table = score_output.table(replace(report, published=published))
    assert table.head == ("metric", "mean", "95% interval", "Paper, published")
    assert table.rows[0] == ("PSNR-Y ↑", "24.99", "-", "25.15")
    assert table.rows[1][:2] == ("NIQE ↓", "5.0000") and table.rows[1][3] == "-"
    assert score_output.table(report, down="v").rows[1][0] == "NIQE v"
    assert score_output.footnotes(report) == ["PSNR-Y: 1 identical pair (infinite) not in the mean"]


def test_markdown(report: ScoreReport) -> None:
    text = score_output.markdown(report)
    assert "| metric | mean | 95% interval |\n| --- | ---: | ---: |\n| PSNR-Y ↑ | 24.99 | - |\n" in text
    assert "Protocol osediff" in text and text.endswith("not in the mean\n")


def test_csv_has_no_infinity_and_no_nan(report: ScoreReport) -> None:
    text = score_output.csv_text(report)
    assert "inf," not in text and "nan" not in text.lower()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["status"] for row in rows] == ["scored", "scored", "failed"]
    assert rows[0]["psnr_y"] == "24.987654" and rows[0]["width"] == "30"
    assert rows[1]["psnr_y"] == "" and "identical" in rows[1]["note"]
    assert rows[2]["psnr_y"] == rows[2]["niqe"] == "" and rows[2]["reason"] == "sizes differ, or so"


def test_json_is_standard_json(report: ScoreReport) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(score_output.json_text(report), parse_constant=refuse)
    assert content["protocol"] == "osediff" and content["crop_border"] == 4 and content["failed"] == 1
    assert content["summary"]["psnr_y"] == {
        "mean": 24.987654, "low": None, "high": None, "count": 1, "infinite": 1,
        "lower_better": False, "library": "varestorer 1",
    }  # fmt: skip
    assert content["images"][1]["psnr_y"] is None and content["images"][2]["reason"] == "sizes differ, or so"
    assert report.exit_code == ExitCode.SOME_FAILED


def test_a_mean_of_nothing_is_no_number(report: ScoreReport) -> None:
    nothing = replace(report, scores=report.scores[2:])
    assert score_output.table(nothing).rows[0][1] == "-"
    assert json.loads(score_output.json_text(nothing))["summary"]["niqe"]["mean"] is None


def test_a_name_that_is_no_unicode_is_escaped(report: ScoreReport, tmp_path: Path) -> None:
    odd = PairScore(Pair("\udcff", Path("out/\udcff.png"), None), {"psnr_y": 1.0, "niqe": 1.0}, (1, 1))
    for make, name in ((score_output.csv_text, "s.csv"), (score_output.json_text, "s.json")):
        score_output.write_text(tmp_path / name, make(replace(report, scores=(odd,))))
    assert json.loads((tmp_path / "s.json").read_text("utf-8"))["images"][0]["name"] == "\udcff"
    assert "\\udcff" in (tmp_path / "s.csv").read_text("utf-8")


def test_targets_are_no_images_and_can_be_written(tmp_path: Path) -> None:
    for wrong in (tmp_path / "a.png", tmp_path):
        with pytest.raises(UsageError, match="text file such as"):
            score_output.check_target(wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        score_output.check_target(tmp_path / "file" / "scores.csv")
    score_output.check_target(tmp_path / "new" / "scores.csv")
    assert (tmp_path / "new").is_dir()


def test_only_our_own_files_are_replaced_unasked(report: ScoreReport, tmp_path: Path) -> None:
    for text in (score_output.csv_text(report), score_output.json_text(report)):
        (tmp_path / "ours").write_text(text)
        assert score_output.is_ours(tmp_path / "ours")
    (tmp_path / "theirs").write_text("name,points\nanna,3\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert not score_output.is_ours(tmp_path / "theirs") and not score_output.is_ours(tmp_path / "binary")
    assert score_output.is_ours(tmp_path / "absent")
