"""Text features, and the condition computed from them once per prompt.

Shapes: B batch, n tokens of the longest text, T width of the text features, C width of the transformer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence

from varestorer_models.attention import GroupedKeysValues, KeysValues


@dataclass(frozen=True)
class TextFeatures:
    """Features of a text encoder, without padding.

    Attributes:
        rows: (sum of lengths, T), the items one after another.
        lengths: Tokens of each item, at least 1.

    Raises:
        ValueError: If the lengths do not add up to the rows or one is below 1.
    """

    rows: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1 or sum(self.lengths) != len(self.rows):
            raise ValueError(
                f"text lengths {self.lengths} must be positive and add up to the number of feature rows, "
                f"{len(self.rows)}; give compact features, without padding"
            )


@dataclass(frozen=True)
class Condition:
    """All that the transformer needs to know about a prompt; batch 1 holds for every item of any batch.

    Attributes:
        vector_BC: Condition vector, float32 (B, C).
        tokens_BnC: Condition tokens, float32 (B, n, C), zeros where an item is shorter; of several prompts with cached
            keys and values (see :meth:`grouped`) none.
        modulation_B16C: Shared modulation, float32 (B, 1, 6, C).
        mask_Bn: bool (B, n), False at padding; None = no padding.
        keys_values: Of every block's cross-attention, or empty; see ``Transformer.with_keys_values``.
    """

    vector_BC: Tensor
    tokens_BnC: Tensor
    modulation_B16C: Tensor
    mask_Bn: Tensor | None = None
    keys_values: tuple[KeysValues | GroupedKeysValues, ...] = ()

    @property
    def batch(self) -> int:
        """Number of items."""
        return len(self.vector_BC)

    def expand(self, batch: int) -> "Condition":
        """The same condition for ``batch`` items, without copying."""
        return Condition(
            self.vector_BC.expand(batch, -1),
            self.tokens_BnC.expand(batch, -1, -1),
            self.modulation_B16C.expand(batch, -1, -1, -1),
            None if self.mask_Bn is None else self.mask_Bn.expand(batch, -1),
            tuple(
                (pair[0].expand(batch, -1, -1, -1), pair[1].expand(batch, -1, -1, -1))
                for pair in self.keys_values
                if not isinstance(pair, GroupedKeysValues)
            ),
        )

    @classmethod
    def grouped(cls, conditions: Sequence["Condition"], counts: Sequence[int]) -> "Condition":
        """Several single prompts for the items of one batch, with their cached keys and values and without a mask.

        Args:
            conditions: One per prompt, batch 1, all with keys and values.
            counts: Items of each prompt, one prompt after another.

        Raises:
            ValueError: A condition has no keys and values, a mask, or several items.
        """
        if any(not one.keys_values or one.mask_Bn is not None or one.batch != 1 for one in conditions):
            raise ValueError("only conditions of one prompt with keys and values can be grouped")
        vector = torch.cat([one.vector_BC.expand(count, -1) for one, count in zip(conditions, counts, strict=True)])
        modulation = torch.cat(
            [one.modulation_B16C.expand(count, -1, -1, -1) for one, count in zip(conditions, counts, strict=True)]
        )
        pairs = zip(*(one.keys_values for one in conditions), strict=True)
        return cls(
            vector,
            vector.new_zeros(len(vector), 0, conditions[0].tokens_BnC.shape[-1]),
            modulation,
            keys_values=tuple(GroupedKeysValues.of(counts, parts) for parts in pairs),
        )

    def join(self, other: "Condition") -> "Condition":
        """Items of this condition followed by those of another; drops cached keys and values."""
        conditions = (self, other)
        length = max(condition.tokens_BnC.shape[1] for condition in conditions)
        tokens, masks = [], []
        for condition in conditions:
            batch, own, _ = condition.tokens_BnC.shape
            mask = condition.mask_Bn
            if mask is None:
                mask = torch.ones(batch, own, dtype=torch.bool, device=condition.tokens_BnC.device)
            tokens.append(F.pad(condition.tokens_BnC, (0, 0, 0, length - own)))
            masks.append(F.pad(mask, (0, length - own)))
        return Condition(
            torch.cat([self.vector_BC, other.vector_BC]),
            torch.cat(tokens),
            torch.cat([self.modulation_B16C, other.modulation_B16C]),
            torch.cat(masks),
        )


def padded(rows: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Compact rows (sum of lengths, C) -> (B, n, C), zeros behind the shorter items."""
    return pad_sequence(list(torch.split(rows, list(lengths))), batch_first=True)
