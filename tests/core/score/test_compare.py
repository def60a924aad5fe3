import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.metrics.protocols import PROTOCOLS
from varestorer_cli.core.score import compare
from varestorer_cli.core.score.compare import Comparison, sign_test
from varestorer_cli.core.score.pairing import Pair, PairPlan
from varestorer_cli.core.score.scorer import PairScore
from varestorer_cli.core.score.summary import ScoreReport

METRICS = (
    MetricInfo("psnr_y", "PSNR-Y", True, False, "ours"),
    MetricInfo("niqe", "NIQE", False, True, "theirs"),
)


def report(subject: str, psnr: list[float], niqe: list[float], failed: tuple[str, ...] = ()) -> ScoreReport:
    pairs = [Pair(f"{i}", Path(f"{subject}/{i}.png"), Path(f"gt/{i}.png")) for i in range(len(psnr))]
    scores = tuple(
        PairScore(pair, reason="unreadable") if pair.name in failed else PairScore(pair, {"psnr_y": p, "niqe": n})
        for pair, p, n in zip(pairs, psnr, niqe, strict=True)
    )
    return ScoreReport(scores, METRICS, PROTOCOLS["osediff"], 0, PairPlan(tuple(pairs)), subject=subject)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 2 / 64),
        (1, 9, 2 * (1 + 10) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_the_sign_test_is_exact(first: int, second: int, p: float) -> None:
    assert sign_test(first, second) == pytest.approx(p, rel=1e-12)
    assert sign_test(second, first) == sign_test(first, second)


def test_the_sign_test_of_thousands_does_not_overflow() -> None:
    # Normal approximation with continuity correction: z = (|1400 - 1600| - 1) / sqrt(3000).
    z = 199 / math.sqrt(3000)
    assert sign_test(1400, 1600) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_the_verdict_knows_the_direction_and_the_ties() -> None:
    comparison = Comparison(report("A", [20, 21, 22, 23], [5, 5, 5, 5]), report("B", [21, 22, 22, 22], [4, 4, 5, 6]))
    psnr, niqe = (comparison.verdict(metric) for metric in METRICS)
    assert (psnr.means, psnr.difference, psnr.wins, psnr.ties) == ((21.5, 21.75), 0.25, (1, 2), 1)
    assert psnr.p == 1.0 and psnr.interval is not None and psnr.interval[0] < 0.25 < psnr.interval[1]
    assert (niqe.wins, niqe.ties, niqe.difference) == ((1, 2), 1, -0.25), "lower is better"
    assert comparison.exit_code is ExitCode.OK


def test_infinite_scores_win_and_are_in_no_difference() -> None:
    inf = math.inf
    comparison = Comparison(report("A", [20, inf, inf], [1, 1, 1]), report("B", [22, 30, inf], [1, 1, 1]))
    verdict = comparison.verdict(METRICS[0])
    assert (verdict.difference, verdict.wins, verdict.ties) == (2.0, (1, 1), 1)


def test_pairs_that_failed_in_either_are_left_out_and_said() -> None:
    a = report("A", [20, 21, 22], [5, 5, 5], failed=("1",))
    comparison = Comparison(a, report("B", [30, 31, 32], [4, 4, 4]))
    assert comparison.names == ["0", "2"] and comparison.verdict(METRICS[0]).difference == 10
    assert comparison.exit_code is ExitCode.SOME_FAILED
    (block,) = compare.blocks(comparison)
    assert block.above[:3] == ("A = A", "B = B", "2 pairs scored in both; failed: 1 in A, 0 in B")
    assert block.table.head[:4] == ("metric", "A", "B", "B - A") and block.table.head[-1] == "sign test p"
    assert block.table.rows[0] == ("PSNR-Y ↑", "21.00", "31.00", "+10.00", "[10.00, 10.00]", "0", "2", "0", "0.5")
    rows = list(csv.DictReader(io.StringIO(compare.csv_text(comparison))))
    assert rows[1]["reason_a"] == "unreadable" and rows[1]["psnr_y_a"] == "" and rows[1]["psnr_y_b"] == "31"
    content = json.loads(compare.json_text(comparison))
    assert content["pairs"] == 2 and content["failed"] == {"a": 1, "b": 0}
    assert content["metrics"]["psnr_y"] == {
        "lower_better": False, "library": "ours", "mean_a": 21.0, "mean_b": 31.0, "difference": 10.0, "low": 10.0,
        "high": 10.0, "better_a": 0, "better_b": 2, "ties": 0, "sign_test_p": 0.5,
    }  # fmt: skip


def test_a_score_of_the_whole_set_has_no_test() -> None:
    fid = MetricInfo("fid", "FID", True, True, "theirs", whole_set=True)
    a, b = (
        replace(report(name, [1, 2], [1, 2]), metrics=(fid,), set_values={"fid": v})
        for name, v in (("A", 9.0), ("B", 8.5))
    )
    (block,) = compare.blocks(Comparison(a, b))
    assert block.table.rows == (("FID ↓", "9.0000", "8.5000", "-0.5000", "-", "-", "-", "-", "-"),)
