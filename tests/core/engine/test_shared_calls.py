"""Tiles of several images in one call: none computed for nothing, none mixed up, faults where they belong."""

import itertools
import threading
from collections import Counter, deque
from typing import Any

import numpy as np
import pytest
import torch
from conftest import photo
from fakes import FakeModel, Hungry, Noisy
from torch import Tensor, nn

from varestorer_cli.core.engine.blending import BlendedTiler
from varestorer_cli.core.engine.engine import QueuedImage, RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions, TileInference
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet


@pytest.fixture(params=[1, 2])
def calls_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As on a CPU, and as on a GPU."""
    monkeypatch.setattr(TileInference, "calls_ahead", request.param)
    return int(request.param)


def engine(model: Any = None, **options: Any) -> RestoreEngine:
    return RestoreEngine(model if model is not None else FakeModel(), EngineOptions(**options))


def restored(one: RestoreEngine, images: list[Any], scale: int = 4, **settings: Any) -> list[Any]:
    """Results of images that wait in one queue; an error in place of the result it prevented."""
    waiting = iter(range(len(images)))
    queued: list[QueuedImage] = []

    def more() -> bool:
        number = next(waiting, None)
        if number is None:
            return False
        size = (images[number].shape[1] * scale, images[number].shape[0] * scale)
        own = {name: value[number] for name, value in settings.items()}
        queued.append(queue.add(ImageTask(images[number], size, key=f"{number}.png", **own)))
        return True

    queue, results = one.queue(more), []
    while len(results) < len(queued) or more():
        try:
            results.append(queued[len(results)].result())
        except Exception as error:
            results.append(error)
    return results


def small(count: int, height: int = 8, width: int = 8) -> list[Any]:
    return [photo(height, width, seed=number) for number in range(count)]


def test_a_thousand_small_images_fill_their_calls(calls_ahead: int) -> None:
    model = FakeModel()
    one = engine(model, batch=8)
    results = restored(one, small(1001))
    assert sum(call["shape"][0] for call in model.calls) == sum(result.tiles for result in results)
    assert Counter(call["shape"][0] for call in model.calls) == {8: 125, 1: 1}
    assert {result.calls for result in results} == {"8", "1"}


def test_noise_drawn_for_images_that_were_given_up_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    inference = engine(Noisy(sampling="sample")).inference
    for number in range(200):
        inference.draw_ahead(str(number), 0)
    assert len(inference._drawn) <= 64
    assert ("199", 0, 0) in inference._drawn, "the newest is drawn still"
    torch.testing.assert_close(
        inference.draw("199", 0, 0), engine(Noisy(sampling="sample")).inference.draw("199", 0, 0)
    )


def test_the_host_of_a_gpu_draws_no_noise_in_line(monkeypatch: pytest.MonkeyPatch, calls_ahead: int) -> None:
    one, drawing = engine(Noisy(sampling="sample"), batch=2), threads_of_noise(monkeypatch)
    restored(one, [*small(5), photo(20, 20), *small(3)])
    assert len(drawing) == 8 + 9
    assert {name.startswith("noise") for name in drawing} == {calls_ahead == 2}


def threads_of_noise(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that noise is drawn in, one per tile."""
    names: list[str] = []
    draw = TileInference._draw

    def noted(self: TileInference, key: str, tile: int, attempt: int) -> Tensor:
        names.append(threading.current_thread().name)
        return draw(self, key, tile, attempt)

    monkeypatch.setattr(TileInference, "_draw", noted)
    return names


def test_one_image_takes_its_tiles_and_no_more() -> None:
    model = FakeModel()
    one = engine(model, batch=8)
    assert restored(one, small(1))[0].calls == "1"
    assert [call["shape"][0] for call in model.calls] == [1]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_each_image_gets_its_own_pixels(batch: int, calls_ahead: int) -> None:
    """Images of one, nine and four tiles, of two shapes of tiles."""
    images = [*small(3), photo(20, 20, seed=7), *small(2, 16, 16), photo(3, 3, seed=9)]
    tasks = [ImageTask(one, (one.shape[1] * 4, one.shape[0] * 4)) for one in images]
    alone = [engine(FakeModel(small_sides=(12,)), batch=1).restore(task).image for task in tasks]
    model = FakeModel(small_sides=(12,))
    together = restored(engine(model, batch=batch), images)
    for expected, result in zip(alone, together, strict=True):
        np.testing.assert_array_equal(expected, result.image)
    assert {call["shape"][0] for call in model.calls} <= {1, batch}
    assert sum(call["shape"][0] for call in model.calls) == sum(result.tiles for result in together)


