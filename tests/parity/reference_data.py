"""Vectors of the released code: what is in the files of ``tests/data`` and how to compare with it.

``tests/data/README.md`` says how the files were made. The tests run on the complete vectors as well, which are too
large for the repository: ``REFERENCE_VECTORS=FOLDER pytest -m parity``.
"""

import json
import lzma
import os
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from released_states import CLASSES, to_released
from safetensors.torch import load
from torch import Tensor

from varestorer_models.autoencoder import AutoencoderConfig
from varestorer_models.convert import Component
from varestorer_models.swinir import SwinIRConfig
from varestorer_models.transformer import TransformerConfig

DATA = Path(__file__).parents[1] / "data"
VECTORS = Path(os.environ.get("REFERENCE_VECTORS", DATA))

# Name of a component in the reference files.
STATE_NAMES: dict[Component, str] = {"prerestorer": "swinir", "autoencoder": "vae", "transformer": "transformer"}

SAMPLE_STEP = 13  # every 13th value is stored; no side of a tensor is a multiple of it
GROUP = 64  # values per stored mean
IMAGE_GROUP = 256

# Networks whose weights are drawn by `seeded_state` instead of stored, by file.
SEEDED_NETWORKS: dict[str, tuple[Component, Any]] = {
    "swinir": ("prerestorer", SwinIRConfig(width=24, depths=(2, 2), heads=(2, 2))),
    "vae": ("autoencoder", AutoencoderConfig(width=32, multipliers=(1, 1, 1, 2, 2))),
    "transformer_plain": (
        "transformer",
        TransformerConfig(
            width=128, depth=4, heads=4, bits=32, text_width=256, text_heads=2, null_tokens=32, mlp_hidden=512
        ),
    ),
}


