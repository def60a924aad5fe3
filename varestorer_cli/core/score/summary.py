"""A run's scores, their means and intervals: what every table and file is made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.metrics.protocols import Protocol
from varestorer_cli.core.score.pairing import PairPlan
from varestorer_cli.core.score.published import PublishedRow
from varestorer_cli.core.score.scorer import PairScore

Floats = npt.NDArray[np.float64]
BOOTSTRAP_DRAWS = 2000
BOOTSTRAP_LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean of one metric over the pairs.

    Attributes:
        mean: over the finite scores; infinite if all are infinite, None if nothing was scored.
        interval: bootstrap percentile interval (low, high) of the mean; None under two finite scores.
        count: how many finite scores the mean rests on.
        infinite: how many pairs are identical, their PSNR infinite and in no mean.
    """

    mean: float | None
    interval: tuple[float, float] | None
    count: int
    infinite: int


@dataclass(frozen=True)
class ScoreReport:
    """Everything a table, a CSV or a JSON file says about one run.

    Attributes:
        scores: one entry per pair, in the order of the plan.
        metrics: the columns.
        protocol: what the title names.
        crop_border: pixels cut off each side before scoring.
        plan: the pairs and who was left out.
        seed: of the bootstrap.
        benchmark: name of the known test set, empty for another.
        published: rows of papers under the conventions of the protocol, for a known test set.
        set_values: scores of whole sets (FID), by metric name.
        subject: what was scored, for the title, e.g. ``out/ against gt/``.
        notes: sentences to print below the table.
        shard: the part that was scored, ``I/N``; empty for all of it.
    """

    scores: tuple[PairScore, ...]
    metrics: tuple[MetricInfo, ...]
    protocol: Protocol
    crop_border: int
    plan: PairPlan
    seed: int = 0
    benchmark: str = ""
    published: tuple[PublishedRow, ...] = ()
    set_values: Mapping[str, float] = field(default_factory=dict)
    subject: str = ""
    notes: tuple[str, ...] = ()
    shard: str = ""

    @property
    def failed(self) -> tuple[PairScore, ...]:
        """Pairs that are in no mean."""
        return tuple(score for score in self.scores if score.failed)

    @property
    def exit_code(self) -> ExitCode:
        """1 where a pair failed, else 0."""
        return ExitCode.SOME_FAILED if self.failed else ExitCode.OK

    def summary(self, name: str) -> Summary:
        """Mean and interval of the metric ``name`` over the pairs that did not fail."""
        good = [score.values for score in self.scores if not score.failed]
        if any(metric.name == name and metric.whole_set for metric in self.metrics):
            return Summary(self.set_values.get(name), None, len(good) if name in self.set_values else 0, 0)
        return summarize([values[name] for values in good], seed=self.seed)


def summarize(values: Sequence[float], *, seed: int = 0) -> Summary:
    """Mean with a 95 % bootstrap percentile interval: pairs drawn with replacement, 2000 times.

    Args:
        values: one score per pair; infinite ones are counted, not averaged.
        seed: of the draws; the same scores and seed give the same interval.
    """
    finite = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    infinite = len(values) - len(finite)
    if not len(finite):
        return Summary(math.inf if infinite else None, None, 0, infinite)
    return Summary(float(finite.mean()), bootstrap(finite, seed), len(finite), infinite)


def bootstrap(values: Floats, seed: int) -> tuple[float, float] | None:
    """95 % percentile interval of a mean; None under two values."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    # In blocks: all draws of a set of thousands at once would be hundreds of megabytes.
    blocks = [100] * (BOOTSTRAP_DRAWS // 100)
    means = np.concatenate([values[rng.integers(0, len(values), (n, len(values)))].mean(axis=1) for n in blocks])
    tail = 50 * (1 - BOOTSTRAP_LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
