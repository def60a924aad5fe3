"""``varestorer labels``: let a larger restorer label training crops for ``distill --labels``."""

from typing import Annotated, Any

import typer

from varestorer_cli.commands._training import shared_options


@shared_options("data", "out", "preset", "cache", "recipe", "crops", "seed", "threads", "stop_after", "quiet")
def labels(
    fields: dict[str, Any],
    count: Annotated[int, typer.Option(min=1, help="Crops to label.")] = 1200,
) -> None:
    """Label crops with Real-ESRGAN x4plus (extra 'label'), 1.3 CPU seconds each; run again to go on."""
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import label

    label(TrainOptions(stage="distill", **fields), count)


def register(app: typer.Typer) -> None:
    """Add the command; hidden, as it serves those who train only."""
    app.command("labels", hidden=True, no_args_is_help=True)(labels)
