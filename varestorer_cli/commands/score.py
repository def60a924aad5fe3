"""``varestorer score``: how close restored pictures are to what they should be."""

import os
from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.commands._options import WeightsOption
from varestorer_cli.core.errors import ExitCode, UsageError
from varestorer_cli.core.score.options import Codes, ProtocolName, ScoreOptions, TableStyle
from varestorer_cli.core.sharding import parse_shard

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
_DATASETS = (
    "div2k, realsr, drealsr, dped; a folder with gt and lq (or test_HR and test_LR); a CSV of lq,gt; div2k-synth: "
    "pairs made from the folder of photographs given as argument."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("score", help=_HELP, no_args_is_help=True)(score)


def score(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="RESTORED", help="Folder of restored images, or one image.", show_default=False),
    ] = None,
    restored: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The same as an option; with --model it is restored to. [default: scores/DATASET-MODEL]",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", "-r", metavar="GT", help="What they should look like: a folder, or one image."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME|PATH", help=_DATASETS)] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="VARESTORER_DATA", help="Where the known test sets lie."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Restore the data set with this model first; what is done is kept. [default: fine]"
        ),
    ] = None,
    weights: WeightsOption = None,
    codes: Annotated[
        Codes,
        typer.Option(
            help="What the model's decoder gets while the set is restored, to see what the codes do: those predicted; "
            "the encoder's own of the input or of the reference; noise (coin flips); zeros."
        ),
    ] = Codes.PREDICTED,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Two restored folders: paired differences and sign test.", show_default=False),
    ] = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            help="osediff: PSNR and SSIM on Y, MANIQA of PIPAL. paper: PSNR on RGB, SSIM on Y of YIQ, MANIQA of "
            "KonIQ. rgb: PSNR and SSIM on RGB."
        ),
    ] = ProtocolName.BOTH,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Comma list: psnr, ssim, psnr_y, ...; full: all of the protocol's tables; other names are pyiqa's "
            "(extra 'score').",
        ),
    ] = None,
    crop_border: Annotated[int, typer.Option(min=0, help="Pixels to cut off each side first.")] = 0,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on with the pairs there are although files have no partner.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N|auto", help="Restore and score this part only, from 0; auto: array job.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join the scores that shards left in RESTORED; computes nothing.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One line per pair. [default: RESTORED/scores.csv]")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The whole report. [default: RESTORED/scores.json]")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Contact sheet to look at, a .jpg or .png: restored, reference.")
    ] = None,
    degraded: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Degraded inputs, shown first on the sheet and on the page.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="A page to look at: sliders, scores to sort by, how they spread."),
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A further folder to show on the page; up to four times.")
    ] = None,
    table: Annotated[TableStyle, typer.Option(help="How the table is printed.")] = TableStyle.TEXT,
    device: Annotated[str, typer.Option(help="Where model and pyiqa compute: auto, cpu, cuda, cuda:N.")] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the intervals, of div2k-synth and of the model's noise.")
    ] = 0,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            envvar="VARESTORER_CACHE",
            help="Where scores are kept for the next run, or none. [default: the user's cache folder]",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, errors only.")] = False,
) -> None:
    """Check the options, call the core, end with its code."""
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.score.run import run_score

    synthetic = dataset is not None and dataset.lower() == "div2k-synth"
    if target is not None and restored is not None and not synthetic:
        raise UsageError(f"{target} and --restored {restored} both name the restored images: leave one out")
    folder = restored if synthetic else restored or target
    if merge and folder is None:
        raise UsageError("--merge joins the scores of shards: name their folder, as in: score RESTORED --merge")
    job = ScoreOptions(
        restored=folder,
        reference=reference,
        dataset=dataset,
        photos=target if synthetic else None,
        data_root=data_root,
        model=model,
        weights=weights,
        codes=codes,
        compare=compare,
        merge=folder if merge else None,
        shard=parse_shard(shard, os.environ) if shard is not None else None,
        protocol=protocol,
        metrics=metrics,
        crop_border=crop_border,
        partial=partial,
        csv=csv,
        json=json,
        sheet=sheet,
        degraded=degraded,
        page=report,
        also=tuple(also or ()),
        table=table,
        device=device,
        seed=seed,
        cache=cache,
    )
    code = run_score(job, Console(quiet=quiet))
    if code is not ExitCode.OK:
        raise typer.Exit(code)
