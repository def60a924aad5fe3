import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from varestorer_cli.core.engine.tiling import Axis, TileGrid, fewest_tiles


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    side = draw(st.integers(1, 64))
    ramp = draw(st.none() | st.integers(0, side))
    overlap = draw(st.integers(0, side // 2))
    step = draw(st.sampled_from([step for step in (1, 4, 16) if (side - overlap) % step == 0]))
    margin = step * draw(st.integers(0, side // (2 * step)))
    return Axis.split(draw(st.integers(1, 12 * side)), side, overlap, ramp, step, margin)


settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


@given(axes())
def test_tiles_cover_the_axis_and_its_margin_and_overlap_enough(axis: Axis) -> None:
    margin = -axis.starts[0]
    covered = np.zeros(axis.length, int)
    for i, start in enumerate(axis.starts):
        first, last = axis.window(i)
        assert 0 <= first <= last <= axis.length
        assert (first, last) == (max(0, start), min(start + axis.side, axis.length))
        covered[first:last] += 1
        if i:
            assert axis.starts[i - 1] + axis.side - start >= axis.overlap
    assert covered.min() >= 1
    end = axis.starts[-1] + axis.side - axis.length
    assert end == margin if len(axis.starts) > 1 else end >= margin


@given(axes())
def test_as_few_tiles_as_possible(axis: Axis) -> None:
    covered = axis.length - 2 * axis.starts[0]
    if covered > axis.side:
        fewer = len(axis.starts) - 1
        assert fewer * axis.side - (fewer - 1) * axis.overlap < covered


@given(axes())
def test_weights_sum_to_one_everywhere(axis: Axis) -> None:
    total = np.zeros(axis.length)
    for i in range(len(axis.starts)):
        first, last = axis.window(i)
        weights = axis.weights(i)
        assert weights.shape == (last - first,)
        assert (weights >= 0).all()
        total[first:last] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(axes())
def test_what_is_done_is_not_touched_again(axis: Axis) -> None:
    for i in range(len(axis.starts)):
        done = axis.done_before(i)
        assert all(axis.window(later)[0] >= done for later in range(i + 1, len(axis.starts)))
    assert axis.done_before(len(axis.starts) - 1) == axis.length


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([8, 16, 33]), st.integers(0, 4))
def test_bands_hold_each_tile_once_with_its_row_major_number(height: int, width: int, side: int, overlap: int) -> None:
    grid = TileGrid.cover(height, width, (side, side + 4), overlap)
    tiles = [tile for band in grid.bands() for tile in band]
    assert sorted(tile.index for tile in tiles) == list(range(len(grid)))
    by_number = sorted(tiles, key=lambda tile: tile.index)
    assert [(t.top, t.left) for t in by_number] == sorted((t.top, t.left) for t in tiles)
    shorter = min(height, width)
    for band in grid.bands():
        span = max(t.right for t in band) if grid.by_rows else max(t.bottom for t in band)
        assert span == shorter


def test_interior_weights_ramp_over_the_overlap() -> None:
    axis = Axis.split(28, 16, 4)
    assert axis.starts == (0, 12)
    np.testing.assert_allclose(axis.weights(0)[12:], [0.875, 0.625, 0.375, 0.125], atol=1e-6)
    np.testing.assert_allclose(axis.weights(0)[:12], 1)


def test_tiles_begin_at_multiples_of_the_step_but_for_the_last() -> None:
    assert Axis.split(1024, 272, 16).starts == (0, 250, 501, 752)
    assert Axis.split(1024, 272, 16, step=4).starts == (0, 252, 504, 752)
    assert Axis.split(1021, 272, 16, step=4).starts == (0, 252, 500, 749)


def test_the_blend_takes_all_that_neighbours_share_up_to_its_limit() -> None:
    shared = Axis.split(26, 16, 2, ramp=8)
    assert shared.starts == (0, 10)  # 6 pixels in common
    np.testing.assert_allclose(shared.weights(0)[10:], (5.5 - np.arange(6)) / 6, atol=1e-6)
    limited = Axis.split(26, 16, 2, ramp=2)
    np.testing.assert_allclose(limited.weights(0)[10:], [0.8, 4 / 7, 0.5, 0.5, 3 / 7, 0.2], atol=1e-6)


@pytest.mark.parametrize(("length", "side", "overlap"), [(0, 8, 0), (8, 0, 0), (8, 8, 5), (8, 8, -1)])
def test_impossible_geometry_is_refused(length: int, side: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        Axis.split(length, side, overlap)


@given(st.integers(1, 5000), st.integers(0, 32))
def test_stretched_sides_need_the_fewest_tiles_and_waste_the_least(length: int, overlap: int) -> None:
    sides = range(64, 129, 8)
    side = fewest_tiles(length, sides, overlap)
    counts = {s: len(Axis.split(length, s, overlap).starts) for s in sides}
    assert counts[side] == min(counts.values())
    assert all(counts[s] > counts[side] for s in sides if s < side)


def test_weights_change_over_all_that_two_tiles_share() -> None:
    falling = (np.arange(16)[::-1] + 0.5) / 16
    axis = Axis(length=88, side=40, overlap=16, ramp=16, starts=(0, 24, 48))
    for tile in (0, 1):
        np.testing.assert_allclose(axis.weights(tile)[-16:], falling, atol=1e-6)
        np.testing.assert_allclose(axis.weights(tile + 1)[:16], falling[::-1], atol=1e-6)
