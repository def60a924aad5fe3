"""Training checkpoints: everything a run needs to go on exactly, written atomically.

Batches and noise are pure functions of (seed, step), so no generator state is kept: step, weights, optimiser
and average are the whole state.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from varestorer_cli.core.errors import CheckpointError, OutputError

CHECKPOINT = "checkpoint.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a run killed meanwhile keeps the one before.

    Raises:
        OutputError: the folder is not writable or the disk full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        torch.save(state, temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: the checkpoint cannot be written ({error}); free space, then --resume") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of the same run.

    Args:
        path: written by :func:`save_state`.
        identity: what must be equal for the continuation to be exact (stage, recipe, seed, configurations).

    Raises:
        CheckpointError: damaged, or of a run with other settings; the first difference is named.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written = state["identity"]
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged ({error}); start a new run") from error
    for key in sorted(set(identity) | set(written)):
        if identity.get(key) != written.get(key):
            raise CheckpointError(
                f"{path}: this run was started with {key} = {written.get(key)!r}, now it is {identity.get(key)!r}; "
                "repeat the first settings or choose another --out"
            )
    return state
