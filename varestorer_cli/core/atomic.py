"""Files that appear complete or not at all, and room for pixels.

An output is written beside its target under a temporary name, flushed to the disk and renamed, so that a process
killed at any moment leaves either no file or a whole one. The temporary name tells host and process, so that the next
run can remove what a dead one left.
"""

import errno
import hashlib
import mmap
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.phrases import reason_of

# A temporary file that nothing was written to for so long belongs to no living process, on whatever host it was made.
STALE_SECONDS = 7 * 24 * 3600.0
_FIRST_PID_NAMESPACE = 4026531836  # of every Linux kernel; another one is a container's
MOST_IN_MEMORY = 1 << 27  # bytes of a result; a larger one lives in a file
_PART_NAME = re.compile(r"\..+-(\d+)\.part", re.DOTALL)

_open_parts: set[str] = set()


def _here() -> str:
    """Name of this host, and in a container also of its process table, where equal numbers mean other processes."""
    with suppress(OSError):
        namespace = Path("/proc/self/ns/pid").stat().st_ino
        if namespace != _FIRST_PID_NAMESPACE:
            return f"{socket.gethostname()}.{namespace}"
    return socket.gethostname()


def part_path(path: Path) -> Path:
    """Temporary name beside a target; it says which process of which host writes it."""
    end = f".{_here()}-{os.getpid()}.part"
    room = 255 - len(os.fsencode(end)) - 1
    name = os.fsencode(path.name)
    if len(name) > room:  # two files in work at once may differ at their ends only
        name = name[: room - 13] + b"~" + hashlib.sha256(name).hexdigest()[:12].encode()
    return path.with_name(f".{os.fsdecode(name)}{end}")


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
    """Make a rename durable, where the file system lets a folder be synced.

    Raises:
        OSError: it does, and the name may be lost.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # others: folders cannot be synced here
            raise
    finally:
        os.close(handle)


def remove_open_parts() -> None:
    """Remove the temporary files of this process; for leaving at once."""
    for part in list(_open_parts):
        with suppress(OSError):
            Path(part).unlink(missing_ok=True)


def remove_stale_parts(folders: set[Path]) -> int:
    """Remove temporary files that dead processes left in some folders.

    A process of this host is dead when its number is not in use. Of processes elsewhere nothing is known: their files
    go when they have not changed for :data:`STALE_SECONDS` by the clock of the file system, not by this host's.

    Returns:
        their number.
    """
    removed = 0
    here = _here()
    for folder in folders:
        with suppress(OSError):
            now: float | None = None
            for path in folder.glob(".*.part"):
                found = _PART_NAME.fullmatch(path.name)
                if found is None:
                    continue
                dead = path.name.endswith(f".{here}-{found[1]}.part") and not _alive(int(found[1]))
                if not dead:
                    now = _clock_of(folder) if now is None else now
                    dead = now - path.stat().st_mtime > STALE_SECONDS
                if dead:
                    with suppress(OSError):
                        if path.is_dir():  # a crop cache in the making
                            shutil.rmtree(path)
                        else:
                            path.unlink()
                        removed += 1
    return removed


def _clock_of(folder: Path) -> float:
    """Time by the file system that a folder is on."""
    trial = part_path(folder / "clock")
    try:
        trial.touch()
        return trial.stat().st_mtime
    finally:
        trial.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # the number of a dead process was given to this one, which has not begun to write
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


def check_name(folder: Path) -> None:
    """Refuse a folder that no file system here could hold, before anything is looked for in it.

    Raises:
        OutputError: its name is too long or has characters that are impossible.
    """
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # made, or refused with its reason, by check_writable
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder}: cannot be an output folder ({reason_of(error)}); choose another name") from error


def allocate(
    shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path, limit: int = MOST_IN_MEMORY
) -> npt.NDArray[Any]:
    """An array for a result; above ``limit`` bytes it lives in an unnamed file on the output's disk.

    Whoever fills or reads such an array calls :func:`release` from time to time, so that little of it is in memory.

    Raises:
        OutputError: the disk is full.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= limit:
        array: npt.NDArray[Any] = np.zeros(shape, dtype)
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
            mapped: npt.NDArray[Any] = np.memmap(stream, dtype, "r+", shape=shape)
            return mapped
    except OSError as error:
        raise OutputError(
            f"{folder}: no room for {size / 1e9:.1f} GB of pixels ({error.strerror or error}); free some space"
        ) from error


def release(array: npt.NDArray[Any]) -> None:
    """Give back the memory of an array that lives in a file (its values stay); does nothing for any other array."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and sys.platform == "linux":  # elsewhere the system may drop what was written
        mapped.madvise(mmap.MADV_DONTNEED)
