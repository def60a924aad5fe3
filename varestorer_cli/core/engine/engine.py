"""Array in, restored array out: batches of tiles through the model, again where they fail. Knows no file and no path.

Shapes: B tiles of a batch, T tile side.

How a picture becomes tiles, and tiles a picture, is the business of its plan (:mod:`core.plans`). The result array
belongs to the caller, who may keep it on disk.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varestorer_cli.core.engine.blending import EvenPlan, Floats, PicturePlan
from varestorer_cli.core.engine.inference import Conditions
from varestorer_cli.core.engine.released import HANDLINGS
from varestorer_cli.core.engine.tile_check import RELATIVE, fault, probe_card
from varestorer_cli.core.engine.tilerun import TileRun, TileTooLargeError
from varestorer_cli.core.engine.tiling import TileGrid, fewest_tiles
from varestorer_cli.core.errors import OutOfMemoryError, UsageError
from varestorer_cli.core.image.resample import Pixels, to_depth
from varestorer_cli.core.runtime import autocast_type

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Any]


class TileModel(Protocol):
    """What the engine needs of a model; :class:`varestorer_models.restorer.OneStepRestorer` has it.

    A model that works on several tile sides lists them in ``tile_sides``, its native one (``tile``) first; a tile may
    have two different ones of them. ``config.sampling`` is its default sampling, ``config.upscale_filter`` (where
    present) the filter that it was trained with. A model with a text condition has ``condition(rows)``, which makes it
    from the features (n, T) of a text, or from None; it is then called with ``condition``.
    """

    @property
    def tile(self) -> int:
        """Preferred tile side in output pixels."""

    @property
    def uniforms_shape(self) -> tuple[int, int, int]:
        """Noise of one tile."""

    @property
    def config(self) -> Any:
        """The model's own settings."""

    def __call__(
        self,
        degraded_B3TT: Tensor,
        *,
        uniforms: Tensor | None = None,
        sampling: Any = None,
        fidelity: float = 1.0,
        color_fix: Any = None,
    ) -> Any:
        """Restore tiles; returns an object with ``image_B3TT``."""


@dataclass(frozen=True)
class EngineOptions:
    """Settings of a :class:`RestoreEngine`.

    Attributes:
        device: torch device string.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
        tile: tile side in output pixels, None is the model's.
        overlap: pixels shared by neighbours and blended over; None is an eighth of the native
            tile, or a sixteenth where the model takes tiles of several sides.
        batch: tiles per call, None chooses by device.
        sampling: None is the model's default.
        color_fix: None is the model's default.
        fidelity: 0 = pre-restored, 1 = model.
        seed: of the noise for ``sample``.
        compat: "none", or a key of ``core.released.HANDLINGS``: pictures are handled as the released script does.
    """

    device: str = "cpu"
    precision: str = "fp32"
    tile: int | None = None
    overlap: int | None = None
    batch: int | None = None
    sampling: str | None = None
    color_fix: str | None = None
    fidelity: float = 1.0
    seed: int = 0
    compat: str = "none"


@dataclass(frozen=True)
class Restored:
    """One restored picture.

    Attributes:
        image: (H, W, 3), in the type asked for.
        tiles: tiles it was made of.
        retries: tiles that were computed again because their first result was unusable.
        tile: longer side of the tiles used.
        batch: tiles per call at the end.
        split: what an out-of-memory error changed for this picture, "" if nothing.
        precision: arithmetic that was used; "bf16+fp32" where tiles were computed again in fp32.
        unchecked: the model's tiles cannot be compared with their inputs: it spoils even a plain test picture.
    """

    image: Any
    tiles: int
    retries: int
    tile: int
    batch: int
    split: str
    precision: str
    unchecked: bool = False


