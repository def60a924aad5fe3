"""``--steps``: a student in one pass, its teacher scale after scale; refused where a model cannot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from varestorer_cli.app import run
from varestorer_cli.core.choices import Sampling, Steps
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.restore.session import open_session
from varestorer_cli.core.weights.model_file import load_bundle, save_bundle
from varestorer_cli.core.weights.root import PACKAGE
from varestorer_models.multistep import MultiStepRestorer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bundled model with student and teacher is ``both``; of its parts a ``student`` and an ``iterative`` one."""
    bundle = load_bundle(PACKAGE / "data" / "mini.safetensors")
    assert bundle.restorer is not None
    shared = {name: bundle.components[name] for name in ("prerestorer", "tokenizer")}
    made = {
        "student": (bundle.components["transformer"], bundle.restorer),
        "iterative": (bundle.components["teacher"], replace(bundle.restorer, steps="all")),
    }
    folder = tmp_path_factory.mktemp("models")
    for name, (transformer, config) in made.items():
        save_bundle(folder / f"{name}.safetensors", {**shared, "transformer": transformer}, restorer=config)
    return {"both": "mini", **{name: str(folder / f"{name}.safetensors") for name in made}}


def restored(model: str, **options: Any) -> Any:
    session = open_session(RestoreOptions(model=model, threads=1, device="cpu", **options))
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return session.engine.restore(ImageTask(image, (64, 64), key="one", dtype=np.uint8)).image


def test_all_steps_of_a_file_with_both_are_the_teachers(files: dict[str, str]) -> None:
    one, slow = restored(files["both"]), restored(files["both"], steps=Steps.ALL)
    assert not np.array_equal(one, slow)
    assert np.array_equal(one, restored(files["both"], steps=Steps.ONE))
    assert np.array_equal(one, restored(files["student"]))
    assert np.array_equal(slow, restored(files["iterative"]))
    assert np.array_equal(slow, restored(files["iterative"], steps=Steps.ALL))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("student", {"steps": Steps.ALL}, "--steps all: .* cannot restore scale after scale"),
        ("iterative", {"steps": Steps.ONE}, "--steps one: .* scale after scale only"),
        ("both", {"steps": Steps.ALL, "sampling": Sampling.EXPECTED}, "--sampling expected: scale after scale"),
        ("iterative", {"sampling": Sampling.CONSISTENT}, "--sampling consistent: scale after scale"),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    files: dict[str, str], name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        open_session(RestoreOptions(model=files[name], threads=1, device="cpu", **options))


def test_a_model_without_tokens_has_no_steps() -> None:
    with pytest.raises(UsageError, match="--steps all: compact"):
        open_session(RestoreOptions(model="compact", steps=Steps.ALL, threads=1, device="cpu"))
    assert not isinstance(open_session(RestoreOptions(model="compact", threads=1)).engine.model, MultiStepRestorer)


def test_outputs_of_other_steps_are_made_again(files: dict[str, str], tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(photo)
    command = ["restore", str(photo), str(out), "-m", files["both"], "--threads", "1", "-q"]
    assert run(command) == 0
    first = (out / "photo.png").read_bytes()
    assert run([*command, "--steps", "all"]) == 0
    assert (out / "photo.png").read_bytes() != first


def test_score_restores_a_set_by_all_steps_beside_the_other(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for folder, side in (("gt", 64), ("lq", 16)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        image = Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8))
        image.save(tmp_path / "set" / folder / "a.png")
    command = ["score", "--dataset", "set", "-m", files["both"], "--metrics", "psnr_y", "-q"]
    assert run(command) == 0 and run([*command, "--steps", "all"]) == 0
    found = sorted(path for path in (tmp_path / "scores").rglob("a.png"))
    assert len(found) == 2 and len({path.read_bytes() for path in found}) == 2
    assert "by --steps all on set" in capsys.readouterr().out
    assert run([*command, "--steps", "all", "--codes", "noise"]) == 2
    assert "the transformer is not asked" in capsys.readouterr().err
    assert run(["score", str(tmp_path / "set" / "lq"), "-r", str(tmp_path / "set" / "gt"), "--steps", "all"]) == 2
    assert "nothing is restored" in capsys.readouterr().err
