"""``weights pull text`` and ``captioner`` against a hub on this machine, and the default text that comes with them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import releases
import tiny_text
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save
from stand_in_hub import StandInHub, running

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.install.inventory import list_models, verify_models
from varestorer_cli.core.install.puller import pull
from varestorer_cli.core.text import transformers_backend
from varestorer_cli.core.weights.catalog import CAPTIONER, FOLDERS, RELEASED, TEXT_ENCODER
from varestorer_cli.core.weights.file_hash import file_sha256
from varestorer_cli.core.weights.root import Record, find_folder
from varestorer_cli.core.weights.stored_text import read_text

constants = pytest.importorskip("huggingface_hub.constants")
T5, BLIP = FOLDERS["text"].repository, FOLDERS["captioner"].repository
SHARD, OTHER_SHARD = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All published files by "repository/path"; the encoder's features are as wide as the restorer takes them."""
    folder = tmp_path_factory.mktemp("published")
    release = releases.write_release(folder / "release", teacher=False)
    files = {file.key: (release / file.name).read_bytes() for file in RELEASED["2b"].files}
    encoder = tiny_text.text_encoder(folder / "t5", width=releases.SMALL.transformer.text_width)
    files |= {f"{T5}/{name}": data for name, data in tiny_text.in_shards(encoder).items()}
    blip = tiny_text.captioner(folder / "blip")
    return files | {f"{BLIP}/{path.name}": path.read_bytes() for path in blip.iterdir()}


