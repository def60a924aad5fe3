"""Weights that a stage needs or starts from: files of earlier stages, ``--init``, and which of them are trained."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.training.config import nearest
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Recipe
from varestorer_cli.core.weights.model_file import load_bundle
from varestorer_cli.core.weights.root import choose_model

MODEL = "model.safetensors"


def require_earlier_stages(options: TrainOptions, recipe: Recipe) -> None:
    """See to it, before photographs are cut into crops, that the models are there which a stage needs.

    Raises:
        MissingDependencyError: one is not; the message says how to make or to name it.
    """
    needed = {
        "teacher": [("tokenizer", options.tokenizer)],
        "distill": [("prerestorer", options.prerestorer), ("teacher", options.teacher)],
    }.get(options.stage, [])
    if options.stage == "teacher" and recipe.variant.degraded:
        needed.append(("prerestorer", options.prerestorer))
    for stage, given in needed:
        earlier_folder(options, stage, given)


def earlier_folder(options: TrainOptions, stage: str, given: Path | None) -> Path:
    """Run folder or file of an earlier stage: the one given, else the folder of that name beside ``--out``.

    Raises:
        MissingDependencyError: there is none.
    """
    if given is not None:
        return choose_model(str(given), options.weights).path
    path = options.out.parent / stage
    if not path.exists():
        raise MissingDependencyError(
            f"stage {options.stage} needs a trained {stage}, but {path} does not exist; "
            f"run varestorer train {stage} first or give --{stage}"
        )
    return path


def model_file(path: Path) -> Path:
    """A model file, or the one in a run folder."""
    return path / MODEL if path.is_dir() else path


def earlier_network(options: TrainOptions, stage: str, given: Path | None) -> nn.Module:
    """The network that an earlier stage trained.

    Raises:
        MissingDependencyError: there is none.
        CheckpointError: the file holds another network, or is damaged.
    """
    path = earlier_folder(options, stage, given)
    bundle = load_bundle(model_file(path))
    if stage not in bundle.components:
        raise CheckpointError(f"{path}: holds {', '.join(bundle.components)}, no {stage}")
    return bundle.components[stage]


def start_from(module: nn.Module, path: Path, component: str) -> None:
    """Load weights to start a stage from.

    Raises:
        CheckpointError: the file has no such component, or one of another configuration.
    """
    bundle = load_bundle(model_file(path))
    source = bundle.components.get(component)
    if source is None:
        raise CheckpointError(f"{path}: holds {', '.join(bundle.components)}, no {component}")
    try:
        module.load_state_dict(source.state_dict())
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        sizes = [line for line in lines if "size mismatch" in line]
        first = sizes[0] if sizes else lines[min(1, len(lines) - 1)].partition(",")[0]  # else a list of missing names
        raise CheckpointError(
            f"{path}: its {component} does not fit this preset ({first}); give the --preset or --config that it was "
            "made with"
        ) from error


def train_only(module: nn.Module, names: Sequence[str]) -> None:
    """Leave gradients to the parameters of these names, and to those under them (``body.4`` has ``body.4.*``).

    Raises:
        UsageError: nothing has one of the names.
    """
    module.requires_grad_(False)
    for wanted in names:
        found = [p for name, p in module.named_parameters() if f"{name}.".startswith(f"{wanted}.")]
        if not found:
            known = [name for name, _ in module.named_children()]
            raise UsageError(f"--trainable: no weights are named {wanted}{nearest(wanted, known)}")
        for parameter in found:
            parameter.requires_grad_(True)
