"""Tensors of files: safetensors written tensor by tensor, and the tensors of files that others wrote.

The writer of the safetensors library wants every tensor in memory at once. Here a tensor exists only while it is
written, so that a file of many gigabytes can be made from other mapped files on a machine that could not hold it.
Reading is left to the library; of pickles nothing is run.
"""

import hashlib
import json
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError

DATA_HASH = "data_sha256"
"""Metadata key of the hash over all tensor bytes, by which a file can be checked wherever it is copied to."""

_TYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
STORED_TYPES = frozenset(_TYPES)
"""Types that files are written in."""
_BLOCK = 1 << 20  # bytes read at a time; two are held
_DAMAGED = "{path}: cannot be read ({error}); it is cut off or damaged: fetch it again"


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is made when it is written.

    Attributes:
        dtype: stored type.
        shape: stored shape.
        read: makes the tensor; called once, just before it is written.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> "TensorSource":
        """Source of an existing tensor, stored in ``dtype`` if given."""
        stored = dtype or tensor.dtype
        return cls(stored, tuple(tensor.shape), lambda: tensor.detach().to("cpu", stored))

    @property
    def size(self) -> int:
        """Size in bytes."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


def write_tensors(path: Path, tensors: Mapping[str, TensorSource], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; its metadata gets the hash of the tensor bytes.

    Args:
        path: target.
        tensors: tensors by name.
        metadata: free strings.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a tensor differs in dtype or shape from its source.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps every tensor aligned
    notes = dict(sorted({**metadata, DATA_HASH: "0" * 64}.items()))  # the same contents are the same bytes
    header: dict[str, object] = {"__metadata__": notes}
    end = 0
    for name in order:
        source = tensors[name]
        start, end = end, end + source.size
        header[name] = {"dtype": _TYPES[source.dtype], "shape": list(source.shape), "data_offsets": [start, end]}
    with atomic_file(path) as stream:
        stream.write(_header(header))
        digest = hashlib.sha256()
        for name in order:
            for block in _blocks(name, tensors[name]):
                stream.write(block)
                digest.update(block)
        notes[DATA_HASH] = digest.hexdigest()
        stream.seek(0)
        stream.write(_header(header))  # of the same length as before


def _header(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(name: str, source: TensorSource) -> Iterable[memoryview]:
    tensor = source.read()
    if tensor.dtype != source.dtype or tuple(tensor.shape) != source.shape:
        raise ValueError(f"{name!r} is {tensor.dtype} {tuple(tensor.shape)}, announced {source.dtype} {source.shape}")
    if not tensor.numel():
        return
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), _BLOCK):
        yield data[start : start + _BLOCK]


def mapped_tensors(path: Path, prefix: str = "") -> dict[str, TensorSource]:
    """Sources of an existing file's tensors, to write them into another file; nothing is read yet.

    Args:
        path: safetensors file.
        prefix: takes only tensors whose names begin with it.

    Raises:
        CheckpointError: a tensor has a type that model files do not have.
    """

    def source_of(name: str) -> TensorSource:
        def read() -> Tensor:
            with safe_open(path, framework="pt") as reader:
                tensor: Tensor = reader.get_tensor(name)
                return tensor

        stored = shapes[name]
        return TensorSource(stored[0], stored[1], read)

    names = {text: kind for kind, text in _TYPES.items()}
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    with safe_open(path, framework="pt") as reader:
        for name in reader.keys():  # noqa: SIM118  (not a dict)
            if name.startswith(prefix):
                view = reader.get_slice(name)
                if view.get_dtype() not in names:
                    raise CheckpointError(
                        f"{path}: {name!r} is stored as {view.get_dtype()}, which no model of varestorer has; "
                        "fetch the file from its authors"
                    )
                shapes[name] = names[view.get_dtype()], tuple(view.get_shape())
    return {name: source_of(name) for name in shapes}


def all_finite(tensor: Tensor) -> bool:
    """True if a tensor holds neither NaN nor infinity; allocates no copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(float(limit)) for limit in torch.aminmax(tensor))


def hash_data(stream: BinaryIO) -> tuple[str, str]:
    """SHA-256 of a whole safetensors file and of its tensor bytes, in one pass.

    Raises:
        CheckpointError: the file ends within its header.
    """
    whole, data = hashlib.sha256(), hashlib.sha256()
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    rest = stream.read(length) if length < 1 << 30 else b""
    if len(rest) < length:
        raise CheckpointError("the file ends within its header; it is damaged: fetch it again")
    whole.update(head)
    whole.update(rest)
    while block := stream.read(_BLOCK):
        whole.update(block)
        data.update(block)
    return whole.hexdigest(), data.hexdigest()


def read_state(path: Path) -> Mapping[str, Any]:
    """Mapping of names to tensors (or other values) in a file; tensors are memory-mapped, not read.

    Args:
        path: safetensors file, or file of ``torch.save``.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: damaged, not a mapping, or a pickle that would run code.
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
        if found is None:  # PyTorch's own advice would be to load it all the same
            raise CheckpointError(
                f"{path}: is neither a safetensors nor a PyTorch file of weights; is it the right file, and complete?"
            ) from error
        raise CheckpointError(
            f"{path}: holds more than weights (it wants to run {found[1]!r} when it is opened); nothing of it was run. "
            "Get the file from its authors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(_DAMAGED.format(path=path, error=reason)) from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a mapping of names to tensors")
    return state
