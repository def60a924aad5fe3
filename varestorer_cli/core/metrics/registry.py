"""Metric names -> metrics, each from the library that computes it; the one module that knows all of them.

``psnr_y``, ``ssim_y``, ``psnr_rgb``, ``ssim_rgb`` and ``ssim_yiq`` are our own. LPIPS comes from the package lpips
where that and its weights are installed; every other name is pyiqa's. Neither package is imported before a score is
asked for that no earlier run has left.
"""

from collections.abc import Sequence

from varestorer_cli.core.metrics import psnr_ssim
from varestorer_cli.core.metrics.base import Metric, Notify


def load_metrics(names: Sequence[str], *, device: str = "cpu", notify: Notify = lambda text: None) -> list[Metric]:
    """Make the named metrics ready to call, other libraries' only where one is named.

    Args:
        names: metric names in the order of the columns; repeats count once.
        device: where other libraries compute: ``auto`` (a GPU if there is one), ``cpu``, ``cuda:0``.
        notify: gets pyiqa's licence (once) and what pyiqa is about to download, one sentence each.

    Raises:
        UsageError: no such metric.
        MissingDependencyError: pyiqa or a package it needs is not there. Weight files are looked for by ``prepare``.
    """
    unique = list(dict.fromkeys(names))
    foreign = [name for name in unique if name not in psnr_ssim.OUR_METRICS]
    made: dict[str, Metric] = {name: psnr_ssim.load(name) for name in unique if name in psnr_ssim.OUR_METRICS}
    if "lpips" in foreign:
        from varestorer_cli.core.metrics import lpips_backend

        if lpips_backend.available():
            made["lpips"] = lpips_backend.load(device)
            foreign.remove("lpips")
    if foreign:
        from varestorer_cli.core.metrics import pyiqa_backend

        made.update((metric.name, metric) for metric in pyiqa_backend.load(foreign, device, notify))
    return [made[name] for name in unique]
