"""``varestorer distill``: a multi-step teacher becomes a one-step student."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.commands import _training as shared


class Head(StrEnum):
    """How the student says its bits."""

    BITS = "bits"
    LATENT = "latent"


def distill(
    data: shared.Data,
    out: shared.Out,
    teacher: Annotated[Path | None, typer.Option(help="Teacher run or file [default: 'teacher' beside --out].")] = None,
    prerestorer: Annotated[
        Path | None, typer.Option(help="Pre-restorer run or file [default: 'prerestorer' beside --out].")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels made by 'varestorer labels': a sharper target than the photograph.")
    ] = None,
    head: Annotated[Head | None, typer.Option(help="bits (the paper's) or latent, instead of the preset's.")] = None,
    preset: shared.PresetName = "compact",
    steps: shared.Steps = None,
    batch: shared.BatchSize = None,
    lr: shared.LearningRate = None,
    loss: shared.Loss = None,
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
    half: Annotated[bool, typer.Option("--half", help="Store the model in float16, half the size.")] = False,
    quiet: shared.Quiet = False,
) -> None:
    """Distil a teacher into one forward pass; the result is a model for 'varestorer restore --model OUT'."""
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import train as run

    run(
        TrainOptions(
            stage="distill",
            data=data,
            out=out,
            preset=preset,
            steps=steps,
            batch=batch,
            learning_rate=lr,
            losses=shared.loss_weights(loss),
            head=head.value if head else None,
            teacher=teacher,
            prerestorer=prerestorer,
            labels=labels,
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
            half=half,
            quiet=quiet,
        )
    )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("distill", no_args_is_help=True)(distill)
