"""Weights rounded once to the type that autocast computes in, not in every call.

Autocast rounds the float32 weights of convolutions and linear layers each time they are used without gradients: at 2b
676 of 2,977 kernels outside products per call (``make count``), sums of folded weights included. Rounded before, the
results are the same bits.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from varestorer_models.upsampling import UpsamplingConv

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_Model = TypeVar("_Model")


def with_rounded_weights(model: _Model, dtype: torch.dtype) -> _Model:
    """The same model with rounded weights before and behind its transformer; only what is rounded takes memory again.

    Of the transformer nothing is rounded: it computes some linear layers in float32 whatever autocast says, and the
    matrices of large ones are stored in bfloat16.

    Args:
        model: a restorer with a ``prerestorer`` and perhaps a ``tokenizer``, in eval mode; it stays as it is.
        dtype: of autocast in all calls of the result.

    Returns:
        For inference under autocast with ``dtype``; the model itself where it has no such layers.
    """
    if not (isinstance(model, nn.Module) and _rounded_layers(model)):
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for layer in _rounded_layers(copied):
        if isinstance(layer, UpsamplingConv):
            layer.keep_folded(dtype)
            continue
        for name in ("weight", "bias"):
            if (value := getattr(layer, name)) is not None:
                setattr(layer, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
    return copied


def _rounded_layers(model: nn.Module) -> list[nn.Module]:
    parts = [getattr(model, name, None) for name in ("prerestorer", "tokenizer")]
    found = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    return [module for module in found if isinstance(module, _LAYERS)]
