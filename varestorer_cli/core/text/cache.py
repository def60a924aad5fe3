"""Disk cache of text features by encoder and prompt, so that a prompt is encoded once, not once per run."""

import hashlib
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import OutputError
from varestorer_cli.core.folders import cache_folder


def text_cache_folder() -> Path | None:
    """Folder of cached features, None where there is no home directory."""
    folder = cache_folder()
    return None if folder is None else folder / "text"


class TextCache:
    """Cached features of one encoder.

    A cache that cannot be written is not a failure: ``problem`` then holds the reason, and features are computed again.

    Args:
        encoder: fingerprint of the encoder.
        folder: cache folder of all encoders, None for no cache.
    """

    def __init__(self, encoder: str, folder: Path | None) -> None:
        self.encoder = encoder
        self.folder = folder / encoder[:16] if folder is not None else None
        self.problem = "" if folder is not None else "there is no home directory"

    def read(self, prompt: str) -> Tensor | None:
        """Features (n, T) in float32, None if there are none or the file is damaged."""
        if self.folder is None:
            return None
        return read_features(self._path(prompt), self.encoder, prompt)

    def write(self, prompt: str, rows: Tensor) -> None:
        """Store features; the reason of a failure goes to ``problem``."""
        if self.folder is None:
            return
        try:
            write_features(self._path(prompt), self.encoder, prompt, rows)
        except OutputError as error:
            self.problem = str(error).partition(";")[0]
            self.folder = None

    def _path(self, prompt: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(prompt.encode()).hexdigest()}.safetensors"


def read_features(path: Path, encoder: str, prompt: str) -> Tensor | None:
    """Features (n, T) in float32 from a file; None if it is damaged or of another encoder or prompt.

    Args:
        path: file written by :func:`write_features`.
        encoder: fingerprint of the encoder.
        prompt: the text.
    """
    with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as reader:
        metadata = reader.metadata() or {}
        if (metadata.get("encoder"), metadata.get("prompt")) != (encoder, prompt):
            return None
        rows: Tensor = reader.get_tensor("rows")
        if rows.ndim == 2 and len(rows) and bool(torch.isfinite(rows).all()):
            return rows.float()
    return None


def write_features(path: Path, encoder: str, prompt: str, rows: Tensor) -> None:
    """Write a prompt's features (n, T) atomically, in float32.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as stream:
        stream.write(save({"rows": rows.float().cpu().contiguous()}, metadata={"encoder": encoder, "prompt": prompt}))
