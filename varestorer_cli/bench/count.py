"""``make count``: FLOPs, kernels and memory traffic of one tile, counted without a GPU and without memory for weights.

The full-size model runs once on tensors that have shapes and no values. Every operation that is not a view counts as
one kernel; one that is no product (convolution, matrix product, attention) counts as traffic with all that it reads and
writes. That is what uncompiled code does on a GPU, up to operations that PyTorch splits there in several kernels.
``--plain`` counts the forms without this project's optimisations; :mod:`.compiled_count` adds what torch.compile makes
of the stages.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from varestorer_cli.bench.gpu import Sizes, sizes_of
from varestorer_models.autoencoder import set_norms
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.meta_init import on_meta_device
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rounded_weights import with_rounded_weights
from varestorer_models.swinir import SwinIR, set_window_attention
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer
from varestorer_models.upsampling import set_folded

PRODUCTS = ("convolution", "mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product")
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass
class Count:
    """What one stage does for one tile.

    Attributes:
        flops: of the products.
        products: kernels that are products.
        others: kernels that are none.
        traffic: bytes that those read and write.
    """

    flops: float = 0.0
    products: int = 0
    others: int = 0
    traffic: float = 0.0


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations as kernels."""

    def __init__(self, count: Count) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
        if view or not tensors or "empty" in func.name() or func.namespace == "prim":
            return out
        if func.name().removeprefix("aten::").startswith(PRODUCTS):
            self._count.products += 1
        else:
            self._count.others += 1
            self._count.traffic += sum(_bytes(one) for one in tensors)
        return out


def _bytes(tensor: Tensor) -> int:
    """Bytes that an operation touches: what was expanded is read once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


def count(sizes: Sizes, *, plain: bool = False, batch: int = 1) -> dict[str, Count]:
    """What each stage of the model does per tile, in bf16 autocast.

    Args:
        sizes: of the model.
        plain: without the optimisations that can be switched off.
        batch: tiles of the call.
    """
    found = {}
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        restorer = built(sizes)
        if plain:
            set_folded(restorer, False)
            set_norms(restorer, keeps_type=False)
        else:
            restorer = with_rounded_weights(restorer, torch.bfloat16)
        set_window_attention(restorer, padded=not plain, keeps_bias=not plain)
        tiles = torch.empty(batch, 3, restorer.tile, restorer.tile)
        condition = restorer.condition()
        for name, work in _stages(restorer, tiles, condition).items():
            one = counted(work)
            one.flops /= batch
            one.traffic /= batch
            found[name] = one
    return found


def counted(work: Callable[[], object]) -> Count:
    """What some work does, on tensors of a ``FakeTensorMode`` that is in force; its tables are made before."""
    work()
    one = Count()
    with FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}) as flops, _Kernels(one):
        work()
    one.flops = flops.get_total_flops()
    return one


def _stages(restorer: OneStepRestorer, tiles: Tensor, condition: Any) -> dict[str, Callable[[], Any]]:
    prerestored = restorer.prerestore(tiles)
    latent = restorer.tokenizer.encode(prerestored * 2 - 1).float()
    quantized = restorer.tokenizer.quantize(latent)
    prediction = restorer.predict(quantized, latent, condition)
    codes = restorer.codes(prediction, "argmax")
    return {
        "pre-restorer": lambda: restorer.prerestore(tiles),
        "encoder": lambda: restorer.tokenizer.encode(prerestored * 2 - 1),
        "quantiser, tokens": lambda: restorer.tokenizer.quantize(latent),
        "transformer": lambda: restorer.predict(quantized, latent, condition),
        "bits, codes": lambda: restorer.codes(prediction, "argmax"),
        "decoder": lambda: restorer.decode(codes, prerestored),
        "whole tile": lambda: restorer(tiles, condition=condition),
    }


def built(sizes: Sizes) -> OneStepRestorer:
    """The model with weights that have shapes only, the transformer's matrices in bf16 as on a GPU."""

    def make() -> OneStepRestorer:
        parts = SwinIR(sizes.prerestorer), ImageTokenizer(sizes.tokenizer), Transformer(sizes.transformer)
        return OneStepRestorer(RestorerConfig(sampling="argmax"), *parts)

    restorer = on_meta_device(make).eval()
    for name, tensor in [*restorer.named_parameters(), *restorer.named_buffers()]:
        owner, _, own = name.rpartition(".")
        dtype = torch.bfloat16 if name.startswith("transformer.blocks.") and tensor.dim() == 2 else tensor.dtype
        value = torch.empty(tensor.shape, dtype=dtype)
        module = restorer.get_submodule(owner)
        setattr(module, own, nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value)
    return restorer


def _attention_flops(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **settings: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def write_table(counts: dict[str, Count], compiled: dict[str, Count]) -> None:
    """Print what was counted, with two columns more where something was counted compiled."""
    heads = ["stage", "TFLOP", "products", "other kernels", "their traffic, GB", *["compiled", "GB"] * bool(compiled)]
    sys.stdout.write(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n")
    for stage, one in counts.items():
        cells = [stage, f"{one.flops / 1e12:.3f}", str(one.products), str(one.others), f"{one.traffic / 1e9:.2f}"]
        if compiled:
            fused = compiled.get(stage)
            cells += ["", ""] if fused is None else [str(fused.others), f"{fused.traffic / 1e9:.2f}"]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["2b", "tiny"], default="2b")
    parser.add_argument("--plain", action="store_true", help="without the optimisations that can be switched off")
    options = parser.parse_args(words)
    write_table(count(sizes_of(options.size), plain=options.plain), {})


if __name__ == "__main__":
    main()
