"""Models without weights: each obeys the contract of the network in ``restorer.py`` as far as the engine needs it.

For tests whose subject is not the model: files, faults, order, cost. Each fails in one way, or costs nothing, so that
hundreds of runs are seconds. What a model with tokens does is tested with the bundled ``mini``.
"""

import hashlib
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass
class FakeModel:
    """Returns its input, at no cost; subclasses misbehave. Counts its calls and remembers what it was given."""

    tile: int = 32
    tile_sides: tuple[int, ...] = ()
    small_sides: tuple[int, ...] = ()
    sampling: str = "argmax"
    uniforms_shape: tuple[int, int, int] = (5, 4, 2)
    calls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return SimpleNamespace(sampling=self.sampling)

    def __call__(self, degraded_B3TT: Tensor, **settings: Any) -> Any:
        assert degraded_B3TT.ndim == 4 and degraded_B3TT.shape[1] == 3
        assert set(degraded_B3TT.shape[2:]) <= {*(self.tile_sides or (self.tile,)), *self.small_sides}
        assert degraded_B3TT.dtype == torch.float32
        assert float(degraded_B3TT.min()) >= 0 and float(degraded_B3TT.max()) <= 1
        autocast = torch.is_autocast_enabled("cpu")
        self.calls.append({"shape": tuple(degraded_B3TT.shape), "autocast": autocast, **settings})
        image = self.restore(degraded_B3TT, settings)
        return SimpleNamespace(image_B3TT=image, prerestored_B3TT=degraded_B3TT)

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        return degraded


class Noisy(FakeModel):
    """Adds its uniforms' mean to the image, so that noise shows in the pixels."""

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        noise = settings["uniforms"]
        assert noise is not None and tuple(noise.shape[1:]) == self.uniforms_shape
        return (degraded + noise[:, 0, 0, 0].view(-1, 1, 1, 1) * 0.2 - 0.1).clamp(0, 1)


@dataclass
class Faulty(FakeModel):
    """Returns ``fault`` (nan, constant, black) for the first ``times`` calls, or for ever where it is None."""

    fault: str = "nan"
    times: int | None = None

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        if self.times is not None and len(self.calls) > self.times:
            return degraded
        value = {"nan": float("nan"), "constant": 0.5, "black": 0.001}[self.fault]
        return torch.full_like(degraded, value)


@dataclass
class Hungry(FakeModel):
    """Out of memory above ``fits`` pixels per call."""

    fits: int = 0
    words: str = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        if degraded.shape[0] * degraded.shape[2] * degraded.shape[3] > self.fits:
            raise RuntimeError(self.words)
        return degraded


@dataclass
class Slow(FakeModel):
    """Takes its time."""

    seconds: float = 0.05

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        time.sleep(self.seconds)
        return degraded


class Broken(FakeModel):
    """Has a bug."""

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        raise ZeroDivisionError("division by zero")


def loaded(model: Any, name: str = "fake") -> Any:
    """What ``core.checkpoint.load_restorer`` would return."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return SimpleNamespace(restorer=model, sha256=digest, name=name, metadata={}, why="")
