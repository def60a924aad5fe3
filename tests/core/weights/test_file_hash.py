import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from varestorer_cli.core.weights import file_hash


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read as a whole, with a cache folder of the test's own and every file counted as large."""
    found: list[Path] = []
    plain = file_hash.file_sha256

    def counted(path: Path) -> str:
        found.append(path)
        return plain(path)

    monkeypatch.setattr(file_hash, "file_sha256", counted)
    monkeypatch.setattr(file_hash, "LARGE", 1)
    monkeypatch.setattr(file_hash, "cache_folder", lambda: tmp_path / "cache")
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once(model: Path, reads: list[Path]) -> None:
    for _ in range(3):
        assert file_hash.remembered_sha256(model) == digest(b"weights")
    assert reads == [model]


def test_a_changed_file_is_read_again(model: Path, reads: list[Path]) -> None:
    file_hash.remembered_sha256(model)
    before = model.stat()
    model.write_bytes(b"changed")  # as long as before, and with the old time
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_hash.remembered_sha256(model) == digest(b"changed")
    other = model.with_name("other")
    other.write_bytes(b"another")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(model)
    assert file_hash.remembered_sha256(model) == digest(b"another")
    assert len(reads) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [1, 2]}', "\0", '{"%s": [[7], "abc"]}'])
def test_a_damaged_cache_is_written_anew(model: Path, reads: list[Path], tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache" / file_hash.CACHE
    cache.parent.mkdir()
    cache.write_text(text.replace("%s", str(model.resolve())))
    for _ in range(2):
        assert file_hash.remembered_sha256(model) == digest(b"weights")
    assert len(reads) == 1 and str(model.resolve()) in json.loads(cache.read_bytes())


def test_without_a_cache_folder_every_call_reads(
    model: Path, reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder should be
    assert file_hash.remembered_sha256(model) == digest(b"weights")
    monkeypatch.setattr(file_hash, "cache_folder", lambda: None)
    assert file_hash.remembered_sha256(model) == digest(b"weights")
    assert len(reads) == 2


def test_a_file_written_while_it_is_read_is_not_remembered(
    model: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = file_hash.file_sha256

    def written(path: Path) -> str:
        found = counted(path)
        path.write_bytes(b"longer than before")
        return found

    monkeypatch.setattr(file_hash, "file_sha256", written)
    file_hash.remembered_sha256(model)
    monkeypatch.setattr(file_hash, "file_sha256", counted)
    assert file_hash.remembered_sha256(model) == digest(b"longer than before")


def test_of_many_at_once_one_reads(model: Path, reads: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(file_hash.remembered_sha256, [model] * 8)) == {digest(b"weights")}
    assert reads == [model]


def test_small_files_leave_no_cache(
    model: Path, reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hash, "LARGE", 1000)
    assert file_hash.remembered_sha256(model) == file_hash.remembered_sha256(model) == digest(b"weights")
    assert len(reads) == 2 and not (tmp_path / "cache").exists()


def test_only_the_last_files_are_kept(reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hash, "_KEPT", 2)
    for number in range(4):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"x")
        file_hash.remembered_sha256(path)
    stored = json.loads((tmp_path / "cache" / file_hash.CACHE).read_bytes())
    assert [Path(name).name for name in stored] == ["2.bin", "3.bin"]
