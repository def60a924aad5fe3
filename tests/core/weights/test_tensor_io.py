"""Safetensors files written tensor by tensor are the library's own."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.weights.tensor_io import DATA_HASH, TensorSource, hash_data, mapped_tensors, write_tensors

TENSORS = {
    "b": torch.randn(3, 5).bfloat16(),
    "flags": torch.tensor([True, False, True]),
    "f": torch.randn(2, 3, 4).transpose(0, 2),
    "scalar": torch.tensor(7),
    "none": torch.zeros(0, 4),
    "half": torch.randn(7).half(),
}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {name: TensorSource.of(tensor) for name, tensor in TENSORS.items()}, {"licence": "MIT"})
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    with safe_open(path, "pt") as reader:
        metadata = reader.metadata()
    assert metadata["licence"] == "MIT"
    with path.open("rb") as stream:
        assert hash_data(stream) == (hashlib.sha256(path.read_bytes()).hexdigest(), metadata[DATA_HASH])


def test_tensors_move_from_file_to_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_tensors(first, {name: TensorSource.of(tensor) for name, tensor in TENSORS.items()}, {})
    write_tensors(second, mapped_tensors(first, "f"), {})
    assert {name: tensor.tolist() for name, tensor in load_file(second).items()} == {
        name: TENSORS[name].tolist() for name in ("f", "flags")
    }


def test_only_one_tensor_exists_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def made(name: str) -> TensorSource:
        def read() -> torch.Tensor:
            alive.append(name)
            return torch.zeros(4)

        return TensorSource(torch.float32, (4,), read)

    entries = {"a": made("a"), "b": made("b")}
    assert alive == []
    write_tensors(tmp_path / "a.safetensors", entries, {})
    assert alive == ["a", "b"]


def test_a_tensor_that_is_not_as_announced_leaves_nothing(tmp_path: Path) -> None:
    entry = TensorSource(torch.float32, (4,), lambda: torch.zeros(5))
    with pytest.raises(ValueError, match=r"'a' is torch.float32 \(5,\), announced torch.float32 \(4,\)"):
        write_tensors(tmp_path / "a.safetensors", {"a": entry}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_torn_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": TensorSource.of(torch.zeros(2))}, {})
    path.write_bytes(path.read_bytes()[:40])
    with path.open("rb") as stream, pytest.raises(CheckpointError, match="ends within its header"):
        hash_data(stream)