@pytest.fixture
def hub(published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with running(StandInHub(dict(published))) as stand_in:
        stand_in.used_by(monkeypatch, tmp_path / "cache")
        yield stand_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def original(hub: StandInHub, folder: Path) -> Path:
    """The text encoder's folder as it was published."""
    folder.mkdir()
    for key, data in hub.files.items():
        if key.startswith(T5):
            (folder / key.rpartition("/")[2]).write_bytes(data)
    return folder


@pytest.mark.parametrize("order", [("2b", "text"), ("text", "2b")])
def test_in_any_order_the_model_gets_the_default_text(
    hub: StandInHub, root: Path, tmp_path: Path, order: tuple[str, str]
) -> None:
    for name in order:
        pull(name, root, quiet=True)
    text = read_text(root / "2b.safetensors")
    expected = transformers_backend.stored_text(original(hub, tmp_path / "original"))
    assert text is not None and text.prompt == transformers_backend.DEFAULT_PROMPT
    assert torch.equal(text.rows, expected.rows) and text.encoder == transformers_backend.folder_fingerprint(
        root / "text"
    )
    assert Record.read(root).models["2b"] == file_sha256(root / "2b.safetensors")
    assert verify_models(root, []) == [("fine", ""), ("compact", ""), ("mini", ""), ("2b", ""), ("text", "")]


def test_only_what_the_encoder_needs_is_fetched_and_kept(hub: StandInHub, root: Path) -> None:
    assert pull("text", root, quiet=True) == root / "text" == find_folder(TEXT_ENCODER, root)
    assert hub.ranges(SHARD) == [""] and hub.ranges(OTHER_SHARD) == []
    assert {path.split("/")[4] for _, path, _ in hub.requests} == {FOLDERS["text"].revision}
    kept = load_file(root / "text" / "model.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"encoder", "shared"}
    shard = load(hub.files[f"{T5}/{SHARD}"])
    assert len(kept) == 21 and all(torch.equal(tensor, shard[name]) for name, tensor in kept.items())
    with safe_open(root / "text" / "model.safetensors", framework="pt") as reader:
        metadata = reader.metadata()
    (source,) = json.loads(metadata["sources"]).values()
    assert metadata["licence"] == "Apache-2.0" and len(metadata["data_sha256"]) == 64
    assert (source["repository"], source["file"], source["revision"]) == (T5, SHARD, FOLDERS["text"].revision)
    assert Record.read(root).published[f"{T5}/{SHARD}"].sha256 == source["sha256"]
    assert Record.read(root).published[f"{T5}/config.json"].licence == "Apache-2.0"


def test_the_captioner_says_the_same_as_the_published_one(hub: StandInHub, root: Path, tmp_path: Path) -> None:
    from conftest import photo

    pull("captioner", root, quiet=True)
    folder = find_folder(CAPTIONER, root)
    assert folder == root / "captioner"
    whole = tmp_path / "whole"
    whole.mkdir()
    for key, data in hub.files.items():
        if key.startswith(BLIP):
            (whole / key.rpartition("/")[2]).write_bytes(data)
    image = photo(20, 30)
    with transformers_backend.captioner(folder) as pulled, transformers_backend.captioner(whole) as expected:
        assert pulled(image) == expected(image) != ""
    assert verify_models(root, ["captioner"]) == [("captioner", "")]


def test_again_nothing_is_asked_and_a_model_that_came_by_hand_gets_its_text(hub: StandInHub, root: Path) -> None:
    pull("text", root, quiet=True)
    pull("2b", root.with_name("other"), quiet=True)
    assert read_text(root.with_name("other") / "2b.safetensors") is None
    (root.with_name("other") / "2b.safetensors").rename(root / "2b.safetensors")
    pull("text", root, quiet=True)
    assert read_text(root / "2b.safetensors") is not None
    hub.requests.clear()
    before = (root / "2b.safetensors").read_bytes()
    said: list[str] = []
    for name in ("2b", "text"):
        pull(name, root, quiet=True, say=said.append)
    assert hub.requests == [] and (root / "2b.safetensors").read_bytes() == before
    assert len(said) == 2 and all("is there already" in text for text in said)


def test_a_killed_pull_goes_on_and_leaves_no_half_folder(
    hub: StandInHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        hub.kills(patch, SHARD, 50_000)
        pull("text", root, quiet=True)
    assert find_folder(TEXT_ENCODER, root) is None
    said: list[str] = []
    pull("text", root, quiet=True, say=said.append)
    assert hub.ranges(SHARD) == ["bytes=50000-"]
    assert any("going on after" in text for text in said)
    assert verify_models(root, ["text"]) == [("text", "")]


def test_cut_and_busy_transfers_are_tried_again(hub: StandInHub, root: Path) -> None:
    hub.cut, hub.busy = 3, 2
    pull("text", root, quiet=True)
    assert verify_models(root, ["text"]) == [("text", "")]


def test_without_a_network_the_cache_is_enough(
    hub: StandInHub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("text", "captioner"):
        pull(name, root, quiet=True)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("text", "captioner"):
        pull(name, tmp_path / "other", quiet=True)
        for path in (root / name).iterdir():
            assert (tmp_path / "other" / name / path.name).read_bytes() == path.read_bytes()
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(MissingDependencyError, match=r"cannot be downloaded.*offline.*weights pull text --to DIR"):
        pull("text", tmp_path / "third", quiet=True)
    assert not (tmp_path / "third").exists()


def test_another_hash_than_the_hubs_or_the_recorded_one_is_refused(hub: StandInHub, root: Path) -> None:
    hub.etags[f"{T5}/{SHARD}"] = "f" * 64
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors: .* expected f{64}"):
        pull("text", root, quiet=True)
    assert not (root / "text").exists()
    del hub.etags[f"{T5}/{SHARD}"]
    pull("text", root, quiet=True)
    hub.files[f"{T5}/config.json"] += b" "
    with pytest.raises(CheckpointError, match=r"config\.json: .* has the hash .* expected"):
        pull("text", root, quiet=True, force=True)
    assert verify_models(root, ["text"]) == [("text", "")]


def test_a_file_that_is_gone_is_named(hub: StandInHub, root: Path) -> None:
    del hub.files[f"{T5}/tokenizer.json"]
    with pytest.raises(MissingDependencyError, match=r"google/flan-t5-xl: has no tokenizer\.json or spiece\.model at"):
        pull("text", root, quiet=True)
    del hub.files[f"{BLIP}/model.safetensors"]
    with pytest.raises(MissingDependencyError, match=r"model\.safetensors at 353689b.*cannot be downloaded \(404"):
        pull("captioner", root, quiet=True)
    assert not (root / "text").exists() and not (root / "captioner").exists()


def changed(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[dict[str, bytes]], None]:
    """Damage to the tensors of a file."""

    def damage(files: dict[str, bytes]) -> None:
        state = load(files[name])
        change(state)
        files[name] = save(state, metadata={"format": "pt"})

    return damage


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    """Damage to the bytes of a file."""

    def damage(files: dict[str, bytes]) -> None:
        files[name] = change(files[name])

    return damage


FINAL = "encoder.final_layer_norm.weight"


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("text", replaced(f"{T5}/{SHARD}", lambda data: data[:-100]), "cut off or damaged"),
        ("text", replaced(f"{T5}/config.json", lambda data: data[:-20]), r"config\.json: cannot be read"),
        ("text", replaced(f"{T5}/config.json", lambda data: data.replace(b'"t5"', b'"bert"')), "of type 'bert'"),
        ("text", replaced(f"{T5}/config.json", lambda data: data.replace(b'"num_heads": 4', b'"num_heads": "4"')),
         r"says '4' for 'num_heads'"),
        ("text", replaced(f"{T5}/model.safetensors.index.json", lambda data: data.replace(SHARD.encode(), b"../a")),
         r"is said to be in '\.\./a', which is no file beside it"),
        ("text", replaced(f"{T5}/model.safetensors.index.json", lambda data: b"[]"), "holds a list, not an object"),
        ("text", changed(f"{T5}/{SHARD}", lambda state: state.update({"encoder.backdoor": torch.zeros(2)})),
         "unexpected tensor 'encoder.backdoor'"),
        ("text", changed(f"{T5}/{SHARD}", lambda state: state.update({FINAL: torch.zeros(129)})),
         rf"'{FINAL}' is \(129,\), its configuration says \(128,\)"),
        ("text", changed(f"{T5}/{SHARD}", lambda state: state.pop(FINAL)), f"'{FINAL}' is in the index"),
        ("text", changed(f"{T5}/{SHARD}", lambda state: state[FINAL].fill_(float("nan"))),
         f"'{FINAL}' holds NaN"),
        ("captioner", changed(f"{BLIP}/model.safetensors", lambda state: state.update({"evil": torch.zeros(1)})),
         "unexpected tensor 'evil'"),
        ("captioner", replaced(f"{BLIP}/config.json", lambda data: b'{"model_type": "blip-2"}'), "of type 'blip-2'"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_foreign_is_refused_and_not_written(
    hub: StandInHub, root: Path, name: str, damage: Callable[[dict[str, bytes]], None], words: str
) -> None:
    damage(hub.files)
    with pytest.raises(CheckpointError, match=words):
        pull(name, root, quiet=True)
    assert find_folder(TEXT_ENCODER, root) is None and find_folder(CAPTIONER, root) is None
    assert not list(root.glob("*/*"))


def test_without_transformers_the_pull_succeeds_and_says_what_is_left_to_do(
    hub: StandInHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("2b", root, quiet=True)
    warned: list[str] = []
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "transformers", None)
        pull("text", root, quiet=True, warn=warned.append)
        pull("2b", root, quiet=True, force=True, warn=warned.append)
    assert len(warned) == 2
    assert all("'protobuf>=4'" in text and "then varestorer weights text" in text for text in warned)
    assert read_text(root / "2b.safetensors") is None
    pull("text", root, quiet=True)
    assert read_text(root / "2b.safetensors") is not None


def test_the_list_shows_networks_with_size_licence_and_source(hub: StandInHub, root: Path) -> None:
    before = {entry.name: entry for entry in list_models(root)}
    assert before["text"].path is None and before["captioner"].licence == "BSD-3-Clause"
    pull("text", root, quiet=True)
    entry = {entry.name: entry for entry in list_models(root)}["text"]
    assert entry.path == root / "text" and entry.licence == "Apache-2.0" and not entry.problem
    assert entry.size == sum(path.stat().st_size for path in (root / "text").iterdir())
    assert entry.sources[0].startswith(f"{T5} at {FOLDERS['text'].revision[:12]}, {SHARD}, sha256 ")
    (root / "text" / "model.safetensors").write_bytes(b"no")
    assert "cannot be read" in {entry.name: entry for entry in list_models(root)}["text"].problem
