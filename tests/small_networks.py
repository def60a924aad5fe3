"""Schedules and configs of small networks."""

from typing import Any

from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer_config import TransformerConfig


def square_grids(*sides: int) -> ScaleSchedule:
    """Square grids with these side lengths."""
    return ScaleSchedule(tuple((side, side) for side in sides))


def without_quirks(width: int, depth: int, heads: int, **fields: Any) -> TransformerConfig:
    """A config without the quirks of the released code; ``fields`` override."""
    corrections: dict[str, Any] = {
        "rotary_reference": "schedule",
        "rotary_rounding": "cell_centre",
        "extra_block_positions": "last_scale",
    }
    return TransformerConfig(width, depth, heads, **(corrections | fields))
