"""Types of a metric, whatever library computes it; where its weights and device are found."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

Image8 = npt.NDArray[np.uint8]
Measure = Callable[[Sequence[Image8], Sequence[Image8 | None]], list[float]]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class MetricInfo:
    """What a table says of a metric; enough for scores that were computed elsewhere.

    Attributes:
        name: what the user types and what heads the column of a file, e.g. ``psnr_y``.
        label: what heads the column of a table, e.g. ``PSNR-Y``.
        needs_reference: True for a full-reference metric (FR), False for a no-reference one (NR).
        lower_better: whether a lower score is the better one.
        library: who computes it, with version and device.
        whole_set: one number for all pairs together instead of one each.
    """

    name: str
    label: str
    needs_reference: bool
    lower_better: bool
    library: str
    whole_set: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Metric(MetricInfo):
    """One metric, ready to call.

    Attributes:
        measure: scores of several images of one size and their references; raises ValueError with a reason.
        batch: how many images one call of ``measure`` may take.
        measure_set: (restored folder, reference folder) of 8-bit PNG files of the same names -> score, of a metric
            of the whole set.
        prepare: loads what the metric needs; called before long work, so that what is missing is said early.
        version: what beside the images decides a score; part of the key under which scores are kept.
    """

    measure: Measure
    batch: int = 1
    measure_set: Callable[[Path, Path], float] | None = None
    prepare: Callable[[], object] = field(default=lambda: None)
    version: Callable[[], str] = field(default=lambda: "")

    def compute(self, restored: Image8, reference: Image8 | None) -> float:
        """Score of one image."""
        return self.measure([restored], [reference])[0]

    def identity(self) -> str:
        """Name, library and version in one text: scores with equal identity are interchangeable."""
        return "\n".join((self.name, self.library, self.version()))


def hub_folder() -> Path:
    """Torch's folder of downloaded weights, as ``torch.hub.get_dir`` says; found without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub"


def resolve_device(device: str) -> str:
    """``auto`` -> a GPU if there is one; torch is imported only where its build could use one."""
    if device != "auto":
        return device
    if metadata.version("torch").endswith("+cpu"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
