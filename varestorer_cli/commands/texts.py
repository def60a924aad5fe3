"""``varestorer texts``: features of the captions of training photographs, for ``train`` and ``distill --texts``."""

from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.commands._options import DeviceOption, ThreadsOption, WeightsOption


def texts(
    data: Annotated[Path, typer.Argument(help="Photographs: a folder, a tar shard, or a text file with paths.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features.")],
    encoder: Annotated[
        Path | None,
        typer.Option("--text-encoder", help="Folder of a T5 encoder [default: the first below the weights root]."),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(help="CSV file or folder of text files; goes before files beside the photographs."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text of photographs without a caption; goes into the model as its default.")
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Encode the captions of training photographs (.txt or .json beside them); run again to go on."""
    from varestorer_cli.core.training.encode_captions import CaptioningOptions, make_features

    make_features(CaptioningOptions(data, out, encoder, captions, prompt, weights, device, threads, quiet))


def register(app: typer.Typer) -> None:
    """Add the command; hidden, as it serves those who train only."""
    app.command("texts", hidden=True, no_args_is_help=True)(texts)
