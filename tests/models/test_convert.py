"""Released state dicts: inference of the configuration, round trips, and refusal of everything that does not fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from released_states import (
    CONFIGS,
    EXAMPLES,
    PRERESTORER,
    TRANSFORMER,
    build,
    load,
    released,
    to_released,
)
from small_networks import square_grids
from torch import Tensor, nn

from varestorer_models.autoencoder import Autoencoder
from varestorer_models.convert import released_tensors
from varestorer_models.swinir import SwinIR
from varestorer_models.transformer import TextFeatures, Transformer

SCHEDULE = square_grids(1, 2, 4)


def outputs(network: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        if isinstance(network, SwinIR):
            return [network(torch.rand(1, 3, 33, 20, generator=generator))]
        if isinstance(network, Autoencoder):
            latent = network.encode(torch.rand(1, 3, 16, 24, generator=generator) * 2 - 1)
            return [latent, network.decode(latent)]
        assert isinstance(network, Transformer)
        text = TextFeatures(torch.randn(5, network.config.text_width, generator=generator), (5,))
        tokens = torch.randn(1, SCHEDULE.length - 1, network.config.bits, generator=generator)
        return [network(tokens, SCHEDULE, network.encode_condition(condition)) for condition in (text, None)]


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip_keeps_config_tensors_and_function(name: str) -> None:
    component, config = CONFIGS[name]
    network, state = build(name), released(name)
    again = load(name, state)
    assert type(again) is type(network)
    assert again.config == config
    assert released_tensors(component, state).config == config
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    for ours, theirs in zip(outputs(network), outputs(again), strict=True):
        assert torch.equal(ours, theirs)
    chunks = {"block_chunks": 2 if config.depth % 2 == 0 else 1} if component == "transformer" else {}
    second = to_released(component, again, **chunks)
    assert list(second) == list(state)
    for key, tensor in state.items():
        assert torch.equal(second[key], tensor), key


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_chunks_only_change_the_names(chunks: int) -> None:
    state = released("transformer", block_chunks=chunks)
    last = "blocks.3" if chunks == 1 else f"block_chunks.{chunks - 1}.module.{4 // chunks - 1}"
    assert f"{last}.ada_gss" in state
    again = load("transformer", state)
    assert again.config == TRANSFORMER
    for key, tensor in build("transformer").state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_released_names_of_the_transformer() -> None:
    state = released("transformer, adapters", block_chunks=4)
    block = "block_chunks.3.module.0"
    names = {
        "cfg_uncond": (3, 20),
        "text_proj_for_sos.ca.mat_q": (1, 4, 8),
        "shared_ada_lin.1.weight": (192, 32),
        f"{block}.ada_gss": (1, 1, 6, 32),
        f"{block}.sa.scale_mul_1H11": (1, 2, 1, 1),
        f"{block}.sa.mat_qkv.linear.weight": (96, 32),
        f"{block}.sa.mat_qkv.lora_down.weight": (3, 32),
        f"{block}.ca.mat_kv.lora_up.weight": (64, 3),
        f"{block}.ca.proj.linear.bias": (32,),
        f"{block}.ffn.fc1.weight": (48, 32),
    }
    assert {key: tuple(state[key].shape) for key in names} == names


def test_adapters_mean_that_the_value_bias_is_not_added() -> None:
    with_bias, without = (load("transformer", released("transformer"), cross_value_bias=on) for on in (True, False))
    assert not torch.allclose(outputs(with_bias)[0], outputs(without)[0])
    assert load("transformer, adapters", released("transformer, adapters")).config.cross_value_bias is False


def test_merged_adapters_export_to_the_same_function() -> None:
    network = build("transformer, adapters")
    before = outputs(network)
    network.merge_adapters()
    state = to_released("transformer", network, block_chunks=2)
    assert not any("lora" in key for key in state)
    again = load("transformer", state)
    assert again.config.cross_value_bias
    for ours, theirs in zip(before, outputs(again), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert network.blocks[0].cross_attention.value_bias.abs().max() > 0, "exporting changed the module"


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"vae": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["state_dict", "vae", "both", "data parallel"],
)
def test_wrapped_files_load(name: str, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]) -> None:
    state = released(name)
    again = load(name, wrap(state))
    for key, tensor in build(name).state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        (
            "prerestorer",
            {
                "layers.1.residual_group.blocks.1.attn_mask": torch.zeros(4, 16, 16),
                "layers.0.residual_group.blocks.0.attn.relative_position_index": torch.zeros(16, 16).long(),
            },
        ),
        ("autoencoder", {"quantizer.lfq.mask": torch.ones(6).long(), "quantize.lfq.mask": torch.ones(6).long()}),
        (
            "transformer",
            {
                "text_proj_for_sos.ca.zero_k_bias": torch.zeros(32),
                "block_chunks.1.module.0.sa.zero_k_bias": torch.zeros(32),
                "block_chunks.1.module.1.ca.zero_k_bias": torch.zeros(32),
            },
        ),
    ],
)
def test_known_buffers_are_ignored_and_only_where_they_belong(name: str, buffers: dict[str, Tensor]) -> None:
    load(name, released(name) | buffers)
    other = next(example for example in EXAMPLES if example != name)
    with pytest.raises(ValueError, match=f"{len(buffers)} unknown key"):
        load(other, released(other, **({"block_chunks": 1} if other == "transformer" else {})) | buffers)


def test_autoencoder_keys_may_lack_the_inner_wrapper() -> None:
    state = released("autoencoder")
    assert "encoder.down.1.block.0.nin_shortcut.conv.weight" in state
    assert "decoder.mid.block_2.norm1.norm.bias" in state
    bare = {key.replace(".conv.conv.", ".CONV.").replace(".norm.", "."): value for key, value in state.items()}
    bare = {key.replace(".conv.", ".").replace(".CONV.", ".conv."): value for key, value in bare.items()}
    assert {"encoder.conv_in.weight", "encoder.down.0.downsample.conv.weight", "decoder.norm_out.bias"} <= set(bare)
    again = load("autoencoder", bare)
    for key, tensor in build("autoencoder").state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    with pytest.raises(ValueError, match="are the same parameter"):
        load("autoencoder", state | {"encoder.conv_in.weight": bare["encoder.conv_in.weight"]})


def test_tensors_of_the_file_are_not_copied() -> None:
    state = released("prerestorer")
    for key, tensor in released_tensors("prerestorer", state).tensors.items():
        assert tensor.data_ptr() == state[key].data_ptr(), key


def test_what_shapes_cannot_tell_is_an_argument() -> None:
    network = load("prerestorer", released("prerestorer"), image_mean=(0.0, 0.1, 0.2))
    assert network.config == replace(PRERESTORER, image_mean=(0.0, 0.1, 0.2))
    assert load("transformer", released("transformer"), extra_block_level="last_scale").config == replace(
        TRANSFORMER, extra_block_level="last_scale"
    )
    with pytest.raises(ValueError, match="SwinIRConfig has no field 'mean'; it has width, depths"):
        load("prerestorer", released("prerestorer"), mean=(0.0, 0.1, 0.2))
    with pytest.raises(ValueError, match="do not fit the rest"):
        load("prerestorer", released("prerestorer"), feature_width=11)
