"""The fidelity dial of a model file: weights on the line through two networks, mixed when the model is loaded.

Two networks of one origin can be mixed weight by weight (network interpolation, ESRGAN, arXiv 1809.00219, section
3.4), and a little beyond them. A file keeps the weights at its own default point, and the difference per unit of
fidelity in 8 bits with one scale per output channel: W(F) = W(default) + (F - default) * difference, exact at the
default point.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PREFIX = "fidelity."
_DIFFERENCE, _SCALE = ".difference", ".scale"
_LEVELS = 127


@dataclass(frozen=True)
class FidelityDial:
    """Differences of a network's weights per unit of fidelity, and the point that its own weights stand for.

    Attributes:
        default: fidelity of the weights as stored, 0 (sharp end) to 1 (faithful end).
        differences: weights at fidelity 1 minus weights at 0, by the name of the network's tensor.
    """

    default: float
    differences: Mapping[str, Tensor]

    def set(self, network: nn.Module, fidelity: float) -> None:
        """Move a network from the default point to another one; to be called once, on freshly loaded weights.

        Args:
            network: its floating tensors are replaced.
            fidelity: 0 to 1.
        """
        if fidelity == self.default:
            return
        state = network.state_dict()
        moved = {
            name: state[name] + ((fidelity - self.default) * difference).to(state[name])
            for name, difference in self.differences.items()
        }
        network.load_state_dict({**state, **moved}, assign=True)
        network.requires_grad_(False)


def packed(start: Mapping[str, Tensor], end: Mapping[str, Tensor], per: float = 1.0) -> dict[str, Tensor]:
    """Difference of two networks as a file keeps it: int8 values and a float32 scale per output channel.

    Args:
        start: tensors by name.
        end: the same names and shapes.
        per: distance of the two on the dial; the difference is divided by it.

    Returns:
        two tensors per name, both under ``PREFIX``: the values (same shape), the scales (first side, or one).
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in end.items():
        difference = (tensor.float() - start[name].float()) / per
        rows = difference.flatten(1) if difference.ndim > 1 else difference[None]
        scale = (rows.abs().amax(dim=1) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        values = (rows / scale[:, None]).round().to(torch.int8).reshape(difference.shape)
        tensors[PREFIX + name + _DIFFERENCE], tensors[PREFIX + name + _SCALE] = values, scale
    return tensors


def unpacked(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences in float32 from the tensors of :func:`packed`.

    Args:
        tensors: as read from a file.
        expected: tensors of the network by name; every difference must belong to one of the same shape.

    Raises:
        ValueError: a tensor without its pair, of another network, shape or type, or not finite.
    """
    names = {key.removesuffix(_DIFFERENCE) for key in tensors if key.endswith(_DIFFERENCE)}
    paired = {name + end for name in names for end in (_DIFFERENCE, _SCALE)}
    if odd := sorted(set(tensors) ^ paired):
        raise ValueError(f"{odd[0]!r} has no partner")
    found: dict[str, Tensor] = {}
    for key in sorted(names):
        name, values, scale = key.removeprefix(PREFIX), tensors[key + _DIFFERENCE], tensors[key + _SCALE]
        if name not in expected:
            raise ValueError(f"{key!r} belongs to no tensor of the network")
        rows = values.shape[0] if values.ndim > 1 else 1
        if values.shape != expected[name].shape or values.dtype != torch.int8 or scale.shape != (rows,):
            raise ValueError(f"{key!r} does not fit {name!r}, which is {tuple(expected[name].shape)}")
        if not bool(torch.isfinite(scale).all()):
            raise ValueError(f"{key!r} holds scales that are not finite")
        found[name] = values.float() * scale.float().reshape(-1, *[1] * (max(values.ndim, 1) - 1))
    return found
