"""Write a contact sheet: the same images from several folders side by side."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from varestorer_cli.core.errors import InputError, OutputError, UsageError
from varestorer_cli.core.image.reader import read_bytes
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.score.pairing import find_images
from varestorer_cli.core.score.scorer import rgb8
from varestorer_cli.core.score.summary import ScoreReport

_GAP = 4
_LABEL = 22


def write_sheet(report: ScoreReport, degraded: Path | None, target: Path) -> None:
    """The scored images side by side; degraded inputs are found by the same names."""
    inputs = find_images(degraded) if degraded is not None else {}
    rows = []
    for score in report.scores:
        pair = score.pair
        if score.failed or (degraded is not None and pair.name not in inputs):
            continue
        files = (inputs.get(pair.name), pair.restored, pair.reference)
        rows.append([path for path in files if path is not None])
    if not rows:
        raise UsageError("there is nothing to show on the sheet: no pair was scored, or no degraded input has its name")
    labels = ["degraded"] * bool(degraded) + ["restored", "reference"][: len(rows[0]) - bool(degraded)]
    contact_sheet(rows, labels, target, per_line=2 if len(rows) > 4 else 1)


def contact_sheet(
    rows: Sequence[Sequence[Path]],
    labels: Sequence[str],
    target: Path,
    *,
    cell: int = 256,
    window: tuple[float, float, float] | None = None,
    per_line: int = 1,
) -> None:
    """Write a sheet of images, one column per label.

    An image smaller than the last of its row (a degraded input) is shown upscaled with square pixels; every image of
    a row shows the same part.

    Args:
        rows: paths of one image per label.
        labels: column titles.
        target: JPEG or PNG file.
        cell: side of an image on the sheet in pixels.
        window: part to show, (x, y of its centre, side) as fractions of the image; None shows its central square.
        per_line: rows placed side by side.

    Raises:
        InputError: an image cannot be read.
        OutputError: the sheet cannot be written.
    """
    lines = -(-len(rows) // per_line)
    block = len(labels) * (cell + _GAP)
    sheet = Image.new("RGB", (per_line * block + _GAP, lines * (cell + _GAP) + _LABEL + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for place in range(per_line):
        for column, label in enumerate(labels):
            draw.text((place * block + column * (cell + _GAP) + _GAP, 3), label, fill="black", font=font)
    for number, row in enumerate(rows):
        left, top = (number % per_line) * block, (number // per_line) * (cell + _GAP) + _LABEL
        images = [_read(path) for path in row]
        for column in range(len(row)):
            part = _part(images[column], window).resize((cell, cell), _filter(images[column], images[-1]))
            sheet.paste(part, (left + column * (cell + _GAP) + _GAP, top))
    try:
        sheet.save(target, quality=88)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{target}: the sheet cannot be written ({reason_of(error)}); choose a .jpg or .png name"
        ) from error


def _read(path: Path) -> Image.Image:
    """A file as it is scored: upright, 8 bit, RGB."""
    try:
        return Image.fromarray(rgb8(read_bytes(path))[0])
    except InputError as error:
        raise InputError(f"{path}: cannot be read for the sheet ({error})") from error


def _part(image: Image.Image, window: tuple[float, float, float] | None) -> Image.Image:
    x, y, share = window or (0.5, 0.5, 1.0)
    side = min(image.size) * share
    left = min(max(x * image.width - side / 2, 0), image.width - side)
    top = min(max(y * image.height - side / 2, 0), image.height - side)
    return image.crop((round(left), round(top), round(left + side), round(top + side)))


def _filter(image: Image.Image, reference: Image.Image) -> Image.Resampling:
    """Square pixels for an image with far fewer of them than its reference."""
    return Image.Resampling.NEAREST if 2 * image.width <= reference.width else Image.Resampling.LANCZOS
