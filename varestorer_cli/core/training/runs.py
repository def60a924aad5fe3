"""Training runs read from their folders and put beside each other: figures, settings that differ."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.phrases import named, reason_of, visible
from varestorer_cli.core.training.config import flat, nearest
from varestorer_cli.core.training.run_folder import LOG, RECORD, read_best

FIRST = ("psnr_y", "ssim_y", "psnr", "cross_entropy", "kl", "bit_accuracy", "psnr_over_noise")
"""Validation figures of the table, where a run has them and none are asked for."""
_NO_SETTINGS = ("starts", "recipe", "cache", "config.name", "config.recipes")

Series = Mapping[str, tuple[tuple[int, float], ...]]
"""(step, value) pairs by the name of the figure."""


@dataclass(frozen=True)
class TrainingRun:
    """What the folder of a training run says.

    Attributes:
        path: the folder.
        name: how it is called beside the others.
        record: of ``run.json``.
        train: figures of the steps.
        validation: figures on held-out crops.
        skipped: rows of the log that could not be read.
    """

    path: Path
    name: str
    record: Mapping[str, Any]
    train: Series
    validation: Series
    skipped: int = 0

    @property
    def step(self) -> int:
        """The last step in the log."""
        every = [*self.train.values(), *self.validation.values()]
        return max((rows[-1][0] for rows in every), default=0)

    @property
    def steps(self) -> int:
        """Steps of its recipe."""
        return int(self.recipe.get("steps", 0))

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of its stage."""
        return dict(self.record.get("recipe", {}))

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings on one level, by name with dots; the recipe of its own stage only."""
        found = {
            name: value
            for name, value in flat(dict(self.record)).items()
            if not any(name == start or name.startswith(start + ".") for start in _NO_SETTINGS)
        }
        return found | flat(dict(self.recipe), "recipe.")


def find_runs(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Run folders with names that tell them apart.

    Raises:
        UsageError: nothing given, or a folder without a run.
    """
    if not paths:
        raise UsageError("no run is given; name run folders, or a folder that holds them")
    found: list[Path] = []
    for path in paths:
        inner = [path] if _is_run(path) else sorted(child for child in path.glob("*") if _is_run(child))
        if not inner:
            raise UsageError(f"{path}: no training run ({RECORD} or {LOG} is missing) and no folder with one in it")
        found += [run for run in inner if run not in found]
    names = [path.name for path in found]
    return [(path, path.name if names.count(path.name) == 1 and path.name else path.as_posix()) for path in found]


def _is_run(path: Path) -> bool:
    return (path / LOG).is_file() and (path / RECORD).is_file()


def read_run(path: Path, name: str = "") -> TrainingRun:
    """Read the record and the log of a run, one that is still going on too.

    Raises:
        UsageError: one of them cannot be read.
    """
    series: dict[str, dict[str, list[tuple[int, float]]]] = {"train": {}, "validation": {}}
    skipped = 0
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        with (path / LOG).open(newline="", encoding="utf-8", errors="replace") as stream:
            for row in list(csv.reader(stream))[1:]:
                try:
                    kind, step, figure, value = row
                    series[kind].setdefault(figure, []).append((int(step), float(value)))
                except (ValueError, KeyError):
                    skipped += 1
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: the run cannot be read ({reason_of(error)}); leave it out") from error
    if not isinstance(record, dict):
        raise UsageError(f"{path / RECORD}: not the record of a run; leave it out")
    train, validation = ({key: tuple(rows) for key, rows in series[kind].items()} for kind in ("train", "validation"))
    return TrainingRun(path, name or path.name, record, train, validation, skipped)


def chosen_figures(runs: Sequence[TrainingRun], asked: str | None) -> tuple[str, ...]:
    """The validation figures of the table.

    Raises:
        UsageError: one that no run has.
    """
    known = sorted({name for run in runs for name in run.validation})
    if asked is None:
        usual = tuple(name for name in FIRST if name in known)
        return usual or tuple(name for name in known if "/" not in name)[: len(FIRST)]
    figures = tuple(dict.fromkeys(word.strip() for word in asked.split(",") if word.strip()))
    for name in figures:
        if name not in known:
            hint = nearest(name, known) if known else "; none has a validation yet, which needs held-out photographs"
            raise UsageError(f"--figures {name}: no run has it{hint}")
    return figures


def differences(runs: Sequence[TrainingRun]) -> dict[str, tuple[Any, ...]]:
    """Settings in which the runs differ: one value per run by the setting's name, None where a run has it not.

    Runs of different stages are compared by what all of them have.
    """
    settings = [run.settings for run in runs]
    names = list(dict.fromkeys(name for each in settings for name in each))
    if len({run.record.get("stage") for run in runs}) > 1:
        names = [name for name in names if all(name in each for each in settings)]
    values = {name: tuple(each.get(name) for each in settings) for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def last(run: TrainingRun, figure: str) -> float | None:
    """The newest value of a validation figure."""
    rows = run.validation.get(figure)
    return rows[-1][1] if rows else None


def table(runs: Sequence[TrainingRun], figures: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the comparison: what a run is, how far it came, its loss, its newest validation."""
    head = ("run", "stage", "preset", "step", "batch", "lr", "seed", "loss", *figures, "best")
    rows = []
    for run in runs:
        best, loss = read_best(run.path), run.train.get("loss")
        rows.append(
            (
                visible(run.name),
                str(run.record.get("stage", "")),
                str(run.record.get("preset", "")),
                f"{run.step}/{run.steps}",
                str(run.recipe.get("batch", "")),
                number(run.recipe.get("learning_rate")),
                str(run.record.get("seed", "")),
                number(loss[-1][1] if loss else None),
                *(number(last(run, figure)) for figure in figures),
                f"{best.metric} {number(best.value)} at {best.step}" if best else "",
            )
        )
    return head, rows


def number(value: Any) -> str:
    """A number with four significant digits; empty for None."""
    if not isinstance(value, int | float):
        return ""
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def setting_rows(different: Mapping[str, tuple[Any, ...]]) -> list[tuple[str, ...]]:
    """Rows of the table of settings that differ."""
    return [(name, *(_setting(value) for value in values)) for name, values in different.items()]


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return named(value, 12)
    text = number(value) if isinstance(value, float) else "" if value is None else visible(str(value))
    return text if len(text) <= 24 else f"{text[:20]}..."
