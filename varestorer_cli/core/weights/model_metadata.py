"""The metadata of model files: format, components with class and configuration; read without the tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.weights.configs import config_to_dict
from varestorer_models.first_stage import RestorerConfig

FORMAT = "varestorer/1"
UNREADABLE = "{path}: cannot be read as a model file ({error}); it is damaged or not a safetensors file: fetch it again"
_WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# The last three: stored types that the installed PyTorch does not have.
READ_ERRORS = (SafetensorError, OSError, ValueError, RecursionError, TypeError, RuntimeError, KeyError, AttributeError)


def bundle_metadata(
    header: Mapping[str, Any], restorer: RestorerConfig | None, notes: Mapping[str, str] | None
) -> dict[str, str]:
    """Metadata of a model file.

    Args:
        header: class and configuration of each component by name.
        restorer: settings, when the components are a whole restorer.
        notes: free metadata.
    """
    metadata = {"format": FORMAT, "components": json.dumps(header)}
    if restorer is not None:
        metadata["restorer"] = json.dumps(config_to_dict(restorer))
    return metadata | {"notes": json.dumps(dict(notes or {}))}


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a model file, without reading its tensors.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: it is not a safetensors file, or of another format.
    """
    if not path.is_file():
        raise MissingDependencyError(
            f"{path}: no such model file; check the path or train one (varestorer train --help)"
        )
    try:
        with safe_open(path, framework="pt") as reader:
            metadata = dict(reader.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(UNREADABLE.format(path=path, error=error)) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: its format is {metadata.get('format', 'not stated')!r}, expected {FORMAT!r}; "
            "this file was not written by varestorer"
        )
    return metadata


def read_notes(path: Path) -> dict[str, str]:
    """The free metadata of a model file (licence, stage, steps ...), without reading its tensors.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: it is not a model file, or damaged.
    """
    return notes_of(path, read_metadata(path))


def notes_of(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """The free metadata among a model file's metadata.

    Raises:
        CheckpointError: it is not a table.
    """
    try:
        return {str(k): str(v) for k, v in json.loads(metadata.get("notes", "{}")).items()}
    except (ValueError, RecursionError, AttributeError) as error:
        raise CheckpointError(UNREADABLE.format(path=path, error=error)) from error


def read_header(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Class and configuration of each component by its name, from a model file's metadata; values are unchecked.

    Raises:
        CheckpointError: it is not a table of components.
    """
    try:
        header = json.loads(metadata["components"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(UNREADABLE.format(path=path, error=f"metadata 'components': {error}")) from error
    parts = header.values() if isinstance(header, dict) else [None]
    if not all(isinstance(part, dict) and isinstance(part.get("config"), dict) for part in parts):
        raise CheckpointError(UNREADABLE.format(path=path, error="metadata 'components' is not a table of components"))
    return dict(header)


def require_loadable(path: Path, key: str, tensor: Tensor) -> None:
    """Refuse a tensor of a type that weights do not have.

    Raises:
        CheckpointError: it has one; the text says what to do.
    """
    if tensor.dtype not in _WEIGHT_TYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path}: {key!r} is stored as {kind}, and varestorer reads weights as float32, float16, bfloat16 or "
            "float64 only; convert the file, or fetch it from its authors"
        )
