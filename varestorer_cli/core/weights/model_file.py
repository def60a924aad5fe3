"""Model files: safetensors whose metadata carries the configuration.

A file holds named components (``prerestorer``, ``tokenizer``, ``transformer``): the tensors of each
under its name as a prefix, and in the metadata one JSON text with the class and the configuration of each.
Settings that shapes do not determine are read from it, none is guessed, and loading is strict.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.weights import fidelity
from varestorer_cli.core.weights.configs import build, config_from_dict, config_to_dict
from varestorer_cli.core.weights.fidelity import FidelityDial
from varestorer_cli.core.weights.file_hash import file_sha256, remembered_sha256
from varestorer_cli.core.weights.model_metadata import (
    READ_ERRORS,
    UNREADABLE,
    bundle_metadata,
    notes_of,
    read_header,
    read_metadata,
    require_loadable,
)
from varestorer_cli.core.weights.root import choose_model
from varestorer_cli.core.weights.stored_text import TEXT_ROWS, StoredText, require_text_fits, stored_text_of, with_text
from varestorer_cli.core.weights.tensor_io import (
    DATA_HASH,
    TensorSource,
    all_finite,
    hash_data,
    write_tensors,
)
from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.layers import Projection
from varestorer_models.multistep import restorer_from_components
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer, TokenizerConfig
from varestorer_models.transformer import Transformer, TransformerConfig

FIDELITY = "fidelity"
VERIFIED_SIZE = 1 << 30
"""Size in bytes up to which loading compares a file's tensors with their hash; larger ones: ``weights verify``."""
COMPONENTS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "Autoencoder": (AutoencoderConfig, Autoencoder),
    "ConvRestorer": (ConvRestorerConfig, ConvRestorer),
    "ImageTokenizer": (TokenizerConfig, ImageTokenizer),
    "RRDBNet": (RRDBConfig, RRDBNet),
    "SwinIR": (SwinIRConfig, SwinIR),
    "Transformer": (TransformerConfig, Transformer),
}


@dataclass(frozen=True)
class Bundle:
    """Contents of one model file.

    Attributes:
        path: the file.
        components: modules by name, in eval mode.
        restorer: settings of the whole restorer, None where the file holds only parts of one.
        notes: free metadata (licence, training data, steps ...), strings.
        sha256: SHA-256 of the file's bytes.
        text: features of the default prompt, None where the model uses its learned null condition.
        dial: what ``--fidelity`` moves the pre-restorer along, None where the file has one set of weights.
    """

    path: Path
    components: dict[str, nn.Module]
    restorer: RestorerConfig | None
    notes: dict[str, str]
    sha256: str
    text: StoredText | None = None
    dial: FidelityDial | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A restorer ready to run, its origin, and the reason (``why``) of an automatic choice."""

    restorer: FirstStageRestorer
    sha256: str
    name: str
    metadata: dict[str, str]
    text: StoredText | None = None
    why: str = ""
    dial: FidelityDial | None = None


def save_bundle(
    path: Path,
    components: Mapping[str, nn.Module],
    *,
    restorer: RestorerConfig | None = None,
    notes: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    text: StoredText | None = None,
    dial: tuple[float, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write components into one file, atomically.

    Args:
        path: target; its folder must exist.
        components: modules by name.
        restorer: settings, when the components are a whole restorer.
        notes: free metadata.
        dtype: stored type of floating tensors (float16 halves the file), by default their own.
        text: features of the default prompt.
        dial: fidelity that the pre-restorer's weights stand for, and the tensors of :func:`fidelity.packed`.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors: dict[str, TensorSource] = {}
    header: dict[str, Any] = {}
    for name, module in components.items():
        header[name] = {"class": type(module).__name__, "config": config_to_dict(module.config)}
        for key, tensor in module.state_dict().items():
            tensors[f"{name}.{key}"] = TensorSource.of(tensor, dtype if tensor.is_floating_point() else None)
    metadata = bundle_metadata(header, restorer, notes)
    if dial is not None:
        tensors |= {key: TensorSource.of(tensor) for key, tensor in dial[1].items()}
        metadata[FIDELITY] = json.dumps(dial[0])
    write_tensors(path, *with_text(tensors, metadata, text))


def load_bundle(path: Path, device: torch.device | str = "cpu", *, keep_bfloat16: bool = False) -> Bundle:
    """Read a model file strictly.

    Tensors that need no conversion stay mapped: on the CPU the file is not copied into memory, and two processes with
    the same model share it; on the way to a GPU there is one tensor at a time.

    Args:
        path: a file of :func:`save_bundle`.
        device: where the modules go.
        keep_bfloat16: for inference with large models. Otherwise all floating tensors become float32.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: not a safetensors file, another format, damaged, or tensors that do not fit.
    """
    metadata = read_metadata(path)
    header, notes = read_header(path, metadata), notes_of(path, metadata)
    try:
        restorer = metadata.get("restorer")
        settings = config_from_dict(RestorerConfig, json.loads(restorer)) if restorer else None
        with safe_open(path, framework="pt") as reader:
            state = {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118  (not a dict)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except READ_ERRORS as error:
        raise CheckpointError(UNREADABLE.format(path=path, error=error)) from error
    differences = {key: state.pop(key) for key in list(state) if key.startswith(fidelity.PREFIX)}
    for key, tensor in state.items():
        require_loadable(path, key, tensor)
    rows = state.pop(TEXT_ROWS, None)
    text = None if rows is None else stored_text_of(metadata, rows)
    require_text_fits(path, text, header)
    components = {name: _component(path, name, part, state, keep_bfloat16) for name, part in header.items()}
    dial = _dial(path, metadata.get(FIDELITY), differences, components)
    if state:
        raise CheckpointError(f"{path}: unexpected tensor {next(iter(state))!r} ({len(state)} in all)")
    sha256 = _verified(path, metadata)
    for module in components.values():
        module.to(device)
    return Bundle(path, components, settings, notes, sha256, text, dial)


def _verified(path: Path, metadata: Mapping[str, str]) -> str:
    """SHA-256 of the file, after comparing its tensors with the hash in its metadata if the file is small.

    Raises:
        CheckpointError: the hashes differ.
    """
    expected = metadata.get(DATA_HASH)
    if path.stat().st_size > VERIFIED_SIZE:
        return remembered_sha256(path)
    if expected is None:
        return file_sha256(path)
    with path.open("rb") as stream:
        whole, found = hash_data(stream)
    if found != expected:
        raise CheckpointError(
            f"{path}: its tensors have the hash {found}, its metadata says {expected}; the file is damaged or was "
            "changed: fetch it again"
        )
    return whole


def _dial(
    path: Path, default: str | None, differences: Mapping[str, Tensor], components: Mapping[str, nn.Module]
) -> FidelityDial | None:
    """The dial of a file's pre-restorer, checked; None where the file has none."""
    if default is None and not differences:
        return None
    try:
        network = components["prerestorer"]
        if len(components) > 1:
            raise ValueError("only a pre-restorer alone can have one")
        point = float(json.loads(default or "null"))
        if not 0 <= point <= 1:
            raise ValueError(f"its default fidelity is {point}, 0 to 1 is possible")
        return FidelityDial(point, fidelity.unpacked(differences, network.state_dict()))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its fidelity dial cannot be used: {error}") from error


