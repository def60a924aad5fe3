"""SHA-256 of files; that of a large model file is remembered, so that it is computed once and not at every start.

The cache folder holds ``hashes.json``: by absolute path the file's size, times, inode and device, and the hash. A file
that differs in any of them is read again. ``weights verify`` never looks there, it reads the whole file.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import OutputError
from varestorer_cli.core.folders import cache_folder

CACHE = "hashes.json"
LARGE = 1 << 28
"""Size in bytes from which a hash is remembered; smaller files are read in a fraction of a second."""
_KEPT = 100  # files that are remembered, the last ones
_PATIENCE = 120  # seconds that a process waits for another's hash


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """As :func:`file_sha256`, without reading a large file that is the one whose hash is remembered.

    Of several processes that ask at the same time, one reads the file and the others wait for what it remembers.
    Without a cache folder that can be written, every call reads the file.
    """
    folder = cache_folder()
    if folder is None or path.stat().st_size < LARGE:
        return file_sha256(path)
    cache = folder / CACHE
    found = _look_up(cache, path)
    if found:
        return found
    import filelock  # here, not above: no small file needs it

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{cache}.lock", timeout=_PATIENCE):
            return _look_up(cache, path) or _compute(cache, path)
    except (OSError, OutputError, filelock.Timeout):
        return file_sha256(path)


def _identity(path: Path) -> list[int]:
    """What changes when a file is written or replaced."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _read(cache: Path) -> dict[str, tuple[list[int], str]]:
    """What is remembered; nothing where the cache is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        stored = json.loads(cache.read_bytes())
        return {str(name): (list(identity), str(digest)) for name, (identity, digest) in stored.items()}
    return {}


def _look_up(cache: Path, path: Path) -> str:
    identity, digest = _read(cache).get(str(path.resolve()), ([], ""))
    return digest if identity == _identity(path) and len(digest) == 64 else ""


def _compute(cache: Path, path: Path) -> str:
    before = _identity(path)
    digest = file_sha256(path)
    if _identity(path) == before:  # else it was written meanwhile
        known = _read(cache)
        name = str(path.resolve())
        known.pop(name, None)
        known[name] = before, digest
        kept = dict(list(known.items())[-_KEPT:])
        with suppress(OSError, OutputError), atomic_file(cache) as stream:
            stream.write(json.dumps(kept, indent=1).encode())
    return digest
