"""Training checkpoints: everything a run needs to go on exactly, written atomically.

Batches and noise are pure functions of (seed, step), so no generator state is kept: step, weights, optimiser
and average are the whole state. A run whose weights are whole in each process keeps one file, ``checkpoint.pt``; one
that divides them keeps a folder of pieces, ``checkpoint_00000123``. Any number of processes, dividing or not, goes on
from either.
"""

import hashlib
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from varestorer_cli.core.errors import CheckpointError, OutputError
from varestorer_cli.core.training import fsdp
from varestorer_cli.core.training.distributed import World
from varestorer_cli.core.training.ema import WeightAverage

CHECKPOINT = "checkpoint.pt"


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint a run folder holds, a file or a folder of pieces; None where there is none."""
    folders = sorted(path for path in folder.glob("checkpoint_*") if path.is_dir())
    if folders:
        return folders[-1]
    file = folder / CHECKPOINT
    return file if file.exists() else None


@dataclass(frozen=True)
class RunState:
    """What changes during a run, step number apart.

    Attributes:
        trained: holds the weights.
        optimizer: AdamW over them.
        average: of them.
        identity: what must be equal for a continuation to be exact (stage, recipe, seed, configurations).
        divided: weights are pieces; write folders.
    """

    trained: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    identity: dict[str, Any]
    divided: bool = False

    def save(self, folder: Path, step: int, world: World) -> None:
        """Write the checkpoint of a step; all processes call.

        Raises:
            OutputError: the folder is not writable or the disk full.
        """
        if self.divided:
            self._save_pieces(folder, step, world)
        elif world.main:
            save_state(folder / CHECKPOINT, self._whole(step))
            _remove(folder.glob("checkpoint_*"))
        world.wait()  # a process that leaves before the checkpoint is whole would take the writer along

    def load(self, path: Path) -> int:
        """Take over a checkpoint; returns its step.

        Raises:
            CheckpointError: damaged, or of a run with other settings; the first difference is named.
        """
        if path.is_dir():
            notes = fsdp.load_notes(path)
            _compare(path, self.identity, notes["identity"])
            fsdp.load_pieces(path, self._tensors())
            self.average.steps = int(notes["average_steps"])
            return int(notes["step"])
        state = load_state(path, self.identity)
        if self.divided:
            self._assign(state)
        else:
            self.trained.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load(state["average"]["steps"], state["average"]["average"])
        return int(state["step"])

    def _whole(self, step: int) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "step": step,
            "weights": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state(),
        }

    def _tensors(self) -> dict[str, Any]:
        """All tensors of the state by name, in the order of the weights and sharing their memory."""
        moments: dict[str, Any] = {}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                entry = self.optimizer.state[parameter]
                if not entry:  # what AdamW makes of it at its first step
                    device = parameter.device if group["fused"] else "cpu"
                    entry["step"] = torch.zeros((), dtype=torch.float32, device=device)
                    entry["exp_avg"] = torch.zeros_like(parameter)
                    entry["exp_avg_sq"] = torch.zeros_like(parameter)
                moments[str(len(moments))] = {name: entry[name] for name in ("step", "exp_avg", "exp_avg_sq")}
        return {
            "weights": self.trained.state_dict(),
            "optimizer": moments,
            "average": dict(self.average.average),
        }

    def _assign(self, state: dict[str, Any]) -> None:
        """Whole values of a file into pieces."""
        tensors = self._tensors()
        for name, target in tensors["weights"].items():
            fsdp.assign(target, state["weights"][name])
        for name, target in tensors["average"].items():
            fsdp.assign(target, state["average"]["average"][name])
        for number, entry in state["optimizer"]["state"].items():
            for name, values in entry.items():
                fsdp.assign(tensors["optimizer"][str(number)][name], values)
        self.average.steps = int(state["average"]["steps"])

    def _save_pieces(self, folder: Path, step: int, world: World) -> None:
        path = folder / f"checkpoint_{step:08d}"
        if path.is_dir():
            return
        notes = {"identity": self.identity, "step": step, "average_steps": self.average.steps}
        fsdp.save_pieces(path, self._tensors(), notes, world)
        if world.main:
            _remove(other for other in folder.glob("checkpoint_*") if other != path)
            (folder / CHECKPOINT).unlink(missing_ok=True)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's weights with their names and shapes, wherever they were read from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _remove(paths: Any) -> None:
    for path in list(paths):
        shutil.rmtree(path, ignore_errors=True)


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
    _compare(path, identity, written)
    return state


def _compare(path: Path, identity: dict[str, Any], written: dict[str, Any]) -> None:
    for key in sorted(set(identity) | set(written)):
        if identity.get(key) != written.get(key):
            raise CheckpointError(
                f"{path}: this run was started with {key} = {written.get(key)!r}, now it is {identity.get(key)!r}; "
                "repeat the first settings or choose another --out"
            )
