"""LPIPS by the package lpips (BSD-2-Clause): the way to LPIPS that is free for any use.

Zhang et al. 2018, version 0.1 on AlexNet, as all tables of this field have it. The package brings the small linear
heads; the AlexNet backbone is torchvision's file in torch's hub folder, which this program never downloads.
"""

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.metrics.base import Image8, Metric, hub_folder, resolve_device

BACKBONE = "checkpoints/alexnet-owt-7be5be79.pth"
BATCH = 8


def backbone_path() -> Path:
    """Where torchvision's AlexNet is looked for."""
    return hub_folder() / BACKBONE


def available() -> bool:
    """Whether the package and the backbone are there."""
    return importlib.util.find_spec("lpips") is not None and backbone_path().is_file()


def load(device: str) -> Metric:
    """The metric; its network is read when first needed."""
    device = resolve_device(device)
    model = _Lpips(device)
    backbone = backbone_path().stat()
    return Metric(
        name="lpips",
        label="LPIPS",
        needs_reference=True,
        lower_better=True,
        library=f"lpips {metadata.version('lpips')} on {device}",
        measure=model.measure,
        batch=BATCH,
        prepare=lambda: model.network,
        version=lambda: f"{BACKBONE} {backbone.st_size} {backbone.st_mtime_ns}",
    )


def vgg16_network(device: Any) -> Any:
    """LPIPS with the VGG16 backbone, frozen, through which gradients reach an image: a loss of training.

    Raises:
        MissingDependencyError: the package or the backbone's weights are missing; nothing is downloaded here.
    """
    import torch

    weights = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    try:
        import lpips
    except ImportError as error:
        raise MissingDependencyError(
            "the loss term 'perceptual' is LPIPS (VGG16), whose package is not installed: pip install lpips, "
            "or use the weight-free term: --loss perceptual=0 --loss texture=0.25"
        ) from error
    if not weights.is_file():
        raise MissingDependencyError(
            f"the loss term 'perceptual' needs the VGG16 weights {weights}; fetch vgg16-397923af.pth on a machine "
            "with a network and put it there, or use --loss perceptual=0 --loss texture=0.25"
        )
    return lpips.LPIPS(net="vgg").to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Lpips:
    device: str

    @cached_property
    def network(self) -> Any:
        """The network in eval mode."""
        try:
            # The package prints, and names arguments that torchvision has renamed.
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import lpips

                return lpips.LPIPS(net="alex", version="0.1", verbose=False).eval().to(self.device)
        except Exception as error:  # torchvision that does not fit torch, a damaged file
            raise MissingDependencyError(
                f"The package lpips cannot make its network from {backbone_path()} ({type(error).__name__}: {error}). "
                f"Install torch and torchvision from the same index, or fetch that file again."
            ) from error

    def measure(self, restored: Sequence[Image8], references: Sequence[Image8 | None]) -> list[float]:
        """Distances of a batch; inputs are scaled to [-1, 1]."""
        import torch

        given = [image for image in references if image is not None]
        if len(given) != len(restored):
            raise ValueError("LPIPS compares with a reference and got none")
        sides = (
            torch.from_numpy(np.stack(images).astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
            for images in (restored, given)
        )
        with torch.no_grad():
            distances = self.network(*(side.to(self.device) for side in sides)).reshape(-1)
        return [float(distance) for distance in distances]
