"""Exponential moving average of the trained weights; the average is what is validated, shown and kept."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from varestorer_cli.core.training.fsdp import local


class WeightAverage:
    """Average of a module's trainable weights, of each process's pieces of them where they are divided.

    Args:
        module: whose parameters with ``requires_grad`` are averaged.
        decay: long-run decay; early on min(decay, (1 + t) / (10 + t)), so that the start is forgotten quickly.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights; call once after each optimiser step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = [local(tensor) for tensor in self.average.values()]
        torch._foreach_lerp_(averages, [local(p) for p in self._parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the module carries the average; afterwards its own weights again."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(kept)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "average": self.average}

    def load(self, steps: int, average: dict[str, Tensor]) -> None:
        """Restore from a checkpoint."""
        self.steps = steps
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
