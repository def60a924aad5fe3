"""Released layouts of sizes of which there are no vectors: conversion and forward pass against a plain second route."""

import pytest
import torch
from plain_transformer import GRIDS, logits, random_state
from released_states import from_released

from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer import TextFeatures, Transformer

pytestmark = pytest.mark.parity

# (width, depth, heads, bits, text width, adapter rank, chunks, aspect ratio, scales, extra block)
SIZES = [
    (48, 3, 3, 5, 128, 3, 1, 1.0, 4, True),
    (96, 4, 6, 32, 256, 2, 2, 1.0, 5, True),
    (40, 2, 1, 16, 128, 0, 2, 1.333, 4, False),
    (64, 6, 4, 7, 384, 1, 3, 1.333, 3, True),
    (160, 2, 2, 24, 256, 32, 1, 1.0, 6, False),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_of_other_sizes(size: tuple[int, int, int, int, int, int, int, float, int, bool]) -> None:
    width, depth, heads, bits, text_width, rank, chunks, ratio, scales, extra = size
    if width % (text_width // 128):
        text_width = 256
    state = random_state(
        width=width, depth=depth, heads=heads, bits=bits, text_width=text_width, rank=rank, chunks=chunks, seed=width
    )
    generator = torch.Generator().manual_seed(depth)
    schedule = ScaleSchedule(tuple(GRIDS[ratio][:scales]))
    rows = schedule.length - 1 + (schedule.latent_length if extra else 0)
    tokens = torch.randn(rows, bits, generator=generator) * bits**-0.5
    text = torch.randn(1 + depth, text_width, generator=generator)

    network = from_released("transformer", state)
    assert isinstance(network, Transformer)
    with torch.inference_mode():
        condition = network.encode_condition(TextFeatures(text, (len(text),)))
        expected = logits(state, tokens, text, ratio, scales, extra)
        for _ in range(2 if rank else 1):
            found = network(tokens[None], schedule, condition, extra_block=extra)[0].flatten(1)
            error = found.double() - expected
            assert expected.std() > 0.5
            assert error.abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()) / 4)
            assert error.square().mean().sqrt() <= 1e-5 * max(1.0, float(expected.std()))
            network.merge_adapters()
            condition = network.encode_condition(TextFeatures(text, (len(text),)))
