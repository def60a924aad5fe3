from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from conftest import load, photo, save

import varestorer_cli
from varestorer_cli import RestoreOptions, Restorer
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.restore import session
from varestorer_cli.core.sizing import Sizing


@pytest.fixture
def restorer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(session, "load_model", lambda model, device, weights: fakes.loaded(fakes.FakeModel()))
    return Restorer(options=RestoreOptions(sizing=Sizing(scale=2), threads=1))


def test_the_package_offers_its_library_lazily() -> None:
    assert set(varestorer_cli.__all__) == {"Restorer", "RestoreOptions", "Sizing", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        varestorer_cli.Nothing  # noqa: B018


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("gray", [False, True])
def test_arrays(restorer: Any, kind: type, gray: bool) -> None:
    image = photo(10, 14, 1 if gray else 3, depth=16 if kind == np.uint16 else 8)
    if gray:
        image = image[..., 0]
    if kind == np.float32:
        image = image.astype(np.float32) / 255
    result = restorer.restore_image(image)
    assert result.dtype == kind
    assert result.shape == (20, 28, *image.shape[2:])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float64), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(restorer: Any, image: Any) -> None:
    with pytest.raises(UsageError):
        restorer.restore_image(image)


def test_paths(restorer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "in" / "a.png", photo(10, 14))
    (tmp_path / "in" / "b.png").write_bytes(b"text")
    report = restorer.restore(tmp_path / "in", tmp_path / "out")
    assert {row.output: row.status for row in report.rows} == {"a.png": "done", "b.png": "failed"}
    assert load(tmp_path / "out" / "a.png").shape == (20, 28, 3)
    report = restorer.restore([tmp_path / "in" / "a.png"], tmp_path / "one.png")
    assert report.count("done") == 1 and (tmp_path / "one.png").exists()
    assert capsys.readouterr() == ("", "")


def test_the_sampling_default_is_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        session, "load_model", lambda model, device, weights: fakes.loaded(fakes.Noisy(sampling="sample"))
    )
    one = Restorer(options=RestoreOptions(threads=1))
    first, second = one.restore_image(photo(), "a"), one.restore_image(photo(), "b")
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, one.restore_image(photo(), "a"))
