"""The library: ``Restorer`` restores paths and arrays.."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.atomic import check_writable
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.image_data import Samples
from varestorer_cli.core.inputs.plan import NameTemplate, RestorePlan, plan_for
from varestorer_cli.core.options import Progress, RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile, free_report_path, reports_in
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.session import automatic_model, open_session, prepare_run_texts


class Restorer:
    """Restores pictures with one loaded model.

    Args:
        model: ``auto``, a model's name, or a model file; overrides the one in ``options``.
        options: everything else.

    Raises:
        VarestorerError: the device or the model is not usable; the message says what to do.

    Example:
        >>> from varestorer_cli import Restorer
        >>> Restorer().restore("scans", "restored").summary()  # doctest: +SKIP
    """

    def __init__(self, model: str = "auto", options: RestoreOptions | None = None) -> None:
        options = options or RestoreOptions()
        self.options = options if model == "auto" else replace(options, model=model)
        if self.options.gpus is not None:
            raise UsageError("gpus is for the command line: a Restorer has one model on one device")
        prompted = self.options.text.prompt is not None
        prepared = prepare_run_texts(RestorePlan(folder=Path()), self.options, _silent()) if prompted else None
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
    ) -> BatchReport:
        """Restore files and folders, as the command does; silent, one bad file raises nothing.

        Args:
            inputs: one or several files, folders or patterns.
            output: folder, or a file name for a single file.
            report: write ``metrics.csv`` into an output folder; processes that share one must leave it out or use
                shards.

        Returns:
            What happened to each input.

        Raises:
            VarestorerError: the run as a whole is impossible.
        """
        names = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        model = automatic_model(self.options) if NameTemplate.has_model(self.options.name) else None
        plan = plan_for([os.fspath(name) for name in names], os.fspath(output), self.options, model=model)
        check_writable(plan.folder)
        path = free_report_path(plan.folder, self.options.shard, self.options.frames) if report else None
        report_file = ReportFile(None if plan.single else path, reports_in(plan.folder))
        report_file.open()
        silent, session = _silent(), self._session
        try:
            if (prepared := prepare_run_texts(plan, self.options, silent)) is not None:
                session.engine.conditions.add(prepared.rows)
                session = replace(session, texts=prepared.texts)
            return run_batch(plan, session.engine, session.context(), self.options, report_file, silent)
        finally:
            report_file.close()

    def restore_image(self, image: Samples | npt.NDArray[np.float32], key: str = "") -> npt.NDArray[Any]:
        """Restore one array.

        Args:
            image: (H, W, 3) RGB, or (H, W) gray; uint8, uint16, or float32 in [0, 1].
            key: seeds the noise where the model draws any.

        Returns:
            The restored array, of the same kind and type.

        Raises:
            VarestorerError: another shape or type, or the model's result is not usable.
        """
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise UsageError(f"samples of type {image.dtype} are not supported: uint8, uint16 or float32 is needed")
        gray = image.ndim == 2
        if image.size == 0 or not (gray or (image.ndim == 3 and image.shape[2] == 3)):
            raise UsageError(f"an array of shape {image.shape} is no picture: (H, W, 3) or (H, W) is needed")
        color = np.broadcast_to(image[..., None], (*image.shape, 3)) if gray else image
        size = self.options.target(image.shape[1], image.shape[0])
        text = self._session.texts.default
        result: npt.NDArray[Any] = self._session.engine.restore(
            color, size, key=key, text=text, dtype=image.dtype
        ).image
        if not gray:
            return result
        flat: npt.NDArray[Any] = result.astype(np.float32).mean(axis=2)
        if image.dtype != np.float32:
            flat = np.floor(flat + 0.5).astype(image.dtype)
        return flat


def _silent() -> Console:
    console = Console(Progress.NONE, quiet=True)
    console.warn = console.error = lambda text: None  # type: ignore[method-assign]
    return console
