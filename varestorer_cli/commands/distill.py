"""``varestorer distill``: a multi-step teacher becomes a one-step student."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from varestorer_cli.commands._training import KeepOption, TextDropOption, TextsOption, shared_options


class Head(StrEnum):
    """How the student says its bits."""

    BITS = "bits"
    LATENT = "latent"


class Bits(StrEnum):
    """What picture losses see of a bits head."""

    SAMPLED = "sampled"
    GREEDY = "greedy"
    EXPECTED = "expected"


class Positions(StrEnum):
    """Where the extra block lies for the student."""

    NEXT_SCALE = "next_scale"
    LAST_SCALE = "last_scale"


@shared_options()
def distill(
    fields: dict[str, Any],
    teacher: Annotated[
        Path | None, typer.Option(help="Teacher run, file or model name [default: 'teacher' beside --out].")
    ] = None,
    prerestorer: Annotated[
        Path | None, typer.Option(help="Pre-restorer run, file or model name [default: 'prerestorer' beside --out].")
    ] = None,
    keep: KeepOption = None,
    head: Annotated[Head | None, typer.Option(help="bits (the paper's) or latent, instead of the preset's.")] = None,
    decoder: Annotated[
        float | None, typer.Option(help="Train the decoder at this fraction of the learning rate; 0 keeps it.")
    ] = None,
    encoder: Annotated[
        float | None, typer.Option(help="Train the encoder on degraded pictures, at this fraction of the rate.")
    ] = None,
    bits: Annotated[Bits | None, typer.Option(help="Bits that picture losses see; sampled is the paper's.")] = None,
    extra_positions: Annotated[
        Positions | None, typer.Option(help="Place of the extra block; last_scale is where it belongs.")
    ] = None,
    flips: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest probability of flipped bits in the student's input.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance of the teacher by --texts; 1 is none.")] = None,
    texts: TextsOption = None,
    text_drop: TextDropOption = None,
) -> None:
    """Distil a teacher into one forward pass; the result is a model for 'varestorer restore --model OUT'."""
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import train as run

    choices = {
        "encoder": encoder,
        "bits": bits and bits.value,
        "extra_positions": extra_positions and extra_positions.value,
        "flips": flips,
        "guidance": guidance,
        "text_drop": text_drop,
    }
    own: dict[str, Any] = {
        "variant": {name: value for name, value in choices.items() if value is not None},
        "decoder": decoder,
        "teacher": teacher,
        "prerestorer": prerestorer,
        "label_share": keep,
        "texts": texts,
        "head": head.value if head else None,
    }
    run(TrainOptions(stage="distill", **own, **fields))


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("distill", no_args_is_help=True)(distill)
