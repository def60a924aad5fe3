"""Adapters: low-rank additions (LoRA, arXiv 2106.09685) to the attention projections of a transformer.

y = W x (+ b) + scale * up(down(x)). Only the five projections of each block's self- and cross-attention have
adapters; the text pool, the feed-forward and the modulations do not. An adapted layer keeps the keys of the
plain one and adds ``adapter_down`` and ``adapter_up``, so a teacher's state dict is the base of a student's.

Whether cross-attention adds its value bias does not depend on adapters:
``TransformerConfig.cross_value_bias`` says so, and neither adding nor merging adapters touches it.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.layers import CrossAttention, Projection, SelfAttention

_ADAPTER_KEYS = ("adapter_down", "adapter_up")


class LoRALinear(Projection):
    """A projection with an adapter beside it.

    A new adapter changes nothing: ``adapter_up`` starts at zero, ``adapter_down`` Kaiming uniform.

    Args:
        base: Layer to adapt; its parameters are taken over, not copied.
        rank: Width of the adapter.
        scale: Factor of the adapter's output; 1 in the released models.

    Raises:
        ValueError: If the rank is not positive.
    """

    def __init__(self, base: Projection, rank: int, scale: float = 1.0) -> None:
        if rank < 1:
            raise ValueError(f"an adapter's rank must be at least 1, got {rank}")
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        self.adapter_down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.adapter_up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.adapter_down, a=math.sqrt(5))

    def forward(self, input: Tensor, bias: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """Project the last axis, adapter included; arguments as in :class:`Projection`."""
        output = super().forward(input, bias, rows)
        down: Tensor = self.adapter_down
        up: Tensor = self.adapter_up if rows is None else self.adapter_up[rows]
        if input.dtype != up.dtype and not torch.is_autocast_enabled(input.device.type):
            down, up = down.to(input.dtype), up.to(input.dtype)
        change = F.linear(F.linear(input, down), up)
        return torch.add(output, change.to(output.dtype), alpha=self.scale)

    @torch.no_grad()
    def merged(self) -> Projection:
        """A plain projection that computes the same: W + scale * up @ down, formed in float32."""
        plain = Projection(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        weight = merged_weight(self.weight, self.adapter_down, self.adapter_up, self.scale)
        plain.weight = nn.Parameter(weight.to(self.weight.dtype), self.weight.requires_grad)
        plain.bias = self.bias
        return plain


def merged_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float = 1.0) -> Tensor:
    """W + scale * up @ down in float32, whatever the types of the parts."""
    return weight.float() + scale * (up.float() @ down.float())


def add_adapters(module: nn.Module, rank: int, scale: float = 1.0) -> None:
    """Give every attention projection inside a module an adapter, in place.

    Args:
        module: Network without adapters; its other parameters keep their identity and ``requires_grad``.
        rank: Width of the adapters; the released student has 32.
        scale: Factor of the adapters' outputs.

    Raises:
        ValueError: If there are adapters already, or the rank is not positive.
    """
    if next(_adapters(module), None) is not None:
        raise ValueError("the network has adapters already; merge them before adding others")
    for parent, name, layer in _projections(module):
        setattr(parent, name, LoRALinear(layer, rank, scale))


def merge_adapters(module: nn.Module) -> None:
    """Fold all adapters into their layers, in place; without adapters nothing happens."""
    for parent, name, layer in _projections(module):
        if isinstance(layer, LoRALinear):
            setattr(parent, name, layer.merged())


def train_adapters_only(module: nn.Module) -> int:
    """Freeze everything but the adapters; returns the number of values left to train."""
    module.requires_grad_(False)
    count = 0
    for parameter in adapter_state(module, detach=False).values():
        parameter.requires_grad_(True)
        count += parameter.numel()
    return count


def share_frozen(module: nn.Module, base: nn.Module) -> int:
    """Let a module hold the very parameters of another where its own are frozen and equal, so that they exist once.

    Args:
        module: A network with frozen weights, such as a teacher with adapters; changed in place.
        base: Network whose parameters it takes by name; on the meta device they count as equal.

    Returns:
        Number of values that are shared now.
    """
    theirs = dict(base.named_parameters())
    count = 0
    for name, parameter in list(module.named_parameters()):
        other = theirs.get(name)
        if other is None or parameter.requires_grad or (other.shape, other.dtype) != (parameter.shape, parameter.dtype):
            continue
        if parameter.is_meta or torch.equal(parameter, other):
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, other)
            count += other.numel()
    return count


def adapter_state(module: nn.Module, *, detach: bool = True) -> dict[str, Tensor]:
    """The adapters' part of the state dict, by full key; ``detach=False`` gives the parameters themselves."""
    return {
        key: parameter.detach() if detach else parameter
        for key, parameter in module.named_parameters()
        if key.endswith(_ADAPTER_KEYS)
    }


def _projections(module: nn.Module) -> Iterator[tuple[nn.Module, str, Projection]]:
    """Every projection that may have an adapter, with the module that holds it."""
    for parent in list(module.modules()):
        if isinstance(parent, SelfAttention | CrossAttention):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, Projection):
                    yield parent, name, layer


def _adapters(module: nn.Module) -> Iterator[LoRALinear]:
    return (layer for _, _, layer in _projections(module) if isinstance(layer, LoRALinear))
