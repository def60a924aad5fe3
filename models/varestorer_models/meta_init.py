"""Modules on the "meta" device (names and shapes, no memory), whose weights are given to them afterwards."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)

# Operations of the initialisers for which the "meta" device imports hundreds of modules (seconds).
_INITIALISERS = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "log_"})


def on_meta_device(make: Callable[[], Module]) -> Module:
    """A module on the "meta" device: names and shapes, no values; load its state dict with ``assign=True``."""
    with _WithoutInitialisation(), torch.device("meta"):
        return make()


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves fresh weights as they are: they are replaced at once."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIALISERS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
