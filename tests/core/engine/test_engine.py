import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo
from fakes import Broken, FakeModel, Faulty, Hungry, Noisy
from torch import Tensor

from varestorer_cli.core.engine.blending import reflected
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.errors import InputError, InterruptedRunError, OutOfMemoryError, UsageError
from varestorer_cli.core.image.resample import Resampler, to_depth
from varestorer_cli.core.restore.session import load_model


def engine(model: Any = None, **options: Any) -> RestoreEngine:
    return RestoreEngine(model if model is not None else FakeModel(), EngineOptions(**options))


def upscaled(pixels: Any, size: tuple[int, int]) -> Any:
    target = (size[1], size[0])
    return Resampler(pixels.shape[:2], target).window(pixels, 0, 0, *target).clip(0, 1)


@pytest.mark.parametrize("overlap", [0, 1, 4, 8, 16])
@pytest.mark.parametrize("kind", ["constant", "gradient", "noise"])
def test_no_seams_with_an_identity_model(kind: str, overlap: int) -> None:
    pixels = {
        "constant": np.full((30, 41, 3), 77, np.uint8),
        "gradient": np.repeat(np.linspace(0, 255, 41).astype(np.uint8)[None, :, None].repeat(30, 0), 3, 2),
        "noise": np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8),
    }[kind]
    result = engine(overlap=overlap).restore(ImageTask(pixels, (164, 120))).image
    np.testing.assert_allclose(result, upscaled(pixels, (164, 120)), atol=0.01 / 255)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (32, 128)])
def test_tiles_that_only_touch(size: tuple[int, int]) -> None:
    pixels = photo(size[1], size[0])
    np.testing.assert_array_equal(engine(overlap=0).restore(ImageTask(pixels, size, dtype=np.uint8)).image, pixels)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 9), (7, 5), (8, 8), (9, 33), (100, 3)])
@pytest.mark.parametrize("scale", [1, 1.5, 4])
def test_any_size_comes_out_at_its_exact_size(size: tuple[int, int], scale: float) -> None:
    pixels = photo(size[1], size[0])
    target = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    result = engine().restore(ImageTask(pixels, target, dtype=np.uint8)).image
    assert result.shape == (target[1], target[0], 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, to_depth(upscaled(pixels, target), np.uint8))


def test_tall_and_wide_images_are_the_same_turned() -> None:
    pixels = photo(20, 60)
    wide = engine().restore(ImageTask(pixels, (240, 80))).image
    tall = engine().restore(ImageTask(np.ascontiguousarray(pixels.swapaxes(0, 1)), (80, 240))).image
    np.testing.assert_allclose(wide, tall.swapaxes(0, 1), atol=1e-6)


def test_sixteen_bits_pass_through() -> None:
    pixels = photo(20, 30, depth=16)
    result = engine().restore(ImageTask(pixels, (30, 20), dtype=np.uint16)).image
    np.testing.assert_array_equal(result, pixels)
    assert len(np.unique(result)) > 300


@pytest.mark.parametrize(
    ("batch", "calls"), [(1, [1] * 9), (3, [3] * 3), (4, [4, 4, 1]), (8, [8, 1]), (6, [6, 1, 1, 1])]
)
def test_no_tile_is_computed_twice_and_two_shapes_occur(batch: int, calls: list[int]) -> None:
    """Three bands of three tiles: full calls cross from band to band, the rest comes one by one."""
    model = FakeModel()
    assert engine(model, batch=batch).restore(ImageTask(photo(20, 20), (80, 80))).tiles == 9
    assert [call["shape"] for call in model.calls] == [(count, 3, 32, 32) for count in calls]


@pytest.mark.parametrize("batch", [2, 5, 16])
def test_the_shape_of_a_call_depends_on_its_own_image_only(batch: int) -> None:
    first, both = FakeModel(), FakeModel()
    engine(first, batch=batch).restore(ImageTask(photo(20, 20), (80, 80)))
    shared = engine(both, batch=batch)
    shared.restore(ImageTask(photo(10, 30), (40, 120)))
    before = len(both.calls)
    shared.restore(ImageTask(photo(20, 20), (80, 80)))
    assert [call["shape"] for call in both.calls[before:]] == [call["shape"] for call in first.calls]


def test_a_tile_done_again_is_one_more() -> None:
    model = Faulty(fault="nan", times=1)
    assert engine(model, batch=4).restore(ImageTask(photo(20, 20), (80, 80))).retries == 4
    assert sum(call["shape"][0] for call in model.calls) == 9 + 4


