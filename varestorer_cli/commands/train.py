"""``varestorer train``: make a tokenizer, a pre-restorer or a teacher from photographs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.commands import _training as shared


class Stage(StrEnum):
    """Stages in the order they are trained."""

    PRERESTORER = "prerestorer"
    TOKENIZER = "tokenizer"
    TEACHER = "teacher"


def train(
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    data: shared.Data,
    out: shared.Out,
    preset: shared.PresetName = "compact",
    steps: shared.Steps = None,
    batch: shared.BatchSize = None,
    lr: shared.LearningRate = None,
    loss: shared.Loss = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Tokenizer run or file for the teacher [default: 'tokenizer' beside --out]."),
    ] = None,
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    init: shared.Init = None,
    cache: shared.Cache = None,
    degradation: shared.Recipe = "moderate",
    crops: shared.Crops = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    threads: shared.Threads = None,
    checkpoint_minutes: shared.CheckpointMinutes = 5.0,
    log_every: shared.LogEvery = 20,
    sample_every: shared.SampleEvery = 500,
    stop_after: shared.StopAfter = None,
    license_text: shared.License = "",
    quiet: shared.Quiet = False,
) -> None:
    """Train one stage on a folder of photographs.

    The order is prerestorer and tokenizer, then teacher (needs the tokenizer), then 'varestorer distill'.
    Degraded versions are made on the fly from a seed; a killed run goes on exactly with --resume.
    """
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import train as run

    run(
        TrainOptions(
            stage=stage.value,
            data=data,
            out=out,
            preset=preset,
            steps=steps,
            batch=batch,
            learning_rate=lr,
            losses=shared.loss_weights(loss),
            tokenizer=tokenizer,
            seed=seed,
            resume=resume,
            init=init,
            cache=cache,
            recipe=degradation,
            crops=crops,
            device=device,
            precision=precision,
            threads=threads,
            checkpoint_minutes=checkpoint_minutes,
            log_every=log_every,
            sample_every=sample_every,
            stop_after=stop_after,
            license_text=license_text,
            quiet=quiet,
        )
    )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train", no_args_is_help=True)(train)
