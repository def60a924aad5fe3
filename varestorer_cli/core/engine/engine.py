"""Image array in, restored array out: batches of tiles through the model, again where a tile fails its check.

How an image becomes tiles, and tiles an image, is the business of its tiler (:mod:`.blending`, :mod:`.released`); one
call of the model that of :class:`TileInference`. No path and no file is known here: the result array belongs to the
caller, who may keep it on disk.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varestorer_cli.core.engine.blending import BlendedTiler, Floats, Tiler
from varestorer_cli.core.engine.inference import Conditions, EngineOptions, TileInference, TileModel, is_out_of_memory
from varestorer_cli.core.engine.released import COMPAT_MODES, OneSequence
from varestorer_cli.core.engine.tile_check import fault
from varestorer_cli.core.engine.tiling import Axis, Tile, TileGrid, fewest_tiles
from varestorer_cli.core.errors import InputError, InterruptedRunError, OutOfMemoryError, UsageError
from varestorer_cli.core.image.resample import Pixels, to_depth

Call = tuple[int, tuple[int, int]]
"""Tiles of one call of the model, and their (vertical, horizontal) sides."""
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Any]


@dataclass(frozen=True)
class Restored:
    """One restored image.

    Attributes:
        image: (H, W, 3), in the type asked for.
        tiles: tiles it was made of.
        retries: tiles that were computed again because their first result was unusable.
        tile: longer side of the tiles used.
        batch: tiles per call at the end.
        split: what an out-of-memory error changed for this image, "" if nothing.
        precision: arithmetic that was used; "bf16+fp32" where tiles were computed again in fp32.
        unverified: the model's tiles cannot be compared with their inputs: it spoils even a plain test image.
    """

    image: Any
    tiles: int
    retries: int
    tile: int
    batch: int
    split: str
    precision: str
    unverified: bool = False


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
        self._compat = COMPAT_MODES.get(options.compat)
        if self._compat is not None:
            options = replace(
                options,
                sampling=options.sampling or self._compat.sampling,
                color_fix=options.color_fix or self._compat.color_fix,
            )
        self.options = options
        self.inference = TileInference(model, options, fault if self._compat is None else self._compat.fault)
        self.tile = self.inference.tile
        self._sides = tuple(getattr(model, "tile_sides", ())) or (model.tile,)
        self._small_sides = tuple(sorted(getattr(model, "small_sides", ())))
        self._filter: str = getattr(model.config, "upscale_filter", "bicubic")
        # Tiles begin at whole pixels of the degraded image, as in training: elsewhere the bundled model loses 0.03 dB
        # (up to 0.2), and tiles that begin between differ where they are blended.
        self._step = int(getattr(model.config, "scale", 1))
        if self.sampling == "sample" or self._compat is not None:
            self._sides, self._small_sides = (model.tile,), ()  # noise has the shape of native tiles
        if self.tile not in self._sides:
            raise UsageError(f"--tile {self.tile}: this model works on tiles of {_listed(self._sides)}; leave it out")
        overlap = options.overlap if options.overlap is not None else self._shares(self.tile)[0]
        if overlap > self.tile // 2:
            raise UsageError(f"--overlap {overlap}: at most half a tile is possible, {self.tile // 2} here")
        self._overlap = overlap
        self._largest_side = max(self._sides)  # learned from out-of-memory errors, for all images that follow

    @property
    def compatible(self) -> bool:
        """Whether images are handled as the released script does."""
        return self._compat is not None

    @property
    def overlap(self) -> int:
        """Least number of pixels that neighbouring tiles share."""
        return self._overlap

    @property
    def sampling(self) -> str:
        """The sampling in effect."""
        return self.inference.sampling

    @property
    def model_seconds(self) -> float:
        """Seconds spent in calls of the model so far."""
        return self.inference.model_seconds

    @property
    def conditions(self) -> Conditions:
        """Text conditions of the model."""
        return self.inference.conditions

    def batch_for(self, sides: tuple[int, int]) -> int:
        """Tiles of these (vertical, horizontal) sides that one call takes."""
        return self.inference.batch_for(sides)

    def calls(self, grid: TileGrid) -> Counter[Call]:
        """Calls of the model that one image takes: full batches, and the rest tile by tile."""
        full, rest = divmod(len(grid), self.batch_for(grid.sides))
        return Counter({(self.batch_for(grid.sides), grid.sides): full}) + Counter({(1, grid.sides): rest})

    def estimate_seconds(self, calls: Counter[Call]) -> float:
        """Seconds that calls of the model take, from a few that are timed now.

        Timed are a native tile alone, the smallest tile where smaller ones occur, and a full batch of native tiles.
        Between the two sides time is taken as linear in the pixels, above as proportional to them; a batch saves the
        same share at every side.
        """
        if not calls:
            return 0.0
        inference, native = self.inference, self.tile
        alone = inference.seconds_per_call(1, native)
        pixels = native * native
        slope = alone / pixels
        if self._small_sides and any(sides[0] * sides[1] < pixels for _, sides in calls):
            least = self._small_sides[0]
            slope = (alone - inference.seconds_per_call(1, least)) / (pixels - least * least)
        full = self.batch_for((native, native))
        saving = inference.seconds_per_call(full, native) / (full * alone) if any(b > 1 for b, _ in calls) else 1.0
        total = 0.0
        for (batch, sides), count in calls.items():
            area = sides[0] * sides[1]
            seconds = max(0.0, alone + slope * (area - pixels)) if area < pixels else alone * area / pixels
            total += count * seconds * (batch * saving if batch > 1 else 1)
        return total

    def grid(self, width: int, height: int) -> TileGrid:
        """Tiles for an output of this size.

        Where the model takes several sides and none was asked for, those are chosen that need the fewest tiles; an
        image shorter than a native tile gets the smallest side that covers it.
        """
        possible = [side for side in self._sides if side <= self._largest_side]
        native = self.tile if self.tile in possible else max(possible)
        sides = [native] if self.options.tile else sorted(side for side in possible if side >= native)
        overlap, ramp = self._shares(native)
        if self.options.overlap is not None:
            overlap = ramp = min(self._overlap, native // 2)
        small = () if self.options.tile else self._small_sides

        def axis(length: int) -> Axis:
            side = next((side for side in small if length <= side < native), None)
            if side is not None:
                return Axis.split(length, side, 0)  # one tile: nothing is shared
            return Axis.split(length, fewest_tiles(length, sides, overlap), overlap, ramp, self._step)

        return TileGrid(axis(height), axis(width))

    def _shares(self, native: int) -> tuple[int, int]:
        """Least overlap and widest blend of tiles of this side, where none was asked for."""
        # A model that takes several sides fits them to the image, and a sixteenth of its tile is enough: 16 pixels
        # from the border the bundled model's result is off by 0.5 of 255 levels (8 at the border, 0.3 anywhere
        # inside). That costs 11 % less than an eighth. A model of one fixed side promises nothing of the kind.
        if self._compat is not None:
            return native // self._compat.overlap_share, native // self._compat.overlap_share
        fitted = len(self._sides) > 1 and not self.options.tile
        return native // (16 if fitted else 8), native // 8

    def restore(
        self,
        image: Pixels,
        size: tuple[int, int],
        *,
        key: str = "",
        text: str | None = None,
        dtype: npt.DTypeLike = np.float32,
        allocate: Allocate = np.zeros,
        on_tiles: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Restored:
        """Restore one image.

        Args:
            image: (H, W, 3) RGB; uint8, uint16, or float32 in [0, 1].
            size: (width, height) of the result.
            key: seeds the noise; the same key and seed give the same result.
            text: one that ``conditions`` knows; None is the model's learned null condition.
            dtype: uint8, uint16 or float32 ([0, 1]).
            allocate: makes the result array from shape and type.
            on_tiles: called with (done, all) tiles as they are finished.
            should_stop: asked between batches.

        Raises:
            InputError: a tile stays unusable (see :mod:`.tile_check`) in fp32 too.
            OutOfMemoryError: one tile of the smallest size does not fit.
            InterruptedRunError: ``should_stop`` said so.
        """
        result = allocate((size[1], size[0], 3), dtype)
        first: tuple[TileGrid, int] | None = None
        while True:
            tiler = self.tiler(image, size)
            grid = tiler.grid
            first = first or (grid, self.batch_for(grid.sides))
            run = TileRun(self.inference, tiler, key, text, self._sequence(), on_tiles, should_stop)
            try:
                for top, left, block in tiler.blocks(run.restored):
                    height, width = block.shape[:2]
                    result[top : top + height, left : left + width] = to_depth(block, dtype)
            except TileTooLargeError as error:
                self._shrink(grid.sides, str(error))
                continue
            batch = self.batch_for(grid.sides)
            changes = (("batch", first[1], batch), ("tile", max(first[0].sides), max(grid.sides)))
            split = ", ".join(f"{name} {a}->{b}" for name, a, b in changes if a != b)
            precision = self.options.precision
            if run.retries and precision != "fp32":
                precision += "+fp32"
            unverified = self.inference.model_passes_probe is False
            return Restored(result, len(grid), run.retries, max(grid.sides), batch, split, precision, unverified)

    def tiler(self, image: Pixels, size: tuple[int, int]) -> Tiler:
        """How this image, restored to (width, height), becomes tiles and is put together again."""
        if self._compat is not None:
            return self._compat.tiler(image, size, self.tile, self._overlap)
        return BlendedTiler(image, self.grid(*size), self._filter)

    def _sequence(self) -> OneSequence | None:
        """Noise of one image as the released evaluation draws it; None where tiles draw their own."""
        if self._compat is None:
            return None
        return OneSequence(self.options.seed, self.inference.uniforms_shape)

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
        self.inference.limit_call(self._largest_side**2)


class TileTooLargeError(Exception):
    """Even one tile does not fit in memory."""


class TileRun:
    """One pass over the tiles of one image: batches, the check of each tile, and what is computed again.

    Args:
        inference: calls the model.
        tiler: of the image.
        key: seeds the noise.
        text: of the image, or None.
        sequence: noise of the first attempt, None draws it per tile.
        on_tiles: called with (done, all) tiles as they are finished.
        should_stop: asked between batches.

    Attributes:
        retries: tiles that were computed again.
        done: tiles that are finished.
    """

    def __init__(
        self,
        inference: TileInference,
        tiler: Tiler,
        key: str,
        text: str | None,
        sequence: OneSequence | None,
        on_tiles: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.inference = inference
        self.tiler = tiler
        self.grid = tiler.grid
        self.key = key
        self.text = text
        self.on_tiles = on_tiles
        self.should_stop = should_stop
        self.retries = 0
        self.done = 0
        self._sequence = sequence

    def restored(self, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, Floats]]:
        """Tiles with their restored pixels, cut to the image.

        Raises:
            InputError: a tile stays unusable in fp32 too.
            InterruptedRunError: ``should_stop`` said so.
            TileTooLargeError: one tile does not fit in memory.
        """
        at = 0
        while at < len(tiles):
            if self.should_stop is not None and self.should_stop():
                raise InterruptedRunError("stopped")
            chunk = tiles[at : at + self.inference.call_size(len(tiles) - at, self.grid.sides)]
            degraded = np.stack([self.tiler.cut(tile) for tile in chunk])
            restored, shortage = None, ""
            try:
                restored = self._checked(chunk, degraded)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                shortage = str(error).partition("\n")[0]
            if restored is None:  # outside the except block, whose traceback would keep the tensors alive
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if not self.inference.halve(self.grid.sides):
                    raise TileTooLargeError(shortage)
                continue
            at += len(chunk)
            self.done += len(chunk)
            if self.on_tiles is not None:
                self.on_tiles(self.done, len(self.grid))
            for tile, pixels in zip(chunk, restored, strict=True):
                yield tile, pixels[: tile.bottom - tile.top, : tile.right - tile.left]

    def _checked(self, tiles: Sequence[Tile], degraded: Floats) -> list[Floats]:
        """Restored tiles; unusable ones are computed again in fp32 with fresh noise."""
        inference = self.inference
        precision = inference.options.precision
        texts = [self.text] * len(tiles)
        restored = list(inference.infer(degraded, self._noise(tiles, 0), precision=precision, texts=texts))
        for i, tile in enumerate(tiles):
            first = inference.fault(restored[i], degraded[i])
            if first is None or inference.model_always_fails(first):
                continue
            self.retries += 1
            one, noise = degraded[i : i + 1], self._noise([tile], 1)
            again = inference.infer(one, noise, precision="fp32", texts=[self.text])[0]
            wrong = inference.fault(again, degraded[i])
            if wrong is not None and not inference.model_always_fails(wrong):
                raise InputError(
                    f"the model's result for tile {tile.index + 1} of {len(self.grid)} is {wrong}, in fp32 too; "
                    "nothing was written; try another --tile or --model"
                )
            restored[i] = again
        return restored

    def _noise(self, tiles: Sequence[Tile], attempt: int) -> list[Tensor] | None:
        if self.inference.sampling != "sample":
            return None
        if self._sequence is not None and attempt == 0:
            return [self._sequence.draw(tile.index) for tile in tiles]
        return [self.inference.draw(self.key, tile.index, attempt) for tile in tiles]


def _listed(sides: Sequence[int]) -> str:
    if len(sides) > 3:
        return f"{sides[0]} to {sides[-1]} pixels"
    return f"{', '.join(str(side) for side in sides)} pixels"
