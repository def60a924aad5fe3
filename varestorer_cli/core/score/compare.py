"""Compare two restored folders on the same references: means, paired differences, sign test.

The sign test asks only how often each is the better one (Dixon and Mood 1946); ties are left out, the binomial
probability is exact. The mean of the paired differences comes with a bootstrap interval.
"""

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.phrases import count, to_cell
from varestorer_cli.core.score.export import INTERVAL_HEAD, TOOL, footnotes, interval, number, title
from varestorer_cli.core.score.summary import BOOTSTRAP_DRAWS, BOOTSTRAP_LEVEL, ScoreReport, bootstrap, summarize
from varestorer_cli.core.score.tables import Block, Table
from varestorer_cli.version import __version__

TIE = 1e-9  # scores nearer than this are equal


@dataclass(frozen=True)
class Verdict:
    """One metric over the pairs that were scored in both folders.

    Attributes:
        means: of A and of B; None where nothing finite was scored.
        difference: mean of B - A over the pairs that are finite in both.
        interval: bootstrap interval of that mean.
        wins: how often A and how often B is the better one.
        ties: how often neither.
        p: two-sided exact sign test; None for a metric of whole sets.
    """

    means: tuple[float | None, float | None]
    difference: float | None
    interval: tuple[float, float] | None
    wins: tuple[int, int]
    ties: int
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """Two reports of the same pairs under the same settings."""

    a: ScoreReport
    b: ScoreReport

    @property
    def names(self) -> list[str]:
        """Pairs that both folders could be scored on, in order."""
        good = {score.pair.name for score in self.b.scores if not score.failed}
        return [score.pair.name for score in self.a.scores if not score.failed and score.pair.name in good]

    @property
    def exit_code(self) -> ExitCode:
        """1 where a pair failed in either folder, else 0."""
        return max(self.a.exit_code, self.b.exit_code)

    def values(self, name: str) -> tuple[list[float], list[float]]:
        """Scores of A and B, pair by pair."""
        sides = []
        for report in (self.a, self.b):
            scores = {score.pair.name: score.values for score in report.scores}
            sides.append([scores[pair][name] for pair in self.names])
        return sides[0], sides[1]

    def verdict(self, metric: MetricInfo) -> Verdict:
        """Means, wins and sign test of one metric."""
        if metric.whole_set:
            a, b = self.a.set_values.get(metric.name), self.b.set_values.get(metric.name)
            return Verdict((a, b), b - a if a is not None and b is not None else None, None, (0, 0), 0, None)
        left, right = self.values(metric.name)
        both = [(x, y) for x, y in zip(left, right, strict=True) if math.isfinite(x) and math.isfinite(y)]
        differences = np.asarray([y - x for x, y in both], np.float64)
        better_b = sum(_better(y, x, metric.lower_better) for x, y in zip(left, right, strict=True))
        better_a = sum(_better(x, y, metric.lower_better) for x, y in zip(left, right, strict=True))
        return Verdict(
            (summarize(left).mean, summarize(right).mean),
            float(differences.mean()) if len(differences) else None,
            bootstrap(differences, self.a.seed),
            (better_a, better_b),
            len(left) - better_a - better_b,
            sign_test(better_a, better_b),
        )


def _better(score: float, other: float, lower: bool) -> bool:
    if math.isinf(score) and math.isinf(other):
        return False
    return (other - score if lower else score - other) > TIE


def sign_test(first: int, second: int) -> float:
    """Two-sided exact sign test: chance of a split at least as uneven if both were equally often better.

    Args:
        first: how often the one is better.
        second: how often the other is.
    """
    n, fewer = first + second, min(first, second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))  # integers up to the division: exact for any n


def blocks(comparison: Comparison, *, up: str = "↑", down: str = "↓") -> list[Block]:
    """Both means, the paired difference and the sign test, one row per metric."""
    rows = []
    for metric in comparison.a.metrics:
        verdict = comparison.verdict(metric)
        tested = verdict.p is not None
        counts = (*verdict.wins, verdict.ties)
        sign = "+" if verdict.difference is not None and verdict.difference > 0 else ""
        rows.append(
            (
                f"{metric.label} {down if metric.lower_better else up}",
                *(number(metric.name, mean) for mean in verdict.means),
                sign + number(metric.name, verdict.difference),
                interval(metric.name, verdict.interval),
                *(str(times) if tested else "-" for times in counts),
                "-" if verdict.p is None else f"{verdict.p:.2g}",
            )
        )
    head = ("metric", "A", "B", "B - A", INTERVAL_HEAD, "A better", "B better", "ties", "sign test p")
    a, b = comparison.a, comparison.b
    above = (
        f"A = {a.subject}",
        f"B = {b.subject}",
        f"{count(len(comparison.names), 'pair')} scored in both; failed: {len(a.failed)} in A, {len(b.failed)} in B",
        *(line for line in title(a) if line.startswith(("Protocol", "Computed", "PARTIAL"))),
        f"Mean of B - A over the pairs and its {BOOTSTRAP_LEVEL:.0%} bootstrap interval ({BOOTSTRAP_DRAWS} draws, "
        f"seed {a.seed}); exact two-sided sign test, ties left out",
    )
    below = [f"A: {line}" for line in footnotes(a)] + [f"B: {line}" for line in footnotes(b)]
    return [Block(above, Table(head, tuple(rows)), tuple(below))]


def csv_text(comparison: Comparison) -> str:
    """One line per pair: the scores of A and of B, and why one of them failed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [metric.name for metric in comparison.a.metrics if not metric.whole_set]
    writer.writerow(["name", "reason_a", "reason_b", *(f"{name}_{side}" for name in names for side in "ab")])
    right = {score.pair.name: score for score in comparison.b.scores}
    for score in comparison.a.scores:
        pair = (score, right[score.pair.name])
        cells = [_cell(one.values.get(name)) for name in names for one in pair]
        writer.writerow([*map(to_cell, (score.pair.name, pair[0].reason, pair[1].reason)), *cells])
    return out.getvalue()


def json_text(comparison: Comparison) -> str:
    """Settings and the verdict of every metric."""
    a, b = comparison.a, comparison.b
    content: dict[str, Any] = {
        "tool": f"{TOOL} --compare",
        "version": __version__,
        "a": a.subject,
        "b": b.subject,
        "protocol": a.protocol.name,
        "colour": a.protocol.description,
        "crop_border": a.crop_border,
        "pairs": len(comparison.names),
        "failed": {"a": len(a.failed), "b": len(b.failed)},
        "bootstrap": {"draws": BOOTSTRAP_DRAWS, "level": BOOTSTRAP_LEVEL, "seed": a.seed},
        "metrics": {metric.name: _verdict_json(comparison.verdict(metric), metric) for metric in a.metrics},
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _verdict_json(verdict: Verdict, metric: MetricInfo) -> dict[str, Any]:
    low, high = verdict.interval or (None, None)
    return {
        "lower_better": metric.lower_better,
        "library": metric.library,
        "mean_a": _finite(verdict.means[0]),
        "mean_b": _finite(verdict.means[1]),
        "difference": _finite(verdict.difference),
        "low": _finite(low),
        "high": _finite(high),
        "better_a": verdict.wins[0],
        "better_b": verdict.wins[1],
        "ties": verdict.ties,
        "sign_test_p": verdict.p,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else round(value, 6)


def _cell(value: float | None) -> str:
    found = _finite(value)
    return "" if found is None else str(found)
