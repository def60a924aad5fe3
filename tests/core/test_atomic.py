import errno
import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from varestorer_cli.core import atomic
from varestorer_cli.core.atomic import (
    allocate,
    atomic_file,
    check_writable,
    part_path,
    release,
    remove_open_parts,
    remove_stale_parts,
)
from varestorer_cli.core.errors import InputError, OutputError


def test_a_file_appears_complete_under_its_name(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "ü ñ.png"
    with atomic_file(target) as stream:
        stream.write(b"half")
        assert not target.exists()
        assert [p.name for p in target.parent.iterdir()] == [f".ü ñ.png.{socket.gethostname()}-{os.getpid()}.part"]
        stream.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(target) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "a") as stream:
            stream.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_long_names_fit(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 251 + ".png")
    with atomic_file(target) as stream:
        stream.write(b"x")
    assert target.exists()


def test_a_full_disk_is_an_output_error_and_an_encoders_error_is_not(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"a\.png: cannot be written \(No space left"),
        atomic_file(tmp_path / "a.png"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(InputError, match="cannot be encoded"), atomic_file(tmp_path / "a.png"):
        raise OSError("encoder error -2")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="nothing can be written there"):
        check_writable(tmp_path / "out")


def test_stale_parts_of_dead_processes_only(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    host, dead, alive = socket.gethostname(), int(done.stdout), os.getppid()
    names = [f".a.png.{host}-{dead}.part", f".b.png.{host}-{alive}.part", f".c.png.elsewhere-{dead}.part", "d.part"]
    for name in names:
        (tmp_path / name).touch()
    assert remove_stale_parts({tmp_path, tmp_path / "none"}) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


def test_temporaries_of_other_hosts_and_containers_go_by_age_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = part_path(tmp_path / "x").name.removeprefix(".x.").rpartition("-")[0]
    own, other, container = (
        f".a.png.{here}-999999999.part",
        ".b.png.elsewhere-1.part",
        f".c.png.{here}.4026539999-1.part",
    )
    alive, foreign = f".d.png.{here}-{os.getppid()}.part", ".notes.part"
    for name in (own, other, container, alive, foreign):
        (tmp_path / name).touch()
    assert remove_stale_parts({tmp_path}) == 1 and not (tmp_path / own).exists()
    monkeypatch.setattr(atomic, "_clock_of", lambda folder: time.time() + atomic.STALE_SECONDS + 60)
    assert remove_stale_parts({tmp_path}) == 3
    assert [path.name for path in tmp_path.iterdir()] == [foreign]


def test_a_container_has_its_own_temporary_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = part_path(tmp_path / "a.png").name
    monkeypatch.setattr(atomic, "_FIRST_PID_NAMESPACE", 1 if atomic._here() == socket.gethostname() else 0)
    monkeypatch.setattr(Path, "stat", lambda self: type("S", (), {"st_ino": 4026539999})())
    assert part_path(tmp_path / "a.png").name == f".a.png.{socket.gethostname()}.4026539999-{os.getpid()}.part" != name


def test_leaving_at_once_removes_open_parts(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as stream:
        stream.write(b"x")
        assert part_path(tmp_path / "a").exists()
        remove_open_parts()
        assert not part_path(tmp_path / "a").exists()
        part_path(tmp_path / "a").touch()


def test_large_results_live_in_an_unnamed_file(tmp_path: Path) -> None:
    array = allocate((40, 30, 3), np.uint8, tmp_path / "new", limit=1000)
    assert isinstance(array, np.memmap)
    assert list((tmp_path / "new").iterdir()) == []
    array[:] = 7
    assert int(array.sum()) == 7 * 3600
    assert not isinstance(allocate((4, 4, 3), np.uint8, tmp_path), np.memmap)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back under Linux only")
def test_what_lives_in_a_file_leaves_the_memory_and_stays_what_it_is(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    array = allocate((48, 1 << 20), np.uint8, tmp_path, limit=1)
    array[:] = np.arange(48, dtype=np.uint8)[:, None]
    full = resident()
    release(array)
    assert full - resident() > 40 << 20
    assert (array == np.arange(48, dtype=np.uint8)[:, None]).all()
    release(array[3:5])  # a part stands for the whole
    release(np.zeros(3))  # in memory anyway


def test_no_room_is_said_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"no room for 0\.0 GB of pixels \(No space left on device\)"):
        allocate((40, 30, 3), np.uint8, tmp_path, limit=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 240, "é" * 120])
def test_long_names_that_differ_at_their_end_have_parts_of_their_own(tmp_path: Path, name: str) -> None:
    parts = [part_path(tmp_path / f"{name}{number}.png") for number in (1, 2)]
    assert parts[0] != parts[1]
    for part in parts:
        part.touch()
    assert remove_stale_parts({tmp_path}) == 2


@pytest.mark.parametrize(
    ("code", "counts"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False), (errno.EACCES, False)]
)
def test_a_folder_that_fails_to_be_synced_counts(
    code: int, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError) if counts else nullcontext(), atomic_file(tmp_path / "a.bin") as stream:
        stream.write(b"abc")
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
