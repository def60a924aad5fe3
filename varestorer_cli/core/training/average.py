"""Average of the weights of models with the same layout, and a dial between two of them.

``varestorer train average`` writes one mean, ``varestorer train dial`` a file that ``--fidelity`` moves along.

Networks trained from the same start can be mixed weight by weight; between a faithful and a sharp one lie all degrees
of sharpness (network interpolation, ESRGAN, arXiv 1809.00219, section 3.4; model soups, arXiv 2203.05482).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import CheckpointError, UsageError
from varestorer_cli.core.training.starting_weights import MODEL
from varestorer_cli.core.training.tool_options import AverageOptions, DialOptions
from varestorer_cli.core.weights.fidelity import packed
from varestorer_cli.core.weights.model_file import Bundle, load_bundle, save_bundle
from varestorer_cli.core.weights.root import choose_model


def average_models(options: AverageOptions) -> Path:
    """Write the weighted mean of models.

    Returns:
        The file.

    Raises:
        UsageError: the file exists.
        CheckpointError: the models differ in anything but their weights, or one is damaged.
        MissingDependencyError: there is no such model.
        OutputError: the file cannot be written.
    """
    target = _target(options.out)
    shares = options.shares or ()
    bundles = [load_bundle(choose_model(str(model)).path) for model in options.models]
    for other in bundles[1:]:
        _check_same_layout(bundles[0], other)
    components = {name: _mean([b.components[name] for b in bundles], shares) for name in bundles[0].components}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(
        target,
        components,
        restorer=bundles[0].restorer,
        notes=_notes(bundles, shares, options.license_text),
        dtype=torch.float16 if options.half else None,
        text=bundles[0].text,
    )
    return target


def make_dial(options: DialOptions) -> Path:
    """Write a pre-restorer whose weights ``--fidelity`` moves along the line through two models.

    The line is W(F) = base + (F - default) / (1 - default) * (faithful - base): below the default point it goes on
    beyond the base, away from the faithful model. The base is stored in float16, the difference per unit of F in 8
    bits.

    Returns:
        The file.

    Raises:
        UsageError: the file exists.
        CheckpointError: the models are no pre-restorers alone, differ in their layout, or one is damaged.
        MissingDependencyError: there is no such model.
        OutputError: the file cannot be written.
    """
    target = _target(options.out)
    ends = [load_bundle(choose_model(str(model)).path) for model in (options.base, options.faithful)]
    _check_same_layout(*ends)
    if set(ends[0].components) != {"prerestorer"} or ends[0].restorer is None:
        raise CheckpointError(f"{ends[0].path}: a dial is made of two pre-restorers as 'train prerestorer' writes them")
    networks = [bundle.components["prerestorer"] for bundle in ends]
    differences = packed(networks[0].state_dict(), networks[1].state_dict(), 1 - options.default)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(
        target,
        {"prerestorer": networks[0]},
        restorer=ends[0].restorer,
        notes={**_notes(ends, [options.default, 1.0], options.license_text, "fidelity"), "stage": "dial"},
        dtype=torch.float16,
        dial=(options.default, differences),
    )
    return target


def _target(out: Path) -> Path:
    """File to write: ``out``, or ``model.safetensors`` in the folder ``out``, so that it serves wherever a run can."""
    target = out if out.suffix == ".safetensors" else out / MODEL
    if target.exists():
        raise UsageError(f"{target} exists already; choose another --out")
    return target


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