def test_batch_size_does_not_change_the_result() -> None:
    results = [engine(batch=batch).restore(ImageTask(photo(20, 20), (80, 80))).image for batch in (1, 2, 5)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_progress_counts_tiles() -> None:
    seen: list[tuple[int, int]] = []
    engine(batch=2).restore(ImageTask(photo(20, 20), (80, 80), on_tiles=lambda done, all_: seen.append((done, all_))))
    assert seen[-1] == (9, 9)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_settings_reach_the_model() -> None:
    model = FakeModel()
    engine(model, sampling="expected", color_fix="adain", fidelity=0.25).restore(ImageTask(photo(), (32, 24)))
    call = model.calls[0]
    assert (call["sampling"], call["color_fix"], call["fidelity"]) == ("expected", "adain", 0.25)
    assert call["uniforms"] is None


# --- noise


def noisy(seed: int = 0, key: str = "a.png", **options: Any) -> Any:
    return (
        engine(Noisy(sampling="sample"), seed=seed, **options)
        .restore(ImageTask(photo(20, 20), (80, 80), key=key))
        .image
    )


def test_noise_depends_on_seed_and_key_only() -> None:
    base = noisy()
    np.testing.assert_array_equal(base, noisy())
    np.testing.assert_array_equal(base, noisy(batch=4))
    assert not np.array_equal(base, noisy(seed=1))
    assert not np.array_equal(base, noisy(key="b.png"))


def test_noise_differs_between_tiles_and_attempts() -> None:
    one = engine(Noisy(sampling="sample"))
    draws = [one.inference.draw("k", tile, attempt) for tile in (0, 1) for attempt in (0, 1)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 4
    assert all(float(draw.min()) >= 0 and float(draw.max()) < 1 for draw in draws)


def test_the_released_way_draws_one_sequence_for_every_image() -> None:
    model = Noisy()
    engine(model, compat="released", seed=5).restore(ImageTask(photo(10, 10), (40, 40), key="a.png"))
    expected = torch.rand(
        (model.calls[-1]["uniforms"].shape[0] * 4, 5, 4, 2), generator=torch.Generator().manual_seed(5)
    )
    drawn = torch.cat([call["uniforms"] for call in model.calls])
    assert len(model.calls) == 4 and torch.equal(drawn, expected)
    again = engine(Noisy(), compat="released", seed=5)
    first, second = (
        again.restore(ImageTask(photo(10, 10), (40, 40), key=key, dtype=np.uint8)).image for key in ("b", "c")
    )
    np.testing.assert_array_equal(first, second)


def test_the_released_way_takes_what_comes_but_no_nan() -> None:
    result = engine(Faulty(fault="constant"), compat="released").restore(
        ImageTask(photo(10, 10), (40, 40), dtype=np.uint8)
    )
    assert (np.unique(result.image).tolist(), result.retries) == ([127], 0)  # 127.5 is truncated
    with pytest.raises(InputError, match="not finite"):
        engine(Faulty(fault="nan"), compat="released").restore(ImageTask(photo(10, 10), (40, 40)))


def test_the_released_way_sets_defaults_not_wishes() -> None:
    model = FakeModel()
    engine(model, compat="released").restore(ImageTask(photo(8, 8), (32, 32)))
    engine(model, compat="released", sampling="argmax", color_fix="adain").restore(ImageTask(photo(8, 8), (32, 32)))
    first, last = model.calls[0], model.calls[-1]
    assert (first["sampling"], first["color_fix"]) == ("sample", "none")
    assert (last["sampling"], last["color_fix"]) == ("argmax", "adain")
    with pytest.raises(UsageError, match="--tile 40"):
        engine(FakeModel(tile_sides=(32, 40)), compat="released", tile=40)


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    engine(Noisy(sampling="sample")).inference.draw("k", 0, 0)
    assert torch.equal(torch.rand(1), expected)


# --- unusable results


@pytest.mark.parametrize("fault", ["nan", "constant", "black"])
def test_a_bad_tile_is_computed_again_in_fp32(fault: str) -> None:
    model = Faulty(fault=fault, times=1)
    result = engine(model, precision="bf16").restore(ImageTask(photo(20, 20), (80, 80)))
    assert (result.retries, result.precision) == (1, "bf16+fp32")
    assert engine(precision="bf16").restore(ImageTask(photo(20, 20), (80, 80))).precision == "bf16"
    assert [call["autocast"] for call in model.calls[:2]] == [True, False]
    np.testing.assert_allclose(result.image, upscaled(photo(20, 20), (80, 80)), atol=1e-5)


@pytest.mark.parametrize(("fault", "word"), [("nan", "not finite"), ("constant", "constant"), ("black", "black")])
def test_a_tile_that_stays_bad_fails_the_image(fault: str, word: str) -> None:
    with pytest.raises(InputError, match=rf"tile 1 of 9 is {word}, in fp32 too; nothing was written"):
        engine(Faulty(fault=fault)).restore(ImageTask(photo(20, 20), (80, 80)))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_inputs_may_give_flat_results(value: int) -> None:
    pixels = np.full((10, 10, 3), value, np.uint8)
    assert engine().restore(ImageTask(pixels, (40, 40))).retries == 0


def test_our_bugs_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        engine(Broken()).restore(ImageTask(photo(), (32, 24)))


# --- memory


def test_out_of_memory_makes_the_batch_smaller_and_is_remembered() -> None:
    model = Hungry(fits=2 * 32 * 32)
    one = engine(model, batch=8)
    result = one.restore(ImageTask(photo(20, 20), (80, 80)))
    assert (result.split, result.batch, one.batch_for((32, 32))) == ("batch 8->2", 2, 2)
    np.testing.assert_array_equal(result.image, engine(batch=2).restore(ImageTask(photo(20, 20), (80, 80))).image)
    again = one.restore(ImageTask(photo(20, 20), (80, 80)))
    assert again.split == ""


@pytest.mark.parametrize("words", ["CUDA out of memory.", "[enforce fail] DefaultCPUAllocator: can't allocate memory"])
def test_then_the_tile_smaller_with_the_pixels_of_that_tile(words: str) -> None:
    sizes = (32, 16, 8)
    one = engine(Hungry(tile_sides=sizes, fits=16 * 16, words=words), batch=2)
    result = one.restore(ImageTask(photo(20, 20), (80, 80)))
    assert (result.tile, result.split) == (16, "batch 2->1, tile 32->16")
    assert one.restore(ImageTask(photo(20, 20), (80, 80))).split == ""
    plain = engine(FakeModel(tile_sides=sizes), tile=16, batch=1).restore(ImageTask(photo(20, 20), (80, 80)))
    np.testing.assert_array_equal(result.image, plain.image)
    assert result.tiles == plain.tiles


@pytest.mark.parametrize("size", [(41, 41), (100, 30), (20, 20)])
def test_then_shorter_than_the_native_tile_where_the_model_has_a_margin(size: tuple[int, int]) -> None:
    model = Hungry(tile_sides=(32, 40), small_sides=(8, 16, 20, 24, 28), fits=16 * 20)
    model.border_margin = 2  # type: ignore[attr-defined]
    pixels = photo(size[1], size[0])
    one = engine(model, batch=1)
    np.testing.assert_allclose(one.restore(ImageTask(pixels, size)).image, pixels / 255, atol=1e-5)
    assert one.restore(ImageTask(pixels, size)).split == ""
    assert all(min(call["shape"][2:]) >= 8 for call in model.calls)


def test_nothing_smaller_is_left() -> None:
    with pytest.raises(OutOfMemoryError, match="one tile of 32x32 does not fit in the memory of cpu"):
        engine(Hungry()).restore(ImageTask(photo(), (32, 24)))


def test_memory_is_bounded_by_a_band_across_the_shorter_side() -> None:
    """A wide image keeps only a band of tiles in floats, the result belongs to the caller."""
    import tracemalloc

    pixels = photo(10, 2000)
    one = engine()
    one.restore(ImageTask(photo(10, 100), (400, 40), dtype=np.uint8))
    room = np.zeros((40, 8000, 3), np.uint8)
    tracemalloc.start()
    one.restore(ImageTask(pixels, (8000, 40), dtype=np.uint8, allocate=lambda shape, dtype: room))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000 < 40 * 8000 * 3 * 4


# --- options


def test_a_tile_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="--tile 48: this model works on tiles of 32 pixels"):
        engine(tile=48)
    with pytest.raises(UsageError, match="--overlap 17: at most half a tile is possible, 16 here"):
        engine(overlap=17)


def test_stopping() -> None:
    with pytest.raises(InterruptedRunError):
        engine().restore(ImageTask(photo(), (32, 24)), should_stop=lambda: True)


def test_stretched_tiles_save_tiles_and_change_nothing_for_an_identity() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (15, 19, 3), dtype=np.uint8)
    plain, stretching = FakeModel(), FakeModel(tile_sides=(32, 40, 48))
    usual = RestoreEngine(plain, EngineOptions(overlap=4)).restore(ImageTask(pixels, (76, 60)))
    fewer = RestoreEngine(stretching, EngineOptions(overlap=4)).restore(ImageTask(pixels, (76, 60)))
    assert (usual.tiles, fewer.tiles) == (6, 4)
    assert {call["shape"][2:] for call in stretching.calls} == {(32, 40)}
    assert fewer.tile == 40
    np.testing.assert_allclose(fewer.image, usual.image, atol=1e-5)


