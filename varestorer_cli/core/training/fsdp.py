"""Weights divided among processes (FSDP2): transformers too large for one GPU, and checkpoints of their pieces.

Every process holds its piece of each block of the transformers, of its gradients, moments and averages; the block is
gathered for the moment it computes. All else (autoencoder, pre-restorer, discriminator) is small and is whole in
every process. Checkpoints are written piece by piece (torch.distributed.checkpoint) and can be read by any number of
processes, one included.
"""

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from varestorer_cli.core.errors import CheckpointError, OutputError
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.training.distributed import World
from varestorer_models.transformer import Transformer

_NOTES = "run.json"


class DamagedError(CheckpointError):
    """A checkpoint cannot be read; an older one may be."""


def shard(modules: Iterable[nn.Module]) -> None:
    """Divide every transformer among the modules; to be called before optimisers and averages are made."""
    for transformer in {m for module in modules for m in module.modules() if isinstance(m, Transformer)}:
        for block in transformer.blocks:
            fully_shard(block)
        _return_own_memory(transformer)
        fully_shard(transformer)
        register_fsdp_forward_method(transformer, "encode_condition")


def _return_own_memory(transformer: Transformer) -> None:
    """Let a transformer return no views, in ``forward`` and in ``encode_condition``; before FSDP sees it.

    FSDP2 gathers the weights for the backward pass by hooks on what a module returns. An operation in place on a view
    would drop its hook, and gradients would be wrong. Nothing here works in place; FSDP2 warns of every view.
    """
    encode = transformer.encode_condition
    transformer.register_forward_hook(lambda module, arguments, output: _cloned(output))
    setattr(transformer, "encode_condition", lambda *args, **kwargs: _cloned(encode(*args, **kwargs)))  # noqa: B010


def _cloned(value: Any) -> Any:
    """Tensors in memory of their own, inside tuples and dataclasses too."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(_cloned(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: _cloned(getattr(value, f.name)) for f in dataclasses.fields(value)}
        )
    return value


def average_whole_gradients(parameters: Iterable[Tensor], world: World) -> None:
    """Average the gradients of weights that are whole in every process; those of pieces are averaged already."""
    for parameter in parameters:
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its pieces; all processes must ask. Whole ones come back as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's piece, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(components: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Components as a model file wants them: divided transformers become whole ones; all processes must call."""
    result = dict(components)
    for name, module in components.items():
        if isinstance(module, Transformer) and any(isinstance(p, DTensor) for p in module.parameters()):
            state = {key: whole(tensor).cpu() for key, tensor in module.state_dict().items()}
            with torch.device("meta"):
                copy = Transformer(module.config)
            copy.load_state_dict(state, assign=True)
            result[name] = copy
    return result


def assign(target: Tensor, values: Tensor) -> None:
    """Copy whole values into a whole tensor or into this process's piece."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            rows = values.to(target.device, target.dtype)
            for mesh_axis, placement in enumerate(target.placements):
                if isinstance(placement, Shard):
                    chunks = rows.chunk(target.device_mesh.size(mesh_axis), dim=placement.dim)
                    place = target.device_mesh.get_local_rank(mesh_axis)
                    rows = chunks[place] if place < len(chunks) else rows.narrow(placement.dim, 0, 0)
            target.to_local().copy_(rows)
        else:
            target.copy_(values)


def save_pieces(folder: Path, tensors: dict[str, Any], notes: Mapping[str, Any], world: World) -> None:
    """Write a checkpoint folder; a run killed meanwhile keeps the one before.

    Args:
        folder: final name, unused so far.
        tensors: nested dictionaries of tensors, the same structure in every process.
        notes: JSON values kept beside them.
        world: of the processes that call.

    Raises:
        OutputError: the folder cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        if world.main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        world.wait()
        with _quiet():
            save(tensors, checkpoint_id=part)
        if world.main:
            (part / _NOTES).write_text(json.dumps(dict(notes)), encoding="utf-8")
            for file in part.iterdir():
                _flush(file)
            part.rename(folder)
    except OSError as error:
        raise OutputError(
            f"{folder}: the checkpoint cannot be written ({reason_of(error)}); free space, then --resume"
        ) from error


def load_notes(folder: Path) -> dict[str, Any]:
    """The notes of a checkpoint folder.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        notes: dict[str, Any] = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder}: the checkpoint is damaged ({error})") from error
    return notes


def load_pieces(folder: Path, tensors: dict[str, Any]) -> None:
    """Read a checkpoint folder into tensors in place, whole ones or pieces of any division.

    Raises:
        DamagedError: it cannot be read, or is of other networks.
    """
    try:
        with _quiet():
            load(tensors, checkpoint_id=folder)
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        reason = str(error).strip().splitlines()
        text = f"{folder}: the checkpoint is damaged or of other networks ({reason[0] if reason else error})"
        raise DamagedError(text) from error


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


class _quiet(warnings.catch_warnings):  # noqa: N801
    """Without the library's remarks about single processes and its own internals."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
