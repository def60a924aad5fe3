"""Released state dicts: inference of the configuration, round trips, and refusal of everything that does not fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.convert import COMPONENTS, Component, from_released, infer_config, to_released
from models.lora import merge_adapters
from models.schedule import ScaleSchedule
from models.swinir import SwinIR, SwinIRConfig
from models.transformer import TextFeatures, Transformer, TransformerConfig

SCHEDULE = ScaleSchedule.from_sides(1, 2, 4)

# Small, and with every number different from the released one where shapes can tell it.
PRERESTORER = SwinIRConfig(
    width=12, depths=(2, 3), heads=(2, 3), window=4, mlp_ratio=1.5, unshuffle=4, feature_width=10
)
AUTOENCODER = AutoencoderConfig(
    latent_channels=6, width=24, multipliers=(1, 2, 1), encoder_blocks=(1, 2, 1), decoder_blocks=(2, 1, 3)
)
TRANSFORMER = TransformerConfig(
    width=32, depth=4, heads=2, bits=5, text_width=20, text_heads=4, null_tokens=3, levels=7, mlp_hidden=48
)
ADAPTED = replace(TRANSFORMER, adapter_rank=3, cross_value_bias=False)

CONFIGS: dict[str, tuple[Component, Any]] = {
    "prerestorer": ("prerestorer", PRERESTORER),
    "prerestorer, no unshuffle": ("prerestorer", replace(PRERESTORER, unshuffle=1, window=2, depths=(1,), heads=(1,))),
    "prerestorer, released window": ("prerestorer", replace(PRERESTORER, unshuffle=8, window=8)),
    "autoencoder": ("autoencoder", AUTOENCODER),
    "autoencoder, one level": (
        "autoencoder",
        replace(AUTOENCODER, multipliers=(1,), encoder_blocks=(2,), decoder_blocks=(3,), latent_channels=9),
    ),
    "autoencoder, folded": ("autoencoder", replace(AUTOENCODER, unshuffle=2, norm="none", narrow_upsample=True)),
    "transformer": ("transformer", TRANSFORMER),
    "transformer, adapters": ("transformer", ADAPTED),
    "transformer, latent head": ("transformer", replace(TRANSFORMER, head="latent", depth=1, heads=4)),
}
# The examples that the damage is done to.
EXAMPLES = ["prerestorer", "autoencoder", "transformer", "transformer, adapters"]


def build(name: str, seed: int = 0) -> nn.Module:
    """A network of that configuration whose parameters all matter."""
    component, config = CONFIGS[name]
    classes: dict[str, Callable[[Any], nn.Module]] = {
        "prerestorer": SwinIR,
        "autoencoder": Autoencoder,
        "transformer": Transformer,
    }
    network = classes[component](config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    return network


def released(name: str, **options: Any) -> dict[str, Tensor]:
    component, config = CONFIGS[name]
    if component == "transformer":
        options.setdefault("block_chunks", 2 if config.depth % 2 == 0 else 1)
    return to_released(component, build(name), **options)


def one_of_a_kind(state: dict[str, Tensor]) -> list[str]:
    """The last key of every kind; keys of equal ends are alike, in whichever block, level or network they are."""
    kinds = {tuple("#" if part.isdecimal() else part for part in key.split(".")[-3:]): key for key in state}
    return list(kinds.values())


def load(name: str, state: dict[str, Any], **options: Any) -> nn.Module:
    return from_released(CONFIGS[name][0], state, **options)  # type: ignore[no-any-return, call-overload]


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
    assert infer_config(component, state) == config
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
    merge_adapters(network)
    state = to_released("transformer", network, block_chunks=2)
    assert not any("lora" in key for key in state)
    again = load("transformer", state)
    assert again.config.cross_value_bias
    for ours, theirs in zip(before, outputs(again), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert network.blocks[0].cross_attention.value_bias.abs().max() > 0, "exporting changed the module"


def test_the_function_that_released_code_cannot_have_is_not_exported() -> None:
    network = Transformer(replace(ADAPTED, cross_value_bias=True))
    with pytest.raises(ValueError, match="merge the adapters first"):
        to_released("transformer", network, block_chunks=1)
    with pytest.raises(ValueError, match=r"'encoder.linear.weight' has no name in the released autoencoder"):
        to_released("autoencoder", Autoencoder(replace(AUTOENCODER, linear_path=True)))
    with pytest.raises(ValueError, match="4 blocks cannot be stored in 3 equal chunks"):
        to_released("transformer", build("transformer"), block_chunks=3)
    with pytest.raises(ValueError, match="a Transformer is not a released autoencoder"):
        to_released("autoencoder", build("transformer"))


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_becomes_float32(dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in released("prerestorer").items()}
    for key, tensor in load("prerestorer", state).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].float())


def test_the_module_owns_its_weights_unless_told_otherwise() -> None:
    state = {key: value.detach().clone() for key, value in released("prerestorer").items()}
    before = state["norm.weight"].clone()
    own, shared = load("prerestorer", state), load("prerestorer", state, copy=False)
    with torch.no_grad():
        own.norm.weight.add_(1)
        assert torch.equal(state["norm.weight"], before)
        shared.norm.weight.add_(1)
        assert torch.equal(state["norm.weight"], before + 1)


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


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_missing_key_of_every_kind_is_quoted(name: str) -> None:
    state = released(name)
    for key in one_of_a_kind(state):
        damaged = {other: value for other, value in state.items() if other != key}
        with pytest.raises(ValueError, match="missing key") as error:
            load(name, damaged)
        assert repr(key) in str(error.value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_missing_keys_are_counted(name: str) -> None:
    state = released(name)
    first, second = [key for key in state if key.endswith(("norm1.weight", "ca_norm.weight", "norm1.norm.weight"))][:2]
    damaged = {key: value for key, value in state.items() if key not in (first, second)}
    with pytest.raises(ValueError, match=r"2 missing key\(s\)") as error:
        load(name, damaged)
    assert repr(first) in str(error.value)


# Sizes that one tensor alone decides, so that one more is another valid network.
FREE = {
    "transformer": {("cfg_uncond", 0), ("lvl_embed.weight", 0)},
    "transformer, adapters": {("cfg_uncond", 0), ("lvl_embed.weight", 0)},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_size_that_is_off_by_one_is_refused(name: str) -> None:
    state = released(name)
    for key in one_of_a_kind(state):
        tensor = state[key]
        for axis in range(min(tensor.ndim, 2)):
            if (key, axis) in FREE.get(name, ()):
                continue
            wider = torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)
            with pytest.raises(ValueError, match="released"):
                load(name, state | {key: wider})


@pytest.mark.parametrize(
    ("name", "key", "shape", "instead"),
    [
        ("prerestorer", "conv_hr.weight", (10, 11, 3, 3), (10, 10, 3, 3)),
        ("autoencoder", "decoder.up.2.block.1.conv2.conv.bias", (23,), (24,)),
        ("transformer", "block_chunks.1.module.1.ffn.fc2.weight", (32, 49), (32, 48)),
        ("transformer, adapters", "block_chunks.0.module.1.ca.mat_q.lora_down.weight", (4, 32), (3, 32)),
    ],
)
def test_a_misshapen_tensor_is_quoted_with_both_shapes(
    name: str, key: str, shape: tuple[int, ...], instead: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"1 tensor\(s\) of the released") as error:
        load(name, released(name) | {key: torch.zeros(shape)})
    assert f"{key!r} of shape {shape} instead of {instead}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("prerestorer", "layers.0.residual_group.blocks.0.attn.kv.weight"),
        ("prerestorer", "layers.{}.conv.weight"),
        ("prerestorer", "layers.².conv.weight"),
        ("prerestorer", "conv_up3.weight"),
        ("prerestorer", ""),
        ("autoencoder", "encoder.mid.attn_1.q.weight"),
        ("autoencoder", "decoder.up.0.upsample.conv.conv.weight"),
        ("autoencoder", "encoder.linear.weight"),
        ("transformer", "block_chunks.0.module.1.sa.mat_qkv.lora_up.weight"),
        ("transformer", "block_chunks.0.module.1.sa.mat_qkv.bias"),
        ("transformer", "block_chunks.x.module.1.ada_gss"),
        ("transformer", "null_text"),
    ],
)
def test_an_unknown_key_is_quoted(name: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"unknown key|missing key") as error:
        load(name, released(name) | {key: torch.zeros(3, 3)})
    if "lora_up" not in key:  # one adapter makes a model with adapters, and then the others are missing
        assert f"first {key!r}" in str(error.value)


def test_unknown_keys_are_counted() -> None:
    strangers = {"first.weight": torch.zeros(1), "second.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"2 unknown key\(s\) for the released autoencoder, first 'first.weight'"):
        load("autoencoder", released("autoencoder") | strangers)


@pytest.mark.parametrize(
    ("name", "absent", "message"),
    [
        ("prerestorer", "layers.0.", r"missing keys layers\.0\.\*"),
        ("prerestorer", "layers.1.residual_group.blocks.1.", r"missing keys .*blocks\.1\.\* .* number is 2"),
        ("autoencoder", "encoder.down.1.", r"missing keys encoder\.down\.1"),
        ("transformer", "block_chunks.0.module.1.", r"1 unexpected block.*block_chunks\.1\.module\.1"),
        ("transformer", "block_chunks.1.module.0.", r"1 missing block.*block_chunks\.1\.module\.0"),
        ("transformer", "block_chunks.0.", r"4 missing|missing keys|unexpected block"),
    ],
)
def test_a_gap_in_a_list_is_named(name: str, absent: str, message: str) -> None:
    damaged = {key: value for key, value in released(name).items() if not key.startswith(absent)}
    with pytest.raises(ValueError, match=message):
        load(name, damaged)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    "state",
    [{}, {"state_dict": {}}, {"weight": torch.zeros(2)}, {3: torch.zeros(2)}, {"state_dict": 5}],
    ids=["empty", "empty inside", "stranger", "numbers", "no dict inside"],
)
def test_what_is_no_state_dict_is_refused(component: Component, state: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"missing key|unknown key|a state dict maps names"):
        from_released(component, state)  # type: ignore[call-overload]


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_weights_of_another_component_are_refused(component: Component) -> None:
    for name in EXAMPLES:
        if CONFIGS[name][0] != component:
            with pytest.raises(ValueError, match=rf"unknown key.* for the released {component}"):
                from_released(component, released(name))  # type: ignore[call-overload]


def test_a_dict_that_holds_itself_ends() -> None:
    state: dict[str, Any] = {}
    state["vae"] = state
    with pytest.raises(ValueError, match="unknown key"):
        from_released("autoencoder", state)


@pytest.mark.parametrize(
    ("value", "kind"), [(torch.zeros(12, dtype=torch.int8), "torch.int8"), ([1.0], "list"), (None, "NoneType")]
)
def test_values_must_be_floating_point_tensors(value: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"'norm.bias' must be a floating-point tensor, but is {kind}"):
        load("prerestorer", released("prerestorer") | {"norm.bias": value})


@pytest.mark.parametrize("tensor", [torch.zeros(12, 48), torch.zeros(12, 0, 3, 3), torch.zeros(())])
def test_tensors_of_another_rank_are_refused(tensor: Tensor) -> None:
    with pytest.raises(ValueError, match=r"'conv_first.1.weight' has shape \(.*\), expected 4 axes"):
        load("prerestorer", released("prerestorer") | {"conv_first.1.weight": tensor})


def test_huge_claims_cost_no_memory() -> None:
    # one value seen as a petabyte: shapes are compared before anything is allocated
    huge = torch.zeros(1).expand(10**6, 48, 3, 3)
    with pytest.raises(ValueError, match="released prerestorer"):
        load("prerestorer", released("prerestorer") | {"conv_first.1.weight": huge})


def test_unknown_components_are_named() -> None:
    for call in (lambda: from_released("unet", {}), lambda: to_released("unet", nn.Linear(1, 1))):
        with pytest.raises(ValueError, match="there is no released component 'unet'; known are prerestorer, "):
            call()
