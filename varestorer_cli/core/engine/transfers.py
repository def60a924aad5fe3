"""Copies between the host and a device that the host does not wait for.

On a CUDA device both directions go through pinned memory, which PyTorch keeps and hands out again, and are queued with
the kernels. On a CPU the same calls copy at once, so everything between them is the same code. Nothing but what passes
here goes to the device or leaves it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor on its way to the host.

    Args:
        host: where it will lie.
        event: that the device reaches when it does; None if it does already.
    """

    def __init__(self, host: Tensor, event: Any = None) -> None:
        self._host = host
        self._event = event

    @property
    def ready(self) -> bool:
        """Whether it has arrived."""
        return self._event is None or bool(self._event.query())

    def array(self) -> npt.NDArray[Any]:
        """Wait for it; a view of it as an array."""
        if self._event is not None:
            self._event.synchronize()
        out: npt.NDArray[Any] = self._host.numpy()
        return out


class Transfers:
    """Copies to and from one device.

    Args:
        device: torch device string.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    @property
    def on_host(self) -> bool:
        """Whether the device is the host itself."""
        return self.device.type == "cpu"

    @property
    def waits(self) -> bool:
        """Whether the host has to wait for this device's work, call by call; only CUDA devices are ahead of it."""
        return self.device.type != "cuda"

    def to_device(self, values: npt.NDArray[Any] | Sequence[Tensor]) -> Tensor:
        """Copy an array, which may be changed afterwards, or CPU tensors, which are stacked; of the same type."""
        host = self._host_buffer(values)
        if isinstance(values, np.ndarray):
            host.numpy()[...] = values
        else:
            torch.stack(list(values), out=host)
        return host.to(self.device, non_blocking=True)

    def _host_buffer(self, values: npt.NDArray[Any] | Sequence[Tensor]) -> Tensor:
        pinned = self.device.type == "cuda"
        if isinstance(values, np.ndarray):
            dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
            return torch.empty(values.shape, dtype=dtype, pin_memory=pinned)
        return torch.empty((len(values), *values[0].shape), dtype=values[0].dtype, pin_memory=pinned)

    def to_host(self, tensor: Tensor) -> HostCopy:
        """Begin to copy a tensor of the device, which must not be changed on a CPU until the copy is used."""
        if self.device.type != "cuda":
            return HostCopy(tensor.cpu())
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))  # not the current device's: there may be several
        return HostCopy(host, event)
