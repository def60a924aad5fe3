"""The names and shapes of the published files, without their weights: every one has its place in our modules."""

import itertools
from pathlib import Path

import pytest
import torch
from reference_data import DATA
from released_states import from_released, to_released
from torch import Tensor

from varestorer_models.autoencoder import AutoencoderConfig
from varestorer_models.convert import Component
from varestorer_models.swinir import SwinIRConfig
from varestorer_models.transformer import TransformerConfig

pytestmark = pytest.mark.parity


def published(path: Path) -> tuple[dict[str, Tensor], set[str]]:
    """State dict without memory from a list of names and shapes, and the names of its buffers."""
    state: dict[str, Tensor] = {}
    buffers: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern, shape, *remarks = line.split()
        pieces = pattern.replace("{", "}").split("}")  # every second piece is a range first..last
        choices = [
            [str(number) for number in range(int(piece.split("..")[0]), int(piece.split("..")[1]) + 1)]
            if index % 2
            else [piece]
            for index, piece in enumerate(pieces)
        ]
        dtype = torch.int64 if "int64" in remarks else torch.float32
        for chosen in itertools.product(*choices):
            key = "".join(chosen)
            state[key] = torch.empty([int(size) for size in shape.split("x")], dtype=dtype, device="meta")
            if "(buffer)" in remarks:
                buffers.add(key)
    return state, buffers


@pytest.mark.parametrize(
    ("component", "file", "keys", "parameters", "config"),
    [
        ("prerestorer", "swinir", 732, 15_792_587, SwinIRConfig()),
        ("autoencoder", "vae", 270, 110_118_051, AutoencoderConfig()),
        (
            "transformer",
            "transformer",
            1014,
            2_231_827_008,
            TransformerConfig(2048, 32, 16, text_heads=16, mlp_hidden=8192, adapter_rank=32, cross_value_bias=False),
        ),
    ],
)
def test_published_names_and_shapes_load_strictly(
    component: Component, file: str, keys: int, parameters: int, config: object
) -> None:
    state, buffers = published(DATA / "released_keys" / f"{file}.txt")
    assert len(state) == keys
    network = from_released(component, state)
    assert network.config == config
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    back = to_released(component, network)
    assert set(back) == set(state) - buffers
    assert {key: tuple(tensor.shape) for key, tensor in back.items()} == {
        key: tuple(tensor.shape) for key, tensor in state.items() if key not in buffers
    }
