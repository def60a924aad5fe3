"""Building blocks of the transformer: projections, attentions, feed-forward, block.

Number formats follow the released models: the residual stream and the norms are float32, queries and keys are
normalised and rotated in float32, linear layers and attention run in the weights' dtype or under autocast.

Shapes: B batch, L positions of the sequence, n condition tokens, C width, N heads, K head width. Modulations
and condition tokens may have batch 1; they then hold for every item.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from varestorer_models.attention import GroupedKeysValues, KeysValues, KeyValueCache, TextAttention, attend, attend_text
from varestorer_models.rope import rotate


class Projection(nn.Linear):
    """A linear layer that can add another bias and compute a part of its outputs only.

    A weight stored in bfloat16 is widened when it is used, one layer at a time: it costs half the memory, and the
    arithmetic stays what it was asked to be.
    """

    def forward(self, input: Tensor, bias: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Project the last axis.

        Args:
            input: (..., in_features), any float dtype; the product is computed in it unless autocast decides.
            bias: (out_features,) instead of the layer's own.
            rows: Compute these output features only.

        Returns:
            (..., out_features) or, with ``rows``, (..., rows).
        """
        weight = self.weight
        bias = self.bias if bias is None else bias
        if rows is not None:
            weight = weight[rows]
            bias = None if bias is None else bias[rows]
        if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            weight = weight.to(input.dtype)
            bias = None if bias is None else bias.to(input.dtype)
        return F.linear(input, weight, bias)


def float32_linear(layer: nn.Linear, input: Tensor) -> Tensor:
    """Apply a linear layer in float32, whatever its dtype and autocast say.

    The released models keep text, condition, word embedding and head in float32.
    """
    bias = None if layer.bias is None else layer.bias.float()
    with torch.autocast(input.device.type, enabled=False):
        return F.linear(input.float(), layer.weight.float(), bias)


def modulated_norm(input_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, eps: float) -> Tensor:
    """LayerNorm without parameters, then (1 + scale) * x + shift; scale and shift (B, 1, C) or (1, 1, C)."""
    width = (input_BLC.shape[-1],)
    if len(scale_B1C) == 1:  # one prompt for all items: the modulation is the norm's own weight and bias
        return F.layer_norm(input_BLC, width, 1 + scale_B1C.flatten(), shift_B1C.flatten(), eps)
    return torch.addcmul(shift_B1C, F.layer_norm(input_BLC, width, eps=eps), 1 + scale_B1C)


