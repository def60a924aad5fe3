"""Writing safetensors files tensor by tensor.

The library's own writer wants every tensor in memory at once. Here a tensor exists only while it is written, so that a
file of many gigabytes can be made from other mapped files on a machine that could not hold it. Reading is left to the
library.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import CheckpointError

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
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Entry:
    """A tensor to come.

    Attributes:
        dtype: stored type.
        shape: stored shape.
        read: makes the tensor; called once, when its turn to be written has come.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> "Entry":
        """A tensor that exists, stored in ``dtype`` where given."""
        stored = dtype or tensor.dtype
        return cls(stored, tuple(tensor.shape), lambda: tensor.detach().to("cpu", stored))

    @property
    def size(self) -> int:
        """Bytes."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


def write_tensors(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write a file, atomically; its metadata gets the hash of the tensor bytes.

    Args:
        path: target.
        entries: tensors by name.
        metadata: strings.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a tensor is not what its entry says.
    """
    order = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))  # keeps every tensor aligned
    notes = dict(sorted({**metadata, DATA_HASH: "0" * 64}.items()))  # the same contents are the same bytes
    header: dict[str, object] = {"__metadata__": notes}
    end = 0
    for name in order:
        entry = entries[name]
        start, end = end, end + entry.size
        header[name] = {"dtype": _TYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    with atomic_file(path) as stream:
        stream.write(_header(header))
        digest = hashlib.sha256()
        for name in order:
            for block in _blocks(name, entries[name]):
                stream.write(block)
                digest.update(block)
        notes[DATA_HASH] = digest.hexdigest()
        stream.seek(0)
        stream.write(_header(header))  # of the same length as before


def _header(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(name: str, entry: Entry) -> Iterable[memoryview]:
    tensor = entry.read()
    if tensor.dtype != entry.dtype or tuple(tensor.shape) != entry.shape:
        raise ValueError(f"{name!r} is {tensor.dtype} {tuple(tensor.shape)}, announced {entry.dtype} {entry.shape}")
    if not tensor.numel():
        return
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), _BLOCK):
        yield data[start : start + _BLOCK]


def mapped_entries(path: Path, prefix: str = "") -> dict[str, Entry]:
    """Tensors of an existing file, to be written into another one; nothing is read yet.

    Args:
        path: safetensors file.
        prefix: only the tensors whose names begin so.
    """

    def entry(name: str) -> Entry:
        def read() -> Tensor:
            with safe_open(path, framework="pt") as reader:
                tensor: Tensor = reader.get_tensor(name)
                return tensor

        stored = shapes[name]
        return Entry(stored[0], stored[1], read)

    names = {text: kind for kind, text in _TYPES.items()}
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    with safe_open(path, framework="pt") as reader:
        for name in reader.keys():  # noqa: SIM118  (not a dict)
            if name.startswith(prefix):
                view = reader.get_slice(name)
                shapes[name] = names[view.get_dtype()], tuple(view.get_shape())
    return {name: entry(name) for name in shapes}


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; needs no memory beside it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(float(limit)) for limit in torch.aminmax(tensor))


def hash_data(stream: BinaryIO) -> tuple[str, str]:
    """(SHA-256 of the whole file, SHA-256 of its tensor bytes), in one pass.

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
