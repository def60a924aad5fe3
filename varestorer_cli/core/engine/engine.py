"""Image array in, restored array out: tiles through the model, blended into the result.

A tiler (:mod:`.blending`, :mod:`.released`) cuts an image into tiles and makes the result of them, :class:`SharedCalls`
decides which tiles share a call, :class:`TileInference` makes one call of the model. No path and no file is known here:
the result array belongs to the caller, who may keep it on disk.

Pixels of the degraded image go to the device tile by tile, in their own type; they are upscaled, restored, checked,
blended and rounded to 8 or 16 bits there, and come back once per finished block (see :mod:`.transfers`).
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from varestorer_cli.core.engine.blending import BlendedTiler, Tiler, Upscaling, samples
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import Conditions, EngineOptions, TileInference
from varestorer_cli.core.engine.released import COMPAT_MODES, OneSequence
from varestorer_cli.core.engine.shared_calls import SharedCalls, TileRun, TileTooLargeError
from varestorer_cli.core.engine.tile_check import fault
from varestorer_cli.core.engine.tile_model import TileModel
from varestorer_cli.core.engine.tiling import Axis, TileGrid, fewest_tiles
from varestorer_cli.core.engine.transfers import HostCopy
from varestorer_cli.core.errors import OutOfMemoryError, UsageError
from varestorer_cli.core.image.resample import Pixels

Call = tuple[int, tuple[int, int]]
"""Tiles of one call of the model, and their (vertical, horizontal) sides."""


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
        calls: tiles per call of the calls that its tiles went through, such as "8" or "8+1".
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
    calls: str = ""


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
                compile="off" if options.compile == "auto" else options.compile,
            )
        self.options = options
        self.inference = TileInference(model, options, fault if self._compat is None else self._compat.fault)
        self.tile = self.inference.tile
        self._sides = tuple(getattr(model, "tile_sides", ())) or (model.tile,)
        self._small_sides = tuple(sorted(getattr(model, "small_sides", ())))
        self._margin = int(getattr(model, "border_margin", 0)) if self._compat is None else 0
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
        # Of a model of convolutions alone (its margin says so) several tiles may be shorter than the native one: 768
        # pixels are two tiles of 416, not two of 512.
        shorter = [side for side in self._small_sides if 2 * side >= model.tile] if self._margin else []
        self._several = sorted({*shorter, *self._sides})
        # learned from out-of-memory errors, for all images that follow
        self._largest_side = max(self._sides)
        self._blend_on_host = False

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

    def take_warning(self) -> str:
        """What the user should know and was not told yet, "" if nothing."""
        compiled = self.inference.compiled
        warning, compiled.failure = compiled.failure, ""
        return warning

    def batch_for(self, sides: tuple[int, int]) -> int:
        """Tiles of these (vertical, horizontal) sides that one call takes."""
        return self.inference.batch_for(sides)

    def calls(self, tiles: Mapping[tuple[int, int], int]) -> Counter[Call]:
        """Calls of the model that tiles of these sides take: full ones across images, and the rest tile by tile."""
        calls: Counter[Call] = Counter()
        for sides, count in tiles.items():
            full, rest = divmod(count, self.batch_for(sides))
            calls[self.batch_for(sides), sides] += full
            calls[1, sides] += rest
        return +calls

    def estimate_seconds(self, calls: Counter[Call]) -> float:
        """Seconds that calls of the model take, from a few that are timed now.

        Timed are the largest and the smallest tile that occur, alone, and a full batch of the largest. Between the two
        time is taken as linear in the pixels; a batch saves the same share at every size.
        """
        if not calls:
            return 0.0
        shapes = sorted({sides for _, sides in calls}, key=math.prod)
        least, largest = shapes[0], shapes[-1]
        timed = self.inference.seconds_per_call
        alone, slope, saving = timed(1, largest), 0.0, 1.0
        if math.prod(least) < math.prod(largest):
            slope = (alone - timed(1, least)) / (math.prod(largest) - math.prod(least))
        if any(batch > 1 for batch, _ in calls):
            full = self.batch_for(largest)
            saving = timed(full, largest) / (full * alone) if full > 1 else 1.0
        total = 0.0
        for (batch, sides), number in calls.items():
            seconds = alone - slope * (math.prod(largest) - math.prod(sides))
            total += number * seconds * (batch * saving if batch > 1 else 1)
        return total

    def grid(self, width: int, height: int) -> TileGrid:
        """Tiles for an output of this size.

        Where the model takes several sides and none was asked for, the shortest are chosen that need the fewest tiles;
        an image shorter than a native tile gets the smallest side that covers it. Where the model asks for that, tiles
        at the border of the image reach beyond it.
        """
        possible = [side for side in self._several if side <= self._largest_side]
        native = self.tile if self.tile in possible else max(possible)
        # what is wrong at the border of a tile of convolutions is as wide in a small one
        overlap, ramp = self._shares(self.tile if self._margin else native)
        if self.options.overlap is not None:
            overlap = ramp = min(self._overlap, native // 2)
        least = max(2 * overlap, 0 if self._margin else native)
        sides = [native] if self.options.tile else [side for side in possible if side >= least]
        small = [] if self.options.tile else [side for side in self._small_sides if side <= self._largest_side]

        def axis(length: int) -> Axis:
            covered = length + 2 * self._margin
            side = next((side for side in small if covered <= side < native), None)
            if side is not None:
                return Axis.split(length, side, 0, margin=self._margin)  # one tile: nothing is shared
            side = fewest_tiles(covered, sides, overlap)
            return Axis.split(length, side, overlap, ramp, self._step, self._margin)

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

    def restore(self, task: ImageTask, should_stop: Callable[[], bool] | None = None) -> Restored:
        """Restore one image.

        Args:
            task: the image, and what its result is to be.
            should_stop: asked between batches.

        Raises:
            InputError: a tile stays unusable (see :mod:`.tile_check`) in fp32 too.
            OutOfMemoryError: one tile of the smallest size does not fit.
            InterruptedRunError: ``should_stop`` said so.
        """
        return ImageQueue(self, None, should_stop).add(task).result()

    def queue(
        self, more: Callable[[], bool] | None = None, should_stop: Callable[[], bool] | None = None
    ) -> "ImageQueue":
        """A queue of images that share calls; arguments as of :class:`ImageQueue`."""
        return ImageQueue(self, more, should_stop)

    def finished(self, result: Any, run: TileRun, first: tuple[int, int]) -> Restored:
        """What became of an image.

        Args:
            result: its array.
            run: the pass that made it.
            first: tile and batch when it was begun.
        """
        tile, batch = max(run.sides), self.batch_for(run.sides)
        changes = (("batch", first[1], batch), ("tile", first[0], tile))
        split = ", ".join(f"{name} {a}->{b}" for name, a, b in changes if a != b)
        precision = self.options.precision
        if run.retries and precision != "fp32":
            precision += "+fp32"
        unverified = self.inference.model_passes_probe is False
        calls = "+".join(str(size) for size in sorted(run.sizes, reverse=True))
        return Restored(
            result, len(run.tiler.tiles), run.retries, tile, batch, split, precision, unverified, calls=calls
        )

    @cached_property
    def _upscaling(self) -> Upscaling:
        return Upscaling(self._filter, self.inference.transfers)

    def tiler(self, image: Pixels, size: tuple[int, int]) -> Tiler:
        """How this image, restored to (width, height), becomes tiles and is put together again."""
        if self._compat is not None:
            return self._compat.tiler(image, size, self.tile, self._overlap, self.inference.transfers)
        blend_on = "cpu" if self._blend_on_host else None
        return BlendedTiler(image, self.grid(*size), self._upscaling, blend_on)

    def blend_on_host(self) -> bool:
        """From now on keep bands in the host's memory; False where they are there already."""
        if self._blend_on_host or self._compat is not None or self.inference.transfers.on_host:
            return False
        self._blend_on_host = True
        return True

    def new_sequence(self) -> OneSequence | None:
        """Noise of one image as the released evaluation draws it; None where tiles draw their own."""
        if self._compat is None:
            return None
        return OneSequence(self.options.seed, self.inference.uniforms_shape)

    def shrink(self, sides: tuple[int, int], reason: str) -> None:
        """Go on with smaller tiles: three quarters of the side or less, or the next smaller one there is.

        Raises:
            OutOfMemoryError: there is none.
        """
        failed = max(sides)
        smaller = [side for side in self._several if side < failed]
        if not smaller:
            raise OutOfMemoryError(
                f"one tile of {sides[0]}x{sides[1]} does not fit in the memory of {self.options.device} ({reason}); "
                "use --device cpu, --precision bf16, or a larger machine"
            )
        self._largest_side = max([side for side in smaller if side <= 0.75 * failed] or smaller)
        self.inference.limit_call(self._largest_side**2)


