"""Calls of the model that take tiles of several images: full calls across images, each image's tiles in their order.

Images wait in a line. A call takes the first tile that the image at work still needs, then the next tiles of the same
sides in the line, whatever image they belong to. Where they do not fill a call, further images are asked for. A call
that stays short is made tile by tile: no tile is computed twice, and two shapes occur for tiles of the same sides.
On a CUDA device the next call is begun before the results of the last one are checked and blended.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from varestorer_cli.core.engine.blending import Tiler
from varestorer_cli.core.engine.inference import PendingCall, TileInference
from varestorer_cli.core.engine.released import OneSequence
from varestorer_cli.core.engine.tile_model import is_out_of_memory
from varestorer_cli.core.engine.tiling import Tile
from varestorer_cli.core.errors import InputError, InterruptedRunError


class TileTooLargeError(Exception):
    """Even one tile does not fit in memory."""


class TileRun:
    """One pass over the tiles of one image.

    Args:
        tiler: of the image.
        key: seeds the noise.
        text: of the image, or None.
        sequence: noise of the first attempt, None draws it per tile.

    Attributes:
        retries: tiles that were computed again.
        sizes: tiles per call of the calls that its tiles went through.
        restored: tiles that are computed and not taken yet, with their pixels (3, h, w) on the device.
        failure: what ended the pass.
    """

    def __init__(self, tiler: Tiler, key: str, text: str | None, sequence: OneSequence | None) -> None:
        self.tiler = tiler
        self.sides = tiler.grid.sides
        self.key = key
        self.text = text
        self.sequence = sequence
        self.retries = 0
        self.sizes: set[int] = set()
        self.restored: deque[tuple[Tile, Tensor]] = deque()
        self.failure: Exception | None = None
        self._begun = self._taken = 0

    def next_tiles(self, count: int) -> Sequence[Tile]:
        """The next tiles to compute, ``count`` at most."""
        return [] if self.failure else self.tiler.tiles[self._begun : self._begun + count]

    def begin(self) -> None:
        """Note that the next tile is under way."""
        self._begun += 1

    def rewind(self) -> None:
        """Forget tiles that are under way."""
        self._begun = self._taken

    def take(self, tile: Tile, pixels: Tensor, size: int) -> None:
        """Keep the result of the next tile, which came from a call of ``size`` tiles."""
        self._taken += 1
        self.sizes.add(size)
        rows = slice(tile.above, tile.above + tile.bottom - tile.top)
        columns = slice(tile.before, tile.before + tile.right - tile.left)
        self.restored.append((tile, pixels[:, rows, columns]))


Call = list[tuple[TileRun, Tile]]


class SharedCalls:
    """Computes the tiles of the images in its line.

    Args:
        inference: calls the model.
        more: puts the next image into the line; False where there is none now. None: no call is shared.
        should_stop: asked before each call.
    """

    def __init__(
        self,
        inference: TileInference,
        more: Callable[[], bool] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.inference = inference
        self._more = more
        self._should_stop = should_stop
        self._line: list[TileRun] = []
        self._under_way: deque[tuple[Call, Tensor, PendingCall]] = deque()

    def add(self, run: TileRun) -> None:
        """Put an image at the end of the line."""
        self._line.append(run)
        self._draw_ahead([(run, tile) for tile in run.next_tiles(1)])

    def remove(self, run: TileRun) -> None:
        """Take an image out of the line."""
        self._line = [other for other in self._line if other is not run]

    def tiles_of(self, run: TileRun, on_tiles: Callable[[int, int], None] | None) -> Iterator[tuple[Tile, Tensor]]:
        """All tiles of an image in the line, in the order of its tiler, with their pixels (3, h, w), cut to the image.

        Args:
            run: the image.
            on_tiles: called with (done, all) tiles as they are finished.

        Raises:
            InputError: a tile stays unusable in fp32 too.
            InterruptedRunError: ``should_stop`` said so.
            TileTooLargeError: one tile does not fit in memory.
        """
        count = len(run.tiler.tiles)
        for done in range(count):
            while not run.restored:
                if run.failure is not None:
                    raise run.failure
                self._make_call(run)
                if on_tiles is not None and run.restored:
                    on_tiles(done + len(run.restored), count)
            yield run.restored.popleft()

    def begin_ahead(self) -> None:
        """Begin calls of the images that come next, so that the device works while the host finishes one."""
        if self.inference.calls_ahead > 1:
            run = next((one for one in self._line if one.next_tiles(1)), None)
            if run is not None or (self._more is not None and self._more()):
                self._begin_calls(run or self._line[-1])

    def _make_call(self, run: TileRun) -> None:
        if self._should_stop is not None and self._should_stop():
            raise InterruptedRunError("stopped")
        if self._begin_calls(run) and self._under_way:
            self._finish()

    def _begin_calls(self, run: TileRun) -> bool:
        """Begin as many calls as may be under way, first for this image; False where one fails."""
        while len(self._under_way) < self.inference.calls_ahead:
            call = self._next_call(run)
            if not call:
                break
            if not self._begin(call):
                return False
        return True

    def _next_call(self, run: TileRun) -> Call:
        batch = self.inference.batch_for(run.sides)
        calls = self.inference.calls_ahead
        ahead = batch * (calls + 1 if calls > 1 else calls)  # images: of the calls under way, and of one to begin
        call = self._gather(run, batch)
        while self._more is not None and len(call) < batch and len(self._line) <= ahead and self._more():
            call = self._gather(run, batch)
        return call[: self.inference.call_size(len(call), run.sides)]

    def _gather(self, run: TileRun, batch: int) -> Call:
        """The next tiles of an image, and of others of the same sides."""
        call: Call = []
        for one in (run, *(other for other in self._line if other is not run and other.sides == run.sides)):
            call += [(one, tile) for tile in one.next_tiles(batch - len(call))]
        return call

    def _begin(self, call: Call) -> bool:
        """Begin a call; False where that fails, see :meth:`_recover`."""
        shortage, noise, texts = "", self._noise(call, 0), [run.text for run, _ in call]
        cut: list[Tensor] = []
        try:
            for run, tile in call:
                try:
                    cut.append(run.tiler.cut(tile))
                except torch.cuda.OutOfMemoryError:
                    raise
                except Exception as error:
                    run.failure = error
            if len(cut) < len(call):
                return False
            given = torch.stack(cut)
            pending = self.inference.submit(given, noise, precision=self.inference.options.precision, texts=texts)
        except Exception as error:
            shortage = self._blame(call, error)
        else:
            for run, _ in call:
                run.begin()
            self._under_way.append((call, given, pending))
            self._draw_ahead(self._gather(call[-1][0], len(call)))
            return True
        self._recover(call, shortage)
        return False

    def _finish(self) -> None:
        """Take the results of the oldest call under way."""
        call, degraded, pending = self._under_way.popleft()
        shortage = ""
        try:
            self._check(call, degraded, *self.inference.collect(pending))
            return
        except Exception as error:
            shortage = self._blame(call, error)
        self._recover(call, shortage)

    def _blame(self, call: Call, error: Exception) -> str:
        """Make an error the failure of the image it belongs to; returns what it says where memory ran out."""
        if is_out_of_memory(error):
            return str(error).partition("\n")[0] or "out of memory"
        if len({id(run) for run, _ in call}) == 1:
            call[0][0].failure = error
        return ""

    def _recover(self, call: Call, shortage: str) -> None:
        """After a call that failed: smaller calls where memory ran out, else its tiles one by one."""
        # outside the except block, whose traceback would keep the tensors alive
        self._under_way.clear()
        for run in {id(run): run for run in [*self._line, *(run for run, _ in call)]}.values():
            run.rewind()
        if shortage:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not self.inference.halve(call[0][0].sides):
                call[0][0].failure = TileTooLargeError(shortage)
        elif len({id(run) for run, _ in call}) > 1:  # one of the images is to blame
            for run, tile in call:
                if run.failure is None and tile in run.next_tiles(1) and self._begin([(run, tile)]):
                    self._finish()

    def _check(self, call: Call, degraded: Tensor, restored: Tensor, faults: Sequence[str]) -> None:
        """Keep restored tiles; unusable ones are computed again in fp32 with fresh noise."""
        inference = self.inference
        for (run, tile), given, got, found in zip(call, degraded, restored, faults, strict=True):
            if run.failure is not None:
                continue
            if found and not inference.model_always_fails(found):
                run.retries += 1
                noise = self._noise([(run, tile)], 1)
                (got,), (found,) = inference.infer(given[None], noise, precision="fp32", texts=[run.text])
                if found and not inference.model_always_fails(found):
                    run.failure = InputError(
                        f"the model's result for tile {tile.index + 1} of {len(run.tiler.tiles)} is {found}, in fp32 "
                        "too; nothing was written; try another --tile or --model"
                    )
                    continue
            run.take(tile, got, len(call))

    def _draw_ahead(self, call: Call) -> None:
        """Let the noise of tiles be drawn while the host does something else, where the device works beside it."""
        if self.inference.sampling == "sample" and self.inference.calls_ahead > 1:
            for run, tile in call:
                if run.sequence is None:
                    self.inference.draw_ahead(run.key, tile.index)

    def _noise(self, call: Call, attempt: int) -> list[Tensor] | None:
        if self.inference.sampling != "sample":
            return None
        return [
            self.inference.draw(run.key, tile.index, attempt)
            if run.sequence is None or attempt
            else run.sequence.draw(tile.index)
            for run, tile in call
        ]
