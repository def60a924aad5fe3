"""``restore`` with real models: the bundled one with tokens, and a file with a pre-restorer alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load, photo, rows, save, tree

from varestorer_cli import app
from varestorer_cli.core.weights.fidelity import packed
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_cli.core.weights.root import PACKAGE
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, size in enumerate([(13, 21), (1, 1), (13, 5)]):
        save(Path(f"in/{i}.png"), photo(*size, seed=i))
    return tmp_path


def restore(model: Path | str, out: str, *words: str) -> int:
    return app.run(["restore", "in", out, "--model", str(model), "--precision", "fp32", "-q", *words])


@pytest.fixture(scope="module")
def first_stage_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-restorer alone with a fidelity dial whose default is 0.25."""
    torch.manual_seed(0)
    ends = [RRDBNet(RRDBConfig(width=8, growth=4, blocks=1)).eval() for _ in range(3)]
    sharp, faithful = ends[0].state_dict(), ends[1].state_dict()
    ends[2].load_state_dict({name: torch.lerp(tensor, faithful[name], 0.25) for name, tensor in sharp.items()})
    path = tmp_path_factory.mktemp("first") / "stage.safetensors"
    save_bundle(
        path,
        {"prerestorer": ends[2]},
        restorer=RestorerConfig(tile=64, largest_tile=96),
        dial=(0.25, packed(sharp, faithful)),
    )
    return path


def test_the_dial_of_a_model_without_tokens(first_stage_file: Path) -> None:
    images = {}
    for fidelity in ("default", "0", "0.25", "1"):
        words = [] if fidelity == "default" else ["--fidelity", fidelity]
        assert restore(first_stage_file, fidelity, *words) == 0
        images[fidelity] = load(Path(fidelity) / "0.png")
    assert np.array_equal(images["default"], images["0.25"])
    assert not np.array_equal(images["default"], images["0"])
    assert not np.array_equal(images["default"], images["1"])


@pytest.mark.parametrize(
    "words", [["--sampling", "sample"], ["--color-fix", "wavelet"], ["--compat", "released"]], ids=" ".join
)
def test_options_that_would_do_nothing_without_tokens_are_refused(
    first_stage_file: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore(first_stage_file, "out", *words) == 2
    assert f"{words[0]} {words[1]}: stage has no tokens" in " ".join(capsys.readouterr().err.split())


def test_a_model_of_one_set_of_weights_refuses_the_dial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plain.safetensors"
    network = RRDBNet(RRDBConfig(width=8, growth=4, blocks=1))
    save_bundle(path, {"prerestorer": network}, restorer=RestorerConfig(tile=64))
    assert restore(path, "out", "--fidelity", "0.5") == 2
    assert "has one set of weights and no dial" in " ".join(capsys.readouterr().err.split())


def test_every_sampling_is_another_image_and_the_models_own_is_expected() -> None:
    found = {}
    for sampling in ("auto", "argmax", "sample", "expected", "consistent"):
        assert restore("mini", sampling, "--sampling", sampling) == 0
        found[sampling] = [load(Path(f"{sampling}/{i}.png")) for i in range(3)]
        assert [image.shape for image in found[sampling]] == [(52, 84, 3), (4, 4, 3), (52, 20, 3)]
        assert {row["status"] for row in rows(Path(sampling) / "metrics.csv")} == {"done"}
    for auto, expected in zip(found["auto"], found["expected"], strict=True):
        np.testing.assert_array_equal(auto, expected)
    assert len({found[sampling][0].tobytes() for sampling in found}) == 4


def test_every_colour_fix_is_another_image_and_the_models_own_is_none() -> None:
    found = {}
    for fix in ("wavelet", "adain", "none", "auto"):
        words = [] if fix == "auto" else ["--color-fix", fix]
        assert restore("mini", fix, *words) == 0
        found[fix] = load(Path(f"{fix}/0.png"))
    np.testing.assert_array_equal(found["auto"], found["none"])
    assert len({image.tobytes() for image in found.values()}) == 3


def test_fidelity_zero_is_the_default_of_a_model_with_tokens_and_one_another_image() -> None:
    for name, words in (("zero", ["--fidelity", "0"]), ("one", ["--fidelity", "1"]), ("default", [])):
        assert restore("mini", name, *words) == 0
    assert np.array_equal(load(Path("zero/0.png")), load(Path("default/0.png")))
    assert not np.array_equal(load(Path("zero/0.png")), load(Path("one/0.png")))


def test_the_same_seed_gives_the_same_bytes_in_any_company() -> None:
    words = ["--sampling", "sample", "--seed", "5", "--batch", "2"]
    assert restore("mini", "all", *words) == 0
    for i in range(3):
        assert restore("mini", "parts", *words, "--shard", f"{i}/3") == 0
    assert tree(Path("all")) == tree(Path("parts"))
    assert restore("mini", "other", *words[:2], "--seed", "6", *words[4:]) == 0
    assert not np.array_equal(load(Path("all/0.png")), load(Path("other/0.png")))


def test_bf16_is_close() -> None:
    for number in (0, 1):
        Path(f"in/{number}.png").unlink()
    assert restore("mini", "a") == 0
    assert app.run(["restore", "in", "b", "--model", "mini", "--precision", "bf16", "-q"]) == 0
    difference = load(Path("a/2.png")).astype(int) - load(Path("b/2.png"))
    assert 0 < np.abs(difference).mean() < 8


def test_a_missing_model_is_3_and_a_damaged_one_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert restore(Path("none.safetensors"), "out") == 3
    assert "none.safetensors" in capsys.readouterr().err
    damaged = Path("damaged.safetensors")
    damaged.write_bytes((PACKAGE / "data" / "mini.safetensors").read_bytes()[:-1000])
    assert restore(damaged, "out") == 4
    assert "damaged.safetensors" in capsys.readouterr().err
    assert not Path("out/0.png").exists()
