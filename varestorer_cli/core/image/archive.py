"""Archives of images (zip, cbz, tar) read as folders: ``scans.zip/a/b.png`` is the path of a member."""

import functools
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.phrases import reason_of

SUFFIXES = frozenset({".zip", ".cbz", ".tar"})
_MOST_RATIO = 200  # of a large member: no image that is worth restoring compresses so well
_LARGE_MEMBER = 1 << 26  # bytes
_TAR_MARK = 257  # place of the mark in a header (POSIX.1-1988, ustar)


@dataclass(frozen=True)
class _Member:
    """Where a member's bytes are: a zip entry, or a place in a tar file."""

    size: int
    packed: int
    zip: zipfile.ZipInfo | None = None
    offset: int = 0


_Contents = tuple[zipfile.ZipFile | None, dict[str, _Member], frozenset[str]]
"""An open zip file (None for tar), its files by name, and names that several of them have."""


def is_archive(path: Path) -> bool:
    """Whether a path is an archive, by suffix and being a file; its content is looked at when it is read."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def split(path: str | Path) -> tuple[Path, str] | None:
    """Archive and name of the member that a path stands for; None for a path that leads into no archive."""
    path = Path(path)
    for parent in path.parents:
        if parent.suffix.lower() in SUFFIXES and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def members(path: Path) -> list[str]:
    """Names of the files in an archive, in order of their bytes.

    Raises:
        InputError: it cannot be read.
    """
    return sorted(_contents(path)[1], key=os.fsencode)


def repeated(path: Path) -> frozenset[str]:
    """Names that several files of an archive have; the last file counts.

    Raises:
        InputError: it cannot be read.
    """
    return _contents(path)[2]


def is_inside(name: str) -> bool:
    """Whether a member's name stays below the archive; others are never read."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts


def read_member(path: Path, name: str, most: int) -> bytes:
    """Bytes of a member.

    Args:
        path: the archive.
        name: of the member.
        most: bytes above which it is refused.

    Raises:
        InputError: it is not there, encrypted, damaged, too large, or a bomb.
    """
    file, index, _ = _contents(path)
    found = index.get(name)
    if found is None:
        raise InputError(f"{path.name} holds no file {name}")
    if found.size > most:
        raise InputError(f"it has {found.size / 1e9:.1f} GB, the limit is {most / 1e9:.1f}")
    if found.size > max(_LARGE_MEMBER, _MOST_RATIO * found.packed):
        raise InputError(f"{found.packed} bytes become {found.size}: a decompression bomb")
    try:
        if file is not None and found.zip is not None:
            with file.open(found.zip) as stream:
                return stream.read(found.size + 1)
        with path.open("rb") as stream:
            stream.seek(found.offset)
            data = stream.read(found.size)
    except NotImplementedError as error:
        raise InputError(
            f"its compression in {path.name} is not supported ({error}); unpack the archive first"
        ) from error
    except RuntimeError as error:  # what zipfile raises for an encrypted member
        raise InputError(f"it cannot be read from {path.name} ({error}); unpack the archive first") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"it is damaged in {path.name} ({error})") from error
    if len(data) < found.size:
        raise InputError(f"{path.name} is cut off")
    return data


def _contents(path: Path) -> _Contents:
    try:
        state = path.stat()
        return _opened(str(path), state.st_mtime_ns, state.st_size, os.getpid())
    except OSError as error:
        raise InputError(f"the archive cannot be read: {reason_of(error)}") from error
    except (zipfile.BadZipFile, tarfile.TarError, ValueError, EOFError, NotImplementedError) as error:
        raise InputError(f"the archive is damaged or cut off ({reason_of(error)})") from error


@functools.lru_cache(maxsize=4)
def _opened(path: str, mtime: int, size: int, process: int) -> _Contents:
    """What an archive holds, kept while file and process stay the same."""
    if not _is_tar(path) and zipfile.is_zipfile(path):
        file = zipfile.ZipFile(path)
        infos = [info for info in file.infolist() if not info.is_dir() and not _is_link(info)]
        found = [(info.filename, _Member(info.file_size, info.compress_size, info)) for info in infos]
        return file, *_by_name(found)
    with tarfile.open(path, "r:") as tar:
        files = [member for member in tar if member.isreg() and not member.issparse()]
        return None, *_by_name([(m.name, _Member(m.size, m.size, offset=m.offset_data)) for m in files])


def _by_name(found: Sequence[tuple[str, _Member]]) -> tuple[dict[str, _Member], frozenset[str]]:
    named = [(_plain(name), member) for name, member in found]
    return dict(named), frozenset(name for name, count in Counter(name for name, _ in named).items() if count > 1)


def _plain(name: str) -> str:
    """A member's name as paths have it, without ``./`` and doubled slashes; one that leads out stays as it is."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return name if name.startswith("/") or ".." in parts else "/".join(parts)


def _is_tar(path: str) -> bool:
    """Whether a file begins as tar files do: one that ends with a zip file would pass for that zip file."""
    with Path(path).open("rb") as stream:
        head = stream.read(_TAR_MARK + 5)
    return head[_TAR_MARK:] == b"ustar" and not head.startswith(b"PK")


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)
