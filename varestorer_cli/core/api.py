"""The library: ``Restorer`` restores paths and arrays. See :mod:`core.restoring` for the command."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.atomic import check_writable
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import MissingDependencyError, UsageError, VarestorerError
from varestorer_cli.core.image.image_data import Samples
from varestorer_cli.core.inputs.plan import RestorePlan, plan_for
from varestorer_cli.core.options import Compat, Precision, Progress, RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile, report_name, reports_in
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import Setup
from varestorer_cli.core.signals import StopFlag
from varestorer_cli.core.text.captions import Texts
from varestorer_cli.version import __version__

if TYPE_CHECKING:
    from varestorer_cli.core.engine.engine import RestoreEngine
    from varestorer_cli.core.runtime import Runtime
    from varestorer_cli.core.text.prepare import RunTexts


@dataclass(frozen=True)
class Session:
    """A loaded model, ready to run.

    Attributes:
        engine: restores arrays with it.
        runtime: device and arithmetic.
        model: name, and why it was chosen.
        model_sha256: of its file.
        texts: text of every picture.
        warning: what the user should know of the model's own text, "" for nothing.
    """

    engine: "RestoreEngine"
    runtime: "Runtime"
    model: str
    model_sha256: str
    texts: Texts = field(default_factory=Texts)
    warning: str = ""

    def describe(self) -> str:
        """First line of a run: device and why, precision, threads, model, tiles."""
        engine = self.engine
        return (
            f"varestorer {__version__}: {self.runtime.describe()}; model {self.model} {self.model_sha256[:12]}; "
            f"tiles of {engine.tile} with overlap {engine.overlap}, {engine.batch_for((engine.tile,) * 2)} at a time"
            + (", the released script's way" if engine.compatible else "")
        )

    def setup(self) -> Setup:
        """What a batch needs to know of this session."""
        from varestorer_cli.core.runtime import peak_megabytes

        device = self.runtime.device
        return Setup(
            model=self.model.partition(" ")[0],
            model_sha256=self.model_sha256,
            device=device,
            peak_mb=lambda: peak_megabytes(device),
            encoders=max(1, min(16, self.runtime.threads)),
            texts=self.texts,
        )


def load_model(model: str, device: str, weights: str | None = None) -> Any:
    """Load a restorer; apart so that tests can put a fake in its place."""
    from varestorer_cli.core.weights.model_file import load_restorer

    return load_restorer(model, device, weights)


def open_session(
    options: RestoreOptions, load: Callable[..., Any] | None = None, prepared: "RunTexts | None" = None
) -> Session:
    """Choose the device, load the model, build the engine.

    Args:
        options: as given by the user.
        load: loads a model by name, device and weights folder, :func:`load_model` by default.
        prepared: texts of the pictures; None gives all the model's own.

    Raises:
        MissingDependencyError: torch, the device or the weights are missing.
        CheckpointError: the weights are damaged or do not fit.
        UsageError: the options do not fit the model.
    """
    runtime = _runtime(options)
    from varestorer_cli.core import runtime as runtimes
    from varestorer_cli.core.engine.engine import RestoreEngine
    from varestorer_cli.core.engine.inference import EngineOptions

    runtimes.keep_freed_memory(runtimes.KEPT_WHILE_RESTORING)
    loaded = (load or load_model)(options.model, runtime.device, options.weights)
    has_tokens = hasattr(loaded.restorer, "uniforms_shape")
    dial = getattr(loaded, "dial", None)
    require_fitting(options, loaded.name, has_tokens=has_tokens, has_dial=dial is not None)
    if dial is not None and options.fidelity is not None:
        dial.set(loaded.restorer.prerestorer, options.fidelity)
    engine = RestoreEngine(
        loaded.restorer,
        EngineOptions(
            device=runtime.device,
            precision=runtime.precision,
            tile=options.tile,
            overlap=options.overlap,
            batch=options.batch,
            sampling=None if options.sampling == "auto" else options.sampling.value,
            color_fix=None if options.color_fix == "auto" else options.color_fix.value,
            fidelity=(options.fidelity or 0.0) if has_tokens else 0.0,
            seed=options.seed,
            compat=options.compat.value,
        ),
    )
    why = f" (auto{': ' if loaded.why else ''}{loaded.why})" if options.model == "auto" else ""
    if prepared is None:
        from varestorer_cli.core.text.prepare import model_text

        takes_text = bool(getattr(loaded.restorer.config, "takes_text", False))
        prepared = model_text(getattr(loaded, "text", None), takes_text=takes_text)
    engine.conditions.add(prepared.rows)
    name = f"{loaded.name}{why}"
    return Session(engine, runtime, name, str(loaded.sha256), prepared.texts, prepared.warning)


def require_fitting(options: RestoreOptions, name: str, *, has_tokens: bool, has_dial: bool) -> None:
    """Refuse options that would do nothing with this model.

    Args:
        options: as given by the user.
        name: the model's.
        has_tokens: whether it predicts codes.
        has_dial: whether its file holds a fidelity dial.

    Raises:
        UsageError: naming the option.
    """
    if has_tokens:
        return
    for option, given in (
        (f"--sampling {options.sampling.value}", options.sampling != "auto"),
        (f"--color-fix {options.color_fix.value}", options.color_fix != "auto"),
        (f"--compat {options.compat.value}", options.compat is not Compat.NONE),
    ):
        if given:
            raise UsageError(
                f"{option}: {name} has no tokens, so there is nothing to sample or to correct; leave it out"
            )
    if options.fidelity is not None and not has_dial:
        raise UsageError(f"--fidelity {options.fidelity:g}: {name} has one set of weights and no dial; leave it out")


def prepare(
    plan: RestorePlan, options: RestoreOptions, console: Console, stop: StopFlag | None = None
) -> "RunTexts | None":
    """Find or make what ``options.text`` asks for, before the model is loaded; None where it asks for nothing.

    Text files that hold captions leave the plan's list of foreign files.

    Raises:
        VarestorerError: see :func:`core.texts.prepare_texts`.
    """
    if not options.text.asked_by:
        return None
    device = _runtime(options).device
    from varestorer_cli.core.text.prepare import prepare_texts

    name = report_name(options.shard, "captions", frames=options.frames)
    file = Path(options.text.captions_file or plan.folder / name)
    prepared = prepare_texts(plan.jobs, options, file, console, device=device, stop=stop)
    plan.ignored = [aside for aside in plan.ignored if os.path.realpath(aside.path) not in prepared.files]
    return prepared


def _runtime(options: RestoreOptions) -> "Runtime":
    try:
        from varestorer_cli.core import runtime as runtimes

        precision, precision_why = options.precision, "asked for"
        if options.compat is not Compat.NONE and precision is Precision.AUTO:
            # the script's own mix of formats repeats itself on no two machines
            precision, precision_why = Precision.FP32, f"--compat {options.compat.value}"
        return runtimes.choose(options.device, precision, options.threads, precision_why)
    except ImportError as error:
        raise MissingDependencyError(f"torch cannot be imported ({error}); run varestorer doctor") from error


# --- the library -----------------------------------------------------------------------------------------------------


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
        prepared = prepare(RestorePlan(folder=Path()), self.options, _silent()) if prompted else None
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
            report: write ``metrics.csv``; processes that share an output folder must leave it out or use shards.

        Returns:
            What happened to each input.

        Raises:
            VarestorerError: the run as a whole is impossible.
        """
        names = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        plan = plan_for([os.fspath(name) for name in names], os.fspath(output), self.options)
        check_writable(plan.folder)
        name = report_name(self.options.shard, frames=self.options.frames)
        report_file = ReportFile(plan.folder / name if report else None, reports_in(plan.folder))
        report_file.open()
        silent, session = _silent(), self._session
        try:
            if (prepared := prepare(plan, self.options, silent)) is not None:
                session.engine.conditions.add(prepared.rows)
                session = replace(session, texts=prepared.texts)
            return run_batch(plan, session.engine, session.setup(), self.options, report_file, silent)
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


__all__ = ["BatchReport", "Restorer", "Session", "VarestorerError", "open_session", "prepare"]
