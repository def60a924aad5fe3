"""Model files made to break the program: each is refused with a sentence and exit code 4, quickly."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photo, save
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from varestorer_cli import app
from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.weights.configs import LARGEST_TILE, MOST_ENTRIES, config_from_dict
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer, save_bundle
from varestorer_cli.core.weights.tensor_io import DATA_HASH
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.tokenizer import ImageTokenizer, TokenizerConfig
from varestorer_models.transformer import Transformer, TransformerConfig

Values = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    smoke = preset("smoke")
    restorer = OneStepRestorer(
        smoke.restorer, ConvRestorer(smoke.prerestorer), ImageTokenizer(smoke.tokenizer), Transformer(smoke.teacher)
    )
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    save_bundle(path, restorer.components(), restorer=restorer.config)
    return path


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole.read_bytes())
    return path


def rewrite(
    path: Path,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
    components: Callable[[Values], object] = lambda header: None,
    **metadata: str,
) -> None:
    """Write a file again with other tensors, another table of components or other metadata, without its hash."""
    with safe_open(path, "pt") as reader:
        notes = dict(reader.metadata())
    header = json.loads(notes["components"])
    changed = components(header)
    notes["components"] = json.dumps(header if changed is None else changed)
    stored = load_file(path)
    tensors(stored)
    save_file(stored, path, metadata={k: v for k, v in notes.items() if k != DATA_HASH} | metadata)


KEY = "prerestorer.conv_in.bias"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn], ids=str)
def test_other_types_than_weights_have(model: Path, dtype: torch.dtype) -> None:
    rewrite(model, lambda tensors: tensors.update({KEY: tensors[KEY].to(dtype)}))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"'{KEY}' is stored as {name}, and varestorer reads weights as float32"):
        load_restorer(model)


def test_every_tensor_as_int(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.update({key: value.int() for key, value in tensors.items()}))
    with pytest.raises(CheckpointError, match="is stored as int32"):
        load_restorer(model)


def test_complex_values(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.update({KEY: tensors[KEY].to(torch.complex64)}))
    with pytest.raises(CheckpointError):
        load_restorer(model)


def part(name: str, *path: str, value: object) -> Callable[[Values], None]:
    def change(header: Values) -> None:
        config = header[name]["config"]
        for key in path[:-1]:
            config = config[key]
        assert path[-1] in config
        config[path[-1]] = value

    return change


BUDGET = [
    part("transformer", "width", value=10**9),
    part("transformer", "width", value=10**400),
    part("transformer", "width", value=-8),
    part("transformer", "depth", value=10**7),
    part("transformer", "depth", value=60000),
    part("transformer", "depth", value=2.5),
    part("transformer", "depth", value="4"),
    part("transformer", "depth", value=True),
    part("transformer", "depth", value=None),
    part("transformer", "heads", value=0),
    part("transformer", "mlp_ratio", value=float("nan")),
    part("transformer", "mlp_ratio", value=float("inf")),
    part("transformer", "mlp_ratio", value=1e300),
    part("transformer", "rotary_rounding", value="up"),
    part("transformer", "rotary_rounding", value=["nearest"]),
    part("transformer", "cross_value_bias", value=1),
    part("prerestorer", "blocks", value=65536),
    part("prerestorer", "unshuffle", value=0),
    part("prerestorer", "unshuffle", value=65536),
    part("prerestorer", "residual_scale", value="0.3"),
    part("tokenizer", "autoencoder", value=[]),
    part("tokenizer", "autoencoder", "multipliers", value=[1] * 10**6),
    part("tokenizer", "autoencoder", "multipliers", value=3),
    part("tokenizer", "autoencoder", "multipliers", value=[[1]]),
    part("tokenizer", "autoencoder", "encoder_blocks", value=[60000]),
    part("tokenizer", "schedule", "grids", value=[[1, 1], [60000, 60000]]),
    part("tokenizer", "schedule", "grids", value=[[1, 1, 1]]),
    part("tokenizer", "schedule", "grids", value=[[1, 1], ["a", "b"]]),
    part("tokenizer", "schedule", "grids", value={"a": 1}),
]


@pytest.mark.parametrize("change", BUDGET, ids=[str(number) for number in range(len(BUDGET))])
def test_values_beyond_any_model(model: Path, change: Callable[[Values], None]) -> None:
    rewrite(model, components=change)
    begin = time.process_time()
    with pytest.raises(CheckpointError) as found:
        load_restorer(model)
    assert str(found.value).startswith(f"{model}: ") and len(str(found.value)) < 600
    assert time.process_time() - begin < 20  # a limit of minutes against ten of building


@pytest.mark.parametrize(
    "components",
    [
        [],
        3,
        "x",
        {"prerestorer": 3},
        {"prerestorer": {"class": "ConvRestorer"}},
        {"prerestorer": {"class": []}},
        {"a": {}},
    ],
)
def test_tables_of_components_that_are_none(model: Path, components: object) -> None:
    rewrite(model, components=lambda header: components)
    with pytest.raises(CheckpointError, match="is not a table of components"):
        load_bundle(model)
    with pytest.raises(CheckpointError):
        load_restorer(model)


def test_classes_and_parts_that_do_not_fit(model: Path) -> None:
    rewrite(model, components=lambda header: header["prerestorer"].update({"class": ["ConvRestorer"]}))
    with pytest.raises(CheckpointError, match="unknown class"):
        load_bundle(model)


def test_parts_under_each_others_names(model: Path) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.startswith("tokenizer.")]:
            del tensors[key]
        for key in [key for key in tensors if key.startswith("prerestorer.")]:
            tensors[key.replace("prerestorer.", "tokenizer.", 1)] = tensors[key].clone()

    rewrite(model, swap, lambda header: header.update(tokenizer=header["prerestorer"]))
    with pytest.raises(CheckpointError, match="do not make a restorer"):
        load_restorer(model)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "3", "[]", '{"scale": 1e9}', '{"scale": "x"}', '{"sampling": "luck"}', "{"]
)
def test_restorer_settings_that_are_none(model: Path, text: str) -> None:
    rewrite(model, restorer=text)
    with pytest.raises(CheckpointError):
        load_restorer(model)


def test_notes_that_are_none(model: Path) -> None:
    rewrite(model, notes="[1]")
    with pytest.raises(CheckpointError):
        load_restorer(model)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("offset", [-1, -1000, -20001])
def test_a_flipped_bit_of_a_weight_is_seen(model: Path, offset: int) -> None:
    flip(model, offset)
    with pytest.raises(CheckpointError, match=r"tensors have the hash .*damaged or was changed: fetch it again"):
        load_restorer(model)


def test_large_files_are_checked_by_verify_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varestorer_cli.core.weights.model_file.VERIFIED_SIZE", 1000)
    flip(model, -1)
    assert load_restorer(model).sha256


def test_the_command_ends_with_code_4_and_a_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("a.png"), photo(8, 8))
    rewrite(model, components=part("transformer", "depth", value=10**7))
    assert app.run(["restore", "a.png", "b.png", "--model", str(model)]) == 4
    err = capsys.readouterr().err
    assert f"error: {model}: component 'transformer': TransformerConfig.depth is 10000000, beyond any model" in err
    assert not Path("b.png").exists()
    assert app.run(["weights", "import", str(model), "--weights", str(tmp_path / "root")]) in (0, 4)


def test_budgets_leave_room_for_the_published_sizes() -> None:
    big = preset("2b")
    for config in (big.prerestorer, big.tokenizer, big.teacher, big.restorer):
        assert config is not None
    assert max(len(big.tokenizer.schedule), 8) * 4 < MOST_ENTRIES and big.tokenizer.tile * 4 <= LARGEST_TILE


@pytest.mark.parametrize("cls", [RestorerConfig, ConvRestorerConfig, TransformerConfig, TokenizerConfig])
def test_random_json_never_escapes(cls: type) -> None:
    import dataclasses
    import random

    draw = random.Random(cls.__name__)
    odd: list[object] = [None, True, -1, 0, 10**30, 1e308, "", "x" * 5000, [], [[]], {}, {"a": {}}, [None], "nearest"]
    names = [field.name for field in dataclasses.fields(cls)]
    for _ in range(300):
        values = {draw.choice(names): draw.choice(odd) for _ in range(draw.randint(0, 6))}
        try:
            config_from_dict(cls, values)
        except CheckpointError as error:
            assert len(str(error)) < 600
