"""``weights``, and ``restore`` with what it installed."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import releases
import tiny_text
import torch
from conftest import load, photo, rows, save
from safetensors.torch import load_file
from stand_in_hub import StandInHub, running

import varestorer_models
from varestorer_cli import app
from varestorer_cli.core.text.transformers_backend import DEFAULT_PROMPT, stored_text
from varestorer_cli.core.weights.catalog import FOLDERS, RELEASED
from varestorer_cli.core.weights.model_metadata import read_metadata
from varestorer_cli.core.weights.root import choose_model, weights_root
from varestorer_cli.core.weights.stored_text import read_text

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
    assert capsys.readouterr().out.splitlines() == ["fine: ok", "compact: ok", "mini: ok", "2b: ok"]


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
    [(10**12, "2b", "the GPU can hold it"), (10**6, "fine", r"GB on the GPU, 0.0 GB are free")],
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
    assert run("restore", "in", "out", "--device", "cpu", "-v") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "(auto" in line]
    assert len(lines) == 1 and "model fine (auto: the 2b weights are not installed)" in lines[0]
    assert rows(Path("out/metrics.csv"))[0]["model"] == "fine"


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


# --- text networks and the default text ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text.text_encoder(tmp_path_factory.mktemp("t5"), width=releases.SMALL.transformer.text_width)


def test_a_bundle_from_the_mirror_carries_everything_to_a_machine_without_a_network(
    release: Path, encoder: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pulled by a process of its own, which finds the mirror by HF_ENDPOINT alone."""
    pytest.importorskip("huggingface_hub")
    files = {file.key: (release / file.name).read_bytes() for file in RELEASED["2b"].files}
    folders = {"text": encoder, "captioner": tiny_text.captioner(Path("blip"))}
    for name, folder in folders.items():
        files |= {f"{FOLDERS[name].repository}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with running(StandInHub(files)) as mirror:
        words = ["weights", "pull", "2b", "captioner", "text", "--to", "bundle", "-q"]
        code = [str(Path(module.__file__ or "").parent.parent) for module in (app, varestorer_models)]
        surroundings = os.environ | {
            "HF_ENDPOINT": mirror.url,
            "HF_HOME": str(Path("hf").resolve()),
            "PYTHONPATH": os.pathsep.join(code),
        }
        command = [sys.executable, "-m", "varestorer_cli", *words]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(mirror.requests) > 10
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("a socket was opened"))
    assert run("weights", "import", "bundle") == 0
    assert run("weights", "verify") == 0
    assert capsys.readouterr().out.splitlines() == [
        "fine: ok",
        "compact: ok",
        "mini: ok",
        "2b: ok",
        "text: ok",
        "captioner: ok",
    ]
    for path in (path for path in Path("bundle").rglob("*.*") if path.name != "weights.json"):
        assert (root / path.relative_to("bundle")).read_bytes() == path.read_bytes()

    save(Path("in/a.png"), photo(20, 26))
    words = ["--model", "2b", "--precision", "fp32", "--sampling", "argmax"]
    Path("t.csv").write_text("path,caption\na.png,blue snow\n")
    assert run("restore", "in", "plain", *words) == 0
    assert rows(Path("plain/metrics.csv"))[0]["caption"] == DEFAULT_PROMPT
    assert run("restore", "in", "prompt", *words, "--prompt", "a red cat") == 0
    assert run("restore", "in", "captions", *words, "--captions", "t.csv") == 0
    assert run("restore", "in", "auto", *words, "--caption", "auto") == 0
    assert rows(Path("auto/captions.csv"))[0]["caption"] == rows(Path("auto/metrics.csv"))[0]["caption"] != ""
    capsys.readouterr()

    with Path("bundle/text/model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 1]))
    assert run("weights", "import", "bundle", "--weights", "third") == 4
    assert "model.safetensors has the hash" in capsys.readouterr().err and not Path("third").exists()
    Path("bundle/weights.json").unlink()  # the file itself knows its hash
    assert run("weights", "import", "bundle/text", "--weights", "third") == 4
    assert "model.safetensors" in capsys.readouterr().err and not Path("third").exists()


def test_folders_fetched_by_hand_are_imported_and_complete_the_models(
    release: Path, encoder: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = Path("flan-t5-xl")
    shutil.copytree(encoder, by_hand)
    torch.save(load_file(by_hand / "model.safetensors"), by_hand / "pytorch_model.bin")
    (by_hand / "model.safetensors").unlink()
    assert run("weights", "import", by_hand, tiny_text.captioner(Path("blip")), "-q") == 0
    assert run("weights", "import", *(release / name for name in FILES)) == 0
    assert f"{root / 'text'}: encoding" in capsys.readouterr().err
    text = read_text(root / "2b.safetensors")
    assert text is not None and torch.equal(text.rows, stored_text(encoder).rows)
    assert run("weights", "list") == 0
    out = capsys.readouterr().out
    assert "text       " in out and "Flan-T5-XL, the text encoder" in out and "licence: not stated" in out
    assert run("weights", "verify", "text", "captioner") == 0
    (root / "captioner" / "tokenizer.json").unlink()
    assert run("weights", "verify") == 4
    assert "captioner: tokenizer.json is not there" in capsys.readouterr().out
    assert run("doctor") == 0
    assert "network text" in capsys.readouterr().out
    (by_hand / "tokenizer.json").unlink()
    assert run("weights", "import", by_hand) == 3
    (by_hand / "config.json").write_text('{"model_type": "gpt2"}')
    assert run("weights", "import", by_hand) == 4


def test_the_default_text_is_added_to_an_installed_model(
    release: Path, encoder: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("weights", "text") == 3
    assert "no model that takes a text is installed" in capsys.readouterr().err
    assert run("weights", "import", *(release / name for name in FILES), "-q") == 0
    path = root / "2b.safetensors"
    before, notes = load_file(path), read_metadata(path)
    assert run("weights", "text", "2b") == 3
    assert "weights text needs a T5 text encoder with features of width 128" in capsys.readouterr().err
    assert run("weights", "text", "2b", "--text-encoder", tiny_text.text_encoder(Path("narrow"))) == 4
    assert run("weights", "text", "compact", "--text-encoder", encoder) == 2
    assert path.stat().st_size == sum(tensor.nbytes for tensor in before.values()) + (
        8 + int.from_bytes(path.read_bytes()[:8], "little")
    )
    assert run("weights", "text", "--text-encoder", encoder) == 0
    text, after = read_text(path), load_file(path)
    assert text is not None and torch.equal(text.rows, stored_text(encoder).rows)
    assert after.keys() == before.keys() | {"text.rows"}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {key: read_metadata(path)[key] for key in notes if key != "data_sha256"} == {
        key: value for key, value in notes.items() if key != "data_sha256"
    }
    assert run("weights", "verify") == 0
    stamp = path.stat().st_mtime_ns
    assert run("weights", "text", path, "--text-encoder", encoder) == 0
    assert path.stat().st_mtime_ns == stamp and "already" in capsys.readouterr().err


def test_a_damaged_model_gets_no_new_hash(
    release: Path, encoder: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("weights", "import", *(release / name for name in FILES), "-q") == 0
    path = root / "2b.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run("weights", "text", "--text-encoder", encoder) == 4
    assert "it is damaged" in capsys.readouterr().err and path.read_bytes() == data
    assert run("weights", "import", release / releases.TEACHER) == 4  # would take its tokenizer from there
    assert "it is damaged" in capsys.readouterr().err and not (root / "teacher.safetensors").exists()
