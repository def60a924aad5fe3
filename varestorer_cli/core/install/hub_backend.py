"""Download of published weights from the Hugging Face hub; the only module that imports huggingface_hub.

The library sends the requests: its cache, ``HF_ENDPOINT`` (a mirror), ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean here
what they mean everywhere. It resumes a download only within one process, and these files take hours on a slow line; so
the bytes are collected in a file of the cache that outlives the process, checked, and given the name under which the
library looks for them.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, OutputError
from varestorer_cli.core.extras import install_command
from varestorer_cli.core.weights.catalog import PublishedFile
from varestorer_cli.core.weights.file_hash import file_sha256
from varestorer_cli.core.weights.root import PublishedSource

_ATTEMPTS = 5
_PAUSE = 2.0  # seconds before the second attempt; doubled each time

_WITHOUT = (
    "HF_ENDPOINT names a mirror, HF_TOKEN logs in, HF_HUB_OFFLINE=1 uses the cache alone. Without a network: on "
    "another machine, varestorer weights pull {name} --to DIR, then here varestorer weights import DIR"
)


def _library() -> ModuleType:
    try:
        # reads its environment variables when it is imported, so not before it is needed
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingDependencyError(
            f"weights pull needs the package huggingface_hub ({error}): {install_command('hub')}"
        ) from error
    return huggingface_hub


@dataclass(frozen=True)
class _Remote:
    """Metadata of a file on the hub: commit, hash or other tag, size in bytes (None where not stated)."""

    commit: str
    etag: str
    size: int | None


class Hub:
    """Client of the hub for one command.

    Args:
        name: what is pulled, for advice.
        say: called with one sentence per step.
        quiet: without progress bars.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
    """

    def __init__(self, name: str, say: Callable[[str], None], quiet: bool) -> None:
        library = _library()
        self._library: Any = library
        self._advice = _WITHOUT.format(name=name)
        self._say = say
        self.cache = Path(library.constants.HF_HUB_CACHE)
        if quiet:
            library.utils.disable_progress_bars()

    def has(self, published: PublishedFile) -> bool:
        """True if the repository has the file (in offline mode: if the cache has it).

        Raises:
            MissingDependencyError: the hub cannot be asked.
        """
        revision = published.revision or "main"
        try:
            self._remote(published, revision)
        except MissingDependencyError as error:
            if isinstance(error.__cause__, self._library.errors.OfflineModeIsEnabled):
                return False
            if getattr(getattr(error.__cause__, "response", None), "status_code", 0) == 404:
                return False
            raise
        return True

    def fetch(self, published: PublishedFile, known: PublishedSource | None) -> tuple[Path, PublishedSource]:
        """Path of the file in the hub's cache, downloaded where it is missing, and its source record.

        Args:
            published: the file.
            known: its recorded source; commit and hash must then be the same.

        Raises:
            MissingDependencyError: it cannot be downloaded.
            CheckpointError: it has another hash than expected.
            OutputError: the cache cannot be written.
        """
        revision = published.revision or (known.revision if known else "") or "main"
        remote = self._remote(published, revision)
        if remote is None:
            path = Path(self._library.hf_hub_download(
                published.repository, published.path, revision=revision, local_files_only=True
            ))  # fmt: skip
            self._say(f"{published.key}: from the cache, the hub is not asked")
        else:
            expected = _expected(published, known, remote.etag)
            self._complete(published, revision, remote, expected)
            path = Path(self._library.hf_hub_download(published.repository, published.path, revision=revision))
        expected = _expected(published, known, remote.etag if remote else "")
        digest = file_sha256(path)
        if expected and digest != expected:
            raise CheckpointError(_wrong_hash(published, path, digest, expected))
        if not expected:
            self._say(f"{published.key}: no hash is known to compare with; {digest} is recorded for the next time")
        found = re.search(r"snapshots[/\\]([0-9a-f]+)[/\\]", str(path))
        commit = found[1] if found else (remote.commit if remote else "")
        source = PublishedSource(
            published.name, digest, path.stat().st_size, published.repository, commit, published.licence
        )
        return path, source

    def _remote(self, published: PublishedFile, revision: str) -> _Remote | None:
        """Hash and size of the file from the hub; None where the hub cannot be reached and the cache has the file."""
        url = self._library.hf_hub_url(published.repository, published.path, revision=revision)
        try:
            found = self._with_retries(lambda: self._library.get_hf_file_metadata(url))
        except self._library.errors.HfHubHTTPError as error:
            raise self._unavailable(published, revision, error) from error
        except Exception as error:  # the class of a network error depends on the library's version
            cached = self._library.try_to_load_from_cache(published.repository, published.path, revision=revision)
            if isinstance(cached, str):
                return None
            raise self._unavailable(published, revision, error) from error
        return _Remote(found.commit_hash or "", found.etag or "", found.size)

    def _complete(self, published: PublishedFile, revision: str, remote: _Remote, expected: str) -> None:
        """Download the file to the place in the cache where the library looks for it; resumes a partial download."""
        name = "models--" + published.repository.replace("/", "--")
        if not re.fullmatch(r"[0-9a-zA-Z_.-]+", remote.etag) or remote.etag.startswith("."):
            return  # no name for a file; the library may know what to do
        blob = self.cache / name / "blobs" / remote.etag
        if blob.exists():
            return
        part = blob.with_name(f"{remote.etag}.varestorer-part")
        url = self._library.hf_hub_url(published.repository, published.path, revision=revision)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
            if remote.size is not None and part.stat().st_size > remote.size:
                part.write_bytes(b"")
        except OSError as error:
            raise OutputError(f"{part}: cannot be written ({error.strerror}); HF_HOME moves the cache") from error
        if part.stat().st_size:
            self._say(f"{published.key}: going on after {part.stat().st_size / 1e6:.0f} MB")
        try:
            self._with_retries(lambda: self._transfer(url, part, remote.size))
        except Exception as error:
            raise self._unavailable(published, revision, error) from error
        digest = file_sha256(part) if expected else ""
        if digest != expected:
            part.unlink()
            raise CheckpointError(_wrong_hash(published, part, digest, expected))
        part.replace(blob)

    def _transfer(self, url: str, part: Path, size: int | None) -> None:
        headers = self._library.utils.build_hf_headers() | {"Accept-Encoding": "identity"}
        with part.open("r+b") as stream:
            done = stream.seek(0, 2)
            self._library.file_download.http_get(url, stream, resume_size=done, headers=headers, expected_size=size)

    def _with_retries(self, work: Callable[[], Any]) -> Any:
        """Call ``work``; retry after network errors and busy servers, not after a refusal."""
        for attempt in range(_ATTEMPTS):
            try:
                return work()
            except self._library.errors.OfflineModeIsEnabled:
                raise
            except Exception as error:
                status = getattr(getattr(error, "response", None), "status_code", 0)
                if attempt + 1 == _ATTEMPTS or (400 <= status < 500 and status not in (408, 429)):
                    raise
                pause = _PAUSE * 2**attempt
                self._say(f"{_first_line(error)}; trying again in {pause:.0f} s ({attempt + 2} of {_ATTEMPTS})")
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _unavailable(self, published: PublishedFile, revision: str, error: Exception) -> MissingDependencyError:
        at = f" at {revision[:12]}" if revision != "main" else ""
        return MissingDependencyError(
            f"{published.key}{at}: cannot be downloaded ({_first_line(error)}). {self._advice}"
        )


def _expected(published: PublishedFile, known: PublishedSource | None, etag: str) -> str:
    """SHA-256 the file must have: from the catalogue, the record or the hub (tag of large files); "" if unknown."""
    return published.sha256 or (known.sha256 if known else "") or (etag if re.fullmatch("[0-9a-f]{64}", etag) else "")


def _wrong_hash(published: PublishedFile, path: Path, digest: str, expected: str) -> str:
    return (
        f"{published.key}: {path} has the hash {digest}, expected {expected}; it is damaged or not the published file. "
        "Delete it and pull again; where the authors have published another one, start an empty weights root"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
