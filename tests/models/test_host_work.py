"""One forward pass makes no tensor of host data and never waits for a value, so that a CUDA graph can hold it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from varestorer_cli.core.training.presets import preset
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

# torch.tensor(list) is a lift_fresh; float(tensor), bool(tensor) and .item() read one value; the others have shapes
# that depend on values.
_HOST = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default")


class HostWork(TorchDispatchMode):
    """Collects operations that need the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if any(name in str(func) for name in _HOST):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def restorer(prerestorer: nn.Module, head: str, **settings: Any) -> OneStepRestorer:
    smoke = preset("smoke")
    torch.manual_seed(0)
    config = replace(smoke.restorer, **settings)
    student = Transformer(replace(smoke.teacher, head=head))  # type: ignore[arg-type]
    return OneStepRestorer(config, prerestorer, ImageTokenizer(smoke.tokenizer), student).eval()


def prerestorers() -> dict[str, nn.Module]:
    return {
        "conv": ConvRestorer(preset("smoke").prerestorer),
        "rrdb": RRDBNet(RRDBConfig(width=8, growth=4, blocks=1)),
        "swinir": SwinIR(SwinIRConfig(8, (2,), (2,), 2, 2.0, 4, 8)),
    }


@pytest.mark.parametrize("kind", ["conv", "rrdb", "swinir"])
@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("latent", {"sampling": "argmax", "color_fix": "wavelet", "input_color_levels": 3}),
        ("bits", {"sampling": "sample", "color_fix": "adain", "extra_block": True}),
        ("bits", {"sampling": "consistent", "color_fix": "none", "extra_block": False}),
    ],
)
def test_a_pass_needs_nothing_of_the_host(kind: str, head: str, settings: dict[str, Any]) -> None:
    model = restorer(prerestorers()[kind], head, **settings)
    tiles = torch.rand(2, 3, model.tile, model.tile)
    noise = torch.rand(2, *model.uniforms_shape)
    with torch.inference_mode():
        condition = model.condition()
        model(tiles, condition=condition, uniforms=noise)  # makes the tables of this shape
        with HostWork() as work:
            model(tiles, condition=condition, uniforms=noise)
    assert work.count > 100
    assert work.found == []


def test_host_work_would_be_seen() -> None:
    with HostWork() as work:
        torch.tensor([1.0, 2.0])
        float(torch.ones(1).sum())
    assert [name.partition(".")[2].partition(".")[0] for name in work.found] == ["lift_fresh", "_local_scalar_dense"]
