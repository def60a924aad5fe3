"""The record of a run, ``run.json``: its effective settings, and each start with command line, versions and device."""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.training.checkpoint import SIZES
from varestorer_cli.core.training.config import to_plain
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Preset
from varestorer_cli.core.training.run_folder import RECORD
from varestorer_cli.version import __version__


def write_record(
    options: TrainOptions, config: Preset, identity: Mapping[str, Any], device: str, processes: int
) -> None:
    """Write the settings of a run, and add this start to those before.

    Args:
        options: of the run.
        config: its effective configuration.
        identity: settings that a resumed run must share, the hash of the data and of frozen weights among them.
        device: where it computes, in words.
        processes: that share the work.

    Raises:
        OutputError: it cannot be written.
    """
    path = options.out / RECORD
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {"varestorer": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": _commit(),
        "device": device,
        "processes": processes,
        "learning_rate": identity["recipe"]["learning_rate"],
        "resume": options.resume,
        "options": {name: value for name, value in vars(options).items() if value not in (None, {})},
    }
    settings = {name: value for name, value in identity.items() if name != SIZES}
    record = {**settings, "config": to_plain(config), "starts": [*_earlier_starts(path), start]}
    with atomic_file(path) as stream:
        stream.write((json.dumps(record, indent=1, default=str) + "\n").encode())


def _earlier_starts(path: Path) -> list[Any]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")).get("starts", []))
    except (OSError, ValueError, AttributeError):
        return []


def _commit() -> str | None:
    """Commit of the code where it runs from a repository, with ``+changes`` where files differ from it."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def hash_of_texts(folder: Path) -> str:
    """SHA-256 over names and sizes of the files of a folder of text features."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
