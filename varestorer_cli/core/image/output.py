"""A restored picture on its way into a file: its rows, strip by strip, and its metadata."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.image.picture import Extras, Samples, Sized
from varestorer_cli.core.image.resample import to_depth

_STRIP_BYTES = 1 << 23


@dataclass(frozen=True)
class Output(Sized):
    """What is to be written.

    Attributes:
        color: (H, W, 3) RGB, uint8, uint16, or float32 in [0, 1], as the engine made it.
        gray: write one channel (the luma of ``color``).
        alpha_rows: (top, bottom) -> rows of alpha in [0, 1], float32; None without alpha.
        extras: metadata of the input, already for an upright picture of this size.
        gain_rows: (top, bottom) -> rows of a scene's gain; None without one.
    """

    color: Samples
    gray: bool
    alpha_rows: Callable[[int, int], npt.NDArray[np.float32]] | None
    extras: Extras
    gain_rows: Callable[[int, int], npt.NDArray[np.float32]] | None = None

    @property
    def channels(self) -> int:
        """Channels written: 1 to 4."""
        return (1 if self.gray else 3) + (self.alpha_rows is not None)

    @property
    def strip(self) -> int:
        """Rows handled at a time."""
        return max(1, min(self.height, _STRIP_BYTES // (self.width * 4 * self.color.itemsize)))

    def rows(self, top: int, bottom: int) -> Samples:
        """Finished rows, (rows, W, channels)."""
        part = self.color[top:bottom]
        dtype = part.dtype
        parts = [_luma(part) if self.gray else part]
        if self.alpha_rows is not None:
            parts.append(to_depth(self.alpha_rows(top, bottom), dtype)[..., None])
        return np.concatenate(parts, axis=2) if len(parts) > 1 else np.ascontiguousarray(parts[0])

    def strips(self) -> Iterator[Samples]:
        """All rows, strip by strip."""
        for top in range(0, self.height, self.strip):
            yield self.rows(top, min(top + self.strip, self.height))


def _luma(color: Samples) -> Samples:
    """Gray of an RGB picture (Rec. 601 weights, which sum to one: equal channels stay as they are)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    gray = color.astype(np.float32) @ weights
    out: Samples = gray if color.dtype.kind == "f" else np.floor(gray + np.float32(0.5)).astype(color.dtype)
    return out[..., None]