class SelfAttention(nn.Module):
    """Attention over the sequence with unit-length queries and keys and a learned scale per head.

    Args:
        width: C.
        heads: N.
        scale_limit: Largest attention scale; the stored logarithm is clamped to its logarithm.
    """

    def __init__(self, width: int, heads: int, scale_limit: float) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.log_scale_limit = math.log(scale_limit)
        self.log_scale = nn.Parameter(torch.empty(1, heads, 1, 1))
        self.query_bias = nn.Parameter(torch.empty(width))
        self.value_bias = nn.Parameter(torch.empty(width))
        self.qkv = Projection(width, 3 * width, bias=False)
        self.proj = Projection(width, width)

    def forward(
        self,
        input_BLC: Tensor,
        rotation_Lk2: Tensor,
        *,
        mask_LL: Tensor | None = None,
        queries: int | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            input_BLC: (B, L, C).
            rotation_Lk2: float32 (L, K / 2, 2), cosine and sine of these positions.
            mask_LL: bool (L, L), True = may attend; None = everything to everything.
            queries: Only the first so many positions ask; all are asked.
            cache: Earlier positions to attend to as well; these are added to it.

        Returns:
            (B, L, C), or (B, queries, C).
        """
        # Keys have no bias: it would shift all scores of a query alike before they were normalised.
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        scale = self.log_scale.float().clamp_max(self.log_scale_limit).exp().view(1, self.heads, 1)
        unit = torch.ones_like(scale)
        if queries is None:
            qkv = self._heads(self.qkv(input_BLC, bias))  # (B, L, 3, N, K)
            value = qkv[:, :, 2]
            asked = _directions(qkv[:, :, :2], rotation_Lk2, torch.cat([scale, unit]), value.dtype)
            query, key = asked[:, :, 0], asked[:, :, 1]
        else:
            first, rest = slice(self.width), slice(self.width, None)
            q = self._heads(self.qkv(input_BLC[:, :queries], bias, first))
            kv = self._heads(self.qkv(input_BLC, bias, rest))  # (B, L, 2, N, K)
            value = kv[:, :, 1]
            query = _directions(q, rotation_Lk2[:queries], scale, value.dtype)[:, :, 0]
            key = _directions(kv[:, :, :1], rotation_Lk2, unit, value.dtype)[:, :, 0]
            mask_LL = None if mask_LL is None else mask_LL[:queries]
        if cache is not None:
            key, value = cache.append(key, value)
        mixed = attend(query, key, value, mask=mask_LL, scale=1.0)
        output: Tensor = self.proj(mixed)
        return output

    def weights(self, input_BLC: Tensor, rotation_Lk2: Tensor, queries: int | None = None) -> Tensor:
        """Where an attention without mask looks: (B, N, L or ``queries``, L), rows sum to 1; for images of it."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias)])
        scale = self.log_scale.float().clamp_max(self.log_scale_limit).exp().view(1, self.heads, 1)
        qk = self._heads(self.qkv(input_BLC, bias, slice(2 * self.width)))
        asked = _directions(qk, rotation_Lk2, torch.cat([scale, torch.ones_like(scale)]), torch.float32)
        query, key = asked[:, :queries, 0], asked[:, :, 1]
        return torch.einsum("blnk,bmnk->bnlm", query, key).softmax(-1)

    def _heads(self, projected_BLx: Tensor) -> Tensor:
        """(B, L, parts * C) -> (B, L, parts, N, K)."""
        return torch.unflatten(projected_BLx, -1, (-1, self.heads, self.width // self.heads))


def _directions(heads_BLpNK: Tensor, rotation_Lk2: Tensor, lengths_pN1: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale vectors to given lengths and rotate them, in float32, and round to ``dtype``."""
    heads = heads_BLpNK.float()
    norm = torch.linalg.vector_norm(heads, dim=-1, keepdim=True).clamp_min(1e-12)
    return rotate(heads * (lengths_pN1 / norm), rotation_Lk2, dtype=dtype)


class CrossAttention(nn.Module):
    """Attention from the sequence to the condition tokens.

    Args:
        width: C.
        heads: N.
        use_value_bias: Whether ``value_bias`` is added. The released student was trained without (its
            adapters bypass it) but its file still holds the parameter; see
            ``TransformerConfig.cross_value_bias``.
        precision: See :func:`attend_text`.
    """

    def __init__(self, width: int, heads: int, *, use_value_bias: bool, precision: TextAttention) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.use_value_bias, self.precision = use_value_bias, precision
        self.value_bias = nn.Parameter(torch.empty(width))
        self.query = Projection(width, width)
        self.key_value = Projection(width, 2 * width, bias=False)
        self.proj = Projection(width, width)

    def keys_values(self, tokens_BnC: Tensor) -> KeysValues:
        """Keys and values of condition tokens (B, n, C); the same for every tile of a prompt."""
        bias = torch.cat([torch.zeros_like(self.value_bias), self.value_bias]) if self.use_value_bias else None
        key_value = self.key_value(tokens_BnC, bias).unflatten(-1, (2, self.heads, -1))
        return key_value[:, :, 0], key_value[:, :, 1]

    def forward(
        self, input_BLC: Tensor, keys_values: KeysValues | GroupedKeysValues, mask_Bn: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            input_BLC: (B, L, C).
            keys_values: From :meth:`keys_values`, batch B or 1; or of several texts.
            mask_Bn: bool (B, n), False at padding; None = no padding.

        Returns:
            (B, L, C).
        """
        query = self.query(input_BLC).unflatten(-1, (self.heads, -1))
        mixed = attend_text(query, keys_values, mask_Bn=mask_Bn, precision=self.precision)
        output: Tensor = self.proj(mixed)
        return output


class TextPool(nn.Module):
    """Attentive pooling: text features of an item -> one vector, by a learned query.

    Runs in float32.

    Args:
        text_width: Width of the text features.
        width: C of the result.
        heads: Heads of the pool, a divisor of ``width``.
        precision: See :func:`attend_text`.
    """

    def __init__(self, text_width: int, width: int, heads: int, precision: TextAttention) -> None:
        super().__init__()
        self.heads, self.precision = heads, precision
        self.query = nn.Parameter(torch.empty(1, heads, width // heads))
        self.value_bias = nn.Parameter(torch.empty(width))
        self.key_value = nn.Linear(text_width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, text_BnT: Tensor, mask_Bn: Tensor | None = None) -> Tensor:
        """Pool features (B, n, text width), padding marked False in the mask, to (B, C) float32."""
        key, value = torch.unflatten(float32_linear(self.key_value, text_BnT), -1, (2, self.heads, -1)).unbind(2)
        value = value + self.value_bias.float().view(self.heads, -1)
        query = self.query.float().expand(len(text_BnT), 1, -1, -1)
        with torch.autocast(text_BnT.device.type, enabled=False):
            pooled = attend_text(query, (key, value), mask_Bn=mask_Bn, precision=self.precision)
        return float32_linear(self.proj, pooled)[:, 0]


class FeedForward(nn.Module):
    """fc2(gelu(fc1 x)) with the tanh form of GELU, the one the released weights know."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Projection(width, hidden)
        self.fc2 = Projection(hidden, width)

    def forward(self, input_BLC: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        output: Tensor = self.fc2(F.gelu(self.fc1(input_BLC), approximate="tanh"))
        return output


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and the last modulated by the condition.

    With ``recompute`` set, training keeps a block's input only and computes the rest again in the backward pass.

    Args:
        width: C.
        heads: N.
        hidden: Width inside the feed-forward.
        eps: Of all norms.
        scale_limit: See :class:`SelfAttention`.
        use_value_bias: See :class:`CrossAttention`.
        precision: See :func:`attend_text`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        eps: float,
        scale_limit: float,
        use_value_bias: bool,
        precision: TextAttention,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.recompute = False
        self.modulation = nn.Parameter(torch.empty(1, 1, 6, width))
        self.self_attention = SelfAttention(width, heads, scale_limit)
        self.cross_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attention = CrossAttention(width, heads, use_value_bias=use_value_bias, precision=precision)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self,
        hidden_BLC: Tensor,
        modulation_B16C: Tensor,
        text: KeysValues | GroupedKeysValues | Tensor,
        rotation_Lk2: Tensor,
        *,
        condition_mask_Bn: Tensor | None = None,
        mask_LL: Tensor | None = None,
        queries: int | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """One residual step.

        Args:
            hidden_BLC: float32 (B, L, C).
            modulation_B16C: float32 (B, 1, 6, C), the shared modulation: gates of both modulated branches,
                their scales, their shifts. The block's own is added to it.
            text: Keys and values from ``cross_attention.keys_values``, or the condition tokens (B, n, C) they come
                from.
            rotation_Lk2: float32 (L, K / 2, 2), cosine and sine.
            condition_mask_Bn: See :class:`CrossAttention`.
            mask_LL: See :class:`SelfAttention`.
            queries: Compute the first so many positions only (the rest are asked, but do not ask).
            cache: See :class:`SelfAttention`.

        Returns:
            float32 (B, L, C), or (B, queries, C).
        """
        arguments = (hidden_BLC, modulation_B16C, text, rotation_Lk2, condition_mask_Bn, mask_LL, queries, cache)
        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(self._step, *arguments, use_reentrant=False, preserve_rng_state=False)
            return again
        return self._step(*arguments)

    def _step(
        self,
        hidden_BLC: Tensor,
        modulation_B16C: Tensor,
        text: KeysValues | GroupedKeysValues | Tensor,
        rotation_Lk2: Tensor,
        condition_mask_Bn: Tensor | None,
        mask_LL: Tensor | None,
        queries: int | None,
        cache: KeyValueCache | None,
    ) -> Tensor:
        keys_values = self.cross_attention.keys_values(text) if isinstance(text, Tensor) else text
        gate_1, gate_2, scale_1, scale_2, shift_1, shift_2 = (self.modulation.float() + modulation_B16C).unbind(2)
        branch = self.self_attention(
            modulated_norm(hidden_BLC, scale_1, shift_1, self.eps),
            rotation_Lk2,
            mask_LL=mask_LL,
            queries=queries,
            cache=cache,
        )
        hidden = torch.addcmul(hidden_BLC[:, :queries], gate_1, branch.float())
        norm = self.cross_norm
        normed = F.layer_norm(hidden, norm.normalized_shape, norm.weight.float(), norm.bias.float(), self.eps)
        hidden = hidden + self.cross_attention(normed, keys_values, condition_mask_Bn)
        branch = self.feed_forward(modulated_norm(hidden, scale_2, shift_2, self.eps))
        return torch.addcmul(hidden, gate_2, branch.float())
