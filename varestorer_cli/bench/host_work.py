"""``make bench-host``: what the host does in line with the device per tile of full size, measured without a GPU.

The model costs nothing and the device is a fake: an operation on its tensors is computed once and then answered with
the same tensor again, so it costs the host what its own Python costs, and ``--launch`` microseconds to begin it, which
stand for PyTorch and the driver; what the answering itself costs is measured and taken off. What passes between host
and device is copied in memory as into pinned buffers. A clock of the device's own, 35 ms per tile, says how long such a
device would wait for the host. Nothing here is a test of speed; absolute times belong to the machine.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.engine.transfers import HostCopy, Transfers

_TILE = 512
_VIEW = 2e-6  # seconds of a view
_POSITIONS, _BITS = 2521, 32


class CostlessModel:
    """Gives its input back; draws noise of the full-size model where it samples."""

    tile = _TILE
    uniforms_shape = (_POSITIONS, _BITS, 2)

    def __init__(self, sampling: str = "argmax") -> None:
        self.config = SimpleNamespace(sampling=sampling, upscale_filter="lanczos", scale=4)

    def __call__(self, degraded_B3TT: Tensor, **settings: Any) -> Any:
        """Restore nothing."""
        return SimpleNamespace(image_B3TT=degraded_B3TT)


class Answered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes each operation once per shape of its arguments; later ones get the same tensors for an answer.

    Attributes:
        count: operations that a device would have to begin: views are none.
        views: those.
        seconds: spent in here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.views = 0
        self.seconds = 0.0
        self._answers: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The answer."""
        if kwargs and kwargs.get("generator") is not None:  # noise is the host's own work
            return func(*args, **kwargs)
        started = time.thread_time()
        out = self._answer(func, args, kwargs or {})
        self.seconds += time.thread_time() - started
        return out

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        returns = func._schema.returns
        if returns and returns[0].alias_info is not None:
            if not returns[0].alias_info.is_write:
                self.views += 1
                return func(*args, **kwargs)
            self.count += 1
            return args[0]
        self.count += 1
        key = (func, _shapes(args), _shapes(tuple(kwargs.values())))
        if key not in self._answers:
            self._answers[key] = func(*args, **kwargs)
        return self._answers[key]


