"""``--compat released``, from a photograph to the last bit of the result, against the script's way done over.

The networks are those of the reference vectors; tiles of 256 pixels keep most of it quick, 512 is the script's size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load, rows, save
from PIL import Image
from reference_data import reference
from released_pipeline import Photo, ReleasedModels, evaluation_noise, restore_image, to_bgr
from released_states import from_released

from varestorer_cli import app
from varestorer_cli.core.engine import released
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.quantizer import MultiScaleQuantizer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.tokenizer import ImageTokenizer, TokenizerConfig
from varestorer_models.transformer import Condition, TextFeatures

pytestmark = pytest.mark.parity
SAMPLE = Path(__file__).parents[2] / "varestorer_cli" / "data" / "samples" / "citrus.png"


def build(size: str) -> tuple[ReleasedModels, OneStepRestorer]:
    stored = reference("end_to_end")
    models = ReleasedModels(
        from_released("prerestorer", stored.state("prerestorer")),
        from_released("autoencoder", stored.state("autoencoder")),
        from_released("transformer", stored.state("transformer")),
        MultiScaleQuantizer(),
        ScaleSchedule.infinity(size),
    )
    tokenizer = ImageTokenizer(TokenizerConfig(models.autoencoder.config, models.quantizer.config, models.schedule))
    tokenizer.autoencoder, tokenizer.quantizer = models.autoencoder, models.quantizer
    return models, OneStepRestorer(RestorerConfig(), models.prerestorer, tokenizer, models.transformer).eval()


@pytest.fixture(scope="module")
def small() -> tuple[ReleasedModels, OneStepRestorer]:
    return build("0.06M")


def photograph(height: int, width: int) -> Photo:
    """A piece of a real photograph."""
    with Image.open(SAMPLE) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] >= height and pixels.shape[1] >= width
    return np.ascontiguousarray(pixels[-height:, -width:])


def script(
    models: ReleasedModels, photo: Photo, scale: float, *, tiled: bool, side: int, seed: int
) -> tuple[Photo, int]:
    """The image as the script makes it, RGB, and its number of tiles."""
    noise = evaluation_noise(seed, models.schedule, 32)
    with torch.inference_mode():
        condition = models.transformer.encode_condition()
    count = 0

    def restore(tile: Photo) -> Photo:
        nonlocal count
        count += 1
        return to_bgr(models.restore_tile(tile, condition, next(noise)).image)

    bgr = restore_image(photo, scale, tiled=tiled, restore=restore, side=side, overlap=side // 4)
    return bgr[..., ::-1], count


def test_tiled_photograph_to_the_last_bit(small: tuple[ReleasedModels, OneStepRestorer]) -> None:
    photo = photograph(41, 57)  # wider than high: rows of tiles outside all the same
    expected, count = script(small[0], photo, 4.0, tiled=True, side=256, seed=7)
    engine = RestoreEngine(small[1], EngineOptions(compat="released", seed=7))
    result = engine.restore(ImageTask(photo, (228, 164), key="any", dtype=np.uint8))
    assert count == result.tiles == 4
    np.testing.assert_array_equal(result.image, expected)


def test_squashed_photograph_to_the_last_bit(small: tuple[ReleasedModels, OneStepRestorer]) -> None:
    photo = photograph(20, 45)
    expected, _ = script(small[0], photo, 4.0, tiled=False, side=256, seed=1)
    engine = RestoreEngine(small[1], EngineOptions(compat="released-square", seed=1))
    np.testing.assert_array_equal(engine.restore(ImageTask(photo, (180, 80), dtype=np.uint8)).image, expected)


def test_the_command_writes_those_very_pixels(small: tuple[ReleasedModels, OneStepRestorer], tmp_path: Path) -> None:
    save_bundle(tmp_path / "tiny.safetensors", small[1].components(), restorer=small[1].config)
    # narrower than a tile with its margins, and halves are rounded to even: 62 columns, not 63
    photo = photograph(90, 25)
    source, target = save(tmp_path / "in" / "photo.png", photo), tmp_path / "out" / "photo.png"
    words = ["restore", source, target, "--model", tmp_path / "tiny.safetensors", "--compat", "released"]
    words += ["--metrics-csv", tmp_path / "metrics.csv"]
    assert app.run([str(word) for word in [*words, "--scale", 2.5, "--seed", 3, "-q"]]) == 0
    expected, count = script(small[0], photo, 2.5, tiled=True, side=256, seed=3)
    assert count == 2
    np.testing.assert_array_equal(load(target), expected)
    report = rows(tmp_path / "metrics.csv")[0]
    assert (report["precision"], report["tiles"], report["out_width"]) == ("fp32", "2", "62")


@dataclass
class WithText:
    """A restorer with one text for all tiles."""

    restorer: OneStepRestorer
    text: Condition

    def __getattr__(self, name: str) -> Any:
        return getattr(self.restorer, name)

    def condition(self, rows: torch.Tensor | None) -> Condition:
        return self.text

    def __call__(self, tiles: torch.Tensor, **settings: Any) -> Any:
        return self.restorer(tiles, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["square", "stretched", "tiled"])
def test_engine_equals_released_images(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    stored = reference("end_to_end")
    models, restorer = build("0.25M")
    uniforms = stored.get(f"{case}/in/uniforms")[0].split(models.schedule.length)
    monkeypatch.setattr(released.OneSequence, "draw", lambda self, tile: uniforms[tile])
    text = stored.get(f"{case}/in/text")
    with torch.inference_mode():
        condition = models.transformer.encode_condition(TextFeatures(text, (len(text),)))
    engine = RestoreEngine(
        WithText(restorer, condition),
        EngineOptions(compat="released" if stored.notes[case]["tiled"] else "released-square"),
    )
    photo = stored.get(f"{case}/in/picture_rgb").numpy()
    size = tuple(round(side * stored.notes[case]["sr_scale"]) for side in photo.shape[1::-1])
    result = engine.restore(ImageTask(photo, size, dtype=np.uint8))
    assert result.tiles == stored.notes[case]["tiles"]
    stored.assert_same_image(f"{case}/out/picture_bgr", result.image[..., ::-1].copy())


@pytest.mark.slow
def test_photograph_with_tiles_of_the_scripts_size_to_the_last_bit() -> None:
    models, restorer = build("0.25M")
    photo = photograph(101, 107)
    expected, count = script(models, photo, 4.0, tiled=True, side=512, seed=11)
    engine = RestoreEngine(restorer, EngineOptions(compat="released", seed=11, batch=1))
    result = engine.restore(ImageTask(photo, (428, 404), dtype=np.uint8))
    assert count == result.tiles == 4
    np.testing.assert_array_equal(result.image, expected)