def test_images_of_the_same_tiles_meet_across_others() -> None:
    model = FakeModel(small_sides=(12,))
    restored(engine(model, batch=2), [photo(8, 8), photo(3, 3), photo(8, 8, seed=2), photo(3, 3, seed=2)])
    assert [call["shape"] for call in model.calls] == [(2, 3, 32, 32), (2, 3, 12, 12)]


def test_few_images_are_taken_ahead() -> None:
    """One of other tiles does not read a whole folder in search of company."""
    model = FakeModel(small_sides=(12,))
    one, taken = engine(model, batch=3), []

    def more() -> bool:
        taken.append(queue.add(ImageTask(photo(3, 3), (12, 12))))
        return True

    queue = one.queue(more)
    queue.add(ImageTask(photo(8, 8), (32, 32))).result()
    assert len(taken) == 3


def test_without_a_source_of_images_nothing_is_asked_for() -> None:
    model = FakeModel()
    one = engine(model, batch=8, compat="released")
    one.queue(lambda: pytest.fail("the released way has one image at a time")).add(
        ImageTask(photo(8, 8), (32, 32))
    ).result()
    asked = engine(batch=1)
    asked.queue(lambda: pytest.fail("a call of one tile is full")).add(ImageTask(photo(8, 8), (32, 32))).result()


def test_the_noise_of_a_model_with_tokens_stays_with_its_image(calls_ahead: int) -> None:
    images, model = [photo(16, 16)] * 5, load_restorer("mini").restorer
    alone = [engine(model, batch=1, sampling="sample").restore(ImageTask(image, (64, 64), key=f"{n}.png")).image
             for n, image in enumerate(images)]  # fmt: skip
    together = [result.image for result in restored(engine(model, batch=4, sampling="sample"), images)]
    for n, m in itertools.product(range(5), repeat=2):
        difference = float(np.abs(alone[n] - together[m]).mean())
        assert difference < 0.001 if n == m else difference > 0.01


def test_noise_stays_with_its_image_to_the_last_bit(calls_ahead: int) -> None:
    images = small(5)
    alone = [engine(Noisy(sampling="sample")).restore(ImageTask(image, (32, 32), key=f"{n}.png")).image
             for n, image in enumerate(images)]  # fmt: skip
    together = restored(engine(Noisy(sampling="sample"), batch=4), images)
    for expected, result in zip(alone, together, strict=True):
        np.testing.assert_array_equal(expected, result.image)


class Texts(FakeModel):
    """Adds the length of its text in hundredths."""

    class Conditions:
        def __init__(self, values: list[float]) -> None:
            self.values = values

        def grouped(self, parts: list[Any], counts: list[int]) -> Any:
            return Texts.Conditions([v for part, n in zip(parts, counts, strict=True) for v in part.values * n])

    def condition(self, rows: Tensor | None) -> Any:
        return self.Conditions([0.0 if rows is None else len(rows) / 100])

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        values = settings["condition"].values
        assert len(values) in (1, len(degraded))
        return (degraded + torch.tensor(values).view(-1, 1, 1, 1)).clamp(0, 1)


def test_different_captions_share_a_call() -> None:
    images, texts = small(4), ["a", "a", None, "b"]
    rows = {"a": torch.zeros(3, 2), "b": torch.zeros(9, 2)}
    model = Texts()
    one = engine(model, batch=4)
    one.conditions.add(rows)
    together = restored(one, images, text=texts)
    assert [call["shape"][0] for call in model.calls] == [4]
    for image, text, result in zip(images, texts, together, strict=True):
        single = engine(Texts())
        single.conditions.add(rows)
        np.testing.assert_array_equal(single.restore(ImageTask(image, (32, 32), text=text)).image, result.image)


# --- what goes wrong


class Spoils(FakeModel):
    """Gives NaN for tiles darker than a tenth, and raises for tiles brighter than nine tenths."""

    def restore(self, degraded: Tensor, settings: dict[str, Any]) -> Tensor:
        means = degraded.mean((1, 2, 3))
        if bool((means > 0.9).any()):
            raise ZeroDivisionError("a bug that bright tiles meet")
        return torch.where(means.view(-1, 1, 1, 1) < 0.1, float("nan"), degraded)


