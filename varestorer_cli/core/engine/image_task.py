"""What the engine needs to restore one image. Imports no torch: what hands images to the engine need not load it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.image.resample import Pixels

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Any]


@dataclass(frozen=True)
class ImageTask:
    """One image to restore.

    Attributes:
        image: (H, W, 3) RGB; uint8, uint16, or float32 in [0, 1].
        size: (width, height) of the result.
        key: seeds the noise; the same key and seed give the same result.
        text: one that ``conditions`` knows; None is the model's learned null condition.
        dtype: uint8, uint16 or float32 ([0, 1]).
        allocate: makes the result array from shape and type.
        on_tiles: called with (done, all) tiles as they are finished.
    """

    image: Pixels
    size: tuple[int, int]
    key: str = ""
    text: str | None = None
    dtype: npt.DTypeLike = np.float32
    allocate: Allocate = np.zeros
    on_tiles: Callable[[int, int], None] | None = None
