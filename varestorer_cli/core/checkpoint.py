"""Model files: safetensors whose metadata carries the configuration.

A file is a bundle of named components (``prerestorer``, ``tokenizer``, ``transformer``): the tensors of each
under its name as a prefix, and in the metadata one JSON text with the class and the configuration of each.
Whatever the shapes cannot tell is read from there, nothing is guessed, and loading is strict.
"""

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.prerestorer import ConvRestorer, ConvRestorerConfig
from models.restorer import Restorer, RestorerConfig
from models.swinir import SwinIR, SwinIRConfig
from models.tokenizer import ImageTokenizer, TokenizerConfig
from models.transformer import Transformer, TransformerConfig
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError

FORMAT = "varestorer/1"
COMPONENTS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "Autoencoder": (AutoencoderConfig, Autoencoder),
    "ConvRestorer": (ConvRestorerConfig, ConvRestorer),
    "ImageTokenizer": (TokenizerConfig, ImageTokenizer),
    "SwinIR": (SwinIRConfig, SwinIR),
    "Transformer": (TransformerConfig, Transformer),
}
BUNDLED_MODELS = {"compact": Path(__file__).resolve().parent.parent / "data" / "compact.safetensors"}


@dataclass(frozen=True)
class Bundle:
    """What one model file holds.

    Attributes:
        path: the file.
        components: modules by name, in eval mode.
        restorer: settings of the whole restorer, where the file is one.
        notes: free metadata (licence, training data, steps ...), strings.
        sha256: of the file's bytes.
    """

    path: Path
    components: dict[str, nn.Module]
    restorer: RestorerConfig | None
    notes: dict[str, str]
    sha256: str


@dataclass(frozen=True)
class LoadedModel:
    """A restorer ready to run and where it came from."""

    restorer: Restorer
    sha256: str
    name: str
    metadata: dict[str, str]


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as JSON-ready values."""
    return dataclasses.asdict(config)


def config_from_dict(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Rebuild a (nested) configuration dataclass.

    Raises:
        CheckpointError: an unknown field, or a value the configuration refuses.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(
            f"{cls.__name__} has no field {unknown[0]!r}: the file was written by a newer version; update varestorer"
        )
    try:
        return cls(**{name: _value(hints[name], value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the file's {cls.__name__} is not usable: {error}") from error


def _value(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _value(options[0], value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value)
    if typing.get_origin(hint) is tuple or isinstance(value, list):
        return _tuples(value)
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def save_bundle(
    path: Path,
    components: Mapping[str, nn.Module],
    *,
    restorer: RestorerConfig | None = None,
    notes: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write components into one file, atomically.

    Args:
        path: target; its folder must exist.
        components: modules by name.
        restorer: settings, when the components are a whole restorer.
        notes: free metadata.
        dtype: floating tensors are stored in this type (float16 halves the file), by default as they are.
    """
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {}
    for name, module in components.items():
        header[name] = {"class": type(module).__name__, "config": config_to_dict(module.config)}
        for key, tensor in module.state_dict().items():
            stored = tensor.detach().to("cpu")
            if dtype is not None and stored.is_floating_point():
                stored = stored.to(dtype)
            tensors[f"{name}.{key}"] = stored.contiguous()
    metadata = {"format": FORMAT, "components": json.dumps(header)}
    if restorer is not None:
        metadata["restorer"] = json.dumps(config_to_dict(restorer))
    metadata["notes"] = json.dumps(dict(notes or {}))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata=metadata)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # the library writes for the owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_bundle(path: Path, device: torch.device | str = "cpu") -> Bundle:
    """Read a model file strictly, in float32.

    Args:
        path: a file of :func:`save_bundle`.
        device: where the modules go.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: not a safetensors file, another format, damaged, or tensors that do not fit.
    """
    if not path.is_file():
        raise MissingDependencyError(
            f"{path}: no such model file; check the path or train one (varestorer train --help)"
        )
    try:
        with safe_open(path, framework="pt") as reader:
            metadata = reader.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: its format is {metadata.get('format', 'not stated')!r}, expected {FORMAT!r}; "
                    "this file was not written by varestorer"
                )
            header = json.loads(metadata["components"])
            state = {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118  (not a dict)
        restorer = metadata.get("restorer")
        settings = config_from_dict(RestorerConfig, json.loads(restorer)) if restorer else None
        notes = {str(k): str(v) for k, v in json.loads(metadata.get("notes", "{}")).items()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a model file ({error}); it is damaged or not a safetensors file: fetch it again"
        ) from error
    components = {name: _component(path, name, entry, state) for name, entry in header.items()}
    if state:
        raise CheckpointError(f"{path}: unexpected tensor {next(iter(state))!r} ({len(state)} in all)")
    for module in components.values():
        module.to(device)
    return Bundle(path, components, settings, notes, file_sha256(path))


def _component(path: Path, name: str, entry: Mapping[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """Build one component and take its tensors out of ``state``."""
    kind = entry.get("class")
    if kind not in COMPONENTS:
        raise CheckpointError(f"{path}: component {name!r} has unknown class {kind!r}; known: {', '.join(COMPONENTS)}")
    config_class, module_class = COMPONENTS[kind]
    with torch.device("meta"):
        module = module_class(config_from_dict(config_class, entry["config"]))
    prefix = f"{name}."
    tensors = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    expected = module.state_dict()
    for key, tensor in tensors.items():
        if key not in expected:
            raise CheckpointError(f"{path}: unexpected tensor {prefix + key!r}")
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {prefix + key!r} is {tuple(tensor.shape)}, "
                f"the configuration says {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {prefix + key!r} holds values that are not finite; the file is damaged")
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise CheckpointError(f"{path}: {prefix + missing[0]!r} is missing ({len(missing)} tensors in all)")
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    module.load_state_dict(floats, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def resolve_model(model: str) -> tuple[str, Path]:
    """Name or path -> (name, path). ``auto`` is the bundled compact model.

    Raises:
        MissingDependencyError: a name without an installed file.
    """
    name = "compact" if model == "auto" else model
    path = BUNDLED_MODELS.get(name, Path(name))
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        known = ", ".join(BUNDLED_MODELS)
        raise MissingDependencyError(
            f"model {model!r}: no file {path}; give one of {known}, a model file, or the folder of a training run"
        )
    return name if name in BUNDLED_MODELS else path.stem if path.stem != "model" else path.parent.name, path


def load_restorer(model: str | Path = "auto", device: torch.device | str = "cpu") -> LoadedModel:
    """Load a whole restorer by name (``auto``, ``compact``), file, or training run folder.

    Raises:
        MissingDependencyError: no such model.
        CheckpointError: damaged, or a file that holds only parts of a restorer.
    """
    name, path = resolve_model(str(model))
    bundle = load_bundle(path, device)
    if bundle.restorer is None:
        raise CheckpointError(
            f"{path}: holds only {', '.join(bundle.components)}, not a whole restorer; run varestorer distill first"
        )
    restorer = Restorer.from_components(bundle.restorer, bundle.components)
    if restorer.tokenizer.config.autoencoder.norm == "none":  # with norms the encoder keeps the released layout
        restorer = restorer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(restorer.to(device).eval(), bundle.sha256, name, bundle.notes)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
