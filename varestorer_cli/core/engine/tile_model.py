"""What the engine needs of a model, and of its errors.

Shapes: B tiles of one call, T tile side (the two sides of a tile may differ).
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


class TileModel(Protocol):
    """What the engine needs of a model; :class:`varestorer_models.first_stage.FirstStageRestorer` has it.

    A model that works on several tile sides lists them in ``tile_sides``, its native one (``tile``) first; a tile may
    have two different ones of them. ``small_sides`` (where present) are sides below the native one that it takes for
    images smaller than a native tile and, with a ``border_margin``, for several tiles of larger ones. ``border_margin``
    (where present) is how many pixels beyond the image's border, made by reflection, its tiles at the border are to
    see. ``config.upscale_filter`` (where present) is the filter that it was trained with.
    """

    @property
    def tile(self) -> int:
        """Preferred tile side in output pixels."""

    @property
    def config(self) -> Any:
        """The model's own settings."""

    def __call__(self, degraded_B3TT: Tensor) -> Any:
        """Restore tiles; returns an object with ``image_B3TT``."""


@runtime_checkable
class TokenModel(TileModel, Protocol):
    """A model that predicts codes; :class:`varestorer_models.restorer.OneStepRestorer` has what is asked for here.

    ``config.sampling`` is its default sampling. One with a text condition has ``condition(rows)``, which makes it from
    the features (n, T) of a text, or from None; it is then called with ``condition``.
    """

    @property
    def uniforms_shape(self) -> tuple[int, int, int]:
        """Shape of the noise of one tile."""

    def __call__(
        self,
        degraded_B3TT: Tensor,
        *,
        uniforms: Tensor | None = None,
        sampling: Any = None,
        fidelity: float = 0.0,
        color_fix: Any = None,
        **condition: Any,
    ) -> Any:
        """Restore tiles; returns an object with ``image_B3TT``."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on the device or on the host."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
