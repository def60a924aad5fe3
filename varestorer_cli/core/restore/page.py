"""The page of a restored folder: what happened to each image, and what it looks like.

Everything comes from the rows of the report and from the files they name, so that the page of a run that was stopped
and resumed, or of shards that were merged, is that of an undisturbed one.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.fields import values_of
from varestorer_cli.core.image.writer import read_software
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import clock, count
from varestorer_cli.core.report.charts import histogram
from varestorer_cli.core.report.crops import Crops, Embedder, ImageFolder
from varestorer_cli.core.report.csv_file import report_name
from varestorer_cli.core.report.html import link_to, number_text
from varestorer_cli.core.report.page import (
    MOST_NAMES,
    MOST_ROWS,
    Charts,
    Column,
    Folded,
    Layer,
    Names,
    Note,
    Page,
    PageEntry,
    Section,
    Table,
    Value,
    check_page_target,
    embedding_rule,
    failure_list,
    images_beside,
    page_folder_target,
    write_page,
)
from varestorer_cli.core.report.rows import DONE, FAILED, IGNORED, SKIPPED, Row
from varestorer_cli.core.restore.consistency import outliers
from varestorer_cli.core.restore.fingerprint import UP_TO_DATE
from varestorer_cli.core.sharding import Shard

BEFORE, AFTER = "before", "after"
# Numbers of a row: column, head, decimals, the end where trouble is, meaning.
_NUMBERS = (
    ("consistency_psnr", "Consistency, dB", 2, "low", "PSNR of the result, reduced to the input's size, to the input"),
    ("mean_colour_error", "Colour shift", 2, "high", "largest shift of a channel's mean, in steps of 255"),
    ("scale", "Scale", 2, "", "output width / input width"),
    ("tiles", "Tiles", 0, "high", ""),
    ("retries", "Redone tiles", 0, "high", "tiles computed again because they came out wrong"),
    ("seconds", "Seconds", 2, "high", "decoding, model and encoding"),
    ("peak_mb", "Peak MB", 0, "high", ""),
    ("depth", "Bits", 0, "low", "bits per sample of the input"),
)
_NO_COLUMN = {"width", "height", "out_width", "out_height", "tile", "seed"}


def page_target(
    asked: Path | None, shard: Shard | None, frames: str | None = None, page_folder: Path | None = None
) -> Path | None:
    """Where the page goes, checked before any work; the name carries shard and frames, as the report's does.

    Args:
        asked: the page itself.
        shard: of the run.
        frames: of the run.
        page_folder: a folder for page and images, instead.

    Raises:
        UsageError: the name is no HTML file's, or belongs to something else.
        OutputError: nothing can be written there.
    """
    if page_folder is not None:
        asked = page_folder_target(page_folder)
    if asked is None:
        return None
    target = asked.with_name(report_name(shard, asked.stem, asked.suffix, frames))
    check_page_target(target)
    return target


def write_restore_page(
    rows: Iterable[Row], folder: Path, target: Path, options: RestoreOptions | None = None, *, apart: bool = False
) -> None:
    """Write the page of a report.

    Args:
        rows: of the report; inputs are named as seen from the working folder, outputs as seen from ``folder``.
        folder: output folder.
        target: the page.
        options: of the command that writes the page, shown as such.
        apart: its images are small files beside it, else they are embedded.

    Raises:
        OutputError: the page cannot be written.
    """
    images = images_beside(target) if apart else None
    write_page(restore_page(rows, folder, target, options, images), target, images)


def restore_page(
    rows: Iterable[Row],
    folder: Path,
    target: Path,
    options: RestoreOptions | None = None,
    image_folder: ImageFolder | None = None,
) -> Page:
    """Build the page; see :func:`write_restore_page`."""
    every = sorted(rows, key=_worst_first)
    ignored = [row for row in every if row.status == IGNORED]
    images = [row for row in every if row.status != IGNORED]
    sources = _sources(images)
    columns = tuple(column for column, _ in sources)
    embedder = Embedder(image_folder)
    entries = _entries(images[:MOST_ROWS], sources, folder, target, embedder)
    failed = sorted((row for row in images if row.status == FAILED), key=lambda row: (row.input, row.output))
    measured = any(row.consistency_psnr is not None for row in images)
    consistency = [row.consistency_psnr for row in images if row.consistency_psnr is not None]
    shift = [row.mean_colour_error for row in images if row.mean_colour_error is not None]
    charts = histogram(consistency, "Consistency", "dB, right is closer to the input")
    charts += histogram(shift, "Colour shift", "steps of 255, left is better")
    order = next((place for place, column in enumerate(columns) if column.label == _NUMBERS[0][1]), None)
    return Page(
        kind="varestorer restore",
        title=f"{folder.name or folder.resolve().name}/",
        lead=(_sentence(images, ignored),),
        totals=_totals(images, consistency),
        above=failure_list([(row.input, row.reason) for row in failed], _failed_title(failed)),
        below=tuple(
            section
            for section in (
                Section("Distribution", (Charts(charts),)) if len(consistency) > 1 else None,
                _unlike(images),
                _warnings(images),
                _kept(images),
                _ignored(ignored),
                _provenance(images, folder),
                _settings(options),
            )
            if section is not None
        ),
        columns=columns,
        entries=entries,
        order=order if measured else None,
        rule=embedding_rule(
            embedder,
            sum(_finished(row) for row in images),
            "the least consistent first",
            "before is the input enlarged to the result's size (bicubic)",
        ),
        rest=(
            f"The {MOST_ROWS} rows that come first in the order are on this page, of {len(images)}; "
            "the CSV file of the run holds them all."
            if len(images) > MOST_ROWS
            else ""
        ),
    )


def _worst_first(row: Row) -> tuple[bool, float, str, str]:
    measured = row.consistency_psnr is not None
    return not measured, row.consistency_psnr or 0.0, row.input, row.output


def _finished(row: Row) -> bool:
    """Whether the output is a result of ours, of this run or of an earlier one."""
    return row.status == DONE or (row.status == SKIPPED and (bool(row.output_sha256) or row.reason == UP_TO_DATE))


# --- words -----------------------------------------------------------------------------------------------------------


def _failed_title(failed: Sequence[Row]) -> str:
    return f"{count(len(failed), 'image')} failed"


def _sentence(images: Sequence[Row], ignored: Sequence[Row]) -> str:
    finished = [row for row in images if _finished(row)]
    fresh = sum(row.status == DONE for row in finished)
    text = f"{count(len(finished), 'image')} restored"
    if len(finished) != fresh:
        text += f": {fresh} by the last run, {len(finished) - fresh} before it and still up to date"
    return text + f". {count(len(ignored), 'other file')} ignored." if ignored else text + "."


def _totals(images: Sequence[Row], consistency: Sequence[float]) -> tuple[tuple[str, str, bool], ...]:
    finished = [row for row in images if _finished(row)]
    failed = sum(row.status == FAILED for row in images)
    kept = len(images) - len(finished) - failed
    pixels = sum((row.out_width or 0) * (row.out_height or 0) for row in finished) / 1e6
    totals = [(str(len(finished)), "restored", False), (str(failed), "failed", failed > 0)]
    if kept:
        totals.append((str(kept), "kept as they were", False))
    warned = sum(bool(row.warnings) for row in finished)
    totals.append((str(warned), "with a warning", False))
    if pixels:
        totals.append((f"{pixels:.1f}", "megapixels of output", False))
    seconds = sum(row.seconds or 0 for row in finished)
    if seconds:
        totals.append((clock(seconds), "work on them", False))
    if consistency:
        totals.append((f"{sum(consistency) / len(consistency):.2f} dB", "mean consistency", False))
        totals.append((f"{min(consistency):.2f} dB", "lowest consistency", False))
    return tuple(totals)


# --- rows ------------------------------------------------------------------------------------------------------------


def _sources(images: Sequence[Row]) -> list[tuple[Column, str]]:
    """The table's columns and the fields they show; numbers that no row has are left out."""
    found = [(Column("Status"), "status")]
    if any(row.reason for row in images):
        found.append((Column("Reason"), "reason"))
    known = {name for name, *_ in _NUMBERS}
    more = [
        (field.name, field.name.replace("_", " ").capitalize(), 3, "", "")
        for field in dataclasses.fields(Row)
        if field.type in (int | None, float | None) and field.name not in known | _NO_COLUMN
    ]
    for name, label, digits, worst, hint in [*_NUMBERS, *more]:
        if any(getattr(row, name) is not None for row in images):
            found.append((Column(label, digits, worst, hint), name))
    found.append((Column("Size"), "size"))
    if any(row.warnings for row in images):
        found.append((Column("Warnings"), "warnings"))
    return found