def _component(
    path: Path, name: str, header: Mapping[str, Any], state: dict[str, Tensor], keep_bfloat16: bool
) -> nn.Module:
    """Build one component and remove its tensors from ``state``."""
    kind = header.get("class")
    if not isinstance(kind, str) or kind not in COMPONENTS:
        raise CheckpointError(f"{path}: component {name!r} has unknown class {kind!r}; known: {', '.join(COMPONENTS)}")
    prefix = f"{name}."
    tensors = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    try:
        module = build(*COMPONENTS[kind], header["config"], tensors=len(tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: component {name!r}: {error}") from error
    expected = module.state_dict()
    for key, tensor in tensors.items():
        if key not in expected:
            raise CheckpointError(f"{path}: unexpected tensor {prefix + key!r}")
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {prefix + key!r} is {tuple(tensor.shape)}, "
                f"the configuration says {tuple(expected[key].shape)}"
            )
        if not all_finite(tensor):
            raise CheckpointError(f"{path}: {prefix + key!r} holds values that are not finite; the file is damaged")
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise CheckpointError(f"{path}: {prefix + missing[0]!r} is missing ({len(missing)} tensors in all)")
    # A projection takes a matrix of bfloat16 whatever the rest is. Any other tensor of another type than the rest, as
    # no program stores it, does not fit what comes from the others.
    matrices = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point() and tensor.ndim > 1}
    kept: set[str] = set()
    if keep_bfloat16:
        parts = module.named_modules()
        kept = {f"{part}.weight" for part, layer in parts if isinstance(layer, Projection)}
        if matrices == {torch.bfloat16}:
            kept = set(tensors)
    floats = {k: v if k in kept and v.dtype == torch.bfloat16 else v.float() for k, v in tensors.items()}
    module.load_state_dict(floats, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def load_restorer(
    model: str | Path = "auto",
    device: torch.device | str = "cpu",
    weights: str | os.PathLike[str] | None = None,
) -> LoadedModel:
    """Load a whole restorer by name, file or folder of a training run (see :func:`choose_model`).

    Raises:
        MissingDependencyError: no such model.
        CheckpointError: damaged, or a file that holds only parts of a restorer.
    """
    choice = choose_model(str(model), weights, str(device))
    bundle = load_bundle(choice.path, device, keep_bfloat16=True)
    if bundle.restorer is None:
        raise CheckpointError(
            f"{choice.path}: holds only {', '.join(bundle.components)}, not a whole restorer; "
            "run varestorer distill first"
        )
    for name, kind in (("tokenizer", ImageTokenizer), ("transformer", Transformer), ("teacher", Transformer)):
        found = bundle.components.get(name)
        if found is not None and not isinstance(found, kind):
            raise CheckpointError(
                f"{choice.path}: its components do not make a restorer (the {name} is a {type(found).__name__})"
            )
    try:
        restorer = restorer_from_components(bundle.restorer, bundle.components)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{choice.path}: its components do not make a restorer ({error})") from error
    released_layout = isinstance(restorer, OneStepRestorer) and restorer.tokenizer.config.autoencoder.norm != "none"
    if not released_layout:  # with norms the encoder keeps the released layout
        restorer = restorer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(restorer.eval(), bundle.sha256, choice.name, bundle.notes, bundle.text, choice.why, bundle.dial)
