"""Pixels of small restorers on one tile, pinned: no part of the way from tile to tile can change unnoticed.

Weights and tile come from formulas, so that no random generator of a release of torch matters. The numbers were printed
by this file (``python tests/models/test_pinned_pixels.py``); a change of them is a change of every user's images.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from varestorer_cli.core.training.presets import preset
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

EXPECTED = {
    "guided": """
        0.5972 0.0000 0.0000 0.0279 0.0303 0.6952 0.4199 0.6543 0.6854 0.0000 1.0000 0.4184 1.0000 0.2632 1.0000
        0.0000 1.0000 1.0000 0.7041 0.0000 0.4732 0.0000 0.0711 0.3977 0.4258 0.7499 0.0000 1.0000 0.0205 0.6517
        0.4626 0.0000 1.0000 0.0000 0.9534 0.4593 0.0000 0.3909 0.9607 1.0000 0.3656 0.8961 0.6076 0.3202 0.6003
        0.6715 0.2520 1.0000 0.5304 0.3538 0.8447 1.0000 0.5662 0.7781 1.0000 0.0000 0.7329 0.1213 0.9463 0.0000
        0.9236 1.0000 0.0000 0.0000 0.8489 0.5110 0.4304 0.3875 0.6582 1.0000 0.5946 1.0000 0.9620 0.9190 1.0000
    """,
    "bits": """
        0.1298 0.8159 0.8600 0.6698 0.1022 0.1642 0.9372 0.2200 0.1401 0.1384 0.3316 0.4586 0.2967 0.4162 0.4953
        1.0000 0.1327 0.2745 0.7040 1.0000 0.3258 0.1670 0.9182 0.5368 0.1647 0.8673 0.5813 0.7617 0.6394 0.6086
        0.5399 0.1754 0.1618 0.6895 0.2208 0.3834 0.4085 0.9701 0.1731 1.0000 0.1632 0.5472 0.1982 0.9398 0.3209
        0.9710 0.4291 0.4413 0.2664 0.5226 0.4227 0.8064 0.6950 0.2892 0.3462 0.5279 0.0583 0.0000 0.7333 0.5729
        0.3531 0.9502 0.7924 0.1722 0.3584 0.2645 0.3923 0.9168 0.2764 0.3708 0.5138 0.9114 0.5177 0.5389 0.3685
    """,
    "swinir": """
        0.6278 0.6214 0.5855 0.5592 0.6486 0.6568 0.6155 0.5552 0.6224 0.6709 0.6017 0.5861 0.6599 0.6216 0.5974
        0.6048 0.6100 0.5933 0.6504 0.5898 0.6152 0.5784 0.6179 0.5859 0.5975 0.7418 0.7318 0.7207 0.7275 0.7364
        0.7186 0.7767 0.8039 0.7186 0.7186 0.7400 0.7750 0.7528 0.7221 0.7756 0.7640 0.7582 0.8164 0.7186 0.7323
        0.7423 0.7186 0.7369 0.7544 0.7371 0.9053 0.9065 0.9207 0.9037 0.9085 0.8883 0.9648 0.8591 0.9357 0.9039
        0.8693 0.9432 0.9020 0.9245 0.8728 0.8719 0.8750 0.9144 0.9395 0.8704 0.9227 0.8760 0.8789 0.9107 0.9192
    """,
}


def fill(module: nn.Module) -> None:
    """Weights from a formula: irregular, of usual size."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            index = torch.arange(parameter.numel(), dtype=torch.float64)
            wave = torch.sin(index * 12.9898 + number * 4.1414) * 43758.5453
            size = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(((wave - wave.floor()) * 2 - 1).view(parameter.shape) * size * 1.7)


def restorer(name: str) -> OneStepRestorer:
    smoke = preset("smoke")
    prerestorers: dict[str, nn.Module] = {
        "guided": ConvRestorer(smoke.prerestorer),
        "bits": RRDBNet(RRDBConfig(width=8, growth=4, blocks=2)),
        "swinir": SwinIR(SwinIRConfig(8, (2, 2), (2, 2), 2, 2.0, 4, 8)),
    }
    autoencoder = replace(smoke.tokenizer.autoencoder, guided=name == "guided")
    tokenizer = ImageTokenizer(replace(smoke.tokenizer, autoencoder=autoencoder))
    transformer = Transformer(replace(smoke.teacher, head="latent" if name == "guided" else "bits"))
    settings = {
        "guided": {"color_fix": "none", "input_color_levels": 2},
        "bits": {"color_fix": "wavelet", "wavelet_levels": 2, "extra_block": True},
        "swinir": {"color_fix": "adain", "sampling": "consistent", "extra_block": False},
    }[name]
    model = OneStepRestorer(replace(smoke.restorer, **settings), prerestorers[name], tokenizer, transformer)  # type: ignore[arg-type]
    fill(model)
    if name == "bits":  # grey with faint content: its low band is the colour of the result
        last = prerestorers["bits"].conv_last
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        with torch.no_grad():
            last.weight.mul_(0.02)
            last.bias.fill_(0.5)
    return model.eval()


def tile(side: int) -> Tensor:
    row, column = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    colours = [torch.sin(7 * row + phase) * torch.cos(5 * column - 2 * phase) for phase in (0.0, 1.0, 2.0)]
    return torch.stack(colours)[None] * 0.35 + 0.5


def pixels(name: str) -> list[float]:
    model = restorer(name)
    with torch.inference_mode():
        out = model(tile(model.tile), sampling=None if name == "swinir" else "argmax")
        return [round(value, 4) for value in out.image_B3TT[0, :, 5::13, 3::13].flatten().tolist()]


@pytest.mark.parametrize("name", ["guided", "bits", "swinir"])
def test_pixels(name: str) -> None:
    found = torch.tensor(pixels(name))
    assert found.std() > 0.05 and ((found > 0) & (found < 1)).float().mean() > 0.3, "saturated: pins nothing"
    torch.testing.assert_close(found, torch.tensor([float(word) for word in EXPECTED[name].split()]), atol=2e-3, rtol=0)


if __name__ == "__main__":
    import sys

    for name in ("guided", "bits", "swinir"):
        values = pixels(name)
        middle = sum(0 < value < 1 for value in values) / len(values)
        sys.stdout.write(f"{name}: {middle:.0%} inside\n{' '.join(f'{value:.4f}' for value in values)}\n")
