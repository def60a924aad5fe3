"""Weights rounded before instead of in every call: the same bits, and the model itself stays as it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.training.presets import preset
from varestorer_models.autoencoder import AutoencoderConfig
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rounded_weights import with_rounded_weights
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer
from varestorer_models.upsampling import UpsamplingConv

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: ConvRestorer(ConvRestorerConfig(width=16, blocks=2)),
    "rrdb": lambda: RRDBNet(RRDBConfig(width=16, growth=8, blocks=1)),
    "swinir": lambda: SwinIR(SwinIRConfig(width=24, depths=(2,), heads=(2,), feature_width=16)),
}


def first_stage(network: str) -> FirstStageRestorer:
    torch.manual_seed(0)
    return FirstStageRestorer(RestorerConfig(tile=64), NETWORKS[network]()).eval()


def with_tokens(norm: str) -> OneStepRestorer:
    torch.manual_seed(0)
    smoke = preset("smoke")
    sizes: AutoencoderConfig = replace(smoke.tokenizer.autoencoder, norm=norm)  # type: ignore[arg-type]
    tokenizer = ImageTokenizer(replace(smoke.tokenizer, autoencoder=sizes))
    network = ConvRestorer(smoke.prerestorer)
    network.reset_parameters()
    config = replace(smoke.restorer, color_fix="none")
    return OneStepRestorer(config, network, tokenizer, Transformer(smoke.teacher)).eval()


def bf16(work: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return work()


def tiles(model: FirstStageRestorer, side: int | None = None) -> Tensor:
    side = side or model.tile
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_pre_restorer_gives_the_same_bits(network: str, layout: torch.memory_format) -> None:
    model = first_stage(network).to(memory_format=layout)  # type: ignore[call-overload]
    rounded = with_rounded_weights(model, torch.bfloat16)
    assert torch.equal(bf16(lambda: rounded(tiles(model)).image_B3TT), bf16(lambda: model(tiles(model)).image_B3TT))


@pytest.mark.parametrize("norm", ["group", "none"])
def test_a_restorer_with_tokens_gives_the_same_bits(norm: str) -> None:
    model = with_tokens(norm)
    rounded = with_rounded_weights(model, torch.bfloat16)
    given = tiles(model)
    assert torch.equal(
        bf16(lambda: rounded.tokenizer.encode(given * 2 - 1)), bf16(lambda: model.tokenizer.encode(given * 2 - 1))
    )
    assert torch.equal(bf16(lambda: rounded(given).image_B3TT), bf16(lambda: model(given).image_B3TT))


def test_only_what_is_rounded_takes_memory_again() -> None:
    model = with_tokens("group")
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.named_parameters()}
    rounded = with_rounded_weights(model, torch.bfloat16)
    after = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.named_parameters()}
    assert before == after, "the model itself is as it was"
    for name, tensor in rounded.named_parameters():
        again = tensor.data_ptr() != before[name][0]
        assert again == (tensor.dtype == torch.bfloat16), name
        assert not (again and name.startswith("transformer.")), name
    assert sum(tensor.dtype == torch.bfloat16 for tensor in rounded.parameters()) > 20


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_layer_is_rounded_once(layout: torch.memory_format) -> None:
    smoke = preset("smoke")
    sizes = replace(smoke.tokenizer.autoencoder, linear_path=True)
    tokenizer = ImageTokenizer(replace(smoke.tokenizer, autoencoder=sizes))
    parts = NETWORKS["swinir"](), tokenizer, Transformer(smoke.teacher)
    model = OneStepRestorer(smoke.restorer, *parts).eval().to(memory_format=layout)  # type: ignore[call-overload]
    rounded = with_rounded_weights(model, torch.bfloat16)
    kinds = set()
    for part in (rounded.prerestorer, rounded.tokenizer):
        for layer in part.modules():
            if isinstance(layer, UpsamplingConv):
                assert layer._kept is not None
                kernels, bias = layer._kept
                assert kernels.dtype == torch.bfloat16 and bias is not None and bias.dtype == torch.bfloat16
                assert kernels[1, 0].is_contiguous(memory_format=layout)
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert layer.weight.dtype == torch.bfloat16
            else:
                continue
            kinds.add(type(layer))
    assert kinds == {UpsamplingConv, nn.Conv2d, nn.ConvTranspose2d, nn.Linear}


def test_a_model_without_such_layers_is_taken_as_it_is() -> None:
    model = FirstStageRestorer(RestorerConfig(tile=64), nn.Identity())
    assert with_rounded_weights(model, torch.bfloat16) is model
    unknown = object()
    assert with_rounded_weights(unknown, torch.bfloat16) is unknown


def test_tiles_computed_again_in_float32_have_the_weights_of_the_file() -> None:
    model = first_stage("rrdb")
    inference = RestoreEngine(model, EngineOptions(precision="bf16")).inference
    given = tiles(model)[:1]
    narrow, _ = inference.infer(given, None, precision="bf16")
    again, _ = inference.infer(given, None, precision="fp32")
    with torch.inference_mode():
        assert torch.equal(again, model(given).image_B3TT)
    assert torch.equal(narrow, bf16(lambda: model(given).image_B3TT).float())
    assert inference.compiled.model is not model, "the weights were rounded once"
    assert RestoreEngine(model, EngineOptions()).inference.compiled.model is model
