"""Protocols of scoring, and the conventions of published tables.

A protocol fixes colour space, luma and metric variants. Published rows carry the convention they were computed under;
rows of different conventions are never shown in one table.
"""

from dataclasses import dataclass

from varestorer_cli.core.errors import UsageError

_Y = "Y of YCbCr (ITU-R BT.601, 16-235)"


@dataclass(frozen=True)
class Protocol:
    """A named way to score; its description stands above every table.

    Attributes:
        name: what ``--protocol`` takes.
        description: which colours PSNR and SSIM see, and which MANIQA is meant.
        metrics: what is computed unless ``--metrics`` says otherwise; needs no other package.
        full: what ``--metrics full`` computes.
        conventions: published rows that may stand beside its scores.
    """

    name: str
    description: str
    metrics: tuple[str, ...]
    full: tuple[str, ...]
    conventions: tuple[str, ...] = ()


_OSEDIFF = ("psnr_y", "ssim_y", "lpips", "dists", "fid", "niqe", "musiq", "maniqa-pipal", "clipiqa")
_PAPER = ("psnr_rgb", "ssim_yiq", "lpips", "maniqa", "musiq", "niqe", "clipiqa", "liqe", "qalign", "fid")
_BOTH = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "ssim_yiq")
# Short names in --metrics mean those of the protocol.
_FAMILIES = {
    "psnr": {"psnr_y", "psnr_rgb"},
    "ssim": {"ssim_y", "ssim_rgb", "ssim_yiq"},
    "maniqa": {"maniqa", "maniqa-pipal"},
}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "both",
            f"PSNR and SSIM on {_Y}, on RGB, and SSIM on Y of YIQ",
            _BOTH,
            tuple(dict.fromkeys((*_BOTH, *_OSEDIFF, *_PAPER))),
            ("osediff", "paper"),
        ),
        # OSEDiff's test_metrics.py and the papers that follow it: Y, no border cut, 8-bit files read back.
        Protocol("osediff", f"PSNR and SSIM on {_Y}, MANIQA of PIPAL", ("psnr_y", "ssim_y"), _OSEDIFF, ("osediff",)),
        # pyiqa's defaults. The VARestorer paper does not name its protocol; this one gives back its OSEDiff rows
        # from OSEDiff's released images: RealSR 23.59 and 0.7073 (paper 23.59 and 0.7074), DRealSR 25.85 and 0.7547
        # (25.85 and 0.7548). SSIM on RGB does not.
        Protocol(
            "paper", "PSNR on RGB, SSIM on Y of YIQ, MANIQA of KonIQ", ("psnr_rgb", "ssim_yiq"), _PAPER, ("paper",)
        ),
        Protocol("rgb", "PSNR and SSIM on RGB", ("psnr_rgb", "ssim_rgb"), ("psnr_rgb", "ssim_rgb", "lpips", "dists")),
    )
}
CONVENTION_METRICS = {"osediff": _OSEDIFF, "paper": _PAPER}


def metric_names(protocol: Protocol, requested: str | None) -> tuple[str, ...]:
    """Metric names to compute: the protocol's, or those of a comma list.

    ``psnr``, ``ssim`` and ``maniqa`` alone mean those of the protocol, not pyiqa's of these names; ``full`` means
    every metric of the protocol's tables.

    Raises:
        UsageError: an empty list, or a metric that the protocol excludes.
    """
    if requested is None:
        return protocol.metrics
    names: list[str] = []
    for name in (part.strip().lower() for part in requested.split(",")):
        family = [own for own in protocol.full if own in _FAMILIES.get(name, ())]
        if name == "full":
            names += protocol.full
        elif name:
            names += family or [name]
    if not names:
        raise UsageError(f"--metrics {requested!r} names no metric; write for example --metrics psnr_y,ssim_y")
    meant = set().union(*_FAMILIES.values())
    foreign = [name for name in names if name in meant and name not in protocol.full]
    # A protocol without a MANIQA of its own leaves the choice open.
    foreign = [name for name in foreign if "maniqa" not in name or protocol.conventions]
    if foreign:
        raise UsageError(
            f"--protocol {protocol.name} means {protocol.description}, which excludes {', '.join(foreign)}. "
            f"Leave it out, or use --protocol both."
        )
    return tuple(dict.fromkeys(names))
