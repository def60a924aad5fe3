"""Transformers divided among processes: gradients are right, whatever is done with the output."""

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from varestorer_cli.core.training.fsdp import shard, whole
from varestorer_cli.core.training.presets import preset
from varestorer_models.transformer import Transformer

SMOKE = preset("smoke")


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(transformer: Transformer, *, in_place: bool) -> dict[str, Tensor]:
    schedule = SMOKE.tokenizer.schedule
    tokens = torch.randn(2, schedule.length - 1, 16, generator=torch.Generator().manual_seed(0))
    output = transformer(tokens, schedule, transformer.encode_condition(None, 2), causal=True)
    if in_place:
        output *= 2.0
    output.square().mean().backward()
    return {name: whole(p.grad) for name, p in transformer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("in_place", [False, True])
def test_gradients_of_a_divided_transformer_are_those_of_a_whole_one(in_place: bool, alone: None) -> None:
    torch.manual_seed(0)
    one = Transformer(SMOKE.teacher)
    divided = copy.deepcopy(one)
    shard([divided])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*wrong gradients")
        found = gradients(divided, in_place=in_place)
    expected = gradients(one, in_place=in_place)
    assert found.keys() == expected.keys() and len(found) > 20
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
