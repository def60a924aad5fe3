"""Training checkpoints: everything a run needs to go on exactly, written atomically.

Batches and noise are pure functions of (seed, step), so no generator state is kept: step, weights, optimiser
and average are the whole state. A run whose weights are whole in each process writes files, ``checkpoint_00000123.pt``;
one that divides them writes folders of pieces, ``checkpoint_00000123``. Any number of processes, dividing or not, goes
on from either. The newest few are kept, so that a damaged one is not the end of the run, and the one with the best
validation where that is asked for.
"""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import CheckpointError, InputError, OutputError
from varestorer_cli.core.training import fsdp
from varestorer_cli.core.training.config import flat
from varestorer_cli.core.training.distributed import World
from varestorer_cli.core.training.ema import WeightAverage
from varestorer_cli.core.training.fsdp import DamagedError
from varestorer_cli.core.training.run_folder import checkpoints, read_best, remove, step_of

KEPT = 2
"""Checkpoints that a run keeps by default."""
LEARNING_RATE = "recipe.learning_rate"
"""The one setting that a resumed run may change: the way out of a run that diverged."""
SIZES = "sizes"
"""Sizes of all networks; checkpoints of older versions do not have them."""


@dataclass(frozen=True)
class RunState:
    """What changes during a run, step number apart.

    Attributes:
        trained: holds the weights.
        optimizer: AdamW over them.
        average: of them.
        identity: what must be equal for a continuation to be exact (stage, recipe, seed, configurations).
        divided: weights are pieces; write folders.
        keep: checkpoints that stay, the best one apart.
    """

    trained: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    identity: dict[str, Any]
    divided: bool = False
    keep: int = KEPT

    def save(self, folder: Path, step: int, world: World) -> None:
        """Write the checkpoint of a step; all processes call.

        Raises:
            OutputError: the folder is not writable or the disk full.
        """
        if self.divided:
            self._save_pieces(folder, step, world)
        elif world.main:
            save_state(folder / f"checkpoint_{step:08d}.pt", self._whole(step))
        if world.main:
            best = read_best(folder)
            for path in checkpoints(folder)[self.keep :]:
                if best is None or step_of(path) != best.step:
                    remove(path)
        world.wait()  # torchrun would end the writer too if a process left before the checkpoint is complete

    def load(self, path: Path) -> tuple[int, dict[str, Any]]:
        """Take over a checkpoint.

        Returns:
            Its step, and the settings it was written with where this run has another that may differ.

        Raises:
            DamagedError: it cannot be read.
            CheckpointError: of a run with other settings; the first difference is named.
        """
        if path.is_dir():
            notes = fsdp.load_notes(path)
            changed = _compare(path, self.identity, notes["identity"])
            fsdp.load_pieces(path, self._tensors())
            self.average.steps = int(notes["average_steps"])
            return int(notes["step"]), changed
        state = load_state(path)
        changed = _compare(path, self.identity, state["identity"])
        if self.divided:
            self._assign(state)
        else:
            self.trained.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load(state["average"]["steps"], state["average"]["average"])
        return int(state["step"]), changed

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


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's weights with their names and shapes, wherever they were read from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a run killed meanwhile keeps the one before.

    Raises:
        OutputError: the folder is not writable or the disk full.
    """
    try:
        with atomic_file(path) as stream:
            torch.save(state, stream)
    except (OutputError, InputError, RuntimeError) as error:
        raise OutputError(f"{path}: the checkpoint cannot be written ({error}); free space, then --resume") from error


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint of :func:`save_state`.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state["identity"], state["step"]
    except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition(". ")[0]  # torch goes on about how that may come
        raise DamagedError(f"{path}: the checkpoint is damaged ({reason})") from error
    return state


def _compare(path: Path, identity: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Refuse a checkpoint of other settings, by the name of the first one; returns changes that are allowed."""
    if SIZES not in written:
        identity = {name: value for name, value in identity.items() if name != SIZES}
    now, before = flat(identity), flat(written)
    changed = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
    refused = [name for name in changed if name != LEARNING_RATE]
    if refused:
        name = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise CheckpointError(
            f"{path}: this run was started with {name} = {before.get(name)!r}, now it is {now.get(name)!r}{more}; "
            "repeat the first settings or choose another --out"
        )
    return {name: before.get(name) for name in changed}
