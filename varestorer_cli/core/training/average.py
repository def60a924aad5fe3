"""Average of the weights of models with the same layout, and a dial between two of them.

``varestorer train average`` writes one mean, ``varestorer train dial`` a file that ``--fidelity`` moves along.

Networks trained from the same start can be mixed weight by weight; between a faithful and a sharp one lie all degrees
of sharpness (network interpolation, ESRGAN, arXiv 1809.00219, section 3.4; model soups, arXiv 2203.05482).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import CheckpointError, UsageError
from varestorer_cli.core.training.builder import MODEL
from varestorer_cli.core.weights.fidelity import packed
from varestorer_cli.core.weights.model_file import Bundle, load_bundle, save_bundle
from varestorer_cli.core.weights.root import choose_model


def average_models(
    models: Sequence[str | Path],
    out: Path,
    weights: Sequence[float] | None = None,
    *,
    half: bool = False,
    license_text: str | None = None,
) -> Path:
    """Write the weighted mean of models.

    Args:
        models: two or more files, run folders or names of installed models, of the same layout.
        out: a file ``*.safetensors``, or a folder that gets ``model.safetensors``, so that it can be given wherever a
            run folder can.
        weights: of each model, from 0 to 1, together 1; equal by default.
        half: store float16.
        license_text: of the result; the models' own by default.

    Returns:
        The file.

    Raises:
        UsageError: fewer than two models, unusable weights, or a file that exists.
        CheckpointError: the models differ in anything but their weights, or one is damaged.
        MissingDependencyError: there is no such model.
        OutputError: the file cannot be written.
    """
    shares = _shares(len(models), weights)
    target = out if out.suffix == ".safetensors" else out / MODEL
    if target.exists():
        raise UsageError(f"{target} exists already; choose another --out")
    bundles = [load_bundle(choose_model(str(model)).path) for model in models]
    for other in bundles[1:]:
        _check_same_layout(bundles[0], other)
    components = {name: _mean([b.components[name] for b in bundles], shares) for name in bundles[0].components}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(
        target,
        components,
        restorer=bundles[0].restorer,
        notes=_notes(bundles, shares, license_text),
        dtype=torch.float16 if half else None,
        text=bundles[0].text,
    )
    return target


def make_dial(
    base: str | Path, faithful: str | Path, out: Path, default: float, *, license_text: str | None = None
) -> Path:
    """Write a pre-restorer whose weights ``--fidelity`` moves along the line through two models.

    The line is W(F) = base + (F - default) / (1 - default) * (faithful - base): below the default point it goes on
    beyond the base, away from the faithful model. The base is stored in float16, the difference per unit of F in 8
    bits.

    Args:
        base: the model at the default point: a file, run folder or name.
        faithful: the model at fidelity 1, of the same layout.
        out: a file ``*.safetensors``, or a folder that gets ``model.safetensors``.
        default: fidelity that the base stands for, from 0 to below 1.
        license_text: of the result; the models' own by default.

    Returns:
        The file.

    Raises:
        UsageError: a default outside 0 to below 1, or a file that exists.
        CheckpointError: the models are no pre-restorers alone, differ in their layout, or one is damaged.
        MissingDependencyError: there is no such model.
        OutputError: the file cannot be written.
    """
    if not 0 <= default < 1:
        raise UsageError(f"--default {default:g}: 0 to below 1 (the faithful model) is possible")
    target = out if out.suffix == ".safetensors" else out / MODEL
    if target.exists():
        raise UsageError(f"{target} exists already; choose another --out")
    ends = [load_bundle(choose_model(str(model)).path) for model in (base, faithful)]
    _check_same_layout(*ends)
    if set(ends[0].components) != {"prerestorer"} or ends[0].restorer is None:
        raise CheckpointError(f"{ends[0].path}: a dial is made of two pre-restorers as 'train prerestorer' writes them")
    networks = [bundle.components["prerestorer"] for bundle in ends]
    differences = packed(networks[0].state_dict(), networks[1].state_dict(), 1 - default)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(
        target,
        {"prerestorer": networks[0]},
        restorer=ends[0].restorer,
        notes={**_notes(ends, [default, 1.0], license_text, "fidelity"), "stage": "dial"},
        dtype=torch.float16,
        dial=(default, differences),
    )
    return target


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    if count < 2:
        raise UsageError(f"an average needs two models or more, {count} given")
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise UsageError(f"--weights: {len(weights)} numbers for {count} models; give one per model")
    if any(not 0 <= weight <= 1 for weight in weights) or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise UsageError(
            f"--weights {','.join(f'{weight:g}' for weight in weights)}: each must lie between 0 and 1, all together "
            f"must be 1; they are {sum(weights):g}"
        )
    return list(weights)


def _check_same_layout(first: Bundle, other: Bundle) -> None:
    """Refuse a model that differs from the first in anything but the values of its weights."""
    both = f"{first.path} and {other.path}"
    if list(first.components) != list(other.components):
        raise CheckpointError(
            f"{both} cannot be averaged: one holds {', '.join(first.components)}, "
            f"the other {', '.join(other.components)}"
        )
    for name, module in first.components.items():
        theirs = other.components[name]
        if type(module) is not type(theirs) or module.config != theirs.config:
            raise CheckpointError(f"{both} cannot be averaged: the configurations of their {name} differ")
    if first.restorer != other.restorer:
        raise CheckpointError(f"{both} cannot be averaged: their restorer settings differ")
    if (first.text is None) != (other.text is None) or (
        first.text is not None and other.text is not None and not torch.equal(first.text.rows, other.text.rows)
    ):
        raise CheckpointError(f"{both} cannot be averaged: the features of their default text differ")


@torch.no_grad()
def _mean(modules: Sequence[nn.Module], shares: Sequence[float]) -> nn.Module:
    """The first module with the mean of the weights of all."""
    states = [module.state_dict() for module in modules]
    mean: dict[str, Tensor] = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            total = torch.stack([s[name].double() * share for s, share in zip(states, shares, strict=True)]).sum(0)
            mean[name] = total.to(tensor.dtype)
        else:
            if any(not torch.equal(tensor, state[name]) for state in states[1:]):
                raise CheckpointError(f"the models cannot be averaged: they differ in {name!r}, which is not a number")
            mean[name] = tensor
    modules[0].load_state_dict(mean, assign=True)
    return modules[0]


def _notes(
    bundles: Sequence[Bundle], shares: Sequence[float], license_text: str | None, number: str = "weight"
) -> dict[str, str]:
    """What the result was made of: name, hash, weight (or another ``number``) and own notes of each model."""
    licences = dict.fromkeys(bundle.notes.get("licence", "") for bundle in bundles)
    parts = [
        {"name": f"{b.path.parent.name}/{b.path.name}", "sha256": b.sha256, number: share, "notes": b.notes}
        for b, share in zip(bundles, shares, strict=True)
    ]
    own = "; ".join(licence for licence in licences if licence)
    return {"stage": "average", "licence": own if license_text is None else license_text, "of": json.dumps(parts)}