def test_a_bad_image_fails_alone(calls_ahead: int) -> None:
    dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    images = [photo(8, 8), dark, photo(8, 8, seed=2), bright, photo(8, 8, seed=3)]
    results = restored(engine(Spoils(), batch=5), images, dtype=[np.uint8] * 5)
    assert isinstance(results[1], InputError) and "tile 1 of 1 is not finite" in str(results[1])
    assert isinstance(results[3], ZeroDivisionError)
    for number in (0, 2, 4):
        expected = engine().restore(ImageTask(images[number], (32, 32), dtype=np.uint8)).image
        np.testing.assert_array_equal(results[number].image, expected)


def test_a_shortage_halves_the_call_for_all(calls_ahead: int) -> None:
    model = Hungry(fits=2 * 32 * 32)
    results = restored(engine(model, batch=8), small(9))
    assert [result.calls for result in results] == ["2"] * 8 + ["1"]
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result.image, engine().restore(ImageTask(small(9)[number], (32, 32))).image)


def test_a_shortage_of_one_tile_makes_tiles_smaller_for_all(calls_ahead: int) -> None:
    model = Hungry(tile_sides=(32, 16, 8), fits=16 * 16)
    results = restored(engine(model, batch=2), small(3))
    assert [result.tile for result in results] == [16] * 3
    for number, result in enumerate(results):
        plain = engine(FakeModel(tile_sides=(32, 16, 8)), tile=16, batch=1)
        np.testing.assert_array_equal(result.image, plain.restore(ImageTask(small(3)[number], (32, 32))).image)


# --- what order and company change


def network() -> nn.Module:
    torch.manual_seed(0)
    net = RRDBNet(RRDBConfig(width=16, growth=8, blocks=2))
    return FirstStageRestorer(RestorerConfig(tile=64, largest_tile=96), net).eval()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_company_changes_rounding_only(precision: str) -> None:
    """The promise: one tile per call (the default of a CPU) gives the same bytes in every order; calls of several tiles
    give the same bytes where ``calls`` is the same single number, else within one level of 255 (two in bf16)."""
    images = [photo(15, 16, seed=number) for number in range(7)]
    dtype = [np.uint8] * 7
    one_by_one = restored(engine(network(), batch=1, precision=precision), images, dtype=dtype)
    backwards = restored(engine(network(), batch=1, precision=precision), images[::-1], dtype=dtype)[::-1]
    for first, second in zip(one_by_one, backwards, strict=True):
        np.testing.assert_array_equal(first.image, second.image)
    shared = restored(engine(network(), batch=4, precision=precision), images, dtype=dtype)
    turned = restored(engine(network(), batch=4, precision=precision), images[::-1], dtype=dtype)[::-1]
    assert {result.calls for result in shared} == {"4", "1"}
    for alone, first, second in zip(one_by_one, shared, turned, strict=True):
        if first.calls == second.calls:
            np.testing.assert_array_equal(first.image, second.image)
        for other in (first, second):
            difference = np.abs(other.image.astype(int) - alone.image)
            assert difference.max() <= (1 if precision == "fp32" else 2)


# --- a device that never waits


class Clock:
    """Host and device time in milliseconds: the host cuts and blends, the device computes in order."""

    cut, blend, device = 5.0, 8.0, 35.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inference: TileInference) -> None:
        self.host = self.free = self.idle = 0.0
        self.ends: deque[float] = deque()
        submit, collect, cut = inference.submit, inference.collect, BlendedTiler.cut

        def submitted(degraded: Any, *words: Any, **settings: Any) -> Any:
            begin = max(self.host, self.free)
            self.idle += begin - self.free
            self.free = begin + self.device * len(degraded)
            self.ends.append(self.free)
            return submit(degraded, *words, **settings)

        def collected(call: Any) -> Any:
            self.host = max(self.host, self.ends.popleft()) + self.blend * len(call.image)
            return collect(call)

        def cut_out(tiler: BlendedTiler, tile: Any) -> Any:
            self.host += self.cut
            return cut(tiler, tile)

        monkeypatch.setattr(inference, "submit", submitted)
        monkeypatch.setattr(inference, "collect", collected)
        monkeypatch.setattr(BlendedTiler, "cut", cut_out)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_device_waits_for_the_first_tiles_only(monkeypatch: pytest.MonkeyPatch, calls_ahead: int, batch: int) -> None:
    """13 ms of host work per tile beside 35 ms of the device: hidden where two calls are under way."""
    one = engine(batch=batch)
    clock = Clock(monkeypatch, one.inference)
    assert one.restore(ImageTask(photo(60, 60), (240, 240))).tiles == 81
    waited = clock.idle - clock.cut * batch  # what the first call needs
    share = waited / clock.free
    assert share < 0.01 if calls_ahead == 2 else share > 0.2
