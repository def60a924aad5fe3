"""``varestorer score``: how close restored images are to what they should be."""

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.score.options import ScoreOptions
from varestorer_cli.core.shared_options import GROUPS, QuietOptions

_HELP = """Score restored images against references: PSNR, SSIM and any pyiqa metric.

Images are paired by name. The table says by which protocol it was made; scores.csv and scores.json are written
beside the restored images. A second run computes only what is new.

\b
  varestorer score restored/ --reference originals/
  varestorer score restored/ --dataset realsr --protocol osediff --metrics full
  varestorer score --dataset realsr --model fine
  varestorer score --dataset div2k-synth photos/
  varestorer score --compare old/ new/ --reference originals/
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("score", cls=GroupedCommand, help=_HELP, no_args_is_help=True)(with_options(score, GROUPS))


def score(options: ScoreOptions, shown: QuietOptions) -> None:
    """Call the core, end with its code."""
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.score.run import run_score

    code = run_score(options, Console(quiet=shown.quiet))
    if code is not ExitCode.OK:
        raise typer.Exit(code)