class RestoreEngine:
    """Restores arrays with one model; remembers the batch and the tile that fit in memory.

    Args:
        model: the restorer, on the device, in eval mode.
        options: settings.

    Raises:
        UsageError: a tile the model does not work on, or an overlap above half a tile.
    """

    def __init__(self, model: TileModel, options: EngineOptions) -> None:
        self.model = model
        self._handling = HANDLINGS.get(options.compat)
        self.fault = fault if self._handling is None else self._handling.fault
        if self._handling is not None:
            options = replace(
                options,
                sampling=options.sampling or self._handling.sampling,
                color_fix=options.color_fix or self._handling.color_fix,
            )
        self.options = options
        self.sampling = str(options.sampling or getattr(model.config, "sampling", "argmax"))
        self.tile = options.tile or model.tile
        self._sides = tuple(getattr(model, "tile_sides", ())) or (model.tile,)
        self._filter: str = getattr(model.config, "upscale_filter", "bicubic")
        # Tiles begin at whole pixels of the degraded picture, as in training: elsewhere the bundled model loses 0.03 dB
        # (up to 0.2), and tiles that begin between differ where they are blended.
        self._step = int(getattr(model.config, "scale", 1))
        if self.sampling == "sample" or self._handling is not None:
            self._sides = (model.tile,)  # noise has the shape of native tiles
        if self.tile not in self._sides:
            raise UsageError(f"--tile {self.tile}: this model works on tiles of {_listed(self._sides)}; leave it out")
        overlap = options.overlap if options.overlap is not None else self._shares(self.tile)[0]
        if overlap > self.tile // 2:
            raise UsageError(f"--overlap {overlap}: at most half a tile is possible, {self.tile // 2} here")
        self._overlap = overlap
        # Learned from out-of-memory errors, for all pictures that follow.
        self._largest_side = max(self._sides)
        self._most_pixels: int | None = None
        self._faithful: bool | None = None  # unknown until a tile comes out unlike its input
        self.model_seconds = 0.0  # spent in calls of the model so far
        self.conditions = Conditions(model, options.device)

    @property
    def compatible(self) -> bool:
        """Whether pictures are handled as the released script does."""
        return self._handling is not None

    @property
    def overlap(self) -> int:
        """Least number of pixels that neighbouring tiles share."""
        return self._overlap

    def batch_for(self, sides: tuple[int, int]) -> int:
        """Tiles of these sides that one call takes."""
        pixels = sides[0] * sides[1]
        gpu = not self.options.device.startswith("cpu")
        batch = self.options.batch or (max(1, min(16, 1024 * 1024 // pixels)) if gpu else 1)
        return batch if self._most_pixels is None else max(1, min(batch, self._most_pixels // pixels))

    def grid(self, width: int, height: int) -> TileGrid:
        """Tiles for an output of this size.

        Where the model takes several sides and none was asked for, those are chosen that need the fewest tiles.
        """
        possible = [side for side in self._sides if side <= self._largest_side]
        native = self.tile if self.tile in possible else max(possible)
        sides = [native] if self.options.tile else sorted(side for side in possible if side >= native)
        overlap, ramp = self._shares(native)
        if self.options.overlap is not None:
            overlap = ramp = min(self._overlap, native // 2)
        chosen = fewest_tiles(height, sides, overlap), fewest_tiles(width, sides, overlap)
        return TileGrid.cover(height, width, chosen, overlap, ramp, self._step)

    def _shares(self, native: int) -> tuple[int, int]:
        """Least overlap and widest blend of tiles of this side, where none was asked for."""
        # A model that takes several sides fits them to the picture, and a sixteenth of its tile is enough: 16 pixels
        # from the border the bundled model's result is off by 0.5 of 255 levels (8 at the border, 0.3 anywhere
        # inside). That costs 11 % less than an eighth. A model of one fixed side promises nothing of the kind.
        if self._handling is not None:
            return native // self._handling.overlap_share, native // self._handling.overlap_share
        fitted = len(self._sides) > 1 and not self.options.tile
        return native // (16 if fitted else 8), native // 8

    def restore(
        self,
        picture: Pixels,
        size: tuple[int, int],
        *,
        key: str = "",
        text: str | None = None,
        dtype: npt.DTypeLike = np.float32,
        allocate: Allocate = np.zeros,
        on_tiles: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Restored:
        """Restore one picture.

        Args:
            picture: (H, W, 3) RGB; uint8, uint16, or float32 in [0, 1].
            size: (width, height) of the result.
            key: seeds the noise; the same key and seed give the same result.
            text: one that ``conditions`` knows; None is the model's learned null condition.
            dtype: uint8, uint16 or float32 ([0, 1]).
            allocate: makes the result array from shape and type.
            on_tiles: told (done, all) tiles as they are finished.
            should_stop: asked between batches.

        Raises:
            InputError: a tile stays unusable (see :mod:`core.tilecheck`) in fp32 too.
            OutOfMemoryError: one tile of the smallest size does not fit.
            InterruptedRunError: ``should_stop`` said so.
        """
        image = allocate((size[1], size[0], 3), dtype)
        first: tuple[TileGrid, int] | None = None
        while True:
            plan = self.plan(picture, size)
            grid = plan.grid
            first = first or (grid, self.batch_for(grid.sides))
            run = TileRun(self, plan, key, text, on_tiles, should_stop)
            try:
                for top, left, block in plan.blocks(run.restored):
                    height, width = block.shape[:2]
                    image[top : top + height, left : left + width] = to_depth(block, dtype)
            except TileTooLargeError as error:
                self._shrink(grid.sides, str(error))
                continue
            batch = self.batch_for(grid.sides)
            changes = (("batch", first[1], batch), ("tile", max(first[0].sides), max(grid.sides)))
            split = ", ".join(f"{name} {a}->{b}" for name, a, b in changes if a != b)
            precision = self.options.precision
            if run.retries and precision != "fp32":
                precision += "+fp32"
            unchecked = self._faithful is False
            return Restored(image, len(grid), run.retries, max(grid.sides), batch, split, precision, unchecked)

    def plan(self, picture: Pixels, size: tuple[int, int]) -> PicturePlan:
        """How this picture, restored to (width, height), becomes tiles and is put together again."""
        if self._handling is not None:
            return self._handling.plan(picture, size, self.tile, self._overlap)
        return EvenPlan(picture, self.grid(*size), self._filter)

    def _shrink(self, sides: tuple[int, int], reason: str) -> None:
        """Go on with smaller tiles: three quarters of the side or less, or the next smaller one there is.

        Raises:
            OutOfMemoryError: there is none.
        """
        failed = max(sides)
        smaller = [side for side in self._sides if side < failed]
        if not smaller:
            raise OutOfMemoryError(
                f"one tile of {sides[0]}x{sides[1]} does not fit in the memory of {self.options.device} ({reason}); "
                "use --device cpu, --precision bf16, or a larger machine"
            )
        self._largest_side = max([side for side in smaller if side <= 0.75 * failed] or smaller)
        self._most_pixels = self._largest_side**2

    def halve(self, sides: tuple[int, int]) -> bool:
        """Go on with half as many tiles a call; False where it is one already."""
        batch = self.batch_for(sides)
        if batch == 1:
            return False
        self._most_pixels = batch // 2 * sides[0] * sides[1]
        return True

    def infer(
        self,
        degraded: Floats,
        uniforms: Sequence[Tensor] | None,
        *,
        precision: str,
        texts: Sequence[str | None] | None = None,
    ) -> Floats:
        """One call of the model, always with a full batch: the last tiles are repeated to fill it.

        Args:
            degraded: (n, T, T, 3), n at most the batch size; the two sides may differ.
            uniforms: noise of each tile, or None.
            precision: arithmetic of this call.
            texts: text of each tile; None is the learned null condition for all.
        """
        started = time.monotonic()
        n, batch = len(degraded), self.batch_for((degraded.shape[1], degraded.shape[2]))
        fill = [*range(n), *([n - 1] * (batch - n))]
        tiles = torch.from_numpy(np.ascontiguousarray(degraded[fill].transpose(0, 3, 1, 2))).to(self.options.device)
        noise = torch.stack([uniforms[i] for i in fill]).to(self.options.device) if uniforms is not None else None
        with torch.inference_mode(), self._autocast(precision):
            condition = self.conditions.of([texts[i] for i in fill] if texts is not None else [None], precision)
            out = self.model(
                tiles,
                uniforms=noise,
                sampling=self.options.sampling,
                fidelity=self.options.fidelity,
                color_fix=self.options.color_fix,
                **({} if condition is None else {"condition": condition}),
            )
        image: Floats = out.image_B3TT[:n].float().cpu().numpy().transpose(0, 2, 3, 1)
        self.model_seconds += time.monotonic() - started
        return image

    def seconds_per_pixel(self) -> float:
        """Seconds of one pixel of a tile, from the second of two full calls with native tiles."""
        side = self.tile
        batch = self.batch_for((side, side))
        gray = np.full((batch, side, side, 3), 0.5, np.float32)
        noise = [self.draw("", 0, 0)] * batch if self.sampling == "sample" else None
        seconds = 0.0
        for _ in range(2):
            started = time.monotonic()
            self.infer(gray, noise, precision=self.options.precision)
            seconds = time.monotonic() - started
        return seconds / (batch * side * side)

    def is_its_nature(self, wrong: str) -> bool:
        """Whether this fault of a tile says nothing of the tile: the model does the same to a plain test picture."""
        if wrong not in RELATIVE:
            return False
        if self._faithful is None:
            card = probe_card(self.tile, self.tile)
            noise = [self.draw("", 0, 0)] if self.sampling == "sample" else None
            self._faithful = self.fault(self.infer(card[None], noise, precision="fp32")[0], card) is None
        return not self._faithful

    def _autocast(self, precision: str) -> AbstractContextManager[Any]:
        kind = autocast_type(precision)
        if kind is None:
            return nullcontext()
        return torch.autocast(torch.device(self.options.device).type, kind)

    def draw(self, key: str, tile: int, attempt: int) -> Tensor:
        """Noise of one tile from (seed, key, tile, attempt), drawn on the CPU: the same on every machine."""
        text = f"{self.options.seed}\0{key}\0{tile}\0{attempt}".encode("utf-8", "surrogateescape")
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return torch.rand(self.model.uniforms_shape, generator=torch.Generator().manual_seed(seed))


def _listed(sides: Sequence[int]) -> str:
    if len(sides) > 3:
        return f"{sides[0]} to {sides[-1]} pixels"
    return f"{', '.join(str(side) for side in sides)} pixels"