class QueuedImage:
    """An image in an :class:`ImageQueue`, whose result is there when it is asked for."""

    def __init__(self, queue: "ImageQueue", task: ImageTask) -> None:
        self._queue = queue
        self._task = task
        self._run = self._begun()

    def result(self) -> Restored:
        """The restored image; to be asked for once, in the order of the queue.

        Raises:
            InputError: a tile stays unusable (see :mod:`.tile_check`) in fp32 too.
            OutOfMemoryError: one tile of the smallest size does not fit.
            InterruptedRunError: told to stop.
        """
        engine, calls = self._queue.engine, self._queue.calls
        try:
            result = self._task.allocate((self._task.size[1], self._task.size[0], 3), self._task.dtype)
            first = (max(self._run.sides), engine.batch_for(self._run.sides))
            while True:
                run = self._run
                try:
                    self._write(run.tiler.blocks(calls.tiles_of(run, self._task.on_tiles)), result)
                except TileTooLargeError as error:
                    engine.shrink(run.sides, str(error))
                except torch.cuda.OutOfMemoryError:
                    if not engine.blend_on_host():
                        raise
                else:
                    return engine.finished(result, run, first)
                calls.remove(run)
                self._run = self._begun()
        finally:
            calls.remove(self._run)
            del self._task

    def _write(self, blocks: Iterator[tuple[int, int, Tensor]], result: Any) -> None:
        """Write finished blocks to the result, each when its copy has arrived; wait for the last ones only."""
        transfers = self._queue.engine.inference.transfers
        on_the_way: deque[tuple[int, int, HostCopy]] = deque()

        def write() -> None:
            top, left, copy = on_the_way.popleft()
            block = copy.array()
            result[top : top + block.shape[0], left : left + block.shape[1]] = block

        for top, left, block in blocks:
            on_the_way.append((top, left, transfers.to_host(samples(block, self._task.dtype))))
            while on_the_way and on_the_way[0][2].ready:
                write()
        if on_the_way:
            self._queue.calls.begin_ahead()
        while on_the_way:
            write()

    def _begun(self) -> TileRun:
        engine = self._queue.engine
        task = self._task
        run = TileRun(engine.tiler(task.image, task.size), task.key, task.text, engine.new_sequence())
        self._queue.calls.add(run)
        return run


class ImageQueue:
    """Images that are restored one after another, and share calls of the model.

    Args:
        engine: restores them.
        more: adds the next image to this queue; False where there is none now. None: no call is shared.
        should_stop: asked before each call.
    """

    def __init__(
        self,
        engine: RestoreEngine,
        more: Callable[[], bool] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.engine = engine
        # the released script's tilers hold the whole upscaled image, and its noise is one sequence per image
        self.calls = SharedCalls(engine.inference, None if engine.compatible else more, should_stop)

    def add(self, task: ImageTask) -> QueuedImage:
        """Put an image at the end."""
        return QueuedImage(self, task)


def _listed(sides: Sequence[int]) -> str:
    if len(sides) > 3:
        return f"{sides[0]} to {sides[-1]} pixels"
    return f"{', '.join(str(side) for side in sides)} pixels"
