"""A model loaded and ready to run, and the texts of a run's images."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varestorer_cli.core.choices import Compat, Compile, EngineName, Precision, Sampling, Steps
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.inputs.plan import RestorePlan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import report_name
from varestorer_cli.core.restore.item import BatchContext
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
        texts: text of every image.
        warning: what the user should know of the model's own text, "" for nothing.
    """

    engine: "RestoreEngine"
    runtime: "Runtime"
    model: str
    model_sha256: str
    texts: Texts = field(default_factory=Texts)
    warning: str = ""

    def plainly(self) -> str:
        """Model and device in plain words, for the first line of a run."""
        device = {"cpu": "the CPU", "cuda": "the GPU", "cuda:0": "the GPU", "mps": "the GPU"}
        return (
            f"with the model {self.model.partition(' ')[0]} on {device.get(self.runtime.device, self.runtime.device)}"
        )

    def describe(self) -> str:
        """The technical line of a run: device and why, precision, threads, model, tiles."""
        engine = self.engine
        return (
            f"varestorer {__version__}: {self.runtime.describe()}; model {self.model} {self.model_sha256[:12]}; "
            f"tiles of {engine.tile} with overlap {engine.overlap}, {engine.batch_for((engine.tile,) * 2)} at a time"
            + (", the released script's way" if engine.compatible else "")
        )

    def context(self) -> BatchContext:
        """What a batch needs to know of this session."""
        from varestorer_cli.core.runtime import peak_megabytes

        device = self.runtime.device
        return BatchContext(
            model=self.model.partition(" ")[0],
            model_sha256=self.model_sha256,
            device=device,
            peak_mb=lambda: peak_megabytes(device),
            encoders=max(1, min(16, self.runtime.threads)),
            texts=self.texts,
        )


def load_model(model: str, device: str, weights: str | os.PathLike[str] | None = None) -> Any:
    """Load a restorer; apart so that tests can put a fake in its place."""
    from varestorer_cli.core.weights.model_file import load_restorer

    return load_restorer(model, device, weights)


def open_session(
    options: RestoreOptions,
    load: Callable[..., Any] | None = None,
    prepared: "RunTexts | None" = None,
    on_stage: Callable[[str], None] = lambda note: None,
) -> Session:
    """Choose the device, load the model, build the engine.

    Args:
        options: as given by the user.
        load: loads a model by name, device and weights folder, :func:`load_model` by default.
        prepared: texts of the images; None gives all the model's own.
        on_stage: called with what is loaded.

    Raises:
        MissingDependencyError: torch, the device or the weights are missing.
        CheckpointError: the weights are damaged or do not fit.
        UsageError: the options do not fit the model.
    """
    on_stage("loading PyTorch")
    runtime = _runtime(options)
    from varestorer_cli.core import runtime as runtimes
    from varestorer_cli.core.engine.engine import RestoreEngine
    from varestorer_cli.core.engine.inference import EngineOptions

    runtimes.keep_freed_memory(runtimes.KEPT_WHILE_RESTORING)
    on_stage("loading the model" if options.model == "auto" else f"loading the model {options.model}")
    loaded = (load or load_model)(options.model, runtime.device, options.weights)
    has_tokens = hasattr(loaded.restorer, "uniforms_shape")
    dial = getattr(loaded, "dial", None)
    require_fitting(options, loaded.name, has_tokens=has_tokens, has_dial=dial is not None)
    if dial is not None and options.fidelity is not None:
        dial.set(loaded.restorer.prerestorer, options.fidelity)
    restorer = loaded.restorer
    if options.steps is not Steps.AUTO:
        from varestorer_cli.core.weights.steps import with_steps

        restorer = with_steps(restorer, options.steps, loaded.name)
    if options.engine is EngineName.OPENVINO:
        from varestorer_cli.core.engine.openvino_backend import with_openvino

        if options.compile is Compile.ON:
            raise UsageError("--compile on is for PyTorch's network; leave it out, or --engine openvino")
        restorer = with_openvino(restorer, loaded.name, runtime.device, runtime.threads)
    expected = options.sampling in (Sampling.EXPECTED, Sampling.CONSISTENT)
    if expected and getattr(restorer.config, "steps", "one") == "all":
        raise UsageError(
            f"--sampling {options.sampling}: scale after scale, each bit is drawn or the likelier one; take sample or "
            "argmax"
        )
    engine = RestoreEngine(
        restorer,
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
            compile=options.compile.value,
        ),
    )
    why = f" (auto{': ' if loaded.why else ''}{loaded.why})" if options.model == "auto" else ""
    if prepared is None:
        from varestorer_cli.core.text.prepare import model_text

        takes_text = bool(getattr(restorer.config, "takes_text", False))
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


def prepare_run_texts(
    plan: RestorePlan, options: RestoreOptions, console: Console, stop: StopFlag | None = None
) -> "RunTexts | None":
    """Find or make what ``options.text`` asks for, before the model is loaded; None where it asks for nothing.

    Caption files are removed from ``plan.ignored``.

    Raises:
        VarestorerError: see ``core.text.prepare.prepare_texts``.
    """
    if not options.text.asked_by:
        return None
    device = _runtime(options).device
    from varestorer_cli.core.text.prepare import prepare_texts

    name = report_name(options.shard, "captions", frames=options.frames)
    file = Path(options.text.captions_file or plan.folder / name)
    prepared = prepare_texts(plan.jobs, options, file, console, device=device, stop=stop)
    plan.ignored = [skipped for skipped in plan.ignored if os.path.realpath(skipped.path) not in prepared.files]
    return prepared


def automatic_model(options: RestoreOptions, devices: Sequence[str] = ()) -> str | None:
    """Name of the model that ``auto`` takes; None where another one was asked for.

    Args:
        options: as given by the user.
        devices: of the run, where they are known already.

    Raises:
        MissingDependencyError: torch or the device is missing.
    """
    if options.model != "auto":
        return None
    from varestorer_cli.core.weights.root import choose_model

    return choose_model("auto", options.weights, devices[0] if devices else _runtime(options).device).name


def _runtime(options: RestoreOptions) -> "Runtime":
    try:
        from varestorer_cli.core import runtime as runtimes

        precision, precision_why = options.precision, "asked for"
        if options.compat is not Compat.NONE and precision is Precision.AUTO:
            # the script's own mixed precision gives other results on every machine
            precision, precision_why = Precision.FP32, f"--compat {options.compat.value}"
        return runtimes.choose(options.device, precision, options.threads, precision_why)
    except ImportError as error:
        raise MissingDependencyError(f"torch cannot be imported ({error}); run varestorer doctor") from error
