"""``varestorer train``: make a pre-restorer, a tokenizer or a teacher from photographs; mix models."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.options import GROUPS
from varestorer_cli.core.training.options import CONFIG, PRESET, TrainOptions, VariantOptions

_HELP = """Train one stage on a folder of photographs, or mix models.

The order is prerestorer and tokenizer, then teacher (needs the tokenizer), then 'varestorer distill'. Degraded
versions of the photographs are made from a seed; a killed run goes on exactly with --resume.
"""


_Preset = Annotated[str | None, typer.Option("--preset", help=PRESET.help, show_default=PRESET.default_text)]
_Config = Annotated[Path | None, typer.Option("--config", metavar=CONFIG.metavar, help=CONFIG.help)]
_STAGES = {
    "prerestorer": "Train the first clean-up of a degraded image. --steps 0 writes the weights that it starts from.",
    "tokenizer": "Train the autoencoder whose latents become bits.",
    "teacher": "Train the multi-step transformer that predicts the bits of sharp images, scale after scale.",
}


def train(options: TrainOptions, variant: VariantOptions) -> None:
    """Train one stage."""
    from varestorer_cli.core.training.run import train as run

    run(replace(options, variant=variant.given()))


def average(
    models: Annotated[
        list[Path], typer.Argument(metavar="A B...", help="Models of the same layout: files, runs or names.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File (*.safetensors), or folder that gets model.safetensors.")
    ],
    mix: Annotated[
        str | None, typer.Option("--weights", metavar="W,W...", help="Weight of each model [default: the mean].")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the model in float16, half the size.")] = False,
    license_text: Annotated[
        str | None, typer.Option("--license", help="Licence to write into the file [default: the models' own].")
    ] = None,
) -> None:
    """Average the weights of two or more models: w = 0.5 A + 0.5 B, as network interpolation does."""
    from varestorer_cli.core.training.average import average_models

    try:
        weights = None if mix is None else [float(word) for word in mix.split(",")]
    except ValueError:
        raise UsageError(f"--weights {mix!r}: give one number per model, for example --weights 0.5,0.5") from None
    average_models(models, out, weights, half=half, license_text=license_text)


def dial(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Pre-restorer at the default point: file, run or name.")],
    faithful: Annotated[Path, typer.Argument(metavar="FAITHFUL", help="Pre-restorer at --fidelity 1.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File (*.safetensors), or folder that gets model.safetensors.")
    ],
    default: Annotated[float, typer.Option("--default", help="Fidelity that BASE stands for.")] = 0.25,
    license_text: Annotated[
        str | None, typer.Option("--license", help="Licence to write into the file [default: the models' own].")
    ] = None,
) -> None:
    """Write two pre-restorers of one layout into one file: restore --fidelity moves along the line through both."""
    from varestorer_cli.core.training.average import make_dial

    make_dial(base, faithful, out, default, license_text=license_text)


def show_config(
    context: typer.Context,
    asked: Annotated[bool, typer.Option("--show-config", help="Print a preset's sizes and recipes as TOML.")] = False,
    preset: _Preset = None,
    config: _Config = None,
) -> None:
    """Print a preset, or what a file makes of one; without a stage."""
    if context.invoked_subcommand is not None:
        if asked or preset is not None or config is not None:
            raise UsageError(
                f"options go behind the stage: varestorer train {context.invoked_subcommand} ... --show-config"
            )
        return
    if not asked:
        raise UsageError("give a stage (varestorer train --help), or --show-config to print a preset")
    from varestorer_cli.core.training.run import show_config as show

    show(preset, config)


def register(app: typer.Typer) -> None:
    """Add the command and its stages to the application."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.callback(help=_HELP, invoke_without_command=True)(show_config)
    for name, text in _STAGES.items():
        group.command(name, cls=GroupedCommand, help=text, no_args_is_help=True)(
            with_options(train, GROUPS, name=name, stage=name)
        )
    group.command("average", no_args_is_help=True)(average)
    group.command("dial", no_args_is_help=True)(dial)
    app.add_typer(group, name="train")
