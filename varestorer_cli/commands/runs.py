"""``varestorer runs``: training runs beside each other."""

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.core.training.tool_options import RunsOptions

_HELP = """Compare training runs: a table of settings and figures, and with --report a page of curves.

\b
  varestorer runs runs/a runs/b
  varestorer runs runs/ --figures psnr_y,kl --report runs.html
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("runs", cls=GroupedCommand, help=_HELP, no_args_is_help=True)(with_options(runs))


def runs(options: RunsOptions) -> None:
    """Print the table and write the page."""
    from varestorer_cli.core.training.runs_report import compare_runs

    compare_runs(options)
