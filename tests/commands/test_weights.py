"""``weights``, and ``restore`` with what it installed."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import releases
import torch
from conftest import load, photo, rows, save

from varestorer_cli import app
from varestorer_cli.core.weights import choose_model, weights_root

FILES = (releases.STUDENT, releases.AUTOENCODER, releases.PRERESTORER)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return releases.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VARESTORER_WEIGHTS", str(tmp_path / "root"))
    return tmp_path / "root"


def run(*words: object) -> int:
    return app.run([str(word) for word in words])


def test_import_list_verify(release: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "import", *(release / name for name in FILES)) == 0
    said = capsys.readouterr().err
    assert "varestorer.pth: student" in said and "2b: " in said
    assert run("weights", "list") == 0
    out = capsys.readouterr().out
    assert str(root) in out and "MIT" in out and "Apache-2.0" in out and "varestorer weights pull teacher" in out
    assert run("weights", "list", "--json") == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert models["2b"]["size"] == (root / "2b.safetensors").stat().st_size and models["teacher"]["path"] is None
    assert run("weights", "verify") == 0
    assert capsys.readouterr().out.splitlines() == ["compact: ok", "2b: ok"]


def test_a_changed_file_does_not_verify(release: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("weights", "import", release / releases.PRERESTORER)
    path = root / "prerestorer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run("weights", "verify", "prerestorer") == 4
    assert "it is damaged: fetch it again" in capsys.readouterr().out
    # a whole file, but another one
    run("weights", "import", release / releases.AUTOENCODER, "--weights", "other")
    path.write_bytes(Path("other/tokenizer.safetensors").read_bytes())
    assert run("weights", "verify", "prerestorer") == 4
    assert "was recorded; it was replaced or changed" in capsys.readouterr().out
    path.unlink()
    assert run("weights", "verify") == 4
    assert "prerestorer: " in capsys.readouterr().out


def test_exit_codes(release: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("foreign.pth").write_bytes(b"PK not weights")
    assert run("weights", "import", "foreign.pth") == 4
    assert run("weights", "import", "none.pth") == 3
    assert run("weights", "import", release / releases.STUDENT) == 3
    assert "give general_swinir_v1.ckpt (lxq007/DiffBIR on the hub)" in capsys.readouterr().err
    assert run("weights", "verify", "2b") == 3
    save(Path("in/a.png"), photo(8, 9))
    assert run("restore", "in", "out", "--model", "2b") == 3
    assert "run varestorer weights pull 2b, or varestorer weights import FILES" in capsys.readouterr().err
    assert run("weights", "pull", "8b") == 2
    assert not root.exists()


def test_the_root_is_the_option_then_the_variable_then_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARESTORER_WEIGHTS", "/from/variable")
    assert weights_root("given") == Path("given")
    assert weights_root() == Path("/from/variable")
    monkeypatch.delenv("VARESTORER_WEIGHTS")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert weights_root() == Path("/data/varestorer/weights")


def test_restore_with_the_imported_model_and_without_a_socket(
    release: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Image in, image out, as the model code computes it from the published files."""
    assert run("weights", "import", *(release / name for name in FILES), "--weights", "here", "-q") == 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("restore opened a socket")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    save(Path("in/a.png"), photo(20, 26))
    words = ["--model", "2b", "--weights", "here", "--precision", "fp32", "--sampling", "argmax"]
    assert run("restore", "in", "out", *words) == 0
    (row,) = rows(Path("out/metrics.csv"))
    assert (row["model"], row["status"]) == ("2b", "done") and load(Path("out/a.png")).shape == (80, 104, 3)


@pytest.mark.parametrize(
    ("free", "name", "why"),
    [(10**12, "2b", "the GPU can hold it"), (10**6, "compact", r"GB on the GPU, 0.0 GB are free")],
)
def test_auto_takes_2b_where_a_gpu_holds_it(
    release: Path, root: Path, monkeypatch: pytest.MonkeyPatch, free: int, name: str, why: str
) -> None:
    assert choose_model("auto", device="cuda").why == "the 2b weights are not installed"
    run("weights", "import", *(release / name for name in FILES), "-q")
    assert "2b is slow on cpu" in choose_model("auto", device="cpu").why
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(mem_get_info=lambda device: (free, free)))
    choice = choose_model("auto", device="cuda")
    assert choice.name == name and why in choice.why


def test_auto_says_why_in_one_line_and_in_the_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("in/a.png"), photo(8, 9))
    assert run("restore", "in", "out", "--device", "cpu") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "(auto" in line]
    assert len(lines) == 1 and "model compact (auto: the 2b weights are not installed)" in lines[0]
    assert rows(Path("out/metrics.csv"))[0]["model"] == "compact"


def test_names_folders_and_files(release: Path, root: Path) -> None:
    run("weights", "import", release / releases.PRERESTORER, "-q")
    assert choose_model("prerestorer").path == root / "prerestorer.safetensors"
    (root / "mine.safetensors").write_bytes(b"")
    assert choose_model("mine").path == root / "mine.safetensors"
    run_folder = Path("teacher")
    run_folder.mkdir()
    (run_folder / "model.safetensors").write_bytes(b"")
    choice = choose_model("teacher")  # a run of that name is nearer than an installed model
    assert (choice.name, choice.path) == ("teacher", run_folder / "model.safetensors")


def test_doctor_lists_the_root(release: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("weights", "import", *(release / name for name in FILES), "-q")
    (root / "broken.safetensors").write_bytes(b"no")
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert f"{root} (VARESTORER_WEIGHTS)" in out
    assert f"{root / '2b.safetensors'}" in out and "licence Apache-2.0; MIT" in out
    assert "cannot be read as a model file" in out
    assert "-> varestorer weights pull teacher" in out
    assert run("doctor", "--weights", "elsewhere") == 0
    assert "elsewhere (--weights), not there" in capsys.readouterr().out
