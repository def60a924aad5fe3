import doctest
import re
from pathlib import Path
from typing import Any

import api_page
import fakes
import numpy as np
import pytest
from conftest import load, photo, save
from PIL import Image

import varestorer_cli
from varestorer_cli import RestoreOptions, Restorer
from varestorer_cli.core.choices import Sampling
from varestorer_cli.core.errors import InterruptedRunError, UsageError
from varestorer_cli.core.restore import session
from varestorer_cli.core.sizing import Sizing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def restorer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """With a fake: most tests are about what goes in and comes out, and run it often."""
    monkeypatch.setattr(session, "load_model", lambda model, device, weights: fakes.loaded(fakes.FakeModel()))
    return Restorer(options=RestoreOptions(sizing=Sizing(scale=2), threads=1))


def test_the_package_offers_its_library_lazily() -> None:
    assert set(varestorer_cli.__all__) == {"Restorer", "RestoreOptions", "Sizing", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        varestorer_cli.Nothing  # noqa: B018


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("tail", [(), (1,), (2,), (3,), (4,)])
def test_arrays(restorer: Any, kind: type, tail: tuple[int, ...]) -> None:
    image = photo(10, 14, *(tail or (1,)), depth=16 if kind == np.uint16 else 8)
    image = image.reshape(10, 14, *tail)
    if kind == np.float32:
        image = image.astype(np.float32) / 255
    result = restorer.restore_image(image)
    assert result.dtype == kind
    assert result.shape == (20, 28, *tail)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float64), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8), b"x", None]
)
def test_what_is_no_image_is_refused(restorer: Any, image: Any) -> None:
    with pytest.raises(UsageError):
        restorer.restore_image(image)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [8, 16])
def test_pixels_are_those_of_the_files(restorer: Any, tmp_path: Path, channels: int, depth: int) -> None:
    pixels = photo(10, 14, channels, depth=depth)
    if channels == 4:
        pixels[:3, :4, 3] = 0  # hidden colours are filled in alike
    path = save(tmp_path / "a.png", pixels[..., 0] if channels == 1 else pixels)
    restorer.restore(path, tmp_path / "b.png")
    wanted = load(tmp_path / "b.png")
    for image in (load(path), path, str(path)):
        np.testing.assert_array_equal(restorer.restore_image(image), wanted)
    if depth == 8 or channels == 1:
        result = restorer.restore_image(Image.open(path))
        assert isinstance(result, Image.Image) and result.mode == Image.open(path).mode
        np.testing.assert_array_equal(np.asarray(result), wanted)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"precision": "fp33"}, "--precision fp33: possible are auto, fp32, bf16 and fp16"),
        ({"format": "webpp"}, "--format webpp: possible are png, jpg, webp, tif, bmp, exr and dpx"),
        ({"existing": "skipp"}, "--existing skipp: possible are skip, overwrite and error"),
        ({"scale": 0}, "--scale 0: a factor above 0"),
        ({"scale": 2, "long_side": 9}, "--scale and --long-side contradict each other"),
        ({"precison": "fp32"}, "precison: there is no such option; did you mean precision?"),
        ({"text": "a photo"}, "text: a TextOptions is needed"),
        ({"sizing": 2}, "sizing: a Sizing is needed"),
        ({"zzz": 1}, "zzz: there is no such option; there are batch, "),
    ],
)
def test_single_options_are_checked_as_those_of_the_command(option: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Restorer(**option)


def test_single_options_override_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "load_model", lambda *wanted: fakes.loaded(fakes.FakeModel()))
    options = RestoreOptions(device="cpu", quality=80, format="png")
    made = Restorer("fine", options, format="webp", scale=2, prompt=None).options
    assert (made.format, made.quality, made.sizing.scale, made.model) == ("webp", 80, 2, "fine")
    assert options.format == "png" and made.text == options.text


def test_progress_and_rows(restorer: Any, tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"in/{i}.png", photo(10, 14, seed=i))
    seen: list[tuple[float, int]] = []
    rows: list[str] = []
    restorer.restore(
        tmp_path / "in",
        tmp_path / "out",
        on_progress=lambda *step: seen.append(step),
        on_row=lambda row: rows.append(row.output),
    )
    assert seen[0] == (0, 3) and seen[-1] == (3, 3) and seen == sorted(seen)
    assert rows == ["0.png", "1.png", "2.png"]
    tiles: list[tuple[float, int]] = []
    restorer.restore_image(photo(40, 40), on_progress=lambda *step: tiles.append(step))
    assert len(tiles) > 1 and tiles[-1] == (len(tiles), len(tiles))


def test_cancelling_leaves_what_is_finished(restorer: Any, tmp_path: Path) -> None:
    for i in range(8):
        save(tmp_path / f"in/{i}.png", photo(10, 14, seed=i))
    done: list[str] = []
    with pytest.raises(InterruptedRunError, match="stopped: "):
        restorer.restore(
            tmp_path / "in",
            tmp_path / "out",
            on_row=lambda row: done.append(row.output),
            should_stop=lambda: len(done) > 1,
        )
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == sorted(done)
    assert len(done) < 8 and not list((tmp_path / "out").glob("*.part"))
    assert restorer.restore(tmp_path / "in", tmp_path / "out").count("done") == 8 - len(done)
    with pytest.raises(InterruptedRunError):
        restorer.restore_image(photo(), should_stop=lambda: True)


def test_paths(restorer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.png", photo(10, 14))
    (tmp_path / "in" / "b.png").write_bytes(b"text")
    report = restorer.restore(tmp_path / "in", tmp_path / "out")
    assert {row.output: row.status for row in report.rows} == {"a.png": "done", "b.png": "failed"}
    assert load(tmp_path / "out" / "a.png").shape == (20, 28, 3)
    report = restorer.restore([tmp_path / "in" / "a.png"], tmp_path / "one.png")
    assert report.count("done") == 1 and (tmp_path / "one.png").exists()
    assert capsys.readouterr() == ("", "")


def test_the_sampling_default_is_the_models_and_noise_follows_key_and_seed() -> None:
    def restored(key: str, **options: Any) -> Any:
        return Restorer(options=RestoreOptions(model="mini", threads=1, **options)).restore_image(photo(8, 8), key)

    default = restored("a")
    np.testing.assert_array_equal(default, restored("b", sampling=Sampling.EXPECTED))
    assert not np.array_equal(default, restored("a", sampling=Sampling.ARGMAX))
    drawn = restored("a", sampling=Sampling.SAMPLE)
    np.testing.assert_array_equal(drawn, restored("a", sampling=Sampling.SAMPLE))
    assert not np.array_equal(drawn, restored("b", sampling=Sampling.SAMPLE))
    assert not np.array_equal(drawn, restored("a", sampling=Sampling.SAMPLE, seed=1))


def test_the_page_is_made_from_the_docstrings() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == api_page.page(), "docs/api.md is outdated: make api-page"


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "scans/dawn.png", photo(12, 16))
    save(tmp_path / "scans/dusk.png", photo(8, 8, seed=1))
    (tmp_path / "scans/broken.png").write_text("no image")
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").replace("```", "")
    examples = doctest.DocTestParser().get_doctest(text, {}, "api.md", None, None)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert result.attempted > 10 and not result.failed, "".join(said)
