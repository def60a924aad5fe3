"""``make count``: what torch.compile makes of a stage, in kernels and traffic outside products, beside :mod:`.count`.

The stage is traced and its operations are put together by the compiler as they would be; before code is made of them,
what is to be written is counted, by the compiler's own account of what each kernel reads and writes. The compiler is
asked for CPU code; what it puts together for a GPU may differ. Tensors are of full size and never touched, so they take
no memory.

Blocks of the transformer are alike: it is counted at depths of 2 and 4, and the difference stands for each further two.
"""

import argparse
import dataclasses
import re
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo
import torch._functorch.config
import torch._inductor.config
from torch import Tensor
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch._subclasses.fake_tensor import FakeTensorMode

from varestorer_cli.bench.count import PRODUCTS, Count, built, count, write_table
from varestorer_cli.bench.gpu import Sizes, sizes_of
from varestorer_models.restorer import Prediction
from varestorer_models.rounded_weights import with_rounded_weights

_DEPTHS = (2, 4)
_LIBRARY = re.compile(r"(torch\.ops\.)?(aten|mkldnn|extern_kernels)\.")  # before the name of an operation


class _CountedError(Exception):
    """Ends a compilation."""


def count_compiled(sizes: Sizes) -> dict[str, Count]:
    """Kernels and traffic of one tile in bf16 autocast, by stage; no FLOPs."""
    found = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        short, long = (_transformer(_of_depth(sizes, depth)) for depth in _DEPTHS)
        further = (sizes.transformer.depth - _DEPTHS[0]) / (_DEPTHS[1] - _DEPTHS[0])
        found["transformer"] = Count(
            0.0,
            round(short.products + further * (long.products - short.products)),
            round(short.others + further * (long.others - short.others)),
            short.traffic + further * (long.traffic - short.traffic),
        )
        restorer = with_rounded_weights(built(_of_depth(sizes, 1)), torch.bfloat16)
        tiles = torch.empty(1, 3, restorer.tile, restorer.tile)
        latent = torch.empty(1, sizes.tokenizer.quantizer.bits, *restorer.tokenizer.config.schedule.latent_grid)
        found["pre-restorer"] = counted_compiled(restorer.prerestore, tiles)
        found["encoder"] = counted_compiled(restorer.tokenizer.encode, tiles)
        found["quantiser, tokens"] = counted_compiled(restorer.tokenizer.quantize, latent)
        schedule = restorer.tokenizer.config.schedule
        difference = torch.empty(1, schedule.length, sizes.tokenizer.quantizer.bits)
        found["bits, codes"] = counted_compiled(
            lambda given: restorer.codes(Prediction(given, None, schedule), "argmax"), difference
        )
        found["decoder"] = counted_compiled(restorer.decode, latent, tiles)
    found["whole tile"] = Count(
        0.0, *(sum(getattr(one, field) for one in found.values()) for field in ("products", "others", "traffic"))
    )
    return found


def counted_compiled(work: Callable[..., Any], *given: Any) -> Count:
    """What the compiler makes of a function of these arguments; it is not run."""
    found: list[Count] = []

    def instead(graph: GraphLowering) -> Any:
        graph._update_scheduler()
        found.append(_counted(graph.scheduler.nodes))
        raise _CountedError

    torch._dynamo.reset()
    with (
        patch.object(GraphLowering, "compile_to_module", instead),
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of the compiler, about PyTorch's own code
        try:
            torch.compile(work, fullgraph=True, dynamic=False)(*given)
        except Exception:
            if not found:
                raise
    torch._dynamo.reset()
    return found[0]


def _counted(nodes: list[Any]) -> Count:
    one = Count()
    for node in nodes:
        if isinstance(node, NopKernelSchedulerNode):
            continue
        if isinstance(node, ExternKernelSchedulerNode):
            operation = getattr(node.node, "op_overload", None) or getattr(node.node, "python_kernel_name", None)
            name = _LIBRARY.sub("", str(operation or ""))
            if not name or type(node.node).__name__ == "MultiOutput":
                continue  # takes one of several results, no kernel
            if name.lstrip("_").startswith(tuple(product.lstrip("_") for product in PRODUCTS)):
                one.products += 1
                continue
        one.others += 1
        one.traffic += node.get_read_write_buffers_sizes()
    return one


def _of_depth(sizes: Sizes, depth: int) -> Sizes:
    return dataclasses.replace(sizes, transformer=dataclasses.replace(sizes.transformer, depth=depth))


def _transformer(sizes: Sizes) -> Count:
    restorer = built(sizes)
    schedule = sizes.tokenizer.schedule
    with FakeTensorMode(allow_non_fake_inputs=True):
        condition = restorer.condition()
    tokens = torch.empty(1, schedule.length - 1 + schedule.latent_length, sizes.transformer.bits)

    def work(tokens: Tensor, condition: Any) -> Tensor:
        out: Tensor = restorer.transformer(tokens, schedule, condition, extra_block=True)
        return out

    return counted_compiled(work, tokens, _untouched(condition))


def _untouched(value: Any) -> Any:
    """The same with tensors of memory that nothing was written to."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _untouched(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, tuple):
        return tuple(_untouched(one) for one in value)
    return value


def main(words: list[str] | None = None) -> None:
    """Print the table; takes minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["2b", "tiny"], default="2b")
    options = parser.parse_args(words)
    sizes = sizes_of(options.size)
    write_table(count(sizes), count_compiled(sizes))


if __name__ == "__main__":
    main()
