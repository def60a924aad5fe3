"""One call of the network: its settings, its batch size and memory, its noise and its text conditions.

Shapes: n tiles given, B tiles of one call, C channels, T tile side (the two sides of a tile may differ).
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from varestorer_cli.core.engine.compiled import CompiledModel
from varestorer_cli.core.engine.tile_check import RELATIVE, TileCheck, named, probe_card
from varestorer_cli.core.engine.tile_model import TileModel, TokenModel
from varestorer_cli.core.engine.transfers import HostCopy, Transfers
from varestorer_cli.core.runtime import autocast_type
from varestorer_models.rounded_weights import with_rounded_weights

_CONDITIONS_KEPT = 16  # as many as the largest call has tiles
_GPU_BATCH_PIXELS = 1024 * 1024
_GPU_LARGEST_BATCH = 16
_DRAWN_AHEAD = 4 * _GPU_LARGEST_BATCH


@dataclass(frozen=True)
class EngineOptions:
    """Settings of a :class:`varestorer_cli.core.engine.engine.RestoreEngine`.

    Attributes:
        device: torch device string.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
        tile: tile side in output pixels, None is the model's.
        overlap: pixels shared by neighbours and blended over; None is an eighth of the native tile, or a sixteenth
            where the model takes tiles of several sides.
        batch: tiles per call, None chooses by device.
        sampling: None is the model's default.
        color_fix: None is the model's default.
        fidelity: of a model with tokens; 0 = its image, 1 = the pre-restored one.
        seed: of the noise for ``sample``.
        compat: "none", or a key of ``released.COMPAT_MODES``: images are handled as the released script does.
        compile: ``off``, ``on`` or ``auto``, see :mod:`.compiled`.
    """

    device: str = "cpu"
    precision: str = "fp32"
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    sampling: str | None = None
    color_fix: str | None = None
    fidelity: float = 0.0
    seed: int = 0
    compat: str = "none"
    compile: str = "off"


@dataclass(frozen=True)
class PendingCall:
    """A call of the model under way.

    Attributes:
        image: restored tiles (B, 3, T, T), float32, on the device.
        faults: what is wrong with each, on its way to the host.
    """

    image: Tensor
    faults: HostCopy


class Conditions:
    """Text conditions of one model: computed once per text, reused for all tiles, grouped where a call mixes texts.

    Args:
        model: one with a text condition has ``condition(rows)``, which makes it from the features (n, T) of a text, or
            from None; :class:`varestorer_models.restorer.OneStepRestorer` has it.
        device: torch device of the model.
    """

    def __init__(self, model: Any, device: str) -> None:
        self._make = getattr(model, "condition", None)
        self._device = device
        self._rows: dict[str, Tensor] = {}
        self._kept: dict[tuple[str | None, str], Any] = {}

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Make texts known by their features (n, T)."""
        self._rows.update(rows)

    def of(self, texts: Sequence[str | None], precision: str) -> Any:
        """Condition of the tiles of one call: one for all where they share a text, else the kept ones side by side.

        To be called inside the autocast block of the model, which decides the type of the kept keys and values.

        Args:
            texts: text of each tile, one of :meth:`add`; None is the learned null condition.
            precision: names the arithmetic of the call.

        Returns:
            a :class:`varestorer_models.condition.Condition`; None for a model without text.
        """
        if self._make is None:
            return None
        if len(set(texts)) > 1:
            groups = [(text, len(list(tiles))) for text, tiles in groupby(texts)]
            conditions = [self.of([text], precision) for text, _ in groups]
            return conditions[0].grouped(conditions, [count for _, count in groups])
        key = (texts[0], precision)
        condition = self._kept.pop(key, None)
        if condition is None:
            condition = self._make(None if texts[0] is None else self._rows[texts[0]].to(self._device))
        self._kept[key] = condition  # the most recently used is the last to be dropped
        if len(self._kept) > _CONDITIONS_KEPT:
            self._kept.pop(next(iter(self._kept)))
        return condition


