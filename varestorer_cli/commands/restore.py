"""``varestorer restore``: folders and files of degraded images -> restored ones and a report."""

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand
from varestorer_cli.core.options import RestoreOptions, RestoreRequest
from varestorer_cli.core.shared_options import GROUPS, ConsoleOptions

_HELP = """Restore images: files, folders (with their structure), patterns, lists.

\b
  varestorer restore scans/ restored/
  varestorer restore photo.jpg photo-x4.png
  varestorer restore in/ out/ --shard 3/16 -q
  find scans -name '*.tif' -print0 | varestorer restore -0 - restored/

The same command again does what is missing, failed or stale. OUTPUT/metrics.csv tells what happened to each input.
Of several words, the first is the default.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("restore", cls=GroupedCommand, help=_HELP, no_args_is_help=True)(with_options(restore, GROUPS))


def restore(request: RestoreRequest, options: RestoreOptions, shown: ConsoleOptions) -> None:
    """Run, or join reports, and end with the exit code."""
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.restore.run import run_merge, run_restore

    console = Console(shown.progress, quiet=shown.quiet, verbose=shown.verbose)
    if request.merge:
        raise typer.Exit(run_merge(request, options, console))
    done = run_restore(request, options, console)
    raise typer.Exit(done.exit_code(options.max_failed))
