"""The fidelity dial of a model file: exact at the default point, near the ends, linear between, strict about files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.weights import fidelity
from varestorer_cli.core.weights.model_file import FIDELITY, load_bundle, load_restorer, save_bundle
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet

DEFAULT = 0.25


def network(seed: int) -> RRDBNet:
    torch.manual_seed(seed)
    return RRDBNet(RRDBConfig(width=8, growth=4, blocks=1)).eval().requires_grad_(False)


def mixed(sharp: RRDBNet, faithful: RRDBNet, share: float) -> dict[str, Tensor]:
    ends = sharp.state_dict(), faithful.state_dict()
    return {name: torch.lerp(tensor, ends[1][name], share) for name, tensor in ends[0].items()}


@pytest.fixture
def dial_file(tmp_path: Path) -> Path:
    sharp, faithful, stored = network(0), network(1), network(0)
    stored.load_state_dict(mixed(sharp, faithful, DEFAULT))
    differences = fidelity.packed(sharp.state_dict(), faithful.state_dict())
    path = tmp_path / "dial.safetensors"
    save_bundle(path, {"prerestorer": stored}, restorer=RestorerConfig(tile=64), dial=(DEFAULT, differences))
    return path


def weights_at(path: Path, point: float) -> dict[str, Tensor]:
    bundle = load_bundle(path)
    assert bundle.dial is not None
    network = bundle.components["prerestorer"]
    bundle.dial.set(network, point)
    return network.state_dict()


def test_the_default_point_is_exact(dial_file: Path) -> None:
    stored = mixed(network(0), network(1), DEFAULT)
    for name, tensor in weights_at(dial_file, DEFAULT).items():
        assert torch.equal(tensor, stored[name])


@pytest.mark.parametrize("point", [0.0, 0.6, 1.0])
def test_other_points_are_within_the_rounding_of_eight_bits(dial_file: Path, point: float) -> None:
    wanted = mixed(network(0), network(1), point)
    ends = network(0).state_dict(), network(1).state_dict()
    for name, tensor in weights_at(dial_file, point).items():
        largest = (ends[1][name] - ends[0][name]).abs().max()
        bound = abs(point - DEFAULT) * largest / 127 / 2 + 1e-6
        assert (tensor - wanted[name]).abs().max() <= bound
        assert not torch.equal(tensor, weights_at(dial_file, DEFAULT)[name])


def test_the_dial_changes_the_image_and_is_loaded_with_the_restorer(dial_file: Path) -> None:
    tile = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = []
    for point in (0.0, DEFAULT, 1.0):
        loaded = load_restorer(dial_file)
        assert loaded.dial is not None and loaded.dial.default == DEFAULT
        loaded.dial.set(loaded.restorer.prerestorer, point)
        images.append(loaded.restorer(tile).image_B3TT)
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])


def test_differences_take_a_byte_per_weight(dial_file: Path) -> None:
    stored = load_file(dial_file)
    weights = sum(t.numel() for name, t in stored.items() if name.startswith("prerestorer."))
    values = sum(t.nbytes for name, t in stored.items() if name.endswith(".difference"))
    assert values == weights


def rewritten(path: Path, change: dict[str, Tensor | None], default: str | None = None) -> None:
    with safe_open(path, "pt") as reader:
        metadata = {**reader.metadata()}
    metadata.pop("data_sha256", None)
    if default is not None:
        metadata[FIDELITY] = default
    tensors = {**load_file(path), **{k: v for k, v in change.items() if v is not None}}
    save_file({k: v for k, v in tensors.items() if change.get(k, v) is not None}, path, metadata=metadata)


KEY = "fidelity.conv_last.weight"


@pytest.mark.parametrize(
    ("change", "default", "words"),
    [
        ({f"{KEY}.scale": None}, None, "has no partner"),
        ({f"{KEY}.scale": torch.full((3,), torch.inf)}, None, "not finite"),
        ({f"{KEY}.scale": torch.ones(5)}, None, "does not fit"),
        ({f"{KEY}.difference": torch.zeros(3, 8, 3, 3)}, None, "does not fit"),
        ({f"{KEY}.difference": torch.zeros(3, 8, 1, 1, dtype=torch.int8)}, None, "does not fit"),
        ({"fidelity.foreign.difference": torch.zeros(1, dtype=torch.int8), "fidelity.foreign.scale": torch.ones(1)},
         None, "no tensor of the network"),
        ({}, "1.5", "0 to 1 is possible"),
        ({}, "null", "cannot be used"),
        ({}, json.dumps("x"), "cannot be used"),
    ],
)  # fmt: skip
def test_damaged_dials_are_refused_by_name(
    dial_file: Path, change: dict[str, Tensor | None], default: str | None, words: str
) -> None:
    rewritten(dial_file, change, default)
    with pytest.raises(CheckpointError, match=words):
        load_bundle(dial_file)
