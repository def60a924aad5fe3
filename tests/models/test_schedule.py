import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import square_grids

from varestorer_models.schedule import INFINITY_RATIOS, INFINITY_SIZES, ScaleSchedule


@st.composite
def schedules(draw) -> ScaleSchedule:
    """Growing grids with repeats, starting at 1 x 1."""
    grids = [(1, 1)]
    for _ in range(draw(st.integers(0, 5))):
        height, width = grids[-1]
        grids.append((height + draw(st.integers(0, 3)), width + draw(st.integers(0, 3))))
    return ScaleSchedule(tuple(grids))


@pytest.mark.parametrize(
    ("size", "scales", "length", "side"),
    [("0.06M", 7, 521, 16), ("0.25M", 10, 2521, 32), ("0.60M", 12, 6425, 48), ("1M", 13, 10521, 64)],
)
def test_released_square_sizes(size, scales, length, side):
    schedule = ScaleSchedule.infinity(size)
    assert (len(schedule), schedule.length, schedule.latent_grid) == (scales, length, (side, side))
    assert len(schedule) == scales
    assert schedule.latent_length == side * side


def test_first_positions_of_the_512_schedule():
    starts = [rows.start for rows in ScaleSchedule.infinity("0.25M").slices]
    assert starts == [0, 1, 5, 21, 57, 121, 265, 521, 921, 1497]


def test_wide_tables_mirror_tall_ones():
    wide, tall = ScaleSchedule.infinity("1M", 0.666), ScaleSchedule.infinity("1M", 1.5)
    assert wide.grids == tuple((width, height) for height, width in tall.grids)
    assert tall.latent_grid == (78, 52)


@pytest.mark.parametrize("ratio", INFINITY_RATIOS)
def test_last_grid_has_the_ratio_and_about_a_million_pixels(ratio):
    assert len(INFINITY_RATIOS) == 15
    height, width = ScaleSchedule.infinity("1M", ratio).latent_grid
    assert height / width == pytest.approx(ratio, rel=0.01)
    assert height * width * 256 == pytest.approx(2**20, rel=0.06)


@pytest.mark.parametrize("ratio", INFINITY_RATIOS)
@pytest.mark.parametrize("size", INFINITY_SIZES)
def test_reference_of_released_schedules(size, ratio):
    schedule = ScaleSchedule.infinity(size, ratio)
    assert schedule.infinity_reference() == ScaleSchedule.infinity("1M", ratio)


def test_no_reference_for_own_schedules():
    assert square_grids(1, 2, 4, 8, 16, 16).infinity_reference() is None


@given(schedules())
def test_slices_partition_the_sequence(schedule):
    covered = [position for rows in schedule.slices for position in range(rows.start, rows.stop)]
    assert covered == list(range(schedule.length))
    assert [rows.stop - rows.start for rows in schedule.slices] == list(schedule.lengths)
    index = schedule.scale_index()
    for scale, rows in enumerate(schedule.slices):
        assert (index[rows] == scale).all()


def test_sides_are_those_of_squares_of_the_same_area():
    assert ScaleSchedule(((1, 1), (2, 8), (9, 9))).sides == (1, 4, 9)


@given(schedules())
def test_mask_is_block_causal(schedule):
    mask = schedule.block_causal_mask()
    assert mask.dtype == torch.bool
    assert mask.shape == (schedule.length, schedule.length)
    for rows in schedule.slices:
        assert mask[rows, : rows.stop].all()
        assert not mask[rows, rows.stop :].any()


def test_equal_schedules_are_one_key_whatever_they_were_made_from():
    from_lists = ScaleSchedule([[1, 1], [2, 2], [2, 2]])  # type: ignore[arg-type]
    assert {from_lists: "found"}[square_grids(1, 2, 2)] == "found"
    assert from_lists != square_grids(1, 2)


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ((), "at least one grid"),
        (((2, 2),), r"must be \(1, 1\), got \(2, 2\)"),
        (((1, 1), (3, 3), (2, 4)), r"got \(2, 4\) after \(3, 3\)"),
    ],
)
def test_impossible_grids(grids, words):
    with pytest.raises(ValueError, match=words):
        ScaleSchedule(grids)


def test_unknown_released_names_list_the_known():
    with pytest.raises(ValueError, match=r"'2M'.*0\.25M"):
        ScaleSchedule.infinity("2M")
    with pytest.raises(ValueError, match=r"= 0\.9; .*0\.8, 1\.0"):
        ScaleSchedule.infinity("1M", 0.9)
