"""``varestorer train``: make a pre-restorer, a tokenizer or a teacher from photographs; mix models."""

from dataclasses import replace

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand, WrappedGroup
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.shared_options import GROUPS
from varestorer_cli.core.training.options import TrainOptions, VariantOptions
from varestorer_cli.core.training.tool_options import AverageOptions, ConfigOptions, DialOptions

_HELP = """Train one stage on a folder of photographs, or mix models.

The order is prerestorer and tokenizer, then teacher (needs the tokenizer), then 'varestorer distill'. Degraded
versions of the photographs are made from a seed; a killed run goes on exactly with --resume.
"""
_STAGES = {
    "prerestorer": "Train the first clean-up of a degraded image. --steps 0 writes the weights that it starts from.",
    "tokenizer": "Train the autoencoder whose latents become bits.",
    "teacher": "Train the multi-step transformer that predicts the bits of sharp images, scale after scale.",
}
_AVERAGE = "Average the weights of two or more models: w = 0.5 A + 0.5 B, as network interpolation does."
_DIAL = "Write two pre-restorers of one layout into one file: restore --fidelity moves along the line through both."


def register(app: typer.Typer) -> None:
    """Add the command and its stages to the application."""
    group = typer.Typer(cls=WrappedGroup, no_args_is_help=True, rich_markup_mode=None)
    group.callback(help=_HELP, invoke_without_command=True)(with_options(show_config))
    for name, text in _STAGES.items():
        group.command(name, cls=GroupedCommand, help=text, no_args_is_help=True)(
            with_options(train, GROUPS, name=name, stage=name)
        )
    group.command("average", cls=GroupedCommand, help=_AVERAGE, no_args_is_help=True)(with_options(average))
    group.command("dial", cls=GroupedCommand, help=_DIAL, no_args_is_help=True)(with_options(dial))
    app.add_typer(group, name="train")


def train(options: TrainOptions, variant: VariantOptions) -> None:
    """Train one stage."""
    from varestorer_cli.core.training.run import train as run

    run(replace(options, variant=variant.given()))


def average(options: AverageOptions) -> None:
    """Mix models."""
    from varestorer_cli.core.training.average import average_models

    typer.echo(f"model: {average_models(options)}", err=True)


def dial(options: DialOptions) -> None:
    """Join two pre-restorers."""
    from varestorer_cli.core.training.average import make_dial

    typer.echo(f"model: {make_dial(options)}", err=True)


def show_config(context: typer.Context, options: ConfigOptions) -> None:
    """Print a preset, or what a file makes of one; without a stage.

    Raises:
        UsageError: a stage follows its options, or neither a stage nor ``--show-config`` is given.
    """
    if context.invoked_subcommand is not None:
        if options != ConfigOptions():
            raise UsageError(
                f"options go behind the stage: varestorer train {context.invoked_subcommand} ... --show-config"
            )
        return
    if not options.show_config:
        raise UsageError("give a stage (varestorer train --help), or --show-config to print a preset")
    from varestorer_cli.core.training.run import show_config as show

    show(options.preset, options.config)
