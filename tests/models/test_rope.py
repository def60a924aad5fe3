import math
from dataclasses import replace

import pytest
import torch
from small_networks import square_grids, without_quirks

from varestorer_models.rope import RotaryLayout, rotary_coordinates, rotary_table, rotate
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer import Transformer

SMALL = square_grids(1, 2, 4, 4)


def test_own_grid_rounds_to_whole_cells():
    coordinates = rotary_coordinates(square_grids(1, 2, 5))
    # i * 5 / 2 = 2.5 is a tie and goes to the even 2
    assert coordinates[:5].tolist() == [[0, 0], [0, 0], [0, 2], [2, 0], [2, 2]]


def test_cell_centres_lie_in_the_middle():
    coordinates = rotary_coordinates(SMALL, layout=RotaryLayout(rounding="cell_centre"))
    assert coordinates[0].tolist() == [1.5, 1.5]
    assert coordinates[1:5].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    finest = coordinates[SMALL.slices[-1]]
    assert finest.tolist() == [[row, column] for row in range(4) for column in range(4)]
    assert torch.equal(coordinates[SMALL.slices[2]], finest)


def test_extra_block_at_its_true_place():
    layout = RotaryLayout(extra_positions="last_scale")
    coordinates = rotary_coordinates(SMALL, extra_block=True, layout=layout)
    assert torch.equal(coordinates[SMALL.length :], coordinates[SMALL.slices[-1]])


def test_released_extra_block_is_sheared():
    schedule = ScaleSchedule.infinity("0.25M")
    coordinates = rotary_coordinates(schedule, reference=ScaleSchedule.infinity("1M"), extra_block=True)
    extra = coordinates[schedule.length :].tolist()
    assert extra[:6] == [[0, 0], [0, 2], [0, 3], [0, 5], [0, 6], [0, 8]]
    assert (extra[39], extra[40], extra[1023]) == ([0, 62], [2, 0], [40, 37])


def test_reference_must_fit():
    with pytest.raises(ValueError, match="does not begin with"):
        rotary_coordinates(SMALL, reference=square_grids(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"needs 53 rows .* only 37"):
        rotary_coordinates(SMALL, extra_block=True)


def test_rotation_turns_pairs_by_row_then_column():
    table = rotary_table(torch.tensor([[2.0, 3.0]]), head_width=8, base=100.0)
    angles = torch.tensor([2.0, 0.2, 3.0, 0.3])  # frequencies 1 and 100^(-1/2)
    found = torch.atan2(table[0, :, 1], table[0, :, 0])
    torch.testing.assert_close(found, torch.where(angles > math.pi, angles - math.tau, angles))
    turned = rotate(torch.tensor([1.0, 0.0] * 4).view(1, 1, 1, 8), table)
    expected = torch.stack([angles.cos(), angles.sin()], dim=1).view(1, 1, 1, 8)
    torch.testing.assert_close(turned, expected)


def test_products_depend_on_the_offset_only():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16, generator=generator)

    def product(at: list[float], to: list[float]) -> torch.Tensor:
        tables = (rotary_table(torch.tensor([place]), 16) for place in (at, to))
        first, second = (rotate(vector, table) for vector, table in zip((query, key), tables, strict=True))
        return (first * second).sum()

    torch.testing.assert_close(product([1, 2], [4, 7]), product([11, 5], [14, 10]))
    assert (product([1, 2], [4, 7]) - product([1, 2], [7, 4])).abs() > 1e-3


def test_rotation_keeps_lengths_for_any_axes_between():
    heads = torch.randn(2, SMALL.length, 3, 2, 8)
    turned = rotate(heads, rotary_table(rotary_coordinates(SMALL), 8))
    assert turned.shape == heads.shape
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(turned[:, 0], heads[:, 0])  # the start token sits at (0, 0)


def test_head_width_must_serve_two_axes():
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        rotary_table(torch.zeros(1, 2), 6)


def test_real_and_complex_arithmetic_agree():
    heads = torch.randn(2, 37, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    table = rotary_table(rotary_coordinates(square_grids(1, 2, 4, 4)), 16)
    torch.testing.assert_close(rotate(heads, table, real=True), rotate(heads, table, real=False), atol=1e-6, rtol=0)
    assert torch.equal(rotate(heads, table), rotate(heads, table, real=False))  # without a compiler


def test_the_base_is_the_models_choice() -> None:
    config = without_quirks(32, 1, 2, bits=4, text_width=8, null_tokens=1)
    schedule = square_grids(1, 2, 4)
    tables = [
        Transformer(replace(config, rotary_base=base))._rotation(schedule, False, torch.device("cpu"))
        for base in (10000.0, 16.0)
    ]
    assert torch.equal(tables[0], rotary_table(_coordinates(schedule), 16))
    assert torch.equal(tables[1], rotary_table(_coordinates(schedule), 16, 16.0))


def _coordinates(schedule: ScaleSchedule) -> torch.Tensor:
    return rotary_coordinates(schedule, layout=RotaryLayout("cell_centre"))
