"""What a run will need, without running it: weights, memory, arithmetic, hours (``--dry-run``).

Networks are built without storage, a step is traced with fake tensors, and the trace is counted. Blocks of a deep
transformer are alike, so two shallow traces tell the cost of every depth; the weights are counted in a full build.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from varestorer_cli.core.training.builder import StageBuilder
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Preset, Recipe, is_divided
from varestorer_cli.core.training.stages import Task
from varestorer_models.layers import Block

Shape = tuple[int, ...]

GPUS: dict[str, tuple[float, int]] = {
    "H200": (989.0, 141),
    "H100 SXM": (989.0, 80),
    "A100": (312.0, 80),
    "L40S": (362.0, 48),
    "L20": (119.5, 48),
    "RTX 4090": (165.0, 24),
}
"""Peak of dense bf16 products in TFLOP/s, and memory in GB, as their makers print them."""
USED = 0.4
"""Share of the peak a training step is assumed to reach."""
_FEATURE_NETWORKS = {"perceptual": 15.3e9, "features": 0.39e9}
"""Multiplications of a loss network at 224 pixels (VGG16, EfficientNet-Lite0); they are not traced."""
_ON_FEATURES = {"balanced_features": "features", "adversarial": "features", "discriminator": "features"}
"""Terms that look at another's network."""

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


_ATTENTION_ON_CPU = {
    _CPU_ATTENTION: _attention,
    _CPU_ATTENTION_BACKWARD: _attention_backward,
}
"""Products of attention as the CPU computes them, which torch's counter knows of GPUs only."""


@dataclass(frozen=True)
class CostEstimate:
    """Needs of one run.

    Attributes:
        weights: by part: (all, trained); what parts share counts in the first one.
        flops: per step, forward and backward, all processes together.
        frozen_bytes, trained_bytes: weights; the trained ones with gradients, optimiser and average.
        activation_bytes: kept for the backward pass by one process.
        steps, batch: of the recipe.
        processes: that share the work.
    """

    weights: Mapping[str, tuple[int, int]]
    flops: float
    frozen_bytes: int
    trained_bytes: int
    activation_bytes: int
    steps: int
    batch: int
    processes: int

    @property
    def trained(self) -> int:
        """Trained weights."""
        return sum(trained for _, trained in self.weights.values())

    @property
    def memory(self) -> int:
        """Bytes one GPU needs."""
        return self.frozen_bytes + self.trained_bytes + self.activation_bytes

    def hours(self, teraflops: float) -> float:
        """Of the whole run on ``processes`` GPUs of that peak."""
        return self.steps * self.flops / (self.processes * teraflops * 1e12 * USED) / 3600

    def lines(self) -> Iterator[str]:
        """The estimate as lines of text."""
        yield f"{'part':<14}{'weights':>16}{'trained':>16}"
        for name, (count, trained) in self.weights.items():
            shared = "" if count else "  (shares the weights of the transformer)"
            yield f"{name:<14}{count:>16,}{trained:>16,}{shared}"
        total = sum(count for count, _ in self.weights.values())
        yield f"{'total':<14}{total:>16,}{self.trained:>16,}  ({self.trained / total:.2%})"
        yield (
            f"memory per GPU: {self.memory / 1e9:.1f} GB (frozen weights {self.frozen_bytes / 1e9:.1f}, trained with "
            f"gradients, optimiser and average {self.trained_bytes / 1e9:.1f}, activations "
            f"{self.activation_bytes / 1e9:.1f}), without the allocator's reserve"
        )
        yield (
            f"arithmetic: {self.flops / 1e12:.4g} TFLOP per step of {self.batch}, "
            f"{self.flops * self.steps:.3g} FLOP in {self.steps} steps"
        )
        processes = f"{self.processes} GPUs" if self.processes > 1 else "one GPU"
        yield f"hours on {processes} at {USED:.0%} of the bf16 peak:"
        for name, (peak, gigabytes) in GPUS.items():
            fits = (
                ""
                if self.memory < 0.9 * gigabytes * 1e9
                else f"  (has {gigabytes} GB: needs sharding or smaller parts)"
            )
            yield f"  {name:<10}{self.hours(peak):>10.2f}{fits}"


@dataclass(frozen=True)
class _Traced:
    flops: float
    copies: float  # bytes of weights in the arithmetic's type, whatever the batch
    kept: float  # bytes of activations
    block_flops: float  # forward, of the transformer that learns