def test_fitted_tiles_share_less_than_fixed_ones() -> None:
    sides = tuple(range(64, 97, 4))
    fitted, fixed = engine(FakeModel(tile=64, tile_sides=sides)), engine(FakeModel(tile=64))
    assert (fitted.overlap, fixed.overlap) == (4, 8)
    assert engine(FakeModel(tile=64, tile_sides=sides), tile=64).overlap == 8
    grid = fitted.grid(256, 64)
    # with an eighth it would be 3 times 92
    assert (grid.horizontal.side, len(grid.horizontal.starts), grid.horizontal.ramp) == (88, 3, 8)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((1, 1), (8, 8)), ((8, 9), (16, 8)), ((5, 31), (32, 8)), ((16, 16), (16, 16)), ((17, 32), (32, 32))],
)
def test_an_image_smaller_than_a_tile_gets_the_smallest_tile_that_covers_it(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    model = FakeModel(small_sides=(8, 16))
    result = engine(model, batch=4).restore(ImageTask(photo(size[1], size[0]), size, dtype=np.uint8))
    assert [call["shape"] for call in model.calls] == [(1, 3, *shape)]
    np.testing.assert_array_equal(result.image, photo(size[1], size[0]))
    assert (result.tiles, result.tile) == (1, max(shape))


def test_small_tiles_only_where_the_whole_side_fits_and_nothing_else_was_asked_for() -> None:
    grid = engine(FakeModel(small_sides=(8, 16))).grid(40, 10)
    assert (grid.sides, len(grid)) == ((16, 32), 2)
    assert engine(FakeModel(small_sides=(8, 16)), tile=32).grid(8, 8).sides == (32, 32)
    assert engine(Noisy(small_sides=(8, 16), sampling="sample")).grid(8, 8).sides == (32, 32)
    assert engine(Noisy(small_sides=(8, 16)), compat="released").restore(ImageTask(photo(8, 8), (8, 8))).tile == 32


@dataclass
class Shy(FakeModel):
    """Returns its input but for ``border_margin`` pixels at the edge of a tile, which are white."""

    border_margin: int = 4

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        out = torch.ones_like(degraded)
        inner = slice(self.border_margin, -self.border_margin)
        out[..., inner, inner] = degraded[..., inner, inner]
        return out


@pytest.mark.parametrize("options", [{}, {"tile": 32}, {"batch": 3}])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (24, 24), (25, 32), (31, 33), (32, 8), (100, 27), (40, 130)])
def test_what_a_model_does_at_the_edge_of_a_tile_is_not_at_the_border_of_the_image(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    pixels = photo(size[1], size[0])
    model = Shy(tile_sides=(32, 40, 48), small_sides=(16, 24))
    result = engine(model, **options).restore(ImageTask(pixels, size)).image
    band = np.ones(result.shape[:2], bool)
    if len(model.calls) > 1:  # where tiles meet they see white: only the corners
        band[2:-2] = band[:, 2:-2] = False
    if options.get("tile"):  # a second tile may begin a pixel after the first, and then has less of a margin
        assert {call["shape"][2:] for call in model.calls} == {(32, 32)}
    else:
        np.testing.assert_allclose(result[band], pixels[band] / 255, atol=0.01 / 255)


def test_reflection_goes_on_before_the_first_pixel() -> None:
    pixels = torch.arange(5.0).view(1, 1, 5)
    found = reflected(pixels, (1, 12), (0, 4))
    assert found[0, 0].tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


def test_tiles_of_a_model_with_a_margin_may_be_shorter_than_its_own() -> None:
    sizes: dict[str, Any] = {"tile_sides": (32, 40, 48), "small_sides": (8, 16, 20, 24, 28)}
    for model, side in ((Shy(**sizes), 28), (FakeModel(**sizes), 32)):
        length = 50 - 2 * getattr(model, "border_margin", 0)
        assert (engine(model).grid(length, 1).horizontal.side, len(engine(model).grid(length, 1))) == (side, 2)
    # no shorter than half of it, and than what the overlap allows
    assert engine(Shy(**sizes | {"tile_sides": (32, 33), "small_sides": (8, 24)})).grid(30, 1).horizontal.side == 24
    assert engine(Shy(**sizes), overlap=16).grid(41, 1).horizontal.side == 40


def test_compatible_runs_have_no_margin() -> None:
    assert engine(Shy(), compat="released").grid(32, 32).vertical.starts == (0,)


@pytest.mark.parametrize("name", ["compact", "fine"])
@pytest.mark.parametrize("level", [0, 255])
def test_even_images_stay_even_to_their_corners(name: str, level: int) -> None:
    restorer = load_model(name, "cpu").restorer
    flat = np.full((12, 10, 3), level, np.uint8)
    result = engine(restorer).restore(ImageTask(flat, (40, 48), dtype=np.uint8)).image
    assert np.abs(result.astype(int) - level).max() <= 5


def tiles(one: RestoreEngine, *sizes: tuple[int, int]) -> Counter[tuple[int, int]]:
    """Tiles by their sides of images of these sizes."""
    found: Counter[tuple[int, int]] = Counter()
    for size in sizes:
        grid = one.grid(*size)
        found[grid.sides] += len(grid)
    return found


def test_the_estimate_knows_batches_rests_and_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose call takes 0.5 s, and 1 s more per 1024 pixels of it alone, half of that in a batch."""
    one = engine(FakeModel(small_sides=(8, 16), tile_sides=(32, 64)), batch=4)
    timed: list[tuple[int, tuple[int, int]]] = []

    def seconds(batch: int, sides: tuple[int, int]) -> float:
        timed.append((batch, sides))
        alone = 0.5 + math.prod(sides) / 1024
        return alone if batch == 1 else batch * alone / 2

    monkeypatch.setattr(one.inference, "seconds_per_call", seconds)
    assert one.calls(tiles(one, (80, 80))) == {(4, (64, 64)): 1}
    assert one.calls(tiles(one, (10, 8))) == {(1, (8, 16)): 1}
    calls = one.calls(tiles(one, (10, 8), (10, 8), (28, 28)))
    assert one.estimate_seconds(calls) == pytest.approx(2 * (0.5 + 128 / 1024) + 1.5)
    assert timed == [(1, (32, 32)), (1, (8, 16))]
    timed.clear()
    assert one.estimate_seconds(one.calls(tiles(one, (10, 8)))) == pytest.approx(0.5 + 128 / 1024)
    assert timed == [(1, (8, 16))], "a lone small image waits for no large tile"
    assert one.estimate_seconds(one.calls(tiles(one, (80, 80)))) == pytest.approx(4 * (0.5 + 64 * 64 / 1024) / 2)
    nine = engine(FakeModel(), batch=4)
    monkeypatch.setattr(nine.inference, "seconds_per_call", seconds)
    assert nine.calls(tiles(nine, (80, 80))) == {(4, (32, 32)): 2, (1, (32, 32)): 1}
    assert nine.calls(tiles(nine, *[(20, 20)] * 1001)) == {(4, (32, 32)): 250, (1, (32, 32)): 1}, "shared by images"
    assert nine.estimate_seconds(nine.calls(tiles(nine, (80, 80)))) == pytest.approx(2 * 4 * 1.5 / 2 + 1.5)
    assert engine().estimate_seconds(Counter()) == 0


def test_an_explicit_tile_is_not_stretched() -> None:
    model = FakeModel(tile_sides=(32, 40, 48))
    pixels = np.random.default_rng(0).integers(0, 256, (15, 19, 3), dtype=np.uint8)
    RestoreEngine(model, EngineOptions(tile=32, overlap=4)).restore(ImageTask(pixels, (76, 60)))
    assert {call["shape"][2:] for call in model.calls} == {(32, 32)}


def test_an_asked_for_side_and_noise_allow_no_choice() -> None:
    sides = (32, 36, 40, 44)
    assert engine(FakeModel(tile_sides=sides), tile=32).restore(ImageTask(photo(8, 17), (68, 32))).tile == 32
    assert engine(Noisy(tile_sides=sides, sampling="sample")).restore(ImageTask(photo(8, 17), (68, 32))).tile == 32
    with pytest.raises(UsageError, match="--tile 36: this model works on tiles of 32 pixels"):
        engine(Noisy(tile_sides=sides, sampling="sample"), tile=36)
    with pytest.raises(UsageError, match="--tile 33: this model works on tiles of 32 to 44 pixels"):
        engine(FakeModel(tile_sides=sides), tile=33)
