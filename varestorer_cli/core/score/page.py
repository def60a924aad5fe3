"""The HTML page of ``score``: degraded, restored and reference under one slider, the worst first; how scores spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.report.charts import histogram, scatter
from varestorer_cli.core.report.crops import Embedder, ImageFolder
from varestorer_cli.core.report.csv_file import report_name
from varestorer_cli.core.report.html import link_to, number_text
from varestorer_cli.core.report.page import (
    MOST_ROWS,
    Charts,
    Column,
    Layer,
    Lines,
    Page,
    PageEntry,
    Section,
    Value,
    check_page_target,
    embedding_rule,
    failure_list,
    images_beside,
    write_page,
)
from varestorer_cli.core.report.page import Block as PageBlock
from varestorer_cli.core.report.page import Table as PageTable
from varestorer_cli.core.score.compare import Comparison
from varestorer_cli.core.score.compare import blocks as comparison_blocks
from varestorer_cli.core.score.export import blocks as report_blocks
from varestorer_cli.core.score.export import number
from varestorer_cli.core.score.pairing import find_images
from varestorer_cli.core.score.scorer import PairScore
from varestorer_cli.core.score.summary import ScoreReport
from varestorer_cli.core.score.tables import Block
from varestorer_cli.core.sharding import Shard

DEGRADED, RESTORED, REFERENCE = "degraded", "restored", "reference"
MOST_FOLDERS = 4
_MOST_CHARTS = 8

Files = Mapping[str, Path]


@dataclass(frozen=True)
class ScorePageJob:
    """Where the page goes and what it shows beside the scored files.

    Attributes:
        target: the page.
        degraded: pair name -> degraded input; empty where there are none.
        others: label -> pair name -> file, for further folders.
        apart: the page's images are small files beside it, else they are embedded.
    """

    target: Path
    degraded: Files
    others: Mapping[str, Files]
    apart: bool = False

    def images(self) -> ImageFolder | None:
        """The folder of the page's images, None where they are embedded."""
        return images_beside(self.target) if self.apart else None


def score_page_job(
    target: Path,
    degraded: Files | Path | None,
    folders: Sequence[Path],
    shard: Shard | None = None,
    *,
    apart: bool = False,
) -> ScorePageJob:
    """Check, before any work, where the page goes and what else it shows.

    Args:
        target: as asked for; the name carries the shard.
        degraded: the inputs, by pair name or as a folder.
        folders: further folders, matched by name.
        shard: of the run.
        apart: the page's images are small files beside it.

    Raises:
        UsageError: the name is no HTML file's or belongs to something else; too many folders, or no image in one.
        OutputError: nothing can be written there.
    """
    target = target.with_name(report_name(shard, target.stem, target.suffix))
    check_page_target(target)
    if len(folders) > MOST_FOLDERS:
        raise UsageError(
            f"--also: {len(folders)} folders are given, a page shows {MOST_FOLDERS} beside the scored ones"
        )
    labels = unique_labels(folders, {DEGRADED, RESTORED, REFERENCE})
    others = {label: find_images(folder) for label, folder in zip(labels, folders, strict=True)}
    if isinstance(degraded, Path):
        degraded = find_images(degraded)
    return ScorePageJob(target, degraded or {}, others, apart)


def unique_labels(folders: Sequence[Path], taken: set[str]) -> list[str]:
    """Short names of folders, told apart by their parents where they are alike."""
    names = [folder.name or folder.resolve().name for folder in folders]
    if len({*names, *taken}) == len(names) + len(taken):
        return names
    longer = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    return longer if len(set(longer)) == len(longer) else [f"{number}: {n}" for number, n in enumerate(longer, 1)]


@dataclass(frozen=True)
class _ImageRow:
    """What the page shows of one pair; files are in the order of the labels."""

    name: str
    files: tuple[Path | None, ...]
    cells: tuple[Value, ...]
    size: tuple[int, int] | None
    reason: str
    note: str


# --- one folder ------------------------------------------------------------------------------------------------------


def write_score_page(report: ScoreReport, job: ScorePageJob) -> None:
    """Write the page of one scored folder.

    Raises:
        OutputError: it cannot be written.
    """
    images = job.images()
    write_page(score_page(report, job, images), job.target, images)


