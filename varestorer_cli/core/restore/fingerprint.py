"""Decide whether an existing output is up to date, by the fingerprint in the CSV report, then by the one in the file.

The fingerprint of an output is a hash over its input's bytes, the model's bytes and the settings. It stands in the
report, and in the Software field of the file.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.reader import TooLargeError, decode, read_bytes
from varestorer_cli.core.image.writer import read_software
from varestorer_cli.core.report.rows import Row
from varestorer_cli.version import __version__

UP_TO_DATE = "up to date"
FOREIGN = "the output exists and was not made by varestorer; kept (--existing overwrite replaces it)"
CHANGED = "the output was changed after it was written; kept (--existing overwrite replaces it)"
_CAPTION_KEPT = 200


@dataclass(frozen=True)
class Identity:
    """What decides the bytes of an output."""

    input_sha256: str
    model_sha256: str
    settings_sha256: str

    @property
    def fingerprint(self) -> str:
        """One hash over all three."""
        text = f"{self.input_sha256}\n{self.model_sha256}\n{self.settings_sha256}"
        return hashlib.sha256(text.encode()).hexdigest()

    def matches(self, row: Row) -> bool:
        """Whether a report row is about the same input, model and settings."""
        return (row.input_sha256, row.model_sha256, row.settings_sha256) == (
            self.input_sha256,
            self.model_sha256,
            self.settings_sha256,
        )


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def software_text(identity: Identity, *, model: str, scale: float, tile: int, seed: int, caption: str = "") -> str:
    """Provenance for the Software field of a file; ASCII, so a caption in another script is escaped."""
    text = f"; caption {json.dumps(caption[:_CAPTION_KEPT])}" if caption else ""
    return (
        f"varestorer {__version__}; model {model} {identity.model_sha256[:12]}; scale {scale:.6g}; tile {tile}; "
        f"seed {seed}{text}; fingerprint {identity.fingerprint}"
    )


def file_fingerprint(path: Path) -> str | None:
    """Fingerprint in a file of ours, None where the file is not ours."""
    found = re.match(r"varestorer .*fingerprint ([0-9a-f]{64})", read_software(path))
    return found[1] if found else None


def look_at(path: Path, *, read: bool = True) -> bool:
    """Whether an output exists and is not empty.

    Args:
        path: the output.
        read: whether it must be readable, too.

    Raises:
        InputError: its place cannot be looked at, so that nothing is known of it and it could not be replaced.
    """
    try:
        state = path.stat()
        size = state.st_size
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if read and size:
            with path.open("rb") as stream:
                stream.read(1)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(
            f"the output {path} cannot be looked at ({error.strerror or error}); choose another name with --name, "
            "or another output folder"
        ) from error
    return size > 0


def reason_to_keep(path: Path, identity: Identity, earlier_rows: Callable[[], Sequence[Row]]) -> str | None:
    """Why an existing output stays as it is (:data:`UP_TO_DATE`, :data:`FOREIGN`, :data:`CHANGED`).

    None means: make it (again). That is so where nothing exists, where the file is ours but of another input, model
    or setting, and where it is damaged.

    Args:
        path: the output.
        identity: what this run would make.
        earlier_rows: the rows of reports about the output, of whatever run and shard.

    Raises:
        InputError: the output cannot be looked at.
    """
    if not look_at(path):
        return None
    rows = earlier_rows()
    if rows:
        data = read_bytes(path)
        digest = sha256(data)
        ours = [row for row in rows if row.output_sha256 == digest]
        if ours:
            return UP_TO_DATE if any(identity.matches(row) for row in ours) else None
        if not _whole(data):
            return None
        return UP_TO_DATE if file_fingerprint(path) == identity.fingerprint else CHANGED
    found = file_fingerprint(path)
    if found is None:
        return FOREIGN
    try:
        whole = _whole(read_bytes(path))
    except InputError:
        return None
    return UP_TO_DATE if whole and found == identity.fingerprint else None


def _whole(data: bytes) -> bool:
    try:
        decode(data)
    except TooLargeError:
        return True  # its header and checksums were read; that its pixels are not is no fault of the file
    except InputError:
        return False
    return True
