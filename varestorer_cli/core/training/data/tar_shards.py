"""Files inside tar files (WebDataset shards), addressed like files in a folder: ``shard_0001.tar/0003.jpg``.

Only plain tar files are read: their members lie at known places, so that any photograph or caption can be read on its
own.
"""

import io
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from varestorer_cli.core.errors import InputError

SUFFIX = ".tar"


def members(shard: Path) -> dict[str, tuple[int, int]]:
    """Names of the files in a shard, with their place and size in bytes.

    Raises:
        InputError: not a plain tar file, or cut off.
    """
    status = shard.stat()
    return _members(shard, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _members(shard: Path, size: int, changed: int) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg():
                    found[member.name.removeprefix("./")] = member.offset_data, member.size
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"Cannot read the shard {shard}: {error}. Only plain, complete tar files are read.") from error
    return found


def open_file(path: Path) -> BinaryIO:
    """Open a file, or a member of a shard.

    Raises:
        OSError: there is neither.
        InputError: the shard is damaged.
    """
    place = _place(path)
    if place is None:
        return path.open("rb")
    shard, offset, size = place
    with shard.open("rb") as stream:
        stream.seek(offset)
        return io.BytesIO(stream.read(size))


def file_bytes(path: Path) -> int:
    """Size of a file or of a member of a shard in bytes, -1 where there is none."""
    if path.is_file():
        return path.stat().st_size
    place = _place(path)
    return -1 if place is None else place[2]


def _place(path: Path) -> tuple[Path, int, int] | None:
    for shard in path.parents:
        if shard.suffix == SUFFIX and shard.is_file():
            found = members(shard).get(path.relative_to(shard).as_posix())
            return None if found is None else (shard, *found)
    return None
