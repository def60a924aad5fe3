"""The Python library: restore files, arrays and Pillow images with one loaded model.

A folder, as the command does it; a broken file is a row that says so, never an exception:

>>> from varestorer_cli import Restorer
>>> restorer = Restorer(model="compact")
>>> report = restorer.restore("scans", "restored")
>>> report.count("done"), report.count("failed")
(2, 1)
>>> [(row.input, row.status) for row in report.rows if row.status == "failed"]
[('scans/broken.png', 'failed')]

One image. What goes in comes out, four times as large: an array as an array of the same type, a Pillow image as a
Pillow image, the path of a file as an array. Gray, 16 bits, floats and alpha are kept:

>>> import numpy as np
>>> restorer.restore_image(np.zeros((8, 10, 3), np.uint8)).shape
(32, 40, 3)
>>> restorer.restore_image(np.zeros((8, 10, 4), np.uint16)).shape  # alpha is resized by itself
(32, 40, 4)
>>> from PIL import Image
>>> restorer.restore_image(Image.new("L", (10, 8))).size
(40, 32)
>>> restorer.restore_image("scans/dawn.png").shape
(48, 64, 3)

Options are those of the command, checked the same way:

>>> from varestorer_cli import RestoreOptions, Sizing
>>> options = RestoreOptions(model="compact", sizing=Sizing(long_side=100), format="webp", fidelity=1)
>>> Restorer(options=options).restore("scans/dawn.png", "large").rows[0].out_width
100
>>> Restorer(model="compact", scale=2, precision="fp33")
Traceback (most recent call last):
...
varestorer_cli.core.errors.UsageError: --precision fp33: possible are auto, fp32, bf16 and fp16

Progress and cancelling, for a window with a button. Files that are finished when a run is stopped stay, and nothing
is half written; the same call again does the rest:

>>> seen = []
>>> report = restorer.restore("scans", "again", on_progress=lambda done, total: seen.append(done / total))
>>> seen[0], seen[-1]
(0.0, 1.0)
>>> restorer.restore("scans", "never", should_stop=lambda: True)
Traceback (most recent call last):
...
varestorer_cli.core.errors.InterruptedRunError: stopped: 0 of 3 ...
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.atomic import check_writable
from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.fields import changed
from varestorer_cli.core.image.image_data import DecodedImage, Extras, OutputImage
from varestorer_cli.core.image.in_memory import from_array, from_pillow, shaped_like, to_pillow
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.inputs.plan import NameTemplate, RestorePlan, plan_for
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile, free_report_path, reports_in
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.encode_stage import plane_rows
from varestorer_cli.core.restore.item import Reporting
from varestorer_cli.core.restore.session import automatic_model, open_session, prepare_run_texts
from varestorer_cli.core.signals import StopFlag

if TYPE_CHECKING:
    from PIL import Image

OnProgress = Callable[[float, int], None]
ShouldStop = Callable[[], bool]


class Restorer:
    """Restores images with one loaded model.

    It may be used by one thread at a time; a second thread makes its own.

    Args:
        model: ``auto``, a model's name, or a model file; overrides the one in ``options``.
        options: everything else, see :class:`RestoreOptions`.
        more: single options by their names, such as ``precision="bf16"`` or ``scale=2``; they override ``options``.

    Raises:
        UsageError: there is no such option, or its value is impossible; the message names the choices.
        VarestorerError: the device or the model is not usable; the message says what to do.
    """

    def __init__(self, model: str = "auto", options: RestoreOptions | None = None, **more: Any) -> None:
        options = changed(options or RestoreOptions(), more)
        self.options = options if model == "auto" else replace(options, model=model)
        if self.options.gpus is not None:
            raise UsageError("gpus is for the command line: a Restorer has one model on one device")
        prompted = self.options.text.prompt is not None
        prepared = prepare_run_texts(RestorePlan(folder=Path()), self.options, _Listener()) if prompted else None
        self._session = open_session(self.options, prepared=prepared)

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model's file."""
        return self._session.model_sha256

    def restore(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        report: bool = True,
        on_progress: OnProgress | None = None,
        on_row: Callable[[Row], None] | None = None,
        should_stop: ShouldStop | None = None,
    ) -> BatchReport:
        """Restore files and folders, as the command does; silent, one bad file raises nothing.

        Args:
            inputs: one or several files, folders or patterns.
            output: folder, or a file name for a single file.
            report: write ``metrics.csv`` into an output folder; processes that share one must leave it out or use
                shards.
            on_progress: called with (images done, images in all), which never falls; fractions are of images at work.
            on_row: called with the final row of each input, in their order.
            should_stop: asked between batches of tiles, from several threads; True ends the run.

        Returns:
            What happened to each input.

        Raises:
            InterruptedRunError: ``should_stop`` said so.
            VarestorerError: the run as a whole is impossible.
        """
        names = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        model = automatic_model(self.options) if NameTemplate.has_model(self.options.name) else None
        plan = plan_for([os.fspath(name) for name in names], os.fspath(output), self.options, model=model)
        check_writable(plan.folder)
        path = free_report_path(plan.folder, self.options.shard, self.options.frames) if report else None
        report_file = ReportFile(None if plan.single else path, reports_in(plan.folder))
        report_file.open()
        listener, session = _Listener(on_progress), self._session
        try:
            if (prepared := prepare_run_texts(plan, self.options, listener)) is not None:
                session.engine.conditions.add(prepared.rows)
                session = replace(session, texts=prepared.texts)
            return run_batch(
                plan, session.engine, session.context(), self.options, Reporting(report_file, listener, on_row),
                stop=StopFlag(should_stop),
            )  # fmt: skip
        finally:
            report_file.close()

    @overload
    def restore_image(
        self,
        image: "Image.Image",
        key: str = "",
        *,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> "Image.Image": ...

    @overload
    def restore_image(
        self,
        image: npt.NDArray[Any] | str | os.PathLike[str],
        key: str = "",
        *,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> npt.NDArray[Any]: ...

    def restore_image(
        self,
        image: "npt.NDArray[Any] | Image.Image | str | os.PathLike[str]",
        key: str = "",
        *,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> "npt.NDArray[Any] | Image.Image":
        """Restore one image in memory; the pixels are those that :meth:`restore` writes.

        Args:
            image: an array, (H, W) or (H, W, 1) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB, (H, W, 4) RGB and
                straight alpha, of uint8, uint16, or float32 in [0, 1]; a Pillow image of mode 1, L, LA, RGB, RGBA, P,
                PA or I;16, whose pixels are taken as they lie; or the path of a file, which is read upright.
            key: seeds the noise where the model draws any.
            on_progress: called with (tiles done, tiles in all).
            should_stop: asked between batches of tiles; True ends the work.

        Returns:
            The restored image: a Pillow image for one, else an array of the type and with the channels of the input.

        Raises:
            InputError: the file cannot be read, or the model's result is not usable.
            InterruptedRunError: ``should_stop`` said so.
            UsageError: another shape, type, range or mode.
        """
        if isinstance(image, np.ndarray):
            return shaped_like(self._restored(from_array(image), key, on_progress, should_stop), image)
        if isinstance(image, str | os.PathLike):
            options = self.options
            pages = "first" if options.pages == "all" else options.pages
            decoded = decode(read_bytes(os.fspath(image)), options.transfer, options.layer, pages)
            planes = self._restored(decoded, key, on_progress, should_stop)
            return planes[..., 0] if planes.shape[2] == 1 else planes
        from PIL import Image

        if not isinstance(image, Image.Image):
            raise UsageError(f"{type(image).__name__} is no image: an array, a Pillow image or a path is needed")
        planes = self._restored(from_pillow(image), key, on_progress, should_stop)
        return to_pillow(planes[..., 0] if planes.shape[2] == 1 else planes, image)

    def _restored(
        self, decoded: DecodedImage, key: str, on_progress: OnProgress | None, should_stop: ShouldStop | None
    ) -> npt.NDArray[Any]:
        """(H, W, channels) of the restored image, as the files of :meth:`restore` have them."""
        decoded.keep_hidden = self.options.keep_hidden
        size = self.options.target(decoded.width, decoded.height)
        result = self._session.engine.restore(
            ImageTask(
                decoded.model_input(),
                size,
                key=key,
                text=self._session.texts.default,
                dtype=decoded.color.dtype,
                on_tiles=on_progress,
            ),
            should_stop=should_stop,
        )
        output = OutputImage(result.image, decoded.gray, plane_rows(decoded.alpha, size), Extras())
        return output.rows(0, output.height)


class _Listener(Console):
    """Says nothing; hands the progress on."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        super().__init__(Progress.NONE, quiet=True)
        self._on_progress = on_progress
        self._images = 0
        self._reached = 0.0

    def warn(self, text: str) -> None:
        """Nothing: the report says it."""

    def error(self, text: str) -> None:
        """Nothing: the report says it."""

    def start(self, total: int, note: str = "", done: float = 0.0, *, unit: str = "image", lines: bool = True) -> None:
        """Note how many images there are."""
        self._images = total

    def update(self, done: float, note: str = "", current: str = "") -> None:
        """Hand the progress on."""
        if self._on_progress is not None and self._images:
            self._reached = max(self._reached, done)
            self._on_progress(self._reached, self._images)
