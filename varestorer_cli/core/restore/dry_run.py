"""``--dry-run``: what a run would do, what it would take, without writing anything."""

import os
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from varestorer_cli.core.atomic import MOST_IN_MEMORY
from varestorer_cli.core.choices import Existing, ImageFormat, Large
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import InputError, VarestorerError
from varestorer_cli.core.image.formats import output_format
from varestorer_cli.core.image.reader import probe
from varestorer_cli.core.inputs.plan import RestorePlan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import byte_size, clock, count, named, visible
from varestorer_cli.core.report.rows import LARGE, Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import BUDGET_PIXELS
from varestorer_cli.core.restore.fingerprint import look_at
from varestorer_cli.core.restore.item import pixel_memory
from varestorer_cli.core.restore.messages import say_ignored
from varestorer_cli.core.restore.session import Session, open_session
from varestorer_cli.core.text.captions import captions_of

# Bytes per pixel of restored photographs in colour, median of four; JPEG and WebP by quality.
_BYTES = {ImageFormat.PNG: 1.7, ImageFormat.TIFF: 1.8, ImageFormat.BMP: 3.0}
_DEEP_BYTES = 5.3
_QUALITIES = (1, 60, 80, 90, 95, 100)
_LOSSY_BYTES = {
    ImageFormat.JPEG: (0.05, 0.17, 0.25, 0.36, 0.52, 1.17),
    ImageFormat.WEBP: (0.03, 0.10, 0.15, 0.23, 0.33, 0.45),
}
_LARGE = {Large.SKIP: "would be left out", Large.COPY: "would be copied"}
_IMAGES_IN_MEMORY = 6  # decoded ahead, at work and being encoded
_DEEP_INPUT = 3.2  # bytes per pixel of a lossless file above which it holds 16 bits


@dataclass
class _Needs:
    """What the images would take together."""

    megapixels: float = 0.0
    tile_pixels: float = 0.0
    memory: int = 0
    bytes: float = 0.0
    tiles: Counter[tuple[int, int]] = field(default_factory=Counter)


def dry_run(
    plan: RestorePlan,
    options: RestoreOptions,
    console: Console,
    *,
    json: bool,
    processes: int,
) -> BatchReport:
    """Say what a run would do: every input with its output, size and tiles on stdout, then time and disk.

    The model is loaded and a few calls of it are timed; where it cannot be loaded here (no GPU on the machine that
    submits, no weights), that is said, and tiles and time are left out.

    Args:
        plan: what would be done.
        options: as given by the user.
        console: for messages.
        json: rows as JSON lines.
        processes: that would work at the same time.
    """
    session, why = None, ""
    if plan.jobs:
        console.info("dry run: loading the model, to say tiles and time; nothing is written")
        console.start(len(plan.jobs), "loading the model", lines=False)
        try:
            session = open_session(options, on_stage=console.stage)
        except VarestorerError as error:
            why = str(error)
        finally:
            console.finish()
    report, needs = BatchReport(), _Needs()
    captions = captions_of(plan.jobs, options.text, console).by_key
    for one in plan.jobs:
        row = Row(input=one.input, output=str(one.output), status="would be done", shard=str(options.shard or ""))
        row.caption = captions.get(one.key, options.text.prompt or "")
        try:
            _measure(row, one.output, options, session, needs)
        except InputError as error:
            row.status, row.reason = "would fail", str(error)
        report.rows.append(row)
        if json:
            console.out(row.json())
        elif row.status == "would fail" or row.reason == LARGE:
            console.out(visible(f"{one.input}: {row.status}: {row.reason}"))
        else:
            sizes = f"{row.width}x{row.height} -> {row.out_width}x{row.out_height}"
            tiles = f", {count(row.tiles, 'tile')}" if row.tiles else ""
            console.out(visible(f"{one.input} -> {one.output}  {sizes}{tiles}{'  (exists)' if row.reason else ''}"))
    for skipped in plan.unreadable:
        console.out(visible(f"{skipped.path}: would fail: {skipped.reason}"))
    say_ignored(plan, console)
    failing = report.count("would fail") + len(plan.unreadable)
    large = sum(row.reason == LARGE for row in report.rows)
    console.info(
        f"dry run: {count(len(plan.jobs) - report.count('would fail') - large, 'image')} would be restored, "
        f"{f'{large} {LARGE}, ' if large else ''}{failing} would fail, "
        f"{len(plan.ignored)} ignored; {needs.megapixels:.1f} MP of output; nothing was written"
    )
    if session is not None and needs.tile_pixels:
        _say_time(session, needs, processes, console)
    elif why:
        console.warn(f"tiles and time are not estimated: {why}")
        console.info(f"memory: up to {byte_size(needs.memory)} for 8-bit pixels, beside the model")
    _say_disk(plan, needs, console)
    return report


