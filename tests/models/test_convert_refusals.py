"""State dicts that do not fit a released layout: each is refused, and the offending key is quoted."""

from typing import Any

import pytest
import torch
from released_states import CONFIGS, EXAMPLES, from_released, load, one_of_a_kind, released
from torch import Tensor

from varestorer_models.convert import COMPONENTS, Component


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
        from_released(component, state)


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_weights_of_another_component_are_refused(component: Component) -> None:
    for name in EXAMPLES:
        if CONFIGS[name][0] != component:
            with pytest.raises(ValueError, match=rf"unknown key.* for the released {component}"):
                from_released(component, released(name))


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
    with pytest.raises(ValueError, match="there is no released component 'unet'; known are prerestorer, "):
        from_released("unet", {})  # type: ignore[arg-type]
