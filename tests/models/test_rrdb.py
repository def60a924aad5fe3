"""RRDBNet: sizes, tiles, and how its parts fit together."""

import pytest
import torch

from varestorer_models.rrdb import RRDBConfig, RRDBNet

SMALL = RRDBConfig(width=8, growth=4, blocks=2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 9), (16, 32)])
def test_the_output_has_the_size_of_the_upscaled_image(height: int, width: int) -> None:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert RRDBNet(SMALL)(image).shape == image.shape


def test_without_unshuffle_the_output_is_four_times_as_large() -> None:
    with torch.no_grad():
        assert RRDBNet(RRDBConfig(8, 4, 1, unshuffle=1))(torch.rand(2, 3, 6, 5)).shape == (2, 3, 24, 20)


def test_published_size_and_names() -> None:
    """16.7 M weights (Real-ESRGAN, model zoo) under the published names."""
    with torch.device("meta"):
        net = RRDBNet(RRDBConfig(unshuffle=1))
    assert sum(p.numel() for p in net.parameters()) == 16_697_987
    names = set(net.state_dict())
    assert {"conv_first.weight", "body.22.rdb3.conv5.bias", "conv_body.weight", "conv_last.bias"} <= names


def test_forward_is_its_features_rendered() -> None:
    net = RRDBNet(SMALL)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, outputs = net.features(image)
        assert len(outputs) == SMALL.blocks
        assert torch.equal(net.render(first, outputs[-1]), net(image))