def _cell(row: Row, name: str) -> Value:
    if name == "size":
        return _sizes(row)
    value: Value = getattr(row, name)
    return value


def _sizes(row: Row) -> str:
    before = f"{row.width}x{row.height}" if row.width and row.height else ""
    after = f"{row.out_width}x{row.out_height}" if row.out_width and row.out_height else ""
    return f"{before} → {after}" if after else before


def _entries(
    images: Sequence[Row],
    sources: Sequence[tuple[Column, str]],
    folder: Path,
    target: Path,
    embedder: Embedder,
) -> tuple[PageEntry, ...]:
    """Rows of the table."""
    entries = []
    for row in images:
        files, finished = [Path(row.input), folder / row.output], _finished(row)
        crops, thumbnail = embedder.add(files, 1, (0, 1), int(finished), crop=finished)
        cells = tuple(_cell(row, name) for _, name in sources)
        entry = _entry(row, cells, [column for column, _ in sources], crops, folder, target)
        entries.append(dataclasses.replace(entry, thumbnail=thumbnail))
    return tuple(entries)


def _entry(
    row: Row, cells: tuple[Value, ...], columns: Sequence[Column], crops: Crops | None, folder: Path, target: Path
) -> PageEntry:
    output = folder / row.output if row.output else None
    layers = [Layer(BEFORE, link_to(row.input, target.parent), crops.images[0] if crops else "")]
    if output is not None and (_finished(row) or row.status == SKIPPED):
        layers.append(Layer(AFTER, link_to(output, target.parent), crops.images[1] if crops else ""))
    facts = [
        (column.label, number_text(value, column.digits))
        for column, value in zip(columns, cells, strict=True)
        if column.digits is not None and isinstance(value, int | float) and column.label in _ON_CARDS
    ]
    if _sizes(row):
        facts.append(("Size", _sizes(row)))
    notes = [row.warnings] if row.warnings else []
    caption = ""
    if crops is not None:
        notes += crops.problems
        caption = crops.caption
    return PageEntry(
        name=row.output or row.input,
        cells=cells,
        layers=tuple(layers),
        size=(row.out_width, row.out_height) if row.out_width and row.out_height else None,
        crop_size=crops.window[2:] if crops else None,
        facts=tuple(facts),
        note="; ".join(notes),
        caption=caption,
        bad=row.status == FAILED,
    )


