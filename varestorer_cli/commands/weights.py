"""``varestorer weights``: the published models, fetched, imported, listed, checked."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from varestorer_cli.commands._from_fields import with_options
from varestorer_cli.commands._help import GroupedCommand, WrappedGroup
from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.install.options import (
    ImportOptions,
    Pulled,
    PullOptions,
    Stored,
    StoreTextOptions,
    VerifyOptions,
)
from varestorer_cli.core.shared_options import InstalledOptions

if TYPE_CHECKING:
    from torch import dtype

_HELP = """The published models: fetch, import, list and check them.

\b
  varestorer weights pull 2b text              fetch, check and convert the published restorer and its text encoder
  varestorer weights pull 2b --to bundle/      the same into a folder, for a machine without a network
  varestorer weights import varestorer.pth infinity_vae_d32reg.pth general_swinir_v1.ckpt
  varestorer weights list
"""


def register(app: typer.Typer) -> None:
    """Add the command and its subcommands."""
    group = typer.Typer(cls=WrappedGroup, no_args_is_help=True, rich_markup_mode=None, help=_HELP)

    def add(name: str, command: Callable[..., None], text: str, *, needs_words: bool = False) -> None:
        group.command(name, cls=GroupedCommand, help=text, no_args_is_help=needs_words)(with_options(command))

    add("list", list_, "Models that are installed or can be had: size, licence, where from.")
    add("pull", pull, "Fetch published models and networks, check and convert them (extra 'hub').")
    add("import", import_, "Make models of published files, or copy those of a bundle.", needs_words=True)
    add("text", text, "Store the default text's features in installed models (extra 'text').")
    add("verify", verify, "Compare what is installed with every hash that is known of them.")
    app.add_typer(group, name="weights")


def list_(options: InstalledOptions) -> None:
    """Print what is there."""
    from varestorer_cli.core.install.inventory import list_models, render, render_json
    from varestorer_cli.core.weights.root import weights_root

    root = weights_root(options.weights)
    models = list_models(root)
    typer.echo(render_json(root, models) if options.json else render(root, models))


def pull(options: PullOptions) -> None:
    """Fetch, check, convert."""
    from varestorer_cli.core.install.puller import pull as run
    from varestorer_cli.core.weights.root import weights_root

    # networks first: a model that comes after its text encoder is written once
    for name in sorted(dict.fromkeys(options.names), key=lambda name: name not in (Pulled.TEXT, Pulled.CAPTIONER)):
        run(
            name.value,
            options.to or weights_root(options.weights),
            matrices=_type(options.store),
            encoder=options.text_encoder,
            say=_speaker(options.quiet),
            warn=_warn,
            quiet=options.quiet,
            force=options.force,
        )


def import_(options: ImportOptions) -> None:
    """Recognise, check, convert."""
    from varestorer_cli.core.install.importer import import_files
    from varestorer_cli.core.weights.root import weights_root

    import_files(
        options.files,
        weights_root(options.weights),
        matrices=_type(options.store),
        encoder=options.text_encoder,
        say=_speaker(options.quiet),
        warn=_warn,
    )


def text(options: StoreTextOptions) -> None:
    """Encode the default text and put it beside the weights."""
    from varestorer_cli.core.install.default_text import store
    from varestorer_cli.core.weights.root import weights_root

    store(options.models, weights_root(options.weights), encoder=options.text_encoder, say=_speaker(options.quiet))


def verify(options: VerifyOptions) -> None:
    """Check hashes; exit code 4 where one differs."""
    from varestorer_cli.core.install.inventory import verify_models
    from varestorer_cli.core.weights.root import weights_root

    results = verify_models(weights_root(options.weights), options.names)
    for name, problem in results:
        typer.echo(f"{name}: {problem or 'ok'}")
    if any(problem for _, problem in results):
        raise typer.Exit(ExitCode.BAD_CHECKPOINT)


def _type(store: Stored) -> "dtype":
    import torch

    return torch.bfloat16 if store == Stored.BF16 else torch.float32


def _speaker(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else (lambda text: typer.echo(text, err=True))


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
