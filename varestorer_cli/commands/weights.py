"""``varestorer weights``: the published models, fetched, imported, listed, checked."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from varestorer_cli.commands._options import QuietOption, WeightsOption
from varestorer_cli.core.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import dtype

_HELP = """The published models: fetch, import, list and check them.

\b
  varestorer weights pull 2b                   fetch, check and convert the published restorer
  varestorer weights pull 2b --to bundle/      the same into a folder, for a machine without a network
  varestorer weights import varestorer.pth infinity_vae_d32reg.pth general_swinir_v1.ckpt
  varestorer weights list
"""


class Model(StrEnum):
    """What can be pulled."""

    STUDENT = "2b"
    TEACHER = "teacher"


class Stored(StrEnum):
    """How the large matrices are stored."""

    BF16 = "bf16"
    FP32 = "fp32"


StoredOption = Annotated[
    Stored,
    typer.Option("--store", help="Type of the transformer's large matrices; fp32 doubles the file and is exact."),
]

EncoderOption = Annotated[
    Path | None,
    typer.Option(
        "--text-encoder",
        metavar="DIR",
        help="Folder of Flan-T5-XL: stores the default prompt's features in 2b, so that restore needs no encoder "
        "(extra 'text').",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command and its subcommands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=_HELP)
    group.command("list", help="Models that are installed or can be had: size, licence, where from.")(list_)
    group.command("pull", help="Fetch a published model, check it, convert it (extra 'hub').")(pull)
    group.command("import", no_args_is_help=True, help="Make models of published files, or copy those of a bundle.")(
        import_
    )
    group.command("verify", help="Compare installed models with every hash that is known of them.")(verify)
    app.add_typer(group, name="weights")


def list_(
    weights: WeightsOption = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Print what is there."""
    from varestorer_cli.core.installed import list_models, render, render_json
    from varestorer_cli.core.weights import weights_root

    root = weights_root(weights)
    models = list_models(root)
    typer.echo(render_json(root, models) if json else render(root, models))


def pull(
    model: Annotated[Model, typer.Argument(help="Which model.")],
    weights: WeightsOption = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Make a bundle in DIR instead of installing it here.")
    ] = None,
    store: StoredOption = Stored.BF16,
    text_encoder: EncoderOption = None,
    force: Annotated[bool, typer.Option("--force", help="Also where the model is there already.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch, check, convert."""
    from varestorer_cli.core.hub import pull as run
    from varestorer_cli.core.weights import weights_root

    run(
        model.value,
        to or weights_root(weights),
        matrices=_type(store),
        encoder=text_encoder,
        say=_speaker(quiet),
        quiet=quiet,
        force=force,
    )


def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Published .pth, .ckpt or .safetensors; or a bundle.")
    ],
    weights: WeightsOption = None,
    store: StoredOption = Stored.BF16,
    text_encoder: EncoderOption = None,
    quiet: QuietOption = False,
) -> None:
    """Recognise, check, convert."""
    from varestorer_cli.core.weights import weights_root
    from varestorer_cli.core.weights_import import import_files

    import_files(files, weights_root(weights), matrices=_type(store), encoder=text_encoder, say=_speaker(quiet))


def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Models; all by default.")] = None,
    weights: WeightsOption = None,
) -> None:
    """Check hashes; exit code 4 where one differs."""
    from varestorer_cli.core.installed import verify_models
    from varestorer_cli.core.weights import weights_root

    results = verify_models(weights_root(weights), names or [])
    for name, problem in results:
        typer.echo(f"{name}: {problem or 'ok'}")
    if any(problem for _, problem in results):
        raise typer.Exit(ExitCode.BAD_CHECKPOINT)


def _type(store: Stored) -> "dtype":
    import torch

    return torch.bfloat16 if store == Stored.BF16 else torch.float32


def _speaker(quiet: bool) -> "Callable[[str], None]":
    return (lambda text: None) if quiet else (lambda text: typer.echo(text, err=True))
