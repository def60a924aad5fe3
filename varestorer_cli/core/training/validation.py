"""Validation images as ``score`` measures them: its metrics, on the 8-bit images it would read back."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.metrics.protocols import PROTOCOLS, metric_names
from varestorer_cli.core.metrics.psnr_ssim import OUR_METRICS
from varestorer_cli.core.metrics.registry import load_metrics

_LOWER_BETTER = {"psnr": False, "bit_accuracy": False, "cross_entropy": True, "kl": True, "features": True}
"""By the beginning of the name: the stages' own figures."""


def validation_metrics(asked: str | None, device: str, say: Callable[[str], None]) -> tuple[Metric, ...]:
    """The metrics of a run, ready to call.

    Args:
        asked: comma list as for ``score --metrics``; None = all that need neither weights nor another package.
        device: torch device of those that have a network.
        say: gets another library's licence and what it downloads.

    Raises:
        UsageError: no such metric, or one that is a number for a whole folder.
        MissingDependencyError: its package or its weights are missing.
    """
    names = OUR_METRICS if asked is None else metric_names(PROTOCOLS["both"], asked)
    metrics = load_metrics(names, device=device, notify=say)
    whole = [metric.name for metric in metrics if metric.whole_set]
    if whole:
        raise UsageError(f"--metrics {', '.join(whole)}: wants hundreds of images, use varestorer score afterwards")
    for metric in metrics:
        metric.prepare()
    return tuple(metrics)


def is_lower_better(name: str, metrics: Sequence[Metric]) -> bool:
    """Whether a lower value of a validation figure is the better one.

    Args:
        name: of the figure: one of the metrics, or a stage's own.
        metrics: of ``validation_metrics``.

    Raises:
        UsageError: nothing is known of the figure.
    """
    for metric in metrics:
        if metric.name == name:
            return metric.lower_better
    for start, lower in _LOWER_BETTER.items():
        if name.startswith(start):
            return lower
    raise UsageError(f"--best {name}: it is not known whether a higher or a lower value is better; take another figure")


def scores(metrics: Sequence[Metric], results_B3HW: Tensor, references_B3HW: Tensor) -> dict[str, float]:
    """Sum over the images of each metric, by its name.

    Args:
        metrics: of ``validation_metrics``.
        results_B3HW: images in [0, 1], on the CPU.
        references_B3HW: what they should be.
    """
    pairs = [
        [np.asarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)) for image in pair]
        for pair in zip(results_B3HW, references_B3HW, strict=True)
    ]
    return {metric.name: sum(metric.compute(*pair) for pair in pairs) for metric in metrics}