def estimate(options: TrainOptions, preset: Preset, recipe: Recipe, processes: int = 1) -> CostEstimate:
    """Cost of a run, before it is started.

    Args:
        options: of the run; nothing on the disk is read.
        preset: sizes.
        recipe: the stage's, with the options' changes.
        processes: GPUs that share each batch.
    """
    recipe = _without_networks(recipe)
    divided = is_divided(options, preset, processes)
    weights = _weights(options, preset, recipe, divided)
    part = -(-recipe.batch // (processes * options.accumulate))
    depth = preset.teacher.depth
    recompute = preset.large if options.recompute is None else options.recompute
    shallow, deeper = (_trace(options, _with_depth(preset, d), recipe) for d in (2, 3))
    block = deeper.kept - shallow.kept

    def at_depth(low: float, high: float) -> float:
        return low + (depth - 2) * (high - low)

    flops = at_depth(shallow.flops, deeper.flops) + _network_flops(options, preset, recipe)
    kept = at_depth(shallow.kept, deeper.kept)
    if recompute and depth > 1:  # every block keeps its input, one at a time is whole
        positions = preset.tokenizer.schedule.length
        positions += preset.tokenizer.schedule.latent_length if preset.restorer.extra_block else 0
        kept += (depth - 1) * (4 * positions * preset.teacher.width - block)
        flops += (depth - 1) * (deeper.block_flops - shallow.block_flops)
    shares = {name: processes if divided and name in ("transformer", "teacher") else 1 for name in weights}
    return CostEstimate(
        weights,
        flops * recipe.batch,
        sum(4 * (count - trained) // shares[name] for name, (count, trained) in weights.items()),
        sum(4 * trained * 5 // shares[name] for name, (_, trained) in weights.items()),  # gradient, moments, average
        int(at_depth(shallow.copies, deeper.copies) + kept * part),
        recipe.steps,
        recipe.batch,
        processes,
    )


def _with_depth(preset: Preset, depth: int) -> Preset:
    return replace(preset, teacher=replace(preset.teacher, depth=depth))


def _without_networks(recipe: Recipe) -> Recipe:
    """The recipe with l1 in place of image losses that load a network from the disk; gradients take the same way.

    Guidance needs texts, which a plan has not: the teacher's second pass is left out.
    """
    losses = {
        name: weight for name, weight in recipe.losses.items() if name not in {**_FEATURE_NETWORKS, **_ON_FEATURES}
    }
    if len(losses) < len(recipe.losses):
        losses["l1"] = 1.0
    return replace(recipe, losses=losses, variant=replace(recipe.variant, guidance=1.0))


def _network_flops(options: TrainOptions, preset: Preset, recipe: Recipe) -> float:
    """FLOP of the loss networks per image: forward for result and reference, backward to the result."""
    asked = {**preset.recipes[options.stage].losses, **options.losses}
    networks = {_ON_FEATURES.get(name, name) for name, weight in asked.items() if weight}
    multiplications = sum(count for name, count in _FEATURE_NETWORKS.items() if name in networks)
    return 3 * 2 * multiplications * (recipe.patch / 224) ** 2


def _weights(options: TrainOptions, preset: Preset, recipe: Recipe, divided: bool) -> dict[str, tuple[int, int]]:
    """All and trained weights by part; those that parts share count in the first one."""
    with torch.device("meta"):
        modules = _modules(replace(_builder(options, preset, recipe), divided=divided))
    seen: set[int] = set()
    return {name: _count(module, seen) for name, module in modules.items()}


def _builder(options: TrainOptions, preset: Preset, recipe: Recipe) -> StageBuilder:
    generator = torch.Generator().manual_seed(options.seed)
    plain = replace(options, init=None)
    return StageBuilder(plain, preset, recipe, torch.device("cpu"), None, generator, fresh=True)


def _modules(builder: StageBuilder) -> dict[str, nn.Module]:
    task, _ = builder.build()
    modules = dict(task.components())
    teacher = getattr(task, "teacher", None)
    if isinstance(teacher, nn.Module):
        modules["teacher"] = teacher
    for name in ("temperature", "critic", "hints"):
        extra = getattr(task, name, None)
        if isinstance(extra, nn.Module):
            modules[name] = extra
    return modules


def _count(module: nn.Module, seen: set[int]) -> tuple[int, int]:
    parameters = [p for p in module.parameters() if id(p) not in seen]
    seen |= {id(p) for p in parameters}
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _trace(options: TrainOptions, preset: Preset, recipe: Recipe) -> _Traced:
    """Count one image's forward and backward pass in bf16."""
    sizes = {"copies": 0.0, "kept": 0.0}
    seen: set[int] = set()
    alive: list[Tensor] = []  # a freed storage's number would be given to the next one

    with FakeTensorMode(), FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU) as counter:
        with torch.device("meta"):
            task, _ = _builder(options, preset, recipe).build()
        _fake(_task_modules(task))
        spent = _count_blocks(task, counter)
        parameters = [p for module in _task_modules(task) for p in module.parameters()]
        seen |= {p.untyped_storage()._cdata for p in parameters}
        shapes = {tuple(p.shape) for p in parameters if p.dim() > 1}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                alive.append(tensor)
                copy = tuple(tensor.shape) in shapes or tuple(tensor.shape)[::-1] in shapes
                sizes["copies" if copy else "kept"] += storage.nbytes()
            return tensor

        side, scale = recipe.patch, preset.restorer.scale
        sharp = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        small = torch.zeros(1, 3, side // scale, side // scale, dtype=torch.uint8)
        batch = PairBatch(sharp, small, torch.zeros(1, dtype=torch.int64))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16):
                terms = task.terms(batch, torch.Generator())
            total = torch.stack([terms[name].float() for name in recipe.losses if name in terms]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return _Traced(float(counter.get_total_flops()), sizes["copies"], sizes["kept"], sum(spent))


def _count_blocks(task: Task, counter: FlopCounterMode) -> list[float]:
    """FLOP of the forward passes of the trained blocks, one entry per block; filled while they run."""
    spent: list[float] = []
    before: list[float] = []

    def start(*_: object) -> None:
        before.append(counter.get_total_flops())

    def stop(*_: object) -> None:
        spent.append(counter.get_total_flops() - before.pop())

    for module in task.trained.modules():
        if isinstance(module, Block):
            module.register_forward_pre_hook(start)
            module.register_forward_hook(stop)
    return spent


def _fake(modules: Iterable[nn.Module]) -> None:
    """Fake tensors on the CPU, which know of autocast, in place of those on the meta device, which do not."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the one before: a freed one's number would be given again

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = tensor, nn.Parameter(empty, tensor.requires_grad) if parameter else empty
        return made[id(tensor)][1]

    for module in modules:
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    tensors[name] = None if tensor is None else fake(tensor)  # type: ignore[assignment]


def _task_modules(task: object) -> Iterator[nn.Module]:
    for value in vars(task).values():
        if isinstance(value, nn.Module):
            yield value
