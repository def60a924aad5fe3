"""The stage behind the engine: encode a restored image, write it, compare it with its input."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from varestorer_cli.core.atomic import atomic_file, hash_of
from varestorer_cli.core.errors import InputError, VarestorerError
from varestorer_cli.core.image.image_data import DecodedImage, OutputImage, Samples
from varestorer_cli.core.image.metadata import fitted
from varestorer_cli.core.image.resample import Resampler
from varestorer_cli.core.image.writer import write_image
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.rows import DONE, Row
from varestorer_cli.core.restore import fingerprint
from varestorer_cli.core.restore.consistency import compare
from varestorer_cli.core.restore.item import BatchContext, PixelBudget, RestoreItem


class EncodeStage:
    """Writes restored items.

    Args:
        context: model and device.
        options: as given by the user.
        budget: gets the pixels back.
        on_written: called with the row when the temporary file is complete, before it is renamed.
    """

    def __init__(
        self, context: BatchContext, options: RestoreOptions, budget: PixelBudget, on_written: Callable[[Row], None]
    ) -> None:
        self.context = context
        self.options = options
        self.budget = budget
        self.on_written = on_written

    def finish(self, item: RestoreItem, pages: Sequence[tuple[Samples, Samples]]) -> RestoreItem:
        """Encode, write and compare.

        Args:
            item: what is restored.
            pages: what the model got and what it made of it, page by page.

        Raises:
            OutputError: the output cannot be written.
        """
        started = time.monotonic()
        decoded, row = item.image, item.row
        assert decoded is not None and item.identity is not None
        try:
            outputs = [
                _output(page, size, image)
                for page, size, (_, image) in zip(decoded.pages, item.sizes, pages, strict=True)
            ]
            output = replace(outputs[0], more=tuple(outputs[1:]))
            software = fingerprint.software_text(
                item.identity,
                model=self.context.model,
                scale=row.scale or 1,
                tile=row.tile or 0,
                seed=self.options.seed,
                caption=row.caption,
            )
            compared = [compare(source, image) for source, image in pages]
            row.mean_colour_error = max(shift for shift, _ in compared)
            row.consistency_psnr = min(psnr for _, psnr in compared)
            with atomic_file(item.job.output) as stream:
                write_image(stream, output, item.format, self.options.quality, software)
                row.output_sha256 = hash_of(stream)
                self.on_written(row)
            row.status = DONE
        except InputError as error:
            item.error = error
        except MemoryError:
            item.error = InputError("there is not enough memory to encode the result")
        except VarestorerError:
            raise
        except Exception as error:
            item.error = error
        finally:
            item.image = None
            self.budget.give(item.pixels)
        row.seconds = (row.seconds or 0) + time.monotonic() - started
        return item


def _output(image: DecodedImage, size: tuple[int, int], restored: Samples) -> OutputImage:
    gain = image.extras.scene.gain if image.extras.scene else None
    return OutputImage(
        restored,
        image.gray,
        plane_rows(image.alpha, size),
        fitted(image, size),
        plane_rows(gain, size, "triangle"),
    )


def plane_rows(
    plane: Samples | None, size: tuple[int, int], filter: str = "bicubic"
) -> Callable[[int, int], Any] | None:
    """Alpha (or a scene's gain, up to 65504: a filter without lobes) of the result, resized by itself."""
    if plane is None:
        return None
    resampler = Resampler((plane.shape[0], plane.shape[1]), (size[1], size[0]), filter)
    width, step = size[0], 512

    def rows(top: int, bottom: int) -> Any:
        parts = [
            resampler.window(plane[..., None], top, left, bottom, min(left + step, width))[..., 0]
            for left in range(0, width, step)
        ]
        return np.concatenate(parts, axis=1)

    return rows
