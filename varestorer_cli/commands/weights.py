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
  varestorer weights pull 2b text              fetch, check and convert the published restorer and its text encoder
  varestorer weights pull 2b --to bundle/      the same into a folder, for a machine without a network
  varestorer weights import varestorer.pth infinity_vae_d32reg.pth general_swinir_v1.ckpt
  varestorer weights list
"""


class Pulled(StrEnum):
    """What can be pulled."""

    STUDENT = "2b"
    TEACHER = "teacher"
    TEXT = "text"
    CAPTIONER = "captioner"


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
        help="Folder of the text encoder, Flan-T5-XL: stores the default text's features in the model, so that "
        "restore needs no encoder (extra 'text'). By default the one below the weights root.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command and its subcommands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=_HELP)
    group.command("list", help="Models that are installed or can be had: size, licence, where from.")(list_)
    group.command("pull", help="Fetch published models and networks, check and convert them (extra 'hub').")(pull)
    group.command("import", no_args_is_help=True, help="Make models of published files, or copy those of a bundle.")(
        import_
    )
    group.command("text", help="Store the default text's features in installed models (extra 'text').")(text)
    group.command("verify", help="Compare what is installed with every hash that is known of them.")(verify)
    app.add_typer(group, name="weights")


def list_(
    weights: WeightsOption = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Print what is there."""
    from varestorer_cli.core.install.inventory import list_models, render, render_json
    from varestorer_cli.core.weights.root import weights_root

    root = weights_root(weights)
    models = list_models(root)
    typer.echo(render_json(root, models) if json else render(root, models))


def pull(
    names: Annotated[
        list[Pulled],
        typer.Argument(
            metavar="NAME...", help="2b, teacher, text (the text encoder), captioner; weights list tells more."
        ),
    ],
    weights: WeightsOption = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Make a bundle in DIR instead of installing it here.")
    ] = None,
    store: StoredOption = Stored.BF16,
    text_encoder: EncoderOption = None,
    force: Annotated[bool, typer.Option("--force", help="Also what is there already.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch, check, convert."""
    from varestorer_cli.core.install.puller import pull as run
    from varestorer_cli.core.weights.root import weights_root

    # networks first: a model that comes after its text encoder is written once
    for name in sorted(dict.fromkeys(names), key=lambda name: name not in (Pulled.TEXT, Pulled.CAPTIONER)):
        run(
            name.value,
            to or weights_root(weights),
            matrices=_type(store),
            encoder=text_encoder,
            say=_speaker(quiet),
            warn=_warn,
            quiet=quiet,
            force=force,
        )


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Published .pth, .ckpt or .safetensors; folders of text networks; or a bundle."
        ),
    ],
    weights: WeightsOption = None,
    store: StoredOption = Stored.BF16,
    text_encoder: EncoderOption = None,
    quiet: QuietOption = False,
) -> None:
    """Recognise, check, convert."""
    from varestorer_cli.core.install.importer import import_files
    from varestorer_cli.core.weights.root import weights_root

    import_files(
        files,
        weights_root(weights),
        matrices=_type(store),
        encoder=text_encoder,
        say=_speaker(quiet),
        warn=_warn,
    )


def text(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Names or files; all installed models that take a text by default."),
    ] = None,
    weights: WeightsOption = None,
    text_encoder: EncoderOption = None,
    quiet: QuietOption = False,
) -> None:
    """Encode the default text and put it beside the weights."""
    from varestorer_cli.core.install.default_text import store
    from varestorer_cli.core.weights.root import weights_root

    store(models or [], weights_root(weights), encoder=text_encoder, say=_speaker(quiet))


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Models and networks; all by default.")
    ] = None,
    weights: WeightsOption = None,
) -> None:
    """Check hashes; exit code 4 where one differs."""
    from varestorer_cli.core.install.inventory import verify_models
    from varestorer_cli.core.weights.root import weights_root

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


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
