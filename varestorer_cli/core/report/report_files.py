"""The files a run leaves beside its pictures: how reports are called, and the list of failures."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from varestorer_cli.core.sharding import Shard

FAILED_LIST_HEADER = "# varestorer: inputs that failed; give this file back as @failed.txt\n"


def report_name(shard: Shard | None, name: str = "metrics", suffix: str = ".csv", frames: str | None = None) -> str:
    """File name of a report; it carries the shard and the frames, so that tasks of a farm never share one."""
    part = f".{shard.index}-of-{shard.count}" if shard is not None else ""
    if frames is not None:
        spec = re.sub(r"[^\w,-]", "_", frames.strip())
        digest = hashlib.sha256(frames.encode()).hexdigest()[:12]
        part += f".frames-{spec if len(spec) <= 60 else spec[:40] + '_' + digest}"
    return f"{name}{part}{suffix}"


def failed_list_path(report: Path) -> Path:
    """The list of failures that belongs to a report: ``failed.txt`` for ``metrics.csv``."""
    stem = report.stem
    name = "failed" + stem.removeprefix("metrics") if stem.startswith("metrics") else f"{stem}.failed"
    return report.with_name(f"{name}.txt")


def reports_in(folder: Path) -> list[Path]:
    """Report files of a folder, of all shards."""
    with suppress(OSError):
        return sorted(folder.glob("metrics*.csv"))
    return []


def write_failed_list(path: Path, inputs: list[str]) -> Path | None:
    """Write the list of failed inputs, or remove the one of an earlier run when there are none.

    Returns:
        the file, None where none was written (no failures, or a file that is not ours has the name).
    """
    try:
        with path.open("rb") as stream:
            ours = stream.read(len(FAILED_LIST_HEADER)) == FAILED_LIST_HEADER.encode()
        if not ours:
            return None
        if not inputs:
            path.unlink()
    except FileNotFoundError:
        pass
    if not inputs:
        return None
    # in a list, # begins a comment and a line ends a name
    names = [f"./{name}" if name.startswith("#") else name for name in inputs if "\n" not in name]
    lines = "".join(f"{name}\n" for name in names)
    path.write_bytes(FAILED_LIST_HEADER.encode() + lines.encode("utf-8", "surrogateescape"))
    return path


def read_failed_list(path: Path) -> list[str]:
    """Inputs of a list of failures; none where the file is not one, or is not there."""
    with suppress(OSError):
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        if text.startswith(FAILED_LIST_HEADER):
            return [name for name in text.removeprefix(FAILED_LIST_HEADER).split("\n") if name]
    return []
