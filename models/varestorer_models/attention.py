"""Attention without weights: queries, keys and values in, mixed values out, and a cache of keys and values.

Shapes: B batch, L queries, l new positions, n positions attended to, N heads, K head width. Keys and values may have
batch 1; they then hold for every item.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TextAttention = Literal["exact", "bfloat16"]
KeysValues = tuple[Tensor, Tensor]
"""Keys and values, (B, n, N, K) each."""


@dataclass(frozen=True)
class GroupedKeysValues:
    """Keys and values of several texts, each of its own length, without padding.

    Attributes:
        counts: items of each text, one text after another.
        parts: keys and values of each text, batch 1.
    """

    counts: tuple[int, ...]
    parts: tuple[KeysValues, ...]

    @classmethod
    def of(cls, counts: Sequence[int], parts: Sequence["KeysValues | GroupedKeysValues"]) -> "GroupedKeysValues":
        """Join keys and values of single texts.

        Raises:
            ValueError: a part holds several texts.
        """
        if any(isinstance(part, GroupedKeysValues) or len(part[0]) != 1 for part in parts):
            raise ValueError("only keys and values of single texts can be grouped")
        return cls(tuple(counts), tuple(part for part in parts if not isinstance(part, GroupedKeysValues)))


def attend(
    queries_BLNK: Tensor,
    keys_BnNK: Tensor,
    values_BnNK: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v.

    Args:
        queries_BLNK: (B, L, N, K).
        keys_BnNK: (B, n, N, K), or batch 1 for all items.
        values_BnNK: As the keys.
        mask: bool, broadcastable to (B, N, L, n), True = may attend.
        scale: 1 / sqrt(K) if None.

    Returns:
        (B, L, N * K).
    """
    batch = len(queries_BLNK)
    query, key, value = (
        part.to(queries_BLNK.dtype).expand(batch, -1, -1, -1).transpose(1, 2)
        for part in (queries_BLNK, keys_BnNK, values_BnNK)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def attend_text(
    queries_BLNK: Tensor,
    keys_values: KeysValues | GroupedKeysValues,
    *,
    mask_Bn: Tensor | None,
    precision: TextAttention,
) -> Tensor:
    """Attention to text tokens, (B, L, N * K).

    ``precision`` "bfloat16" rounds queries, keys, values and result to bfloat16, as the released script does
    around every attention to text even where all else is float32; "exact" leaves them alone. Grouped keys and values
    need no mask: each text is attended to by its own items.
    """
    if isinstance(keys_values, GroupedKeysValues):
        queries = torch.split(queries_BLNK, list(keys_values.counts))
        mixed = [
            attend_text(query, part, mask_Bn=None, precision=precision)
            for query, part in zip(queries, keys_values.parts, strict=True)
        ]
        return torch.cat(mixed)
    keys, values = keys_values
    mask = None if mask_Bn is None else mask_Bn[:, None, None, :]
    if precision == "exact":
        return attend(queries_BLNK, keys, values, mask=mask)
    rounded, keys, values = (part.bfloat16().float() for part in (queries_BLNK, keys, values))
    return attend(rounded, keys, values, mask=mask).bfloat16().to(queries_BLNK.dtype)


class KeyValueCache:
    """Keys and values of one self-attention for the scales seen so far.

    Args:
        length: Positions to make room for.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.filled = 0
        self._buffers: KeysValues | None = None

    def append(self, keys_BlNK: Tensor, values_BlNK: Tensor) -> KeysValues:
        """Store the next l positions and return all stored so far (views, not copies).

        Raises:
            ValueError: If there is no room left.
        """
        end = self.filled + keys_BlNK.shape[1]
        if end > self.length:
            raise ValueError(f"the cache has room for {self.length} positions, got {end}; make a longer one")
        if self._buffers is None:
            batch, _, heads, head_width = keys_BlNK.shape
            shape = (batch, self.length, heads, head_width)
            self._buffers = keys_BlNK.new_empty(shape), values_BlNK.new_empty(shape)
        for buffer, part in zip(self._buffers, (keys_BlNK, values_BlNK), strict=True):
            buffer[:, self.filled : end] = part
        self.filled = end
        return self._buffers[0][:, :end], self._buffers[1][:, :end]
