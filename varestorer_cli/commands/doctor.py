"""``varestorer doctor``: what works on this machine, and what to do about what does not."""

from typing import Annotated

import typer

from varestorer_cli.commands._options import WeightsOption
from varestorer_cli.core.errors import ExitCode


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help="Check device, torch, weights, codecs and extras of this machine.")(doctor)


def doctor(
    weights: WeightsOption = None,
    json: Annotated[bool, typer.Option("--json", help="The checks as JSON on stdout.")] = False,
) -> None:
    """Run the checks and print them; exit code 3 where ``restore`` would not work."""
    from varestorer_cli.core.doctor import diagnose, render, render_json

    checks = diagnose(weights)
    typer.echo(render_json(checks) if json else render(checks))
    if any(check.level == "missing" for check in checks):
        raise typer.Exit(ExitCode.MISSING_DEPENDENCY)