def _shapes(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.shape
    if isinstance(values, list | tuple):
        return tuple(_shapes(one) for one in values)
    return values


class FakeDevice(Transfers):
    """Transfers to a device that is none, with a clock of its own.

    Args:
        seconds_per_tile: that a call takes on the device.
        launch: seconds in which the host begins an operation.

    Attributes:
        answers: in place of computing; a context of the work to measure.
        waited: seconds that the device had nothing to do between its first call and its last.
        bytes_in: that went to the device.
        bytes_out: that came back.
    """

    def __init__(self, seconds_per_tile: float = 0.035, launch: float = 8e-6) -> None:
        super().__init__("cpu")
        self.answers = Answered()
        self.seconds_per_tile, self.launch = seconds_per_tile, launch
        self._answering = _answering()
        self._buffers: dict[Any, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Forget what was counted."""
        self.answers.count, self.answers.views, self.answers.seconds = 0, 0, 0.0
        self.waited = 0.0
        self.bytes_in = self.bytes_out = 0
        self._skipped = 0.0  # seconds the host waited for the device on its clock, not on ours
        self._free: float | None = None

    @property
    def waits(self) -> bool:
        """It works ahead of the host."""
        return False

    @property
    def host(self) -> float:
        """Seconds of host work so far."""
        answers = self.answers
        passes = answers.count * (self.launch - self._answering) + answers.views * (_VIEW - self._answering)
        return time.thread_time() - answers.seconds + passes

    @property
    def now(self) -> float:
        """Seconds of host work so far and of waiting for the device."""
        return self.host + self._skipped

    def to_device(self, values: npt.NDArray[Any] | Sequence[Tensor]) -> Tensor:
        """Copy on the host, as into a pinned buffer."""
        with _disable_current_modes():
            host = super().to_device(values)
        self._buffers[tuple(host.shape), host.dtype] = host
        self.bytes_in += host.nbytes
        self.answers.count += 1
        return host

    def _host_buffer(self, values: npt.NDArray[Any] | Sequence[Tensor]) -> Tensor:
        """One per shape, kept as pinned ones are; what was in it does not matter here."""
        host = super()._host_buffer(values)
        return self._buffers.get((tuple(host.shape), host.dtype), host)

    def to_host(self, tensor: Tensor) -> HostCopy:
        """The tensor itself: its copy is the device's work."""
        self.bytes_out += tensor.nbytes
        self.answers.count += 1
        return HostCopy(tensor, _Reached(self, self._free or 0.0))

    def compute(self, tiles: int) -> None:
        """Put a call in the device's line."""
        begin = self.now if self._free is None else max(self.now, self._free)
        if self._free is not None:
            self.waited += begin - self._free
        self._free = begin + tiles * self.seconds_per_tile

    def wait_until(self, moment: float) -> None:
        """Let the host wait for a moment of the device's clock."""
        self._skipped += max(0.0, moment - self.now)


def _answering() -> float:
    """Seconds that an answer takes on its way there and back."""
    answers, one = Answered(), torch.zeros(1, 3, 512, 512)
    with answers:
        for count in (100, 2000):
            started = time.thread_time() - answers.seconds
            for _ in range(count):
                torch.clamp(one, 0, 1)
            spent = time.thread_time() - answers.seconds - started
    return spent / count


class _Reached:
    """A CUDA event on the clock of a :class:`FakeDevice`."""

    def __init__(self, device: FakeDevice, moment: float) -> None:
        self._device, self._moment = device, moment

    def query(self) -> bool:
        """Whether the device is there."""
        return self._device.now >= self._moment

    def synchronize(self) -> None:
        """Wait for it."""
        self._device.wait_until(self._moment)


def fake_engine(device: FakeDevice, batch: int, sampling: str = "argmax") -> RestoreEngine:
    """An engine with a costless model on this device."""
    engine = RestoreEngine(CostlessModel(sampling), EngineOptions(device="cpu", batch=batch))
    inference = engine.inference
    inference.transfers = device
    submit = inference.submit

    def submitted(degraded: Tensor, *words: Any, **settings: Any) -> Any:
        device.compute(len(degraded))
        return submit(degraded, *words, **settings)

    inference.submit = submitted  # type: ignore[assignment,method-assign]
    return engine


def measure(
    side: int,
    images: int,
    batch: int,
    *,
    sampling: str = "argmax",
    launch: float = 8e-6,
) -> tuple[int, float, FakeDevice]:
    """Restore images of so many pixels a side at factor 4, from one queue.

    Args:
        side: of the degraded images.
        images: how many.
        batch: tiles per call.
        sampling: of the model; ``sample`` draws noise.
        launch: see :class:`FakeDevice`.

    Returns:
        tiles, seconds of host work per tile, and the device.
    """
    device = FakeDevice(launch=launch)
    engine = fake_engine(device, batch, sampling)
    source = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    room = np.zeros((side * 4, side * 4, 3), np.uint8)
    waiting: Iterator[int]
    queued: list[Any] = []

    def more() -> bool:
        number = next(waiting, None)
        if number is not None:
            size = (side * 4, side * 4)
            task = ImageTask(source, size, key=str(number), dtype=np.uint8, allocate=lambda *_: room)
            queued.append(queue.add(task))
        return number is not None

    queue = engine.queue(more)
    with device.answers:
        for _ in range(2):  # what is computed once is computed in the first
            device.restart()
            waiting, tiles, started = iter(range(images)), 0, device.host
            while queued or more():
                tiles += queued.pop(0).result().tiles
            spent = device.host - started
    return tiles, spent / tiles, device


_HEAD = (
    "images",
    "noise",
    "batch",
    "tiles",
    "operations per tile",
    "host ms per tile",
    "device waits",
    "kB in per tile",
    "out",
)


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--launch", type=float, default=8.0, help="microseconds to begin an operation of the device")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--images", type=int, default=32, help="of one tile")
    options = parser.parse_args(words)
    write: Callable[[str], object] = sys.stdout.write
    write(f"beside 35 ms of the device per tile, {options.launch:g} us to begin an operation; fastest rounds\n\n")
    write(f"| {' | '.join(_HEAD)} |\n{'|---' * len(_HEAD)}|\n")
    torch.set_num_threads(1)
    for side, images in ((1024, 1), (_TILE // 4, options.images)):
        for sampling in ("argmax", "sample"):
            for batch in options.batches:
                rounds = [
                    measure(side, images, batch, sampling=sampling, launch=options.launch / 1e6)
                    for _ in range(options.rounds)
                ]
                tiles, spent, device = min(rounds, key=lambda one: one[1])
                share = device.waited / (device.waited + tiles * device.seconds_per_tile)
                cells = (
                    f"{images} of {side * 4}x{side * 4}",
                    "yes" if sampling == "sample" else "no",
                    batch,
                    tiles,
                    f"{device.answers.count / tiles:.0f}",
                    f"{spent * 1000:.2f}",
                    f"{share:.1%}",
                    f"{device.bytes_in / tiles / 1000:.0f}",
                    f"{device.bytes_out / tiles / 1000:.0f}",
                )
                write(f"| {' | '.join(map(str, cells))} |\n")


if __name__ == "__main__":
    main()
