"""Runs of the smallest preset, for tests of training: their options, and what they logged."""

import csv
from dataclasses import replace
from pathlib import Path

from varestorer_cli.core.training.options import TrainOptions


def options(stage: str, photos: Path, run: Path, **changes: object) -> TrainOptions:
    base = TrainOptions(
        stage=stage,
        data=photos,
        out=run / stage,
        preset="smoke",
        crops=24,
        threads=1,
        device="cpu",
        log_every=1,
        sample_every=4,
        quiet=True,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def losses(folder: Path) -> dict[int, str]:
    """Loss by step as written in the log."""
    with (folder / "log.csv").open() as stream:
        rows = csv.DictReader(stream)
        return {int(r["step"]): r["value"] for r in rows if r["kind"] == "train" and r["name"] == "loss"}


def figures(folder: Path, kind: str) -> dict[str, dict[int, float]]:
    """Values by name and step of a run's log."""
    found: dict[str, dict[int, float]] = {}
    with (folder / "log.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["kind"] == kind:
                found.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return found


def earlier_stages(stage: str, chain: Path) -> dict[str, Path]:
    """The runs that a stage needs, by the option that names them."""
    needed = {"teacher": ("tokenizer",), "distill": ("prerestorer", "teacher")}
    return {name: chain / name for name in needed.get(stage, ())}
