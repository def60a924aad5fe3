"""``varestorer restore``: folders and files of degraded pictures -> restored ones and a report."""

import os
from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.commands import _options as opt
from varestorer_cli.core.errors import ExitCodes, UsageError
from varestorer_cli.core.options import (
    Captioning,
    ColorFix,
    Compat,
    Existing,
    FailureLimit,
    Missing,
    Precision,
    Progress,
    RestoreOptions,
    Sampling,
    TextOptions,
    Transfer,
)
from varestorer_cli.core.sharding import parse_shard
from varestorer_cli.core.sizing import Sizing, parse_size

_HELP = """Restore pictures: files, folders (with their structure), patterns, lists.

\b
  varestorer restore scans/ restored/
  varestorer restore photo.jpg photo-x4.png
  varestorer restore in/ out/ --shard 3/16 -q
  find scans -name '*.tif' -print0 | varestorer restore -0 - restored/

The same command again does what is missing, failed or stale. OUTPUT/metrics.csv tells what happened to each input,
OUTPUT/failed.txt names the failed ones.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("restore", help=_HELP, no_args_is_help=True)(restore)


def restore(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT",
            help="Files, folders, 'patterns*', frames.####.png, @list.txt, or - (a list on stdin); then a folder, or a "
            "file name for a single picture.",
            show_default=False,
        ),
    ],
    model: opt.ModelOption = "auto",
    weights: opt.WeightsOption = None,
    scale: Annotated[float | None, typer.Option("--scale", "-s", help="Factor on both sides, 4 by default.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Exact output size in pixels.")] = None,
    long_side: Annotated[int | None, typer.Option("--long-side", help="Pixels of the output's longer side.")] = None,
    short_side: Annotated[int | None, typer.Option("--short-side", help="Pixels of its shorter side.")] = None,
    megapixels: Annotated[float | None, typer.Option("--megapixels", help="Millions of output pixels.")] = None,
    tile: opt.TileOption = None,
    overlap: opt.OverlapOption = None,
    batch: opt.BatchOption = None,
    device: opt.DeviceOption = "auto",
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="all|N|0,1", help="Several GPUs of this host, one process each."),
    ] = None,
    precision: opt.PrecisionOption = Precision.AUTO,
    threads: opt.ThreadsOption = None,
    color_fix: opt.ColorFixOption = ColorFix.AUTO,
    fidelity: opt.FidelityOption = None,
    prompt: opt.PromptOption = None,
    captions: opt.CaptionsOption = None,
    caption: opt.CaptionOption = Captioning.NONE,
    captions_file: opt.CaptionsFileOption = None,
    text_encoder: opt.TextEncoderOption = None,
    captioner: opt.CaptionerOption = None,
    sampling: opt.SamplingOption = Sampling.AUTO,
    seed: opt.SeedOption = 0,
    compat: opt.CompatOption = Compat.NONE,
    format: opt.FormatOption = None,
    quality: opt.QualityOption = 95,
    transfer: opt.TransferOption = Transfer.AUTO,
    layer: opt.LayerOption = None,
    keep_hidden: opt.KeepHiddenOption = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="TEMPLATE",
            help="Names of outputs, from {stem} {ext} {model} {size} {seed}: '{stem}_{size}'.",
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option("--frames", metavar="RANGE", help="Frames of plate.####.png, %04d, @@@@ or $F4: 1-100x2,205."),
    ] = None,
    missing: Annotated[
        Missing, typer.Option("--missing", help="Missing frames: stop before work, leave them out, or count as failed.")
    ] = Missing.ERROR,
    existing: opt.ExistingOption = Existing.SKIP,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N|auto", help="Part I of N of the inputs, from 0; auto: array job."),
    ] = None,
    max_failed: Annotated[
        str,
        typer.Option("--max-failed", metavar="N|P%", help="Failed pictures that still end with exit code 0."),
    ] = "0",
    strict: Annotated[
        bool, typer.Option("--strict", help="Lost depth, alpha, profile or metadata makes a picture fail.")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave out EXIF, XMP, IPTC, comments; profile and resolution stay.")
    ] = False,
    metrics_csv: Annotated[
        str | None,
        typer.Option(
            "--metrics-csv",
            metavar="FILE|none",
            help="Report file [default: OUTPUT/metrics.csv]; its name gets the shard and the frames.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="A page to look at: before and after, failures, settings."),
    ] = None,
    nul_lists: Annotated[bool, typer.Option("-0", "--null", help="Lists are separated by NUL, not newlines.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: opt.JsonOption = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Only join the reports of all shards in OUTPUT, the one argument.")
    ] = False,
    exit_codes: Annotated[
        ExitCodes, typer.Option("--exit-codes", help="opencue: out of memory ends with 33, which asks for more.")
    ] = ExitCodes.PLAIN,
    progress: opt.ProgressOption = Progress.AUTO,
    quiet: opt.QuietOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Check the options, then run."""
    options = RestoreOptions(
        model=model,
        sizing=Sizing(scale, parse_size(size) if size is not None else None, long_side, short_side, megapixels),
        tile=tile,
        overlap=overlap,
        batch=batch,
        device=device,
        gpus=gpus,
        precision=precision,
        color_fix=color_fix,
        fidelity=fidelity,
        sampling=sampling,
        seed=seed,
        format=opt.parse_format(format),
        quality=quality,
        transfer=transfer,
        layer=layer,
        keep_hidden=keep_hidden,
        name=name,
        frames=frames,
        missing=missing,
        existing=existing,
        shard=parse_shard(shard, os.environ) if shard is not None else None,
        max_failed=FailureLimit.parse(max_failed),
        strict=strict,
        strip=strip,
        threads=threads,
        weights=str(weights) if weights else None,
        compat=compat,
        text=TextOptions(prompt, captions, caption, text_encoder, captioner, captions_file),
    )
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.restore.run import RestoreRequest, run_merge, run_restore

    console = Console(progress, quiet=quiet, verbose=verbose)
    if merge:
        if len(paths) != 1:
            raise UsageError("--merge takes one argument, the OUTPUT of the shards")
        raise typer.Exit(run_merge(Path(paths[0]), report, options, console))
    if len(paths) < 2:
        raise UsageError(f"{paths[0]}: an input and an output are needed: restore INPUT... OUTPUT")
    request = RestoreRequest(tuple(paths[:-1]), paths[-1], metrics_csv, nul_lists, dry_run, json, report, exit_codes)
    done = run_restore(request, options, console)
    raise typer.Exit(done.exit_code(options.max_failed))
