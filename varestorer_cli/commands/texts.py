"""``varestorer texts``: features of the captions of training photographs, for ``train`` and ``distill --texts``."""

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.core.training.tool_options import TextsOptions

_HELP = "Encode the captions of training photographs (.txt or .json beside them); run again to go on."


def register(app: typer.Typer) -> None:
    """Add the command; hidden, as it serves those who train only."""
    app.command("texts", cls=GroupedCommand, hidden=True, help=_HELP, no_args_is_help=True)(with_options(texts))


def texts(options: TextsOptions) -> None:
    """Encode the captions."""
    from varestorer_cli.core.training.encode_captions import make_features

    make_features(options)
