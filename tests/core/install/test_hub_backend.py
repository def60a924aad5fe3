"""``weights pull`` against a hub on this machine: pins, checks, goes on where it was cut, says what to do."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import releases
import torch
from safetensors.torch import load_file
from stand_in_hub import COMMIT, StandInHub, running

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.install.importer import import_files
from varestorer_cli.core.install.puller import pull
from varestorer_cli.core.weights.catalog import AUTOENCODER_FILE, PRERESTORER_FILE, RELEASED, STUDENT_FILE
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_cli.core.weights.root import Record

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return releases.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def hub(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    files = {file.key: (release / file.name).read_bytes() for file in RELEASED["2b"].files}
    with running(StandInHub(files)) as stand_in:
        stand_in.used_by(monkeypatch, tmp_path / "cache")
        yield stand_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_pulled_is_imported(hub: StandInHub, release: Path, root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    pull("2b", root, say=said.append, quiet=True)
    import_files([release / file.name for file in RELEASED["2b"].files], tmp_path / "by-hand")
    pulled, by_hand = load_file(root / "2b.safetensors"), load_file(tmp_path / "by-hand" / "2b.safetensors")
    assert pulled.keys() == by_hand.keys() and all(torch.equal(pulled[key], by_hand[key]) for key in pulled)
    record = Record.read(root)
    for file in RELEASED["2b"].files:
        source = record.published[file.key]
        assert source.revision == COMMIT
        assert source.sha256 == hashlib.sha256(hub.files[file.key]).hexdigest()
    assert COMMIT in load_restorer("2b", weights=root).metadata["sources"]
    asked = len(hub.requests)
    assert pull("2b", root, say=said.append, quiet=True) == root / "2b.safetensors"
    assert len(hub.requests) == asked and "is there already" in said[-1]


def test_what_was_recorded_first_stays_pinned(hub: StandInHub, root: Path) -> None:
    pull("2b", root, quiet=True)
    hub.requests.clear()
    pull("2b", root, quiet=True, force=True)
    assert {path.split("/resolve/")[1].split("/")[0] for _, path, _ in hub.requests} <= {COMMIT}
    hub.files[STUDENT_FILE.key] += b"newer"
    with pytest.raises(CheckpointError, match=r"has the hash .* expected .*damaged or not the published file"):
        pull("2b", root, quiet=True, force=True)


def test_a_cut_transfer_goes_on_where_it_was_cut(hub: StandInHub, root: Path) -> None:
    hub.cut = 1
    pull("2b", root, quiet=True)
    first, second = hub.ranges(STUDENT_FILE.path)
    assert first == "" and second.startswith("bytes=")
    assert 0 < int(second[6:-1]) <= len(hub.files[STUDENT_FILE.key]) // 2


def test_a_killed_process_goes_on_the_next_time(hub: StandInHub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        hub.kills(patch, STUDENT_FILE.path, 100_000)
        pull("2b", root, quiet=True)
    assert not (root / "2b.safetensors").exists()
    said: list[str] = []
    pull("2b", root, quiet=True, say=said.append)
    assert hub.ranges(STUDENT_FILE.path) == ["bytes=100000-"]
    assert any("going on after" in text for text in said)


def test_a_busy_hub_is_asked_again(hub: StandInHub, root: Path) -> None:
    hub.busy = 2
    pull("2b", root, quiet=True)
    assert (root / "2b.safetensors").is_file()


def test_a_hub_that_stays_busy_is_given_up_with_advice(hub: StandInHub, root: Path) -> None:
    hub.busy = 10**6
    with pytest.raises(
        MissingDependencyError, match=r"varestorer\.pth: cannot be downloaded.*503.*HF_ENDPOINT names a mirror"
    ):
        pull("2b", root, quiet=True)
    assert not (root / "2b.safetensors").exists()


def test_bytes_of_another_hash_are_refused_and_not_kept(hub: StandInHub, root: Path, tmp_path: Path) -> None:
    hub.etags[AUTOENCODER_FILE.key] = "f" * 64
    with pytest.raises(CheckpointError, match=r"infinity_vae_d32reg\.pth: .* expected f{64}"):
        pull("2b", root, quiet=True)
    assert not (root / "2b.safetensors").exists()
    assert not list((tmp_path / "cache").rglob("f" * 64 + "*"))
    del hub.etags[AUTOENCODER_FILE.key]
    pull("2b", root, quiet=True)


def test_a_file_that_is_gone_is_named(hub: StandInHub, root: Path) -> None:
    del hub.files[PRERESTORER_FILE.key]
    with pytest.raises(
        MissingDependencyError, match=r"lxq007/DiffBIR/general_swinir_v1\.ckpt: cannot be downloaded \(404"
    ):
        pull("2b", root, quiet=True)
    assert len(hub.ranges(STUDENT_FILE.path)) == 1  # final: nothing is fetched twice


def test_without_a_network_the_cache_is_enough(
    hub: StandInHub, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("2b", root, quiet=True)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pull("2b", tmp_path / "other", quiet=True)
    assert hub.requests == []
    assert (tmp_path / "other" / "2b.safetensors").read_bytes() == (root / "2b.safetensors").read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(MissingDependencyError, match=r"cannot be downloaded.*offline.*weights pull 2b --to DIR"):
        pull("2b", tmp_path / "third", quiet=True)


def test_the_missing_package_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'huggingface-hub"):
        pull("2b", root)