def _measure(row: Row, output: Path, options: RestoreOptions, session: Session | None, needs: _Needs) -> None:
    """Fill a row with sizes and tiles.

    Raises:
        InputError: the input is no readable image.
    """
    row.width, row.height = probe(row.input, options.layer, options.pages)
    if options.only_below is not None and max(row.width, row.height) >= options.only_below:
        row.status, row.reason = _LARGE[options.large], LARGE
        return
    row.out_width, row.out_height = size = options.target(row.width, row.height)
    row.scale = row.out_width / row.width
    pixels = row.out_width * row.out_height
    needs.megapixels += pixels / 1e6
    format = output_format(output.name) or ImageFormat.PNG
    needs.bytes += pixels * _bytes_per_pixel(row, format, options.quality)
    if session is not None:
        grid = session.engine.grid(*size)
        row.tile, row.tiles = max(grid.sides), len(grid)
        needs.tile_pixels += len(grid) * grid.sides[0] * grid.sides[1]
        needs.tiles[grid.sides] += len(grid)
    one, given = pixel_memory(row.width * row.height, pixels, format), row.width * row.height
    beside = min(_IMAGES_IN_MEMORY, max(1, BUDGET_PIXELS // (given + pixels))) - 1
    needs.memory = max(needs.memory, one + beside * (3 * given + min(3 * pixels, MOST_IN_MEMORY)))
    look_at(output, read=False)
    if options.existing != Existing.OVERWRITE and os.path.lexists(output):
        row.status = "would be checked"
        row.reason = "the output exists: kept where it is up to date or not ours"


def _bytes_per_pixel(row: Row, format: ImageFormat, quality: int) -> float:
    if format in _LOSSY_BYTES:
        return float(np.interp(quality, _QUALITIES, _LOSSY_BYTES[format]))
    with suppress(OSError):
        density = Path(row.input).stat().st_size / ((row.width or 1) * (row.height or 1))
        if density > _DEEP_INPUT and format in (ImageFormat.PNG, ImageFormat.TIFF):
            return _DEEP_BYTES
    return _BYTES.get(format, _DEEP_BYTES)


def _say_time(session: Session, needs: _Needs, processes: int, console: Console) -> None:
    started = time.monotonic()
    several = [f"{width}x{height}" for height, width in sorted(needs.tiles)]
    sides = named(several, 2)
    console.info(f"timing the model on tiles of {sides} pixels on {session.runtime.device} ...")
    console.start(1, "timing the model", lines=False)
    try:
        seconds = session.engine.estimate_seconds(session.engine.calls(needs.tiles))
    finally:
        console.finish()
    spent = time.monotonic() - started
    per_pixel = seconds / needs.tile_pixels
    seconds /= processes
    shared = f" in {processes} processes" if processes > 1 else ""
    console.info(
        f"time: about {clock(seconds)}{shared} on {session.runtime.device} with model {session.model} "
        f"({per_pixel * 1e6:.2f} s per megapixel of tiles, measured in {clock(spent)}); images that are up to date "
        "take none"
    )
    peak = session.context().peak_mb()
    if peak is not None:
        console.info(
            f"memory: {byte_size(peak * 1e6)} on {session.runtime.device} with the model and its calls, measured, and "
            f"up to {byte_size(needs.memory)} for 8-bit pixels in memory"
        )


def _say_disk(plan: RestorePlan, needs: _Needs, console: Console) -> None:
    folder = plan.folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
    text = f"disk: about {byte_size(needs.bytes)} of output"
    console.info(text if free is None else f"{text}, {byte_size(free)} free")
    if free is not None and needs.bytes > free:
        console.warn(
            f"{plan.folder}: the outputs will hardly fit: about {byte_size(needs.bytes)}, {byte_size(free)} are free"
        )