def uniforms_of(name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    """Numbers in [low, high) that depend on the name alone: the Mersenne Twister and one multiplication."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return (low + (high - low) * generator.random_sample(shape)).astype(np.float32)


def seeded_state(file: str) -> dict[str, Tensor]:
    """Released state dict of a network of ``SEEDED_NETWORKS`` in which every value matters."""
    component, config = SEEDED_NETWORKS[file]
    shapes = to_released(component, CLASSES[component](config), block_chunks=2)
    state = {}
    for key, tensor in shapes.items():
        shape = tuple(tensor.shape)
        value = torch.from_numpy(uniforms_of(f"{file}/{key}", shape, -(3**0.5), 3**0.5))
        if "zero_k_bias" in key:
            value = torch.zeros(shape)
        elif key.endswith("scale_mul_1H11"):
            value = 2 + value / 2
            value[:, 0] = 4.7  # above the cap
        elif key.endswith("relative_position_bias_table"):
            value = value / 2
        elif tensor.dim() in (2, 4) and key.endswith(".weight"):
            value = value * tensor[0].numel() ** -0.5
        elif key.endswith("norm.weight") or (tensor.dim() == 1 and key.endswith(".weight")):
            value = 1 + value / 5
        else:
            value = value * 0.3
        state[key] = value
    return state


def sampled(value: Tensor) -> tuple[Tensor, Tensor]:
    """Every ``SAMPLE_STEP``-th value as it is, and the means of groups of successive values (float64)."""
    flat = value.reshape(-1)
    group = GROUP if value.is_floating_point() else IMAGE_GROUP
    padded = torch.nn.functional.pad(flat.double(), (0, -len(flat) % group))
    return flat[::SAMPLE_STEP], padded.view(-1, group).mean(1)


class Reference:
    """One reference file; float16 tensors are float32 values stored small.

    Args:
        name: of the file, without endings.
        folder: complete vectors (``.safetensors``) or small ones (``.safetensors.xz``).
    """

    def __init__(self, name: str, folder: Path = VECTORS) -> None:
        self.name = name
        path = folder / f"{name}.safetensors"
        data = path.read_bytes() if path.exists() else lzma.decompress((folder / f"{name}.safetensors.xz").read_bytes())
        self.tensors: Mapping[str, Tensor] = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        self.metadata: dict[str, str] = header["__metadata__"]
        self.shapes: dict[str, list[int]] = json.loads(self.metadata.get("shapes", "{}"))
        self.drawn: dict[str, Any] = json.loads(self.metadata.get("drawn", "{}"))

    @property
    def notes(self) -> dict[str, Any]:
        """Remarks on the cases, such as whether an image was tiled."""
        return json.loads(self.metadata["notes"])

    @property
    def cases(self) -> set[str]:
        """Names of the cases."""
        return set(json.loads(self.metadata["cases"]))

    def state(self, component: Component) -> dict[str, Tensor]:
        """Released state dict of a component, as stored or drawn."""
        prefix = f"state/{STATE_NAMES[component]}/"
        state = {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}
        return state or seeded_state(self.name)

    def table(self, name: str) -> Tensor:
        """A buffer of the released network that follows from its configuration alone."""
        (value,) = (value for key, value in self.tensors.items() if key.endswith(name))
        return value

    def get(self, key: str) -> Tensor:
        """One tensor ``<case>/in/<name>`` or ``<case>/out/<name>`` in full, floating types as float32."""
        if key in self.drawn:
            shape, low, high = self.drawn[key]
            return torch.from_numpy(uniforms_of(f"{self.name}/{key}", tuple(shape), low, high))
        if f"{key}#round" in self.tensors:
            return self._uniforms(key)
        value = self.tensors[key]
        return value.float() if value.is_floating_point() else value

    def sample(self, key: str) -> Tensor:
        """What is stored of the values of an output, flat."""
        return self.get(f"{key}#sample") if key in self.shapes else self.get(key).flatten()

    def error(self, key: str, actual: Tensor) -> Tensor:
        """Differences of the values of an output that are stored, then four times those of the stored means.

        A mean averages rounding away, so it is held to a quarter of what a value is held to.
        """
        shape = self.shapes.get(key) or list(self.tensors[key].shape)
        assert list(actual.shape) == shape, f"shape {tuple(actual.shape)}, expected {tuple(shape)}"
        if key not in self.shapes:
            return (actual - self.get(key)).flatten()
        values, means = sampled(actual.float())
        expected = self.tensors[f"{key}#means"].double()
        return torch.cat([values - self.get(f"{key}#sample"), 4 * (means - expected).float()])

    def max_error(self, key: str, actual: Tensor) -> float:
        """Largest absolute value of :meth:`error`."""
        return self.error(key, actual).abs().max().item()

    def assert_same_image(self, key: str, actual: Any, share: float = 0.001) -> None:
        """8-bit images must agree up to one step at a small share of the values."""
        actual = torch.as_tensor(actual)
        assert actual.dtype == torch.uint8
        shape = self.shapes.get(key) or list(self.tensors[key].shape)
        assert list(actual.shape) == shape, f"shape {tuple(actual.shape)}, expected {tuple(shape)}"
        values, means = sampled(actual)
        difference = (values.int() - self.sample(key).int()[:: 1 if key in self.shapes else SAMPLE_STEP]).abs()
        changed = (difference > 0).float().mean().item()
        assert difference.max() <= 1, f"values differ by up to {difference.max().item()}"
        assert changed <= share, f"{changed:.4%} of the values differ, allowed are {share:.2%}"
        expected = self.tensors[f"{key}#means"].double() if key in self.shapes else sampled(self.tensors[key])[1]
        worst = (means - expected).abs().max().item()
        assert worst <= 8 / IMAGE_GROUP, f"means of {IMAGE_GROUP} values differ by up to {worst}"

    def _uniforms(self, key: str) -> Tensor:
        """Uniform numbers that give the released bits: of each pair the round of drawing that was taken is stored."""
        rounds = self.tensors[f"{key}#round"].long()
        drawn = candidates(f"{self.name}/{key}", tuple(rounds.shape))
        chosen = drawn.gather(0, rounds.clamp(max=len(drawn) - 1)[None, ..., None].expand(1, *rounds.shape, 2))[0]
        chosen[rounds == len(drawn)] = self.tensors[f"{key}#rest"].float()
        return chosen


ROUNDS = 12


def candidates(name: str, shape: tuple[int, ...]) -> Tensor:
    """Rounds of pairs of uniform numbers, (ROUNDS, *shape, 2)."""
    return torch.from_numpy(uniforms_of(name, (ROUNDS, *shape, 2)))


@cache
def reference(name: str) -> Reference:
    """The reference file of that name, read once."""
    return Reference(name)


def max_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; shapes must agree."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    return (actual - expected).abs().max().item()


def thinned(image_13HW: Tensor) -> Tensor:
    """The sample of an image that the complete vectors hold."""
    return image_13HW[:, :, 2::4, 1::4]