def score_page(report: ScoreReport, job: ScorePageJob, images_apart: ImageFolder | None = None) -> Page:
    """Build the page of one scored folder."""
    metrics = [metric for metric in report.metrics if not metric.whole_set]
    references = any(score.pair.reference is not None for score in report.scores)
    labels = [DEGRADED] * bool(job.degraded) + [*job.others, RESTORED] + [REFERENCE] * references
    images = []
    for score in report.scores:
        pair = score.pair
        files = [job.degraded.get(pair.name)] * bool(job.degraded)
        files += [files_of.get(pair.name) for files_of in job.others.values()]
        files += [pair.restored] + [pair.reference] * references
        cells = tuple(score.values.get(metric.name) for metric in metrics)
        images.append(_ImageRow(pair.name, tuple(files), cells, score.size, score.reason, score.note))
    first = metrics[0] if metrics else None
    images = _worst_first(images, first)
    values = [[score.values[m.name] for score in report.scores if not score.failed] for m in metrics]
    charts = "".join(
        histogram(found, metric.label, _direction(metric))
        for metric, found in zip(metrics[:_MOST_CHARTS], values, strict=False)
    )
    for place, metric in enumerate(metrics[1:_MOST_CHARTS], 1):
        charts += scatter(_dots(images, 0, place), metrics[0].label, metric.label)
    totals = [(str(len(report.scores) - len(report.failed)), "pairs scored", False)]
    totals.append((str(len(report.failed)), "failed", bool(report.failed)))
    totals += [(number(m.name, report.summary(m.name).mean), f"mean {m.label}", False) for m in report.metrics[:4]]
    sides = (labels[0] if job.degraded else RESTORED, RESTORED if job.degraded else labels[-1])
    return _page(
        title=report.subject or "Scores",
        blocks=report_blocks(report),
        columns=tuple(_column(metric) for metric in metrics),
        images=images,
        labels=tuple(labels),
        sides=sides,
        compared=(RESTORED, REFERENCE if references else sides[0]),
        totals=tuple(totals),
        charts=charts,
        descending=first is not None and first.lower_better,
        target=job.target,
        embedder=Embedder(images_apart),
    )


# --- two folders -----------------------------------------------------------------------------------------------------


def write_comparison_page(comparison: Comparison, names: tuple[Path, Path], job: ScorePageJob) -> None:
    """Write the page of two folders that were scored against the same references.

    Args:
        comparison: both reports.
        names: both folders.
        job: where to, and what else to show.

    Raises:
        OutputError: it cannot be written.
    """
    images = job.images()
    write_page(comparison_page(comparison, names, job, images), job.target, images)


def comparison_page(
    comparison: Comparison, names: tuple[Path, Path], job: ScorePageJob, images_apart: ImageFolder | None = None
) -> Page:
    """Build the page of two folders; see :func:`write_comparison_page`."""
    metrics = [metric for metric in comparison.a.metrics if not metric.whole_set]
    references = any(score.pair.reference is not None for score in comparison.a.scores)
    a, b = (f"{side} {label}" for side, label in zip("AB", unique_labels(names, set()), strict=True))
    labels = [DEGRADED] * bool(job.degraded) + [*job.others, a, b] + [REFERENCE] * references
    right = {score.pair.name: score for score in comparison.b.scores}
    images = []
    for score in comparison.a.scores:
        other = right[score.pair.name]
        name = score.pair.name
        files = [job.degraded.get(name)] * bool(job.degraded) + [found.get(name) for found in job.others.values()]
        files += [score.pair.restored, other.pair.restored] + [score.pair.reference] * references
        reasons = [f"{side}: {one.reason}" for side, one in zip("AB", (score, other), strict=True) if one.failed]
        notes = [f"{side}: {one.note}" for side, one in zip("AB", (score, other), strict=True) if one.note]
        cells = tuple(cell for metric in metrics for cell in _both(score, other, metric))
        images.append(_ImageRow(name, tuple(files), cells, score.size, "; ".join(reasons), "; ".join(notes)))
    images = _worst_first(images, metrics[0] if metrics else None, place=2)
    charts = ""
    for place, metric in enumerate(metrics[:_MOST_CHARTS]):
        better = "left of 0 B is better" if metric.lower_better else "right of 0 B is better"
        differences = [float(p.cells[3 * place + 2] or 0) for p in images if p.cells[3 * place + 2] is not None]
        charts += histogram(differences, f"{metric.label}, B - A", better)
        above = "below the line B is better" if metric.lower_better else "above the line B is better"
        charts += scatter(_dots(images, 3 * place, 3 * place + 1), f"A {metric.label}", "B", equal=True, remark=above)
    columns = tuple(column for metric in metrics for column in _columns_of_both(metric))
    count = len(comparison.names)
    failed = sum(bool(image.reason) for image in images)
    return _page(
        title=f"{names[0]} and {names[1]}",
        blocks=comparison_blocks(comparison),
        columns=columns,
        images=images,
        labels=tuple(labels),
        sides=(a, b),
        compared=(a, b),
        totals=((str(count), "pairs scored in both", False), (str(failed), "failed in either", failed > 0)),
        charts=charts,
        descending=bool(metrics) and metrics[0].lower_better,
        order=2,
        target=job.target,
        embedder=Embedder(images_apart),
    )


def _both(a: PairScore, b: PairScore, metric: MetricInfo) -> tuple[Value, Value, Value]:
    one, two = a.values.get(metric.name), b.values.get(metric.name)
    known = one is not None and two is not None and math.isfinite(one) and math.isfinite(two)
    return one, two, two - one if known and one is not None and two is not None else None


