"""``restore`` with a real (tiny, untrained) restorer from a model file: the two halves fit together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load, photo, rows, save, tree

from varestorer_cli import app
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    smoke = preset("smoke")
    parts = ConvRestorer(smoke.prerestorer), ImageTokenizer(smoke.tokenizer), Transformer(smoke.teacher)
    restorer = OneStepRestorer(smoke.restorer, *parts).eval()
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_bundle(path, restorer.components(), restorer=restorer.config)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, size in enumerate([(20, 31), (1, 1), (13, 5)]):
        save(Path(f"in/{i}.png"), photo(*size, seed=i))
    return tmp_path


def restore(model: Path, out: str, *words: str) -> int:
    return app.run(["restore", "in", out, "--model", str(model), "--precision", "fp32", "-q", *words])


@pytest.mark.parametrize("sampling", ["auto", "argmax", "sample", "expected", "consistent"])
def test_every_sampling(model_file: Path, sampling: str) -> None:
    assert restore(model_file, "out", "--sampling", sampling) == 0
    assert [load(Path(f"out/{i}.png")).shape for i in range(3)] == [(80, 124, 3), (4, 4, 3), (52, 20, 3)]
    assert {row["status"] for row in rows(Path("out/metrics.csv"))} == {"done"}


@pytest.mark.parametrize("fix", ["wavelet", "adain", "none"])
def test_every_colour_fix(model_file: Path, fix: str) -> None:
    assert restore(model_file, "out", "--color-fix", fix) == 0


def test_fidelity_zero_is_the_clean_picture(model_file: Path) -> None:
    assert restore(model_file, "zero", "--fidelity", "0") == 0
    assert restore(model_file, "one") == 0
    assert not np.array_equal(load(Path("zero/0.png")), load(Path("one/0.png")))


def test_the_same_seed_gives_the_same_bytes_in_any_company(model_file: Path) -> None:
    words = ["--sampling", "sample", "--seed", "5", "--batch", "2"]
    assert restore(model_file, "all", *words) == 0
    for i in range(3):
        assert restore(model_file, "parts", *words, "--shard", f"{i}/3") == 0
    assert tree(Path("all")) == tree(Path("parts"))
    assert restore(model_file, "other", *words[:2], "--seed", "6", *words[4:]) == 0
    assert not np.array_equal(load(Path("all/0.png")), load(Path("other/0.png")))


def test_bf16_is_close(model_file: Path) -> None:
    assert restore(model_file, "a", "--sampling", "expected") == 0
    assert (
        app.run(["restore", "in", "b", "--model", str(model_file), "--precision", "bf16", "--sampling", "expected"])
        == 0
    )
    difference = load(Path("a/0.png")).astype(int) - load(Path("b/0.png"))
    assert np.abs(difference).mean() < 8


def test_a_missing_model_is_3_and_a_damaged_one_4(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore(Path("none.safetensors"), "out") == 3
    assert "none.safetensors" in capsys.readouterr().err
    damaged = Path("damaged.safetensors")
    damaged.write_bytes(model_file.read_bytes()[:-1000])
    assert restore(damaged, "out") == 4
    assert "damaged.safetensors" in capsys.readouterr().err
    assert not Path("out/0.png").exists()