class TileInference:
    """Calls one model on batches of tiles; remembers the batch size that fits in memory.

    Args:
        model: the network, on the device, in eval mode.
        options: settings.
        fault: what is wrong with restored tiles; see :func:`varestorer_cli.core.engine.tile_check.fault`.

    Attributes:
        tile: tile side, asked for or native.
        sampling: the sampling in effect.
        model_seconds: seconds spent in calls of the model so far.
        compiled: what is called in the precision of the options: the model with weights in that type, perhaps compiled.
        conditions: text conditions of the model.
        transfers: copies to the device and back.
        model_passes_probe: whether the model restores a plain test image; None = not tried yet.
    """

    def __init__(self, model: TileModel, options: EngineOptions, fault: TileCheck) -> None:
        self.model = model
        self.transfers = Transfers(options.device)
        narrow = autocast_type(options.precision)
        called = model if narrow is None else with_rounded_weights(model, narrow)
        self.compiled = CompiledModel(called, options.device, options.compile)
        self.options = options
        self.fault = fault
        self.tile = options.tile or model.tile
        drawn = isinstance(model, TokenModel)
        self.sampling = str(options.sampling or getattr(model.config, "sampling", "argmax")) if drawn else "argmax"
        self.model_seconds = 0.0
        self.conditions = Conditions(model, options.device)
        self.model_passes_probe: bool | None = None
        self._most_pixels: int | None = None  # of one call; learned from out-of-memory errors
        self._drawing: ThreadPoolExecutor | None = None
        self._drawn: dict[tuple[str, int, int], Future[Tensor]] = {}

    def batch_for(self, sides: tuple[int, int]) -> int:
        """Tiles of these (vertical, horizontal) sides that one call takes."""
        pixels = sides[0] * sides[1]
        gpu = not self.options.device.startswith("cpu")
        chosen = max(1, min(_GPU_LARGEST_BATCH, _GPU_BATCH_PIXELS // pixels)) if gpu else 1
        batch = self.options.batch or chosen
        return batch if self._most_pixels is None else max(1, min(batch, self._most_pixels // pixels))

    def call_size(self, left: int, sides: tuple[int, int]) -> int:
        """Tiles of the next call where so many are waiting: a full batch, or a single one.

        A call that is not full is not filled with copies, so no tile is computed twice and two shapes occur. With one
        tile per call (the default of a CPU) a tile's result depends on nothing else. Which tiles of several share a
        call depends on the images before and after, and the shape of a call decides how the arithmetic rounds.
        """
        batch = self.batch_for(sides)
        return batch if left >= batch else 1

    def halve(self, sides: tuple[int, int]) -> bool:
        """Halve the batch size from now on; False where it is one already."""
        batch = self.batch_for(sides)
        if batch == 1:
            return False
        self._most_pixels = batch // 2 * sides[0] * sides[1]
        return True

    def limit_call(self, pixels: int) -> None:
        """Let no call from now on have more pixels than this, but for a single tile."""
        self._most_pixels = pixels

    def infer(
        self,
        degraded_BCTT: Tensor,
        uniforms: Sequence[Tensor] | None,
        *,
        precision: str,
        texts: Sequence[str | None] | None = None,
    ) -> tuple[Tensor, list[str]]:
        """Call the model and wait for the result; arguments as of :meth:`submit`, result of :meth:`collect`."""
        return self.collect(self.submit(degraded_BCTT, uniforms, precision=precision, texts=texts))

    @property
    def calls_ahead(self) -> int:
        """Calls that may be under way: on a CUDA device one computes while the host works on the one before."""
        return 1 if self.transfers.waits else 2

    def submit(
        self,
        degraded_BCTT: Tensor,
        uniforms: Sequence[Tensor] | None,
        *,
        precision: str,
        texts: Sequence[str | None] | None = None,
    ) -> PendingCall:
        """Begin a call of the model; on a CUDA device it runs, checks included, while the host does something else.

        Args:
            degraded_BCTT: on the device, in [0, 1]; B from :meth:`call_size`, so that few shapes occur.
            uniforms: noise of each tile, or None.
            precision: arithmetic of this call.
            texts: text of each tile; None is the learned null condition for all.

        Returns:
            What :meth:`collect` makes the result of.
        """
        started = time.monotonic()
        noise = self.transfers.to_device(uniforms) if uniforms is not None else None
        with torch.inference_mode(), self._autocast(precision):
            condition = self.conditions.of(texts or [None], precision)
            # tiles that are computed again in float32 need the weights as they are
            model: Any = self.compiled if precision == self.options.precision else self.model
            if not isinstance(self.model, TokenModel):
                out = model(degraded_BCTT)
            else:
                out = model(
                    degraded_BCTT,
                    uniforms=noise,
                    sampling=self.options.sampling,
                    fidelity=self.options.fidelity,
                    color_fix=self.options.color_fix,
                    **({} if condition is None else {"condition": condition}),
                )
        image = out.image_B3TT.float()
        if self.compiled.is_compiled:
            image = image.clone()  # the next call of a CUDA graph writes to the same place
        faults = self.transfers.to_host(self.fault(image, degraded_BCTT))
        self.model_seconds += time.monotonic() - started
        return PendingCall(image, faults)

    def collect(self, call: PendingCall) -> tuple[Tensor, list[str]]:
        """Wait for a call.

        Returns:
            restored tiles (B, 3, T, T), float32, on the device, and what is wrong with each, "" if nothing.
        """
        started = time.monotonic()
        faults = [named(found) for found in call.faults.array().tolist()]
        self.model_seconds += time.monotonic() - started
        return call.image, faults

    def seconds_per_call(self, batch: int, sides: tuple[int, int]) -> float:
        """Seconds of a call of so many tiles of that height and width, from the second of two."""
        gray = torch.full((batch, 3, *sides), 0.5, device=self.transfers.device)
        noise = [self.draw("", 0, 0)] * batch if self.sampling == "sample" else None
        seconds = 0.0
        for _ in range(2):
            started = time.monotonic()
            self.infer(gray, noise, precision=self.options.precision)
            seconds = time.monotonic() - started
        return seconds

    def model_always_fails(self, wrong: str) -> bool:
        """True if the model fails the same check on a plain test image too: the fault is the model's, not the tile's.

        Args:
            wrong: the fault that a tile showed.
        """
        if wrong not in RELATIVE:
            return False
        if self.model_passes_probe is None:
            card = probe_card(self.tile, self.tile, self.transfers.device)
            noise = [self.draw("", 0, 0)] if self.sampling == "sample" else None
            _, (found,) = self.infer(card[None], noise, precision="fp32")
            self.model_passes_probe = not found
        return not self.model_passes_probe

    def draw_ahead(self, key: str, tile: int) -> None:
        """Let a thread draw the noise of a tile's first attempt, while the host does something else."""
        if (key, tile, 0) in self._drawn:
            return
        while len(self._drawn) >= _DRAWN_AHEAD:  # of images that were given up
            self._drawn.pop(next(iter(self._drawn)))
        if self._drawing is None:
            self._drawing = ThreadPoolExecutor(1, "noise")
        self._drawn[key, tile, 0] = self._drawing.submit(self._draw, key, tile, 0)

    def draw(self, key: str, tile: int, attempt: int) -> Tensor:
        """Noise of one tile from (seed, key, tile, attempt), drawn on the CPU: the same on every machine."""
        drawn = self._drawn.pop((key, tile, attempt), None)
        if drawn is not None:
            return drawn.result()
        return self._draw(key, tile, attempt)

    def _draw(self, key: str, tile: int, attempt: int) -> Tensor:
        text = f"{self.options.seed}\0{key}\0{tile}\0{attempt}".encode("utf-8", "surrogateescape")
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return torch.rand(self.uniforms_shape, generator=torch.Generator().manual_seed(seed))

    @property
    def uniforms_shape(self) -> tuple[int, int, int]:
        """Shape of the noise of one tile; without tokens there is none."""
        return self.model.uniforms_shape if isinstance(self.model, TokenModel) else (0, 0, 2)

    def _autocast(self, precision: str) -> AbstractContextManager[Any]:
        kind = autocast_type(precision)
        if kind is None:
            return nullcontext()
        return torch.autocast(torch.device(self.options.device).type, kind)
