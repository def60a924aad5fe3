"""Bundled names stay with the bundled models, and nothing inside the package is written."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.install import default_text
from varestorer_cli.core.install.default_text import TextModel
from varestorer_cli.core.install.importer import import_files
from varestorer_cli.core.install.inventory import list_models, verify_models
from varestorer_cli.core.install.puller import pull
from varestorer_cli.core.weights.catalog import BUNDLED, DEFAULT_BUNDLED
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_cli.core.weights.root import PACKAGE, Record, choose_model
from varestorer_cli.core.weights.stored_text import StoredText
from varestorer_cli.core.weights.tensor_io import DATA_HASH
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_the_table_of_bundled_models_is_whole(root: Path) -> None:
    assert PACKAGE.name == "varestorer_cli"
    listed = {model.name: model.about for model in list_models(root)}
    for name, model in BUNDLED.items():
        assert (PACKAGE / "data" / model.file).is_file()
        assert model.about and "\n" not in model.about and listed[name] == model.about
    assert {path.name for path in (PACKAGE / "data").glob("*.safetensors")} == {m.file for m in BUNDLED.values()}
    assert choose_model("auto", root).name == DEFAULT_BUNDLED


def test_bundled_names_are_reserved_and_the_package_is_never_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat() for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    for name in BUNDLED:
        bundle = tmp_path / f"bundle of {name}"
        bundle.mkdir()
        save_bundle(bundle / f"{name}.safetensors", {"prerestorer": ConvRestorer(ConvRestorerConfig(8, 1))})
        with pytest.raises(UsageError, match=f"'{name}' is the name of a bundled model.*nothing was written"):
            import_files([bundle], root)
    for inside in (PACKAGE / "data", PACKAGE / "new" / "root", PACKAGE / "core" / ".." / "data"):
        with pytest.raises(UsageError, match="lies inside the installed program"):
            import_files([bundle / "other.safetensors"], inside)
        with pytest.raises(UsageError, match="lies inside the installed program"):
            pull("text", inside)
    assert not list(root.glob("*"))
    # a bundled model that takes a text gets none by "weights text"
    data = PACKAGE / "data"
    monkeypatch.setattr(default_text, "_named", lambda model, root: TextModel(model, data / "compact.safetensors", 8))
    monkeypatch.setattr(default_text, "need_folder", lambda *words: tmp_path)
    monkeypatch.setattr(default_text, "stored_text", lambda folder: StoredText("x", torch.ones(1, 8)))
    monkeypatch.setattr(default_text, "read_text", lambda path: None)
    with pytest.raises(UsageError, match="lies inside the installed program"):
        default_text.store(["compact"], root, encoder=tmp_path, say=print)
    after = {path: path.stat() for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {p: (s.st_mtime_ns, s.st_ino) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_ino) for p, s in after.items()
    }


@pytest.mark.parametrize("name", ["auto", "Auto", "-o", "a\nb", "a\x1b[31m", "Compact", "MINI"])
def test_names_that_model_cannot_be_given_are_refused(name: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_bundle(path, {"prerestorer": ConvRestorer(ConvRestorerConfig(8, 1))})
    with pytest.raises(UsageError, match="nothing was written"):
        import_files([path], root)
    assert not list(root.glob("*.safetensors"))


def test_a_file_of_a_bundled_name_in_the_root_is_never_taken_for_the_bundled_model(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for name in BUNDLED:
        (root / f"{name}.safetensors").write_bytes(b"old")
        Record({}, {name: "0" * 64}).write(root)
        assert choose_model(name, root).path == PACKAGE / "data" / BUNDLED[name].file
        assert verify_models(root, [name]) == [(name, "")]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64], ids=str)
def test_types_that_no_model_has_are_refused(root: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "odd.safetensors"
    save_bundle(path, {"prerestorer": ConvRestorer(ConvRestorerConfig(8, 1))})
    with safe_open(path, "pt") as reader:
        metadata = {key: value for key, value in reader.metadata().items() if key != DATA_HASH}
    save_file({key: value.to(dtype) for key, value in load_file(path).items()}, path, metadata=metadata)
    with pytest.raises(CheckpointError):
        import_files([path], root)
    assert not (root / "odd.safetensors").exists()


@pytest.mark.parametrize("model", ["x" * 5000, "/" + "x" * 300], ids=["path", "name"])
def test_names_that_no_file_can_have(model: str) -> None:
    with pytest.raises(MissingDependencyError, match=r"cannot be looked for .*check --model"):
        choose_model(model)
