"""``--engine openvino``: the same image up to rounding; what it cannot compute is refused with the reason."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo
from torch.nn import functional as F  # noqa: N812

from varestorer_cli.core.choices import Compile, EngineName
from varestorer_cli.core.engine import openvino_backend
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.openvino_backend import OpenVinoRRDB, transposed_kernel, with_openvino
from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.restore.session import open_session
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet

needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="the extra openvino is not installed")


def network(**sizes: Any) -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(RRDBConfig(width=16, growth=8, blocks=2, **sizes)).eval()


def restorer(net: Any) -> FirstStageRestorer:
    return FirstStageRestorer(RestorerConfig(tile=64, largest_tile=96), net).eval()


def test_an_upsampling_and_its_convolution_are_one_transposed_convolution() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 7, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, transposed_kernel(weight), stride=2, padding=1), plain)


@needs_openvino
@pytest.mark.parametrize("unshuffle", [1, 4])
def test_tiles_of_any_size_and_number_are_those_of_torch_to_one_in_a_hundred_thousand(unshuffle: int) -> None:
    net = network(unshuffle=unshuffle)
    other = OpenVinoRRDB(net, 1)
    for shape in ((1, 3, 64, 64), (2, 3, 32, 48), (1, 3, 96, 64)):
        tiles = torch.rand(shape).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            wanted, found = net(tiles), other(tiles)
        assert found.shape == wanted.shape and found.dtype == torch.float32
        assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@needs_openvino
def test_results_stay_when_the_next_tile_is_computed() -> None:
    other = OpenVinoRRDB(network(), 1)
    first = other(torch.zeros(1, 3, 32, 32))
    kept = first.clone()
    other(torch.ones(1, 3, 32, 32))
    assert torch.equal(first, kept)


@needs_openvino
def test_an_image_of_the_bundled_model_differs_by_one_level_at_most() -> None:
    task = ImageTask(photo(24, 40), (160, 96), key="one", dtype=np.uint8)
    images = {}
    for engine in EngineName:
        session = open_session(
            RestoreOptions(model="compact", threads=1, device="cpu", precision="fp32", engine=engine)
        )
        images[engine] = session.engine.restore(task).image.astype(int)
    apart = np.abs(images[EngineName.TORCH] - images[EngineName.OPENVINO])
    assert apart.max() <= 1 and apart.mean() < 0.01, (apart.max(), apart.mean())


def test_what_it_cannot_compute_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_backend, "is_installed", lambda extra: True)
    with pytest.raises(UsageError, match="mini has tokens"):
        with_openvino(load_restorer("mini").restorer, "mini", "cpu", 1)
    with pytest.raises(UsageError, match="the network of own is a ConvRestorer"):
        with_openvino(restorer(ConvRestorer(ConvRestorerConfig(width=8, blocks=1))), "own", "cpu", 1)
    with pytest.raises(UsageError, match="not on cuda"):
        with_openvino(restorer(network()), "own", "cuda", 1)
    with pytest.raises(UsageError, match="--compile on"):
        options = RestoreOptions(model="compact", device="cpu", engine=EngineName.OPENVINO, compile=Compile.ON)
        open_session(options)


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_backend, "is_installed", lambda extra: False)
    with pytest.raises(MissingDependencyError, match=r"--engine openvino needs OpenVINO; pip install"):
        with_openvino(restorer(network()), "own", "cpu", 1)
