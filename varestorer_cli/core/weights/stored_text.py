"""The default prompt in a model file: its features by a text encoder, so that ``restore`` needs no encoder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.weights.model_metadata import (
    READ_ERRORS,
    UNREADABLE,
    read_header,
    read_metadata,
    require_loadable,
)
from varestorer_cli.core.weights.tensor_io import TensorSource, all_finite, mapped_tensors, write_tensors

TEXT_ROWS = "text.rows"
TEXT_PROMPT = "text.prompt"
TEXT_ENCODER = "text.encoder"


@dataclass(frozen=True)
class StoredText:
    """The default prompt and its features by a text encoder, so that using it needs no encoder.

    Attributes:
        prompt: the text.
        rows: (n, T) features of its n tokens, without padding.
        encoder: fingerprint of the encoder that made them, "" if unknown.
    """

    prompt: str
    rows: Tensor
    encoder: str = ""


def with_text(
    tensors: Mapping[str, TensorSource], metadata: Mapping[str, str], text: StoredText | None
) -> tuple[dict[str, TensorSource], dict[str, str]]:
    """Tensors and metadata of a model file with the features of a default prompt; ``None`` removes them."""
    others = {name: tensor for name, tensor in tensors.items() if name != TEXT_ROWS}
    notes = {key: value for key, value in metadata.items() if key not in (TEXT_PROMPT, TEXT_ENCODER)}
    if text is None:
        return others, notes
    rows = TensorSource.of(text.rows, torch.float32)
    return {**others, TEXT_ROWS: rows}, {**notes, TEXT_PROMPT: text.prompt, TEXT_ENCODER: text.encoder}


def write_text(path: Path, text: StoredText | None) -> None:
    """Store the features of a default prompt in a model file, or remove them; the file is replaced atomically.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: not a model file, or the features are not (n, T) of its transformer's text width.
        OutputError: it cannot be written.
    """
    metadata = read_metadata(path)
    require_text_fits(path, text, read_header(path, metadata))
    write_tensors(path, *with_text(mapped_tensors(path), metadata, text))


def read_text(path: Path) -> StoredText | None:
    """Features of the default prompt in a model file, None if it has none.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: not a model file, or the features do not fit its transformer.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as reader:
            if TEXT_ROWS not in reader.keys():  # noqa: SIM118  (not a dict)
                return None
            rows = reader.get_tensor(TEXT_ROWS)
    except READ_ERRORS as error:
        raise CheckpointError(UNREADABLE.format(path=path, error=error)) from error
    require_loadable(path, TEXT_ROWS, rows)
    text = stored_text_of(metadata, rows)
    require_text_fits(path, text, read_header(path, metadata))
    return text


def stored_text_of(metadata: Mapping[str, str], rows: Tensor) -> StoredText:
    """The default prompt from a file's metadata and its tensor ``TEXT_ROWS``, (n, T) of any floating type."""
    return StoredText(metadata.get(TEXT_PROMPT, ""), rows.float(), metadata.get(TEXT_ENCODER, ""))


def require_text_fits(path: Path, text: StoredText | None, header: Mapping[str, Any]) -> None:
    """Check that the transformer of a model file accepts the features of a default prompt.

    Raises:
        CheckpointError: another width, no rows, or values that are not finite.
    """
    if text is None:
        return
    width = header.get("transformer", {}).get("config", {}).get("text_width")
    if text.rows.ndim != 2 or not len(text.rows) or text.rows.shape[1] != width:
        raise CheckpointError(
            f"{path}: {TEXT_ROWS!r} is {tuple(text.rows.shape)}, its transformer takes (n, {width}) with n at least 1"
        )
    if not all_finite(text.rows):
        raise CheckpointError(f"{path}: {TEXT_ROWS!r} holds values that are not finite; the file is damaged")


def text_width(path: Path, metadata: Mapping[str, str]) -> int | None:
    """Width T of the text features (n, T) that a model was trained to take, None if it takes no text.

    Raises:
        CheckpointError: its metadata cannot be understood.
    """
    header = read_header(path, metadata)
    try:
        if not json.loads(metadata.get("restorer", "{}")).get("takes_text", False):
            return None
        return int(header["transformer"]["config"]["text_width"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be understood ({error!r}); fetch it again") from error
