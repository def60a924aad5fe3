"""Options that ``train`` and ``distill`` share."""

from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.core.errors import UsageError

Data = Annotated[Path, typer.Argument(help="Folder of photographs, or a text file with one path a line.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: checkpoints, logs, pictures, model.")]
PresetName = Annotated[str, typer.Option("--preset", help="Model size: compact, smoke or 2b.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps instead of the preset's.")]
BatchSize = Annotated[int | None, typer.Option("--batch", min=1, help="Pictures a step instead of the preset's.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate instead of the preset's.")]
Loss = Annotated[
    list[str] | None,
    typer.Option("--loss", metavar="NAME=WEIGHT", help="Weight of a loss term; repeat for several, 0 drops one."),
]
Seed = Annotated[int, typer.Option(help="Seed of initialisation, data order and noise.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on exactly from the run's last checkpoint.")]
Init = Annotated[Path | None, typer.Option(help="Run folder or model file whose weights to start from.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for crop caches [default: 'cache' beside the run].")]
Recipe = Annotated[
    str,
    typer.Option("--degradation", help="moderate, realesrgan, mild, released, or a file with the known keys."),
]
Crops = Annotated[int | None, typer.Option(min=1, help="Training crops to cut instead of the preset's number.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads [default: what the machine gives].")]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between log lines.")]
SampleEvery = Annotated[int, typer.Option(min=1, help="Steps between validations with sample pictures.")]
StopAfter = Annotated[float | None, typer.Option("--stop-after", help="Pause with a checkpoint after so many minutes.")]
License = Annotated[str, typer.Option("--license", help="Licence to write into the model file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def loss_weights(entries: list[str] | None) -> dict[str, float]:
    """``["l1=1", "kl=0.1"]`` -> ``{"l1": 1.0, "kl": 0.1}``.

    Raises:
        UsageError: an entry of another form.
    """
    weights = {}
    for entry in entries or []:
        name, _, number = entry.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            raise UsageError(f"--loss {entry!r}: write NAME=WEIGHT, for example --loss l1=1.0") from None
    return weights
