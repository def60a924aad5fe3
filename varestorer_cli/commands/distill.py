"""``varestorer distill``: a multi-step teacher becomes a one-step student."""

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.commands.train import train
from varestorer_cli.core.shared_options import GROUPS

_HELP = "Distil a teacher into one forward pass; the result is a model for 'varestorer restore --model OUT'."


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    command = with_options(train, GROUPS, name="distill", stage="distill")
    app.command("distill", cls=GroupedCommand, help=_HELP, no_args_is_help=True)(command)
