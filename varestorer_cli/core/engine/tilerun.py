"""One pass over the tiles of a picture: batches, the check of each tile, and what is done again.

The engine knows the model and what fits in memory; a run counts what happened to one picture.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from varestorer_cli.core.engine.blending import Floats, PicturePlan
from varestorer_cli.core.engine.released import OneSequence
from varestorer_cli.core.engine.tiling import Tile
from varestorer_cli.core.errors import InputError, InterruptedRunError

if TYPE_CHECKING:
    from varestorer_cli.core.engine.engine import RestoreEngine


class TileTooLargeError(Exception):
    """Even one tile does not fit in memory."""


class TileRun:
    """One pass over one picture's plan."""

    def __init__(
        self,
        engine: "RestoreEngine",
        plan: PicturePlan,
        key: str,
        text: str | None,
        on_tiles: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.engine = engine
        self.plan = plan
        self.grid = plan.grid
        self.key = key
        self.text = text
        self.on_tiles = on_tiles
        self.should_stop = should_stop
        self.retries = 0
        self.done = 0
        self._sequence = OneSequence(engine.options.seed, engine.model.uniforms_shape) if engine.compatible else None

    def restored(self, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, Floats]]:
        """Tiles with their restored pixels, cut to the picture."""
        at = 0
        while at < len(tiles):
            if self.should_stop is not None and self.should_stop():
                raise InterruptedRunError("stopped")
            chunk = tiles[at : at + self.engine.batch_for(self.grid.sides)]
            degraded = np.stack([self.plan.cut(tile) for tile in chunk])
            restored, shortage = None, ""
            try:
                restored = self._checked(chunk, degraded)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                shortage = str(error).partition("\n")[0]
            if restored is None:  # outside the except block, whose traceback would keep the tensors alive
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if not self.engine.halve(self.grid.sides):
                    raise TileTooLargeError(shortage)
                continue
            for tile, pixels in zip(chunk, restored, strict=True):
                yield tile, pixels[: tile.bottom - tile.top, : tile.right - tile.left]
            at += len(chunk)
            self.done += len(chunk)
            if self.on_tiles is not None:
                self.on_tiles(self.done, len(self.grid))

    def _checked(self, tiles: Sequence[Tile], degraded: Floats) -> list[Floats]:
        """Restored tiles; unusable ones are computed again in fp32 with fresh noise."""
        engine = self.engine
        precision = engine.options.precision
        texts = [self.text] * len(tiles)
        restored = list(engine.infer(degraded, self._noise(tiles, 0), precision=precision, texts=texts))
        for i, tile in enumerate(tiles):
            first = engine.fault(restored[i], degraded[i])
            if first is None or engine.is_its_nature(first):
                continue
            self.retries += 1
            one, noise = degraded[i : i + 1], self._noise([tile], 1)
            again = engine.infer(one, noise, precision="fp32", texts=[self.text])[0]
            wrong = engine.fault(again, degraded[i])
            if wrong is not None and not engine.is_its_nature(wrong):
                raise InputError(
                    f"the model's result for tile {tile.index + 1} of {len(self.grid)} is {wrong}, in fp32 too; "
                    "nothing was written; try another --tile or --model"
                )
            restored[i] = again
        return restored

    def _noise(self, tiles: Sequence[Tile], attempt: int) -> list[Tensor] | None:
        if self.engine.sampling != "sample":
            return None
        if self._sequence is not None and attempt == 0:
            return [self._sequence.draw(tile.index) for tile in tiles]
        return [self.engine.draw(self.key, tile.index, attempt) for tile in tiles]


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