_ON_CARDS = {label for name, label, *_ in _NUMBERS if name in ("consistency_psnr", "mean_colour_error", "seconds")}


# --- sections --------------------------------------------------------------------------------------------------------


def _unlike(images: Sequence[Row]) -> Section | None:
    """Images that came out unlike the rest of the folder."""
    found = tuple((one.row.output or one.row.input, one.reason) for one in outliers(images))[:MOST_NAMES]
    if not found:
        return None
    return Section("Unlike the rest of the folder", (Table(("Image", "Why"), found),), "unlike")


def _warnings(images: Sequence[Row]) -> Section | None:
    """The section of the losses, each with the images that have it."""
    losses: dict[str, list[str]] = {}
    for row in images:
        for text in filter(None, row.warnings.split("; ")):
            losses.setdefault(text, []).append(row.output or row.input)
        if row.oom_split:
            losses.setdefault(f"out of memory, went on with a smaller {row.oom_split}", []).append(row.output)
    blocks = tuple(
        Names.of(f"{text} ({count(len(names), 'image')})", names)
        for text, names in sorted(losses.items(), key=lambda item: (-len(item[1]), item[0]))
    )
    return Section("Warnings and losses", blocks, "warnings") if blocks else None


def _kept(images: Sequence[Row]) -> Section | None:
    kept = [row for row in images if row.status == SKIPPED and not _finished(row)]
    if not kept:
        return None
    rows = tuple((row.output or row.input, row.reason) for row in kept[:MOST_NAMES])
    return Section(f"{count(len(kept), 'existing file')} kept", (Table(("File", "Why"), rows),), "kept")


def _ignored(ignored: Sequence[Row]) -> Section | None:
    if not ignored:
        return None
    reasons = Counter(row.reason for row in ignored)
    blocks = tuple(
        Names.of(f"{reason} ({number})", [row.input for row in ignored if row.reason == reason])
        for reason, number in sorted(reasons.items())
    )
    return Section("Ignored files", blocks, "ignored")


def _provenance(images: Sequence[Row], folder: Path) -> Section | None:
    """Model, settings and machine of every group of images; the model's name is read from one of its files."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in images:
        if _finished(row):
            key = (
                row.version,
                row.model_sha256[:12],
                row.settings_sha256[:12],
                "" if row.seed is None else str(row.seed),
                row.device,
                row.precision,
                row.host,
                row.shard,
            )
            groups.setdefault(key, []).append(row)
    if not groups:
        return None
    lines = [
        (str(len(rows)), _model_name(rows, folder), *key)
        for key, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    head = (
        "Images",
        "Model",
        "Version",
        "Model hash",
        "Settings hash",
        "Seed",
        "Device",
        "Precision",
        "Host",
        "Shard",
    )
    used = [place for place in range(len(head)) if any(line[place] for line in lines)]
    table = Table(tuple(head[i] for i in used), tuple(tuple(line[i] for i in used) for line in lines))
    mixed = len({key[1:3] for key in groups}) > 1
    notes = (Note("The images were made by different models or settings."),) if mixed else ()
    return Section("Provenance", (table, *notes), "provenance")


def _model_name(rows: Sequence[Row], folder: Path) -> str:
    """The model's name, as one of the outputs tells."""
    for row in rows[:5]:
        try:
            found = re.match(r"varestorer .*; model (.+) [0-9a-f]{12}; ", read_software(folder / row.output))
        except (OSError, InputError):
            continue
        if found:
            return found[1]
    return ""


def _settings(options: RestoreOptions | None) -> Section | None:
    if options is None:
        return None
    lines = [
        (one.flag, "automatic" if value in (None, "") else str(value), "" if value == one.default else "set")
        for one, value in values_of(options)
    ]
    table = Table(("Option", "Value", "Not the default"), tuple(lines))
    changed_options = sum(bool(line[2]) for line in lines)
    head = f"Options of the command that wrote this page, {changed_options} of them not the default"
    return Section("Settings", (Folded(head, table),), "settings")
