"""``varestorer doctor``: what works on this machine, and what to do about what does not."""

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.shared_options import InstalledOptions

_HELP = "Check device, torch, weights, codecs and extras of this machine."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", cls=GroupedCommand, help=_HELP)(with_options(doctor))


def doctor(options: InstalledOptions) -> None:
    """Run the checks and print them; exit code 3 where ``restore`` would not work."""
    from varestorer_cli.core.doctor import diagnose, render, render_json

    checks = diagnose(options.weights)
    typer.echo(render_json(checks) if options.json else render(checks))
    if any(check.level == "missing" for check in checks):
        raise typer.Exit(ExitCode.MISSING_DEPENDENCY)
