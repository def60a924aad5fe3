"""``varestorer labels``: let a larger restorer label training crops for ``distill --labels``."""

from typing import Annotated

import typer

from varestorer_cli.commands import _training as shared


def labels(
    data: shared.Data,
    out: shared.Out,
    count: Annotated[int, typer.Option(min=1, help="Crops to label.")] = 1200,
    preset: shared.PresetName = "compact",
    cache: shared.Cache = None,
    degradation: shared.Recipe = "moderate",
    crops: shared.Crops = None,
    seed: shared.Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    stop_after: Annotated[float | None, typer.Option("--stop-after", help="Pause after so many minutes.")] = None,
    quiet: shared.Quiet = False,
) -> None:
    """Label crops with Real-ESRGAN x4plus (extra 'label'), 1.3 CPU seconds each; run again to go on."""
    from varestorer_cli.core.training.options import TrainOptions
    from varestorer_cli.core.training.run import label

    options = TrainOptions(
        stage="distill", data=data, out=out, preset=preset, cache=cache, recipe=degradation, crops=crops, seed=seed,
        threads=threads, stop_after=stop_after, quiet=quiet,
    )  # fmt: skip
    label(options, count)


def register(app: typer.Typer) -> None:
    """Add the command; hidden, as it serves those who train only."""
    app.command("labels", hidden=True, no_args_is_help=True)(labels)
