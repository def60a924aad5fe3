"""Stored vectors of the released code: what is in the files of ``tests/data`` and how to read it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"

# Name of a component in the reference files.
_STATE_NAMES = {"prerestorer": "swinir", "autoencoder": "vae", "transformer": "transformer"}


class Reference:
    """One reference file; float16 tensors are float32 values stored small."""

    def __init__(self, name: str) -> None:
        with safe_open(DATA / f"{name}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            self.metadata: dict[str, str] = file.metadata()

    @property
    def notes(self) -> dict[str, Any]:
        """Remarks on the cases, such as whether a picture was tiled."""
        return json.loads(self.metadata["notes"])

    @property
    def config(self) -> dict[str, Any]:
        """Hyperparameters under their released names."""
        return json.loads(self.metadata["config"])

    def state(self, component: str) -> dict[str, Tensor]:
        """Released state dict of a component, as stored."""
        prefix = f"state/{_STATE_NAMES[component]}/"
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def get(self, key: str) -> Tensor:
        """One tensor ``<case>/in/<name>`` or ``<case>/out/<name>``, floating types as float32."""
        value = self.tensors[key]
        return value.float() if value.is_floating_point() else value


@cache
def reference(name: str) -> Reference:
    """The reference file of that name, read once."""
    return Reference(name)


def max_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; shapes must agree."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    return (actual - expected).abs().max().item()


def thinned(picture_13HW: Tensor) -> Tensor:
    """The sample of a picture that the files hold."""
    return picture_13HW[:, :, 2::4, 1::4]


def assert_same_picture(actual: Any, expected: Tensor, share: float = 0.001) -> None:
    """8-bit pictures must agree up to one step at a small share of the values."""
    actual = torch.as_tensor(actual)
    assert actual.dtype == torch.uint8
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    difference = (actual.int() - expected.int()).abs()
    changed = (difference > 0).float().mean().item()
    assert difference.max() <= 1, f"values differ by up to {difference.max().item()}"
    assert changed <= share, f"{changed:.4%} of the values differ, allowed are {share:.2%}"
