"""``varestorer distill``: a multi-step teacher becomes a one-step student."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from varestorer_cli.commands._training import shared_options


class Head(StrEnum):
    """How the student says its bits."""

    BITS = "bits"
    LATENT = "latent"


@shared_options()
def distill(
    fields: dict[str, Any],
    teacher: Annotated[
        Path | None, typer.Option(help="Teacher run, file or model name [default: 'teacher' beside --out].")
    ] = None,
    prerestorer: Annotated[
        Path | None, typer.Option(help="Pre-restorer run, file or model name [default: 'prerestorer' beside --out].")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels made by 'varestorer labels': a sharper target than the photograph.")
    ] = None,
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="Warm-up: train the student's decoder alone, on pixel losses.")
    ] = False,
    head: Annotated[Head | None, typer.Option(help="bits (the paper's) or latent, instead of the preset's.")] = None,
) -> None:
    """Distil a teacher into one forward pass; the result is a model for 'varestorer restore --model OUT'."""
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import train as run

    own: dict[str, Any] = {
        "teacher": teacher,
        "prerestorer": prerestorer,
        "labels": labels,
        "decoder_only": decoder_only,
        "head": head.value if head else None,
    }
    run(TrainOptions(stage="distill", **own, **fields))


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("distill", no_args_is_help=True)(distill)