def _columns_of_both(metric: MetricInfo) -> tuple[Column, Column, Column]:
    plain = _column(metric)
    return (
        Column(f"{plain.label} A", plain.digits, plain.worst, plain.hint),
        Column(f"{plain.label} B", plain.digits, plain.worst, plain.hint),
        Column(f"{plain.label} B - A", plain.digits, plain.worst, "difference of the two"),
    )


# --- shared ----------------------------------------------------------------------------------------------------------


def _column(metric: MetricInfo) -> Column:
    digits = 2 if metric.name.startswith("psnr") else 4
    return Column(metric.label, digits, "high" if metric.lower_better else "low", _direction(metric))


def _direction(metric: MetricInfo) -> str:
    return "lower is better" if metric.lower_better else "higher is better"


def _worst_first(images: Sequence[_ImageRow], metric: MetricInfo | None, place: int = 0) -> list[_ImageRow]:
    """Pairs without a score last, ties by name."""
    if metric is None:
        return sorted(images, key=lambda image: image.name)
    sign = -1.0 if metric.lower_better else 1.0

    def key(image: _ImageRow) -> tuple[bool, float, str]:
        value = image.cells[place]
        known = isinstance(value, int | float)
        return not known, sign * float(value) if isinstance(value, int | float) else 0.0, image.name

    return sorted(images, key=key)


def _dots(images: Sequence[_ImageRow], x: int, y: int) -> list[tuple[float, float, str, str]]:
    """Dots of a scatter plot; each leads to its row."""
    dots = []
    for place, image in enumerate(images[:MOST_ROWS]):
        across, up = image.cells[x], image.cells[y]
        if isinstance(across, int | float) and isinstance(up, int | float):
            dots.append((float(across), float(up), image.name, f"#row-{place}"))
    return dots


def _page(
    *,
    title: str,
    blocks: Sequence[Block],
    columns: tuple[Column, ...],
    images: Sequence[_ImageRow],
    labels: tuple[str, ...],
    sides: tuple[str, str],
    compared: tuple[str, str],
    totals: tuple[tuple[str, str, bool], ...],
    charts: str,
    descending: bool,
    target: Path,
    embedder: Embedder,
    order: int = 0,
) -> Page:
    noted = any(image.reason or image.note for image in images)
    entries: list[PageEntry] = []
    first, second = labels.index(compared[0]), labels.index(compared[1])
    base = labels.index(REFERENCE) if REFERENCE in labels else first
    for image in images[:MOST_ROWS]:
        crops, thumbnail = embedder.add(image.files, base, (first, second), first, crop=not image.reason)
        layers = tuple(
            Layer(label, link_to(path, target.parent), crops.images[place] if crops else "")
            for place, (label, path) in enumerate(zip(labels, image.files, strict=True))
            if path is not None
        )
        facts = tuple(
            (column.label, number_text(value, column.digits or 0))
            for column, value in zip(columns, image.cells, strict=True)
            if isinstance(value, int | float)
        )
        problems = crops.problems if crops else ()
        size = f"{image.size[0]}x{image.size[1]}" if image.size else ""
        state = "failed" if image.reason else "scored"
        entries.append(
            PageEntry(
                name=image.name,
                cells=(*image.cells, state, size, *[image.reason or image.note] * noted),
                layers=layers,
                size=image.size,
                crop_size=crops.window[2:] if crops else None,
                facts=facts,
                note="; ".join(filter(None, [image.note, *problems])),
                caption=crops.caption if crops else "",
                bad=bool(image.reason),
                thumbnail=thumbnail,
            )
        )
    failures = [(image.name, image.reason) for image in sorted(images, key=lambda p: p.name) if image.reason]
    scored = len(images) - len(failures)
    ordered = bool(columns)
    return Page(
        kind="varestorer score",
        title=title,
        lead=(),
        totals=totals,
        above=(
            Section("Scores", tuple(part for block in blocks for part in _parts(block)), "scores"),
            *failure_list(failures, f"{len(failures)} pair{'' if len(failures) == 1 else 's'} failed, in no mean"),
        ),
        below=(Section("Distribution", (Charts(charts),), "charts"),) if charts else (),
        columns=(*columns, Column("Status"), Column("Size"), *[Column("Note")] * noted),
        entries=tuple(entries),
        order=order if ordered else None,
        descending=descending,
        sides=(*sides, *labels),
        rule=embedding_rule(
            embedder,
            scored,
            "the worst first",
            "states of another size are enlarged or reduced to fit (bicubic)",
        ),
        rest=(
            f"The {MOST_ROWS} rows that come first in the order are on this page, of {len(images)}; "
            "the CSV file of the scores holds them all."
            if len(images) > MOST_ROWS
            else ""
        ),
    )


def _parts(block: Block) -> tuple[PageBlock, ...]:
    parts: list[PageBlock] = [Lines(block.above)] if block.above else []
    parts.append(PageTable(block.table.head, block.table.rows, 1))
    return (*parts, *((Lines(block.below),) if block.below else ()))
