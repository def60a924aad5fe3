"""``varestorer train``: make a tokenizer, a pre-restorer or a teacher from photographs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from varestorer_cli.commands._training import KeepOption, TextDropOption, shared_options


class Stage(StrEnum):
    """Stages in the order they are trained."""

    PRERESTORER = "prerestorer"
    TOKENIZER = "tokenizer"
    TEACHER = "teacher"


@shared_options()
def train(
    fields: dict[str, Any],
    stage: Annotated[Stage, typer.Argument(help="What to train.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Tokenizer run, file or model name for the teacher [default: 'tokenizer' beside --out]."),
    ] = None,
    keep: KeepOption = None,
    text_drop: TextDropOption = None,
) -> None:
    """Train one stage on a folder of photographs.

    The order is prerestorer and tokenizer, then teacher (needs the tokenizer), then 'varestorer distill'.
    Degraded versions are made on the fly from a seed; a killed run goes on exactly with --resume.
    """
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import train as run

    variant = {} if text_drop is None else {"text_drop": text_drop}
    run(TrainOptions(stage=stage.value, tokenizer=tokenizer, label_share=keep, variant=variant, **fields))


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train", no_args_is_help=True)(train)
