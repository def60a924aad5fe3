"""Rotary coordinates against the table of the released code, equal to the last cell."""

import pytest
import reference_data
import torch

from varestorer_models.rope import rotary_coordinates, rotary_table
from varestorer_models.schedule import ScaleSchedule

pytestmark = pytest.mark.parity
RATIOS = (0.4, 0.75, 1.0, 1.333)


@pytest.fixture(scope="module")
def reference():
    return reference_data.reference("rotary").tensors


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("size", ["0.25M", "1M"])
def test_schedule_tables(reference, ratio, size):
    stored = reference[f"ratio_{ratio}/in/schedule_{size}"]
    assert [tuple(grid) for grid in stored[:, 1:].tolist()] == list(ScaleSchedule.infinity(size, ratio))


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_position_of_the_table(reference, ratio):
    row, column = (reference[f"ratio_{ratio}/out/{axis}"].float() for axis in ("row", "column"))
    coordinates = rotary_coordinates(ScaleSchedule.infinity("1M", ratio))
    assert torch.equal(coordinates, torch.stack([row, column], dim=1))


@pytest.mark.parametrize("ratio", RATIOS)
def test_extra_block_reads_on_in_the_table(reference, ratio):
    schedule = ScaleSchedule.infinity("0.25M", ratio)
    coordinates = rotary_coordinates(schedule, reference=schedule.infinity_reference(), extra_block=True)
    length = schedule.length + schedule.latent_length
    assert coordinates.shape == (length, 2)
    assert torch.equal(coordinates[:, 0], reference[f"ratio_{ratio}/out/row"][:length].float())
    assert torch.equal(coordinates[:, 1], reference[f"ratio_{ratio}/out/column"][:length].float())


def test_angles_of_heads_of_width_32(reference):
    table = rotary_table(rotary_coordinates(ScaleSchedule.infinity("1M")), head_width=32)[:3545:16]
    # float32 angles reach 62 radians, where one unit in the last place is 4e-6
    torch.testing.assert_close(table[..., 0], reference["ratio_1.0/out/cos_dim32"], atol=1e-5, rtol=0)
    torch.testing.assert_close(table[..., 1], reference["ratio_1.0/out/sin_dim32"], atol=1e-5, rtol=0)
