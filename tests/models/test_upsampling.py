"""The folded form of nearest x2 and a 3x3 convolution against the plain one."""

import pytest
import torch
from torch import Tensor, nn

from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.upsampling import UpsamplingConv, folded_kernels, set_folded


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 7), (16, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folded_is_plain_up_to_rounding(size: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = UpsamplingConv(24, 10).double().to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(2, 24, *size, dtype=torch.float64).contiguous(memory_format=layout)
    with torch.inference_mode():
        folded = conv(x)
        conv.folded = False
        plain = conv(x)
    assert folded.shape == plain.shape == (2, 10, 2 * size[0], 2 * size[1])
    assert folded.dtype == torch.float64
    torch.testing.assert_close(folded, plain, atol=1e-13, rtol=0)


def test_folded_bound_in_float32_and_bfloat16() -> None:
    """Outputs of size 1: a few units in the last place, 2^-23 and 2^-8."""
    torch.manual_seed(0)
    conv = UpsamplingConv(64, 64)
    x = torch.randn(1, 64, 32, 32)
    for enabled, bound in ((False, 4e-6), (True, 4e-2)):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            conv.folded = True
            folded = conv(x)
            conv.folded = False
            assert folded.dtype == conv(x).dtype
            assert 0 < (folded.float() - conv(x).float()).abs().max() < bound


def test_kernels_sum_to_the_sum_of_the_plain_one() -> None:
    weight = torch.randn(3, 2, 3, 3)
    kernels = folded_kernels(weight)
    assert kernels.shape == (2, 2, 3, 2, 2, 2)
    torch.testing.assert_close(kernels.sum((-1, -2)), weight.sum((-1, -2)).expand(2, 2, 3, 2))


def test_training_takes_the_plain_form() -> None:
    conv = UpsamplingConv(3, 4)
    x = torch.randn(1, 3, 5, 5)
    plain = nn.functional.conv2d(nn.functional.interpolate(x, scale_factor=2.0), conv.weight, conv.bias, padding=1)
    assert torch.equal(conv(x), plain)
    conv(x).sum().backward()
    assert conv.weight.grad is not None


def networks() -> list[tuple[str, nn.Module, Tensor]]:
    torch.manual_seed(0)
    tokenizer = Autoencoder(AutoencoderConfig(8, 32, (1, 2), (1, 1), (1, 1), 0))
    return [
        ("decoder", tokenizer.decoder, torch.randn(1, 8, 6, 6)),
        ("rrdb", RRDBNet(RRDBConfig(width=8, growth=4, blocks=1)), torch.rand(1, 3, 32, 32)),
        ("swinir", SwinIR(SwinIRConfig(8, (2,), (2,), 2, 2.0, 4, 8)), torch.rand(1, 3, 16, 16)),
    ]


@pytest.mark.parametrize("index", range(3))
def test_every_network_can_be_switched(index: int) -> None:
    name, network, x = networks()[index]
    with torch.inference_mode():
        folded = network(x)
        set_folded(network, False)
        plain = network(x)
    assert not torch.equal(folded, plain), name
    torch.testing.assert_close(folded, plain, atol=2e-5, rtol=0)
