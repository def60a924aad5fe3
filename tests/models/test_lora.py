from dataclasses import replace

import pytest
import torch
from small_networks import square_grids, without_quirks
from torch import Tensor

from varestorer_models.layers import Projection
from varestorer_models.lora import (
    LoRALinear,
    adapter_state,
    train_adapters_only,
)
from varestorer_models.transformer import Transformer, TransformerConfig

SCHEDULE = square_grids(1, 2, 4)
SMALL = without_quirks(32, 2, 2, bits=6, text_width=24, null_tokens=3)
ADAPTED = {"self_attention.qkv", "self_attention.proj"} | {
    f"cross_attention.{name}" for name in ("query", "key_value", "proj")
}


def scores(model: Transformer) -> Tensor:
    tokens = torch.randn(2, SCHEDULE.length - 1 + 16, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(tokens, SCHEDULE, model.encode_condition(), extra_block=True)


def student(rank: int = 3, scale: float = 1.0, **fields: object) -> Transformer:
    """A transformer with adapters and biases that are not zero."""
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, **fields))
    model.add_adapters(rank, scale)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def test_layer_is_the_formula():
    torch.manual_seed(0)
    layer = LoRALinear(Projection(5, 4), rank=2, scale=0.5)
    torch.nn.init.normal_(layer.adapter_up)
    values = torch.randn(3, 5)
    change = 0.5 * values @ layer.adapter_down.T @ layer.adapter_up.T
    expected = values @ layer.weight.T + layer.bias + change
    torch.testing.assert_close(layer(values), expected)
    torch.testing.assert_close(layer(values, rows=slice(1, 3)), expected[:, 1:3])
    torch.testing.assert_close(layer(values, torch.ones(4)), expected - layer.bias + 1)
    torch.testing.assert_close(layer.merged()(values), expected)


def test_new_adapters_change_nothing():
    torch.manual_seed(0)
    model = Transformer(SMALL)
    before, weight = scores(model), model.blocks[0].self_attention.qkv.weight
    model.add_adapters(3)
    assert torch.equal(scores(model), before)
    assert model.blocks[0].self_attention.qkv.weight is weight
    assert model.config.adapter_rank == 3


def test_exactly_the_attention_projections_of_the_blocks_are_adapted():
    layers = {name for name, module in student().named_modules() if isinstance(module, LoRALinear)}
    assert layers == {f"blocks.{block}.{name}" for block in range(2) for name in ADAPTED}


def test_plain_keys_stay():
    plain, adapted = Transformer(SMALL).state_dict(), student().state_dict()
    added = set(adapted) - set(plain)
    assert set(plain) < set(adapted)
    assert added == {
        f"blocks.{block}.{name}.adapter_{half}" for block in range(2) for name in ADAPTED for half in ("down", "up")
    }


def test_config_builds_them_too():
    model = student(rank=3)
    twin = Transformer(model.config)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(scores(twin), scores(model))


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("cross_value_bias", [True, False])
def test_merging_changes_no_score(scale, cross_value_bias):
    model = student(scale=scale, cross_value_bias=cross_value_bias)
    before = scores(model)
    model.merge_adapters()
    torch.testing.assert_close(scores(model), before, atol=1e-5, rtol=1e-5)
    assert model.config.adapter_rank == 0
    assert model.config.cross_value_bias is cross_value_bias
    # The saved config must rebuild the same function, dropped bias included.
    twin = Transformer(model.config)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(scores(twin), scores(model))


def test_the_value_bias_is_seen():
    with_bias, without = student(cross_value_bias=True), student(cross_value_bias=False)
    assert (scores(with_bias) - scores(without)).abs().max() > 1e-2


def test_only_adapters_train():
    model = student()
    expected = sum(value.numel() for value in adapter_state(model).values())
    assert train_adapters_only(model) == expected
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    model(torch.randn(1, 20, 6), SCHEDULE, model.encode_condition()).sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == set(adapter_state(model))
    assert not any(value.requires_grad for value in adapter_state(model).values())


def test_released_count_on_the_meta_device():
    with torch.device("meta"):
        model = Transformer(TransformerConfig(width=2048, depth=32, heads=16, adapter_rank=32))
    assert sum(value.numel() for value in adapter_state(model).values()) == 27_262_976
    assert sum(p.numel() for p in model.parameters()) == 2_231_827_008


def test_bfloat16_adapters():
    model = student()
    exact = scores(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = scores(model)
    assert (rough - exact).square().mean().sqrt() < 0.1 * exact.std()
    rough = scores(model.bfloat16())
    assert (rough - exact).square().mean().sqrt() < 0.1 * exact.std()


def test_misuse_is_named():
    with pytest.raises(ValueError, match="has adapters already"):
        student().add_adapters(3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Transformer(SMALL).add_adapters(0)
