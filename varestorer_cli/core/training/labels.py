"""Labels: images that another restorer makes of the degraded crops, for the target of a pre-restorer's image terms.

A regression on true images is soft, for a true image is one of many that could lie behind a degraded one. Another
network's result is one definite image, which can be learnt. Labels are made when they are first asked for and kept as
PNG files beside the crop cache, so that a second run on the same crops and network finds them.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from varestorer_cli.core.atomic import atomic_file, remove_stale_parts
from varestorer_cli.core.degradation.pipeline import Bytes
from varestorer_cli.core.errors import OutputError
from varestorer_cli.core.training.compression import input_of
from varestorer_cli.core.training.data.crop_cache import CropCache
from varestorer_cli.core.training.stages import upscaled
from varestorer_models.restorer import OneStepRestorer

_PER_FOLDER = 1000


@dataclass(frozen=True)
class LabelNetwork:
    """A restorer to learn from.

    Attributes:
        module: an ``RRDBNet``, another pre-restorer, or a whole restorer; in eval mode, frozen.
        sha256: of its weights.
        name: for messages.
    """

    module: nn.Module
    sha256: str
    name: str

    @torch.no_grad()
    def __call__(self, small_B3hw: Tensor, size: tuple[int, int]) -> Tensor:
        """Degraded images (B, 3, h, w) -> restored images (B, 3, H, W), both in [0, 1]; ``size`` is (H, W)."""
        large = upscaled(small_B3hw, size)
        if isinstance(self.module, OneStepRestorer):
            image: Tensor = self.module(large, sampling="argmax").image_B3TT
            return image
        restored: Tensor = self.module(input_of(self.module, small_B3hw, large))
        return restored.float().clamp(0, 1)


class Labels:
    """The labels of a crop cache, made on demand.

    Args:
        network: makes them.
        cache: whose degraded crops are restored.
        device: where the network computes.
        precision: dtype of autocast, None for float32; results of another precision are other files.
    """

    def __init__(
        self, network: LabelNetwork, cache: CropCache, device: torch.device, precision: torch.dtype | None
    ) -> None:
        self.network, self._cache, self._device, self._precision = network, cache, device, precision
        kind = str(precision or torch.float32).removeprefix("torch.")
        self.folder = cache.path.with_name(
            f"labels-{cache.path.name.removeprefix('crops-')}-{network.sha256[:16]}-{kind}"
        )
        if self.folder.is_dir():
            remove_stale_parts({path for path in self.folder.iterdir() if path.is_dir()})

    def of(self, row: int, version: int) -> Bytes:
        """The label of one degraded crop, (crop, crop, 3) uint8 RGB.

        Raises:
            OutputError: it cannot be kept.
        """
        file = self._file(row, version)
        if file.is_file():
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is not None and image.shape[:2] == self._cache.hq.shape[1:3]:
                return np.ascontiguousarray(image[..., ::-1])
        label = self._made(row, version)
        ok, data = cv2.imencode(".png", label[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not ok:
            raise OutputError(f"{file}: the label cannot be encoded")
        with atomic_file(file) as stream:
            stream.write(data.tobytes())
        return label

    def _file(self, row: int, version: int) -> Path:
        return self.folder / f"{row // _PER_FOLDER:04d}" / f"{row:07d}_{version}.png"

    def _made(self, row: int, version: int) -> Bytes:
        """One crop at a time, whatever the batch, so that a label never depends on its neighbours."""
        small = torch.from_numpy(np.array(self._cache.lq[row, version])).permute(2, 0, 1)[None]
        small = small.to(self._device).float().div_(255).contiguous(memory_format=torch.channels_last)
        crop = self._cache.config.crop
        dtype = self._precision
        with torch.autocast(self._device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            label = self.network(small, (crop, crop))
        return np.asarray((label[0].float() * 255).round().byte().permute(1, 2, 0).cpu())
