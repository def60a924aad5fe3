"""Small networks in the released layout, and what tests of the conversion do with them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.convert import Component, released_tensors
from varestorer_models.meta_init import on_meta_device
from varestorer_models.released_keys import (
    autoencoder_table,
    prerestorer_table,
    released_name,
    transformer_table,
)
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.transformer import Transformer, TransformerConfig

CLASSES: dict[str, Callable[[Any], nn.Module]] = {
    "prerestorer": SwinIR,
    "autoencoder": Autoencoder,
    "transformer": Transformer,
}
RELEASED_CHUNKS = 8
"""Chunks in which the released 2B transformer stores its 32 blocks."""


def chunk_size(depth: int, chunks: int) -> int | None:
    """Blocks per chunk for storing, None for a plain list.

    Raises:
        ValueError: the depth is no multiple of the chunks.
    """
    if chunks < 1 or depth % chunks:
        raise ValueError(f"{depth} blocks cannot be stored in {chunks} equal chunks; choose a divisor")
    return depth // chunks if chunks > 1 else None


def from_released(component: Component, state_dict: Mapping[str, Any], **config: Any) -> Any:
    """The module that a released state dict describes, in float32 and eval mode; errors of `released_tensors`."""
    released = released_tensors(component, state_dict, **config)
    module = on_meta_device(lambda: CLASSES[component](released.config))
    weights = {key: value.float().clone().contiguous() for key, value in released.tensors.items()}
    module.load_state_dict(weights, strict=True, assign=True)
    return module.eval()


def to_released(component: Component, module: nn.Module, *, block_chunks: int = RELEASED_CHUNKS) -> dict[str, Tensor]:
    """A module's weights under the released names, without buffers.

    A transformer that never adds the value bias of its cross-attention, yet has no adapters left (merged), gets zeros
    there, because released code would add the bias.
    """
    assert isinstance(module, CLASSES[component])  # type: ignore[arg-type]
    state = module.state_dict()
    adapters = any(key.endswith(".adapter_down") for key in state)
    chunk = None
    table = {
        "prerestorer": prerestorer_table(),
        "autoencoder": autoencoder_table(wrapped=True),
        "transformer": transformer_table(adapters=adapters),
    }[component]
    if isinstance(module, Transformer):
        chunk = chunk_size(module.config.depth, block_chunks)
        if not module.config.cross_value_bias:
            unused = [key for key in state if key.endswith(".cross_attention.value_bias") and not adapters]
            state.update({key: torch.zeros_like(state[key]) for key in unused})
    names = {key: released_name(key, table, chunk) for key in state}
    assert all(names.values())
    return {str(names[key]): tensor for key, tensor in state.items()}


# Small, and with every number different from the released one where shapes can tell it.
PRERESTORER = SwinIRConfig(
    width=12, depths=(2, 3), heads=(2, 3), window=4, mlp_ratio=1.5, unshuffle=4, feature_width=10
)
AUTOENCODER = AutoencoderConfig(
    latent_channels=6, width=24, multipliers=(1, 2, 1), encoder_blocks=(1, 2, 1), decoder_blocks=(2, 1, 3)
)
TRANSFORMER = TransformerConfig(
    width=32, depth=4, heads=2, bits=5, text_width=20, text_heads=4, null_tokens=3, levels=7, mlp_hidden=48
)
ADAPTED = replace(TRANSFORMER, adapter_rank=3, cross_value_bias=False)

CONFIGS: dict[str, tuple[Component, Any]] = {
    "prerestorer": ("prerestorer", PRERESTORER),
    "prerestorer, no unshuffle": ("prerestorer", replace(PRERESTORER, unshuffle=1, window=2, depths=(1,), heads=(1,))),
    "prerestorer, released window": ("prerestorer", replace(PRERESTORER, unshuffle=8, window=8)),
    "autoencoder": ("autoencoder", AUTOENCODER),
    "autoencoder, one level": (
        "autoencoder",
        replace(AUTOENCODER, multipliers=(1,), encoder_blocks=(2,), decoder_blocks=(3,), latent_channels=9),
    ),
    "autoencoder, folded": ("autoencoder", replace(AUTOENCODER, unshuffle=2, norm="none", narrow_upsample=True)),
    "transformer": ("transformer", TRANSFORMER),
    "transformer, adapters": ("transformer", ADAPTED),
    "transformer, latent head": ("transformer", replace(TRANSFORMER, head="latent", depth=1, heads=4)),
}
# The examples that the damage is done to.
EXAMPLES = ["prerestorer", "autoencoder", "transformer", "transformer, adapters"]


def build(name: str, seed: int = 0) -> nn.Module:
    """A network of that configuration whose parameters all matter."""
    component, config = CONFIGS[name]
    network = CLASSES[component](config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return network


def released(name: str, **options: Any) -> dict[str, Tensor]:
    component, config = CONFIGS[name]
    if component == "transformer":
        options.setdefault("block_chunks", 2 if config.depth % 2 == 0 else 1)
    return to_released(component, build(name), **options)


def one_of_a_kind(state: dict[str, Tensor]) -> list[str]:
    """The last key of every kind; keys of equal ends are alike, in whichever block, level or network they are."""
    kinds = {tuple("#" if part.isdecimal() else part for part in key.split(".")[-3:]): key for key in state}
    return list(kinds.values())


def load(name: str, state: dict[str, Any], **options: Any) -> nn.Module:
    return from_released(CONFIGS[name][0], state, **options)  # type: ignore[no-any-return]
