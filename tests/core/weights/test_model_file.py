"""Model files: strict, self-describing, safe."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from varestorer_cli.core.errors import CheckpointError, OutputError
from varestorer_cli.core.training.presets import preset, preset_names
from varestorer_cli.core.weights.configs import config_from_dict, config_to_dict
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer, save_bundle
from varestorer_cli.core.weights.stored_text import StoredText, read_text, write_text
from varestorer_cli.core.weights.tensor_io import DATA_HASH
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.swinir import SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer


@pytest.fixture
def restorer() -> OneStepRestorer:
    torch.manual_seed(0)
    smoke = preset("smoke")
    tokenizer = ImageTokenizer(smoke.tokenizer)
    return OneStepRestorer(
        smoke.restorer, ConvRestorer(smoke.prerestorer), tokenizer, Transformer(smoke.teacher)
    ).eval()


@pytest.fixture
def model_file(restorer: OneStepRestorer, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_bundle(path, restorer.components(), restorer=restorer.config, notes={"licence": "MIT"})
    return path


def rewrite(path: Path, change: dict[str, torch.Tensor | None], **metadata: str) -> None:
    """Write the file again with changed, added or (None) removed tensors."""
    with safe_open(path, "pt") as reader:
        header = {**reader.metadata(), **metadata}
    tensors = {**load_file(path), **{k: v for k, v in change.items() if v is not None}}
    save_file({k: v for k, v in tensors.items() if change.get(k, v) is not None}, path, metadata=header)


def test_round_trip_gives_the_same_image(restorer: OneStepRestorer, model_file: Path) -> None:
    loaded = load_restorer(model_file)
    tile = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    stored, expected = loaded.restorer.state_dict(), restorer.state_dict()
    assert stored.keys() == expected.keys() and all(torch.equal(stored[key], expected[key]) for key in expected)
    # another memory layout rounds differently: close, not equal
    torch.testing.assert_close(loaded.restorer(tile).image_B3TT, restorer(tile).image_B3TT, atol=1e-3, rtol=0)
    assert loaded.restorer.config == restorer.config
    assert loaded.metadata["licence"] == "MIT"
    assert len(loaded.sha256) == 64
    assert not any(p.requires_grad for p in loaded.restorer.parameters())


def test_half_precision_storage_halves_the_file(restorer: OneStepRestorer, model_file: Path, tmp_path: Path) -> None:
    small = tmp_path / "half.safetensors"
    save_bundle(small, restorer.components(), restorer=restorer.config, dtype=torch.float16)
    assert small.stat().st_size < 0.65 * model_file.stat().st_size
    weight = next(load_restorer(small).restorer.parameters())
    assert weight.dtype == torch.float32


@pytest.mark.parametrize("key", ["prerestorer.conv_in.bias", "prerestorer.conv_in.weight"])
def test_a_tensor_of_another_type_than_the_others_is_brought_to_theirs(model_file: Path, key: str) -> None:
    tensors = load_file(model_file)
    with safe_open(model_file, "pt") as reader:
        header = {name: value for name, value in reader.metadata().items() if name != DATA_HASH}
    save_file({**tensors, key: tensors[key].to(torch.bfloat16)}, model_file, metadata=header)
    component = load_bundle(model_file, keep_bfloat16=True).components["prerestorer"]
    assert {tensor.dtype for tensor in component.parameters()} == {torch.float32}


def test_a_model_of_bfloat16_stays_one(restorer: OneStepRestorer, tmp_path: Path) -> None:
    path = tmp_path / "bf16.safetensors"
    save_bundle(path, restorer.components(), restorer=restorer.config, dtype=torch.bfloat16)
    component = load_bundle(path, keep_bfloat16=True).components["prerestorer"]
    assert {tensor.dtype for tensor in component.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", preset_names())
def test_configurations_survive_json(name: str) -> None:
    chosen = preset(name)
    for config in (chosen.prerestorer, chosen.tokenizer, chosen.teacher, chosen.restorer):
        again = config_from_dict(type(config), json.loads(json.dumps(config_to_dict(config))))
        assert again == config


def test_unknown_configuration_field_asks_for_an_update() -> None:
    with pytest.raises(CheckpointError, match=r"no field 'blobs'.*update varestorer"):
        config_from_dict(ConvRestorerConfig, {"blobs": 3})


def test_the_class_comes_from_the_file(tmp_path: Path) -> None:
    from varestorer_models.swinir import SwinIR

    config = SwinIRConfig(width=12, depths=(2,), heads=(2,), unshuffle=2)
    path = tmp_path / "swinir.safetensors"
    save_bundle(path, {"prerestorer": SwinIR(config)})
    assert load_bundle(path).components["prerestorer"].config == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prerestorer.conv_in.bias": None}, r"'prerestorer.conv_in.bias' is missing \(1 tensors"),
        ({"prerestorer.extra": torch.zeros(1)}, r"unexpected tensor 'prerestorer.extra'"),
        ({"foreign.weight": torch.zeros(1)}, r"unexpected tensor 'foreign.weight'"),
        ({"prerestorer.conv_in.bias": torch.zeros(9)}, r"is \(9,\), the configuration says \(8,\)"),
        ({"prerestorer.conv_in.bias": torch.full((8,), float("nan"))}, r"not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    model_file: Path, change: dict[str, torch.Tensor | None], words: str
) -> None:
    rewrite(model_file, change)
    with pytest.raises(CheckpointError, match=words):
        load_bundle(model_file)


def test_truncated_foreign_and_pickled_files_are_refused(model_file: Path, tmp_path: Path) -> None:
    data = model_file.read_bytes()
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_bundle(torn)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not written by varestorer"):
        load_bundle(foreign)

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    evil = tmp_path / "evil.safetensors"
    evil.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError):
        load_bundle(evil)
    assert not (tmp_path / "executed").exists()


def test_newer_class_names_are_refused(model_file: Path) -> None:
    rewrite(model_file, {}, components=json.dumps({"prerestorer": {"class": "Oracle", "config": {}}}))
    with pytest.raises(CheckpointError, match="unknown class 'Oracle'; known: Autoencoder"):
        load_bundle(model_file)


def test_parts_alone_are_no_restorer(restorer: OneStepRestorer, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_bundle(path, {"prerestorer": restorer.prerestorer})
    with pytest.raises(CheckpointError, match=r"holds only prerestorer, not a whole restorer"):
        load_restorer(path)


def test_a_failed_write_leaves_the_old_file(
    restorer: OneStepRestorer, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space"):
        save_bundle(model_file, restorer.components(), restorer=replace(restorer.config, scale=2))
    assert model_file.read_bytes() == before
    assert not list(model_file.parent.glob(".*part"))


def test_the_default_prompt_travels_in_the_file(restorer: OneStepRestorer, model_file: Path) -> None:
    assert read_text(model_file) is None and load_restorer(model_file).text is None
    before = load_bundle(model_file).components["transformer"].state_dict()
    width = restorer.transformer.config.text_width
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(2))
    write_text(model_file, StoredText("a sharp photograph", rows, "t5 0123"))
    stored, loaded = read_text(model_file), load_restorer(model_file)
    for text in (stored, loaded.text):
        assert text is not None and torch.equal(text.rows, rows)
        assert (text.prompt, text.encoder) == ("a sharp photograph", "t5 0123")
    after = loaded.restorer.transformer.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert loaded.metadata["licence"] == "MIT"
    write_text(model_file, None)
    assert read_text(model_file) is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(3, 31), r"'text.rows' is \(3, 31\), its transformer takes \(n, 32\)"),
        (torch.zeros(0, 32), "n at least 1"),
        (torch.full((1, 32), float("inf")), "not finite"),
    ],
)
def test_text_that_does_not_fit_is_refused(model_file: Path, rows: torch.Tensor, words: str) -> None:
    before = model_file.read_bytes()
    with pytest.raises(CheckpointError, match=words):
        write_text(model_file, StoredText("x", rows))
    assert model_file.read_bytes() == before
    rewrite(model_file, {"text.rows": rows})
    for read in (read_text, load_bundle):
        with pytest.raises(CheckpointError, match=words):
            read(model_file)
