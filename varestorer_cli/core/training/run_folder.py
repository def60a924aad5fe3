"""What lies in the folder of a training run: record, log, checkpoints, the best one. Needs no torch."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from varestorer_cli.core.atomic import atomic_file, remove_stale_parts

RECORD = "run.json"
LOG = "log.csv"
BEST = "best.json"
BEST_MODEL = "best.safetensors"
_NAME = re.compile(r"checkpoint_(\d{8})(\.pt)?")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first: files and folders of pieces."""
    found = [path for path in folder.glob("checkpoint_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name[:19], path.is_dir()), reverse=True)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, a file or a folder of pieces."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint, ignore_errors=True)
    else:
        checkpoint.unlink(missing_ok=True)


def remove_remains(folder: Path) -> None:
    """Remove what a process that was killed while it wrote a checkpoint left in a run folder."""
    remove_stale_parts({folder})
    for path in folder.glob(".checkpoint_*.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Best:
    """The validation with the best value of a figure so far; its checkpoint stays.

    Attributes:
        metric: name of the figure.
        value: of the figure.
        step: of the validation, and of the checkpoint.
    """

    metric: str
    value: float
    step: int


def read_best(folder: Path) -> Best | None:
    """The best validation of a run folder, None where none is noted or its checkpoint is gone."""
    try:
        noted = json.loads((folder / BEST).read_text(encoding="utf-8"))
        best = Best(str(noted["metric"]), float(noted["value"]), int(noted["step"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return best if any(step_of(path) == best.step for path in checkpoints(folder)) else None


def write_best(folder: Path, best: Best) -> None:
    """Note the best validation of a run.

    Raises:
        OutputError: it cannot be written.
    """
    notes = {**asdict(best), "checkpoint": f"checkpoint_{best.step:08d}", "model": BEST_MODEL}
    with atomic_file(folder / BEST) as stream:
        stream.write((json.dumps(notes, indent=1) + "\n").encode())


def step_of(checkpoint: Path) -> int:
    """Step of a checkpoint by its name."""
    found = _NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else -1
