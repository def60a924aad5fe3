"""Reading the tensors of files that others wrote: safetensors, or pickles of which nothing is run."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError

_DAMAGED = "{path}: cannot be read ({error}); it is cut off or damaged: fetch it again"


def read_state(path: Path) -> Mapping[str, Any]:
    """A file's mapping of names to tensors, or to whatever it holds instead; tensors are mapped, not read.

    Args:
        path: safetensors, or a file of ``torch.save``.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: damaged, no mapping, or it wants to run code.
    """
    if not path.is_file():
        raise MissingDependencyError(f"{path}: no such file; check the path")
    with path.open("rb") as stream:
        head = stream.read(9)
    if path.suffix == ".safetensors" or head[8:] == b"{":
        try:
            with safe_open(path, framework="pt") as reader:
                return {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118  (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(_DAMAGED.format(path=path, error=error)) from error
    zipped = head[:2] == b"PK"  # files of PyTorch before 1.6 are not, and cannot be mapped
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it wants to run {found[1]!r} when it is opened" if found else str(error).partition("\n")[0][:200]
        raise CheckpointError(
            f"{path}: holds more than weights ({what}); nothing of it was run. Get the file from its authors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(_DAMAGED.format(path=path, error=reason)) from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a mapping of names to tensors")
    return state
