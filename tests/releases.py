"""Random releases in the published layout: the same keys, wrappers, buffers and types, at any width."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from released_states import to_released
from torch import Tensor, nn

from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.convert import Component
from varestorer_models.meta_init import on_meta_device
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.transformer import Transformer, TransformerConfig

STUDENT, TEACHER, AUTOENCODER, PRERESTORER = (
    "varestorer.pth",
    "infinity_2b_reg.pth",
    "infinity_vae_d32reg.pth",
    "general_swinir_v1.ckpt",
)


@dataclass(frozen=True)
class Sizes:
    """Configurations of a release; ``adapter_rank`` is the student's."""

    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    prerestorer: SwinIRConfig
    adapter_rank: int = 32


SMALL = Sizes(
    TransformerConfig(width=32, depth=8, heads=2, text_width=128, text_heads=1, null_tokens=6, mlp_hidden=64),
    AutoencoderConfig(width=32, multipliers=(1, 1, 1), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1)),
    SwinIRConfig(width=12, depths=(2, 2), heads=(2, 2), feature_width=8),
    adapter_rank=4,
)
"""Tiles of 128 pixels: two downsamplings instead of four."""

FULL = Sizes(TransformerConfig(width=2048, depth=32, heads=16), AutoencoderConfig(), SwinIRConfig())
"""The published sizes."""


def middle(width: int = 1024, depth: int = 16) -> Sizes:
    """Hundreds of megabytes of transformer, small networks around it."""
    transformer = replace(SMALL.transformer, width=width, depth=depth, heads=16, mlp_hidden=4 * width)
    return replace(SMALL, transformer=transformer, adapter_rank=32)


def write_release(
    folder: Path, sizes: Sizes = SMALL, seed: int = 0, dtype: torch.dtype = torch.float32, *, teacher: bool = True
) -> Path:
    """The published files with seeded random weights; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    adapted = replace(sizes.transformer, adapter_rank=sizes.adapter_rank, cross_value_bias=False)
    student = _state("transformer", lambda: Transformer(adapted), seed, dtype) | _transformer_buffers(sizes.transformer)
    torch.save(student, folder / STUDENT)
    del student
    if teacher:
        plain = _state("transformer", lambda: Transformer(sizes.transformer), seed + 1, dtype)
        torch.save(plain | _transformer_buffers(sizes.transformer), folder / TEACHER)
        del plain
    mask = 2 ** torch.arange(sizes.autoencoder.latent_channels - 1, -1, -1)
    buffers = {"quantizer.lfq.mask": mask, "quantize.lfq.mask": mask}
    autoencoder = _state("autoencoder", lambda: Autoencoder(sizes.autoencoder), seed + 2, dtype)
    torch.save({"vae": autoencoder | buffers}, folder / AUTOENCODER)
    prerestorer = _state("prerestorer", lambda: SwinIR(sizes.prerestorer), seed + 3, dtype)
    prerestorer |= {"layers.0.residual_group.blocks.1.attn_mask": torch.zeros(64, 64, 64)}
    torch.save({"state_dict": {f"module.{key}": value for key, value in prerestorer.items()}}, folder / PRERESTORER)
    return folder


def _state(component: Component, make: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Released names with random values that keep activations near their size."""
    generator = torch.Generator().manual_seed(seed)
    chunks = {"block_chunks": 8} if component == "transformer" else {}
    state = to_released(component, on_meta_device(make), **chunks)
    return {key: _values(key, value, generator).to(dtype) for key, value in state.items()}


def _values(key: str, like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator)
    if key.endswith("scale_mul_1H11"):
        return 1.4 + 0.1 * noise
    if "norm" in key and key.endswith("weight"):
        return 1 + 0.1 * noise
    if like.ndim >= 2 and key.endswith("weight"):
        return noise * like[0].numel() ** -0.5
    return 0.1 * noise


def _transformer_buffers(config: TransformerConfig) -> dict[str, Tensor]:
    size = config.depth // 8
    blocks = [f"block_chunks.{block // size}.module.{block % size}" for block in range(config.depth)]
    zeros = torch.zeros(config.width)
    names = [f"{block}.{kind}.zero_k_bias" for block in blocks for kind in ("sa", "ca")]
    return {name: zeros.clone() for name in [*names, "text_proj_for_sos.ca.zero_k_bias"]}
