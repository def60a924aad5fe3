"""Conditions of the texts in use: made once a text, reused for all tiles, joined where a batch mixes texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

_KEPT = 8


class Conditions:
    """Conditions of one model.

    Args:
        model: one with a text condition has ``condition(rows)``, which makes it from the features (n, T) of a text, or
            from None; :class:`varestorer_models.restorer.OneStepRestorer` has it.
        device: torch device of the model.
    """

    def __init__(self, model: Any, device: str) -> None:
        self._make = getattr(model, "condition", None)
        self._device = device
        self._rows: dict[str, Tensor] = {}
        self._kept: dict[tuple[str | None, str], Any] = {}

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Make texts known by their features (n, T)."""
        self._rows.update(rows)

    def of(self, texts: Sequence[str | None], precision: str) -> Any:
        """Condition of the tiles of one call: one for all where they share a text, else one for each.

        To be called inside the autocast block of the model, which decides the type of the kept keys and values.

        Args:
            texts: text of each tile, one of :meth:`add`; None is the learned null condition.
            precision: names the arithmetic of the call.

        Returns:
            a :class:`varestorer_models.condition.Condition`; None for a model without text.
        """
        if self._make is None:
            return None
        if len(set(texts)) > 1:
            joined, *rest = [self.of([text], precision) for text in texts]
            for other in rest:
                joined = joined.join(other)
            return joined
        key = (texts[0], precision)
        condition = self._kept.pop(key, None)
        if condition is None:
            condition = self._make(None if texts[0] is None else self._rows[texts[0]].to(self._device))
        self._kept[key] = condition  # the last one to be thrown out
        if len(self._kept) > _KEPT:
            self._kept.pop(next(iter(self._kept)))
        return condition
