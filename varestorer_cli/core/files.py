"""Files that appear complete or not at all, and room for pixels.

An output is written beside its target under a temporary name, flushed to the disk and renamed, so that a process
killed at any moment leaves either no file or a whole one. The temporary name tells host and process, so that the next
run can remove what a dead one left.
"""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.picture import Samples

_open_parts: set[str] = set()


def part_path(path: Path) -> Path:
    """Temporary name beside a target; it says which process of which host writes it."""
    end = f".{socket.gethostname()}-{os.getpid()}.part"
    room = 255 - len(os.fsencode(end)) - 1
    name = os.fsdecode(os.fsencode(path.name)[:room])
    return path.with_name(f".{name}{end}")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces ``path`` at the end of the block, or leaves no trace when the block fails.

    Raises:
        OutputError: the folder or the file cannot be written, or the disk is full.
    """
    part = part_path(path)
    _open_parts.add(str(part))
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb+") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            if error.errno is None:  # raised by an encoder, not by the file system
                raise InputError(f"the result cannot be encoded ({error})") from error
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}); free some space, "
                "or choose another output folder"
            ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        _open_parts.discard(str(part))


def hash_of(stream: BinaryIO) -> str:
    """SHA-256 of all that was written to an open file."""
    stream.flush()
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the file system lets a folder be synced."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_open_parts() -> None:
    """Remove the temporary files of this process; for leaving at once."""
    for part in list(_open_parts):
        with suppress(OSError):
            Path(part).unlink(missing_ok=True)


def remove_stale_parts(folders: set[Path]) -> int:
    """Remove temporary files that dead processes of this host left in some folders.

    Returns:
        their number.
    """
    removed = 0
    mark = f".{socket.gethostname()}-"
    for folder in folders:
        with suppress(OSError):
            for path in folder.glob(".*.part"):
                _, found, pid = path.name.removesuffix(".part").rpartition(mark)
                if found and pid.isdigit() and not _alive(int(pid)):
                    with suppress(OSError):
                        path.unlink()
                        removed += 1
    return removed


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # a number used again: whatever has it, this process has not begun to write
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_writable(folder: Path) -> None:
    """Make the output folder and try it.

    Raises:
        OutputError: nothing can be written there.
    """
    trial = part_path(folder / "trial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"x")
    except OSError as error:
        raise OutputError(
            f"{folder}: nothing can be written there ({error.strerror or error}); choose another output folder"
        ) from error
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path, limit: int = 1 << 29) -> Samples:
    """An array for a result; above ``limit`` bytes it lives in an unnamed file on the output's disk.

    Raises:
        OutputError: the disk is full.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= limit:
        array: Samples = np.zeros(shape, dtype)
        return array
    part = part_path(folder / "pixels")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb+") as stream:
            part.unlink()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)  # a full disk is an error now, not a crash later
            else:
                stream.truncate(size)
            mapped: Samples = np.memmap(stream, dtype, "r+", shape=shape)
            return mapped
    except OSError as error:
        raise OutputError(
            f"{folder}: no room for {size / 1e9:.1f} GB of pixels ({error.strerror or error}); free some space"
        ) from error
