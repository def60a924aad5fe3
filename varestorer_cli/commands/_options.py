"""Option types shared by commands."""

from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.options import (
    Captioning,
    ColorFix,
    Compat,
    Existing,
    ImageFormat,
    Precision,
    Progress,
    Sampling,
    Transfer,
)

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="auto, fine, compact, 2b, or a model file. auto takes the best one installed."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="DIR",
        help="Folder of installed models; by default VARESTORER_WEIGHTS, else the user's data folder.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Arithmetic of the model; auto: what the device computes natively."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads; by default OMP_NUM_THREADS, the scheduler's share, or all."),
]
BatchOption = Annotated[int | None, typer.Option("--batch", help="Tiles per model call; chosen by device by default.")]
TileOption = Annotated[int | None, typer.Option("--tile", help="Tile side in output pixels; the model's by default.")]
OverlapOption = Annotated[
    int | None,
    typer.Option("--overlap", help="Pixels neighbouring tiles share; a sixteenth or an eighth of the tile by default."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the noise that --sampling sample draws.")]
SamplingOption = Annotated[
    Sampling, typer.Option("--sampling", help="From predicted bits to picture; auto: the model's own choice.")
]
ColorFixOption = Annotated[
    ColorFix, typer.Option("--color-fix", help="Where colours come from; auto: the model's own choice.")
]
CompatOption = Annotated[
    Compat,
    typer.Option(
        "--compat",
        help="Handle pictures as the released script does (resizing, tiles, rounding, noise), to compare with its "
        "files: its tiled way, or its way of squashing a picture to one square.",
    ),
]
FidelityOption = Annotated[
    float | None,
    typer.Option(
        "--fidelity", help="0: the sharpest, 1: the most faithful picture; between: a mix. [default: the model's own]"
    ),
]
PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="What the pictures show, for models that take a text (2b)."),
]
CaptionsOption = Annotated[
    str | None,
    typer.Option(
        "--captions",
        metavar="FILE|DIR|beside",
        help="A text for each picture: a CSV file with the columns path and caption, a folder of .txt files laid out "
        "like the inputs, or beside: a .txt file beside each picture.",
    ),
]
CaptionOption = Annotated[
    Captioning, typer.Option("--caption", help="auto: a captioner describes the pictures that have no caption.")
]
CaptionsFileOption = Annotated[
    str | None,
    typer.Option("--captions-file", metavar="FILE", help="Where it writes them; OUTPUT/captions.csv by default."),
]
TextEncoderOption = Annotated[
    str | None,
    typer.Option("--text-encoder", metavar="DIR", help="Folder of the T5 encoder; below the weights root by default."),
]
CaptionerOption = Annotated[
    str | None,
    typer.Option("--captioner", metavar="DIR", help="Folder of the BLIP captioner; below the weights root by default."),
]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="png, jpg, webp, tif, bmp, exr or dpx; each input's own by default.")
]
QualityOption = Annotated[int, typer.Option("--quality", help="Of JPEG and WebP, 1 to 100.")]
TransferOption = Annotated[
    Transfer,
    typer.Option("--transfer", help="Values of EXR and DPX files; auto: EXR linear light, DPX encoded or as it says."),
]
LayerOption = Annotated[
    str | None,
    typer.Option("--layer", metavar="NAME", help="Layer or part of EXR files; the colour layer by default."),
]
KeepHiddenOption = Annotated[
    bool,
    typer.Option(
        "--keep-hidden", help="Keep colours under full transparency (textures); they are filled in by default."
    ),
]
ExistingOption = Annotated[
    Existing,
    typer.Option(
        "--existing",
        help="Outputs that exist: skip those up to date and foreign files and redo stale ones, overwrite all, or "
        "stop with an error.",
    ),
]
ProgressOption = Annotated[
    Progress, typer.Option("--progress", help="auto: a bar on a terminal, percentage lines elsewhere.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Every file, and tracebacks.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per picture on stdout.")]

_FORMATS: dict[str, ImageFormat] = {
    "png": ImageFormat.PNG,
    "jpg": ImageFormat.JPEG,
    "jpeg": ImageFormat.JPEG,
    "webp": ImageFormat.WEBP,
    "tif": ImageFormat.TIFF,
    "tiff": ImageFormat.TIFF,
    "bmp": ImageFormat.BMP,
    "exr": ImageFormat.EXR,
    "dpx": ImageFormat.DPX,
}


def parse_format(text: str | None) -> ImageFormat | None:
    """Read a format's name.

    Raises:
        UsageError: unknown.
    """
    if text is None:
        return None
    found = _FORMATS.get(text.lower().lstrip("."))
    if found is None:
        raise UsageError(f"--format {text}: possible are png, jpg, webp, tif, bmp, exr and dpx")
    return found
