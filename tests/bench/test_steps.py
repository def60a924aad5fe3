"""One step against all steps: what is counted, by hand-made numbers."""

import pytest

from varestorer_cli.bench.steps import Cost, costs
from varestorer_cli.core.training.presets import preset


def test_the_floor_is_the_slowest_of_three() -> None:
    cost = Cost(flops=2e12, kernels=100, passes=3, weights=1e9)
    assert cost.milliseconds(1e15, 1e12, 1e-6) == pytest.approx(3.0)
    assert cost.milliseconds(1e14, 1e12, 1e-6) == pytest.approx(20.0)
    assert cost.milliseconds(1e15, 1e13, 1e-3) == pytest.approx(100.0)


def test_products_and_passes_at_small_size() -> None:
    found = costs("mini")
    one, every = found["one step"], found["all steps"]
    assert (one.passes, every.passes) == (1, 6)
    assert every.kernels > 4 * one.kernels
    sizes = preset("mini")
    width, hidden, positions = sizes.teacher.width, sizes.teacher.hidden, 149
    rows = positions + 64  # with the extra block
    # per row: qkv, projection, query and projection of the text, feed-forward; twice: a multiplication and an addition
    linear = 2 * (3 + 1 + 1 + 1) * width * width + 2 * 2 * width * hidden
    spared = 64 * (linear - 2 * 2 * width * width)  # keys and values of the extra block stay in the last block
    attention = 4 * width * (3 * rows * rows + positions * rows) + 4 * width * 4 * (3 * rows + positions)
    ends = 2 * 32 * width * rows + 2 * 64 * width * positions
    expected = 4 * rows * linear - spared + attention + ends
    assert one.flops == pytest.approx(expected, rel=0.02)
    assert 0.7 < every.flops / one.flops < 1.1
