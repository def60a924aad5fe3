"""A score report as text (title, tables, CSV, JSON), and where it goes: stdout and files beside the restored ones.

An infinite PSNR (identical images) is printed as ``inf``; CSV and JSON know no infinity, so there the cell is
empty or null and a note and a count say why. A cell is never NaN.
"""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from varestorer_cli.core.atomic import atomic_file, check_writable
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.metrics.protocols import CONVENTION_METRICS
from varestorer_cli.core.phrases import count, named, to_cell
from varestorer_cli.core.report.csv_file import report_name
from varestorer_cli.core.score.options import ScoreOptions, TableStyle
from varestorer_cli.core.score.pairing import IMAGE_SUFFIXES, PairPlan
from varestorer_cli.core.score.published import CONVENTION_TEXT, PublishedRow
from varestorer_cli.core.score.scorer import PairScore
from varestorer_cli.core.score.summary import BOOTSTRAP_DRAWS, BOOTSTRAP_LEVEL, ScoreReport
from varestorer_cli.core.score.tables import Block, Table, latex, markdown, terminal
from varestorer_cli.version import __version__

TOOL = "varestorer score"
CSV_HEAD = ("name", "status", "reason", "note", "width", "height", "restored", "reference")
_RENDERERS: dict[TableStyle, Callable[[list[Block]], str]] = {
    TableStyle.TEXT: terminal,
    TableStyle.MARKDOWN: markdown,
    TableStyle.LATEX: latex,
}
INTERVAL_HEAD = f"{BOOTSTRAP_LEVEL:.0%} interval"


def title(report: ScoreReport) -> list[str]:
    """Lines above the table: how many pairs, protocol, colour space, crop, libraries, failures."""
    scored = len(report.scores) - len(report.failed)
    subject = f"{report.subject}: " if report.subject else ""
    lines = [f"{subject}{count(scored, 'pair')} scored, {len(report.failed)} failed"]
    if report.shard:
        lines.append(f"PARTIAL: shard {report.shard} only; score --merge joins the shards")
    lone = [*report.plan.unpaired_restored, *report.plan.unpaired_reference]
    if lone:
        lines.append(f"PARTIAL: {count(len(lone), 'file')} without partner left out ({named(lone, 10)})")
    lines.append(
        f"Protocol {report.protocol.name}: {report.protocol.description}; 8 bit, border crop {report.crop_border}"
    )
    libraries = dict.fromkeys(metric.library for metric in report.metrics)
    lines.append(f"Computed by {', '.join(libraries)}")
    lines.append(
        f"Mean over the pairs and its {BOOTSTRAP_LEVEL:.0%} bootstrap interval "
        f"({BOOTSTRAP_DRAWS} draws, seed {report.seed})"
    )
    return lines


def footnotes(report: ScoreReport) -> list[str]:
    """Lines below the table: what is odd about the set, and which pairs are in no mean."""
    lines = list(report.notes)
    for metric in report.metrics:
        summary = report.summary(metric.name)
        if summary.infinite:
            identical = count(summary.infinite, "identical pair")
            lines.append(f"{metric.label}: {identical} (infinite) not in the mean")
        if metric.whole_set:
            lines.append(f"{metric.label}: one number for all {count(summary.count, 'pair')}, so it has no interval")
    return lines


def blocks(report: ScoreReport, *, up: str = "↑", down: str = "↓") -> list[Block]:
    """Our means, and for a known test set one table per convention with the published rows beside ours.

    Args:
        report: what to show.
        up: mark of a metric where higher is better.
        down: mark of one where lower is better.
    """
    ours = Block(tuple(title(report)), table(report, up=up, down=down), tuple(footnotes(report)))
    return [ours, *(block for convention in CONVENTION_TEXT for block in _published(report, convention, up, down))]


def table(report: ScoreReport, *, up: str = "↑", down: str = "↓") -> Table:
    """One row per metric: mean and interval."""
    rows = []
    for metric in report.metrics:
        summary = report.summary(metric.name)
        mean = number(metric.name, summary.mean)
        rows.append((_label(metric, up, down), mean, interval(metric.name, summary.interval)))
    return Table(("metric", "mean", INTERVAL_HEAD), tuple(rows))


def _published(report: ScoreReport, convention: str, up: str, down: str) -> list[Block]:
    """The published rows of one convention below ours; nothing where no metric is shared."""
    rows = [row for row in report.published if row.convention == convention]
    metrics = [
        m for m in report.metrics if m.name in CONVENTION_METRICS[convention] and any(m.name in r.values for r in rows)
    ]
    rows = [row for row in rows if any(metric.name in row.values for metric in metrics)]
    if not rows:
        return []
    sources = list(dict.fromkeys(_source(row) for row in rows))
    means = [number(metric.name, report.summary(metric.name).mean) for metric in metrics]
    lines = [("this run", *means, "")]
    for row in rows:
        values = (row.values.get(metric.name, "-") for metric in metrics)
        lines.append((row.label, *values, f"[{sources.index(_source(row)) + 1}]"))
    head = ("method-steps", *(_label(metric, up, down) for metric in metrics), "source")
    above = (f"Published under convention {convention}: {CONVENTION_TEXT[convention]}",)
    left_out = len(report.failed) + len(report.plan.unpaired_restored) + len(report.plan.unpaired_reference)
    below = [f"this run leaves out {count(left_out, 'file')} of the set"] if left_out else []
    return [Block(above, Table(head, tuple(lines)), (*below, *(f"[{i}] {text}" for i, text in enumerate(sources, 1))))]


def _source(row: PublishedRow) -> str:
    return f"{row.source} (second-hand)" if row.second_hand else row.source


def _label(metric: MetricInfo, up: str, down: str) -> str:
    return f"{metric.label} {down if metric.lower_better else up}"


def interval(name: str, ends: tuple[float, float] | None) -> str:
    """An interval as printed, ``-`` for none."""
    return f"[{number(name, ends[0])}, {number(name, ends[1])}]" if ends else "-"


def number(name: str, value: float | None) -> str:
    """A score as printed: decibels with two digits, others with four; ``-`` for none, ``inf``."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "inf"
    return f"{value:.2f}" if name.startswith("psnr") or abs(value) >= 10 else f"{value:.4f}"


def csv_text(report: ScoreReport) -> str:
    """One line per pair: what became of it, and its scores."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [metric.name for metric in report.metrics if not metric.whole_set]
    writer.writerow([*CSV_HEAD, *names])
    for score in report.scores:
        width, height = score.size or ("", "")
        status = "failed" if score.failed else "scored"
        reference = score.pair.reference or ""
        cells = [_finite(score.values.get(name)) for name in names]
        writer.writerow(
            [to_cell(score.pair.name), status, to_cell(score.reason), to_cell(score.note), width, height]
            + [to_cell(str(score.pair.restored)), to_cell(str(reference))]
            + ["" if cell is None else cell for cell in cells]
        )
    return out.getvalue()


def json_text(report: ScoreReport) -> str:
    """The whole report: settings, means, published values, one object per pair."""
    content: dict[str, Any] = {
        "tool": TOOL,
        "version": __version__,
        "subject": report.subject,
        "benchmark": report.benchmark,
        "protocol": report.protocol.name,
        "colour": report.protocol.description,
        "bit_depth": 8,
        "shard": report.shard,
        "crop_border": report.crop_border,
        "pairs": len(report.scores),
        "scored": len(report.scores) - len(report.failed),
        "failed": len(report.failed),
        "unpaired": {
            "restored": list(report.plan.unpaired_restored),
            "reference": list(report.plan.unpaired_reference),
        },
        "bootstrap": {"draws": BOOTSTRAP_DRAWS, "level": BOOTSTRAP_LEVEL, "seed": report.seed},
        "summary": {metric.name: _summary_json(report, metric) for metric in report.metrics},
        "notes": list(report.notes),
        "published": [_row_json(row) for row in report.published],
        "images": [_score_json(score, report.metrics) for score in report.scores],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _summary_json(report: ScoreReport, metric: MetricInfo) -> dict[str, Any]:
    summary = report.summary(metric.name)
    low, high = summary.interval or (None, None)
    return {
        "label": metric.label,
        "mean": _finite(summary.mean),
        "low": _finite(low),
        "high": _finite(high),
        "count": summary.count,
        "infinite": summary.infinite,
        "lower_better": metric.lower_better,
        "needs_reference": metric.needs_reference,
        "whole_set": metric.whole_set,
        "library": metric.library,
    }


def _score_json(score: PairScore, metrics: Sequence[MetricInfo]) -> dict[str, Any]:
    width, height = score.size or (None, None)
    return {
        "name": score.pair.name,
        "status": "failed" if score.failed else "scored",
        "reason": score.reason,
        "note": score.note,
        "width": width,
        "height": height,
        "restored": str(score.pair.restored),
        "reference": None if score.pair.reference is None else str(score.pair.reference),
        "infinite": [name for name, value in score.values.items() if math.isinf(value)],
        **{metric.name: _finite(score.values.get(metric.name)) for metric in metrics if not metric.whole_set},
    }


def _row_json(row: PublishedRow) -> dict[str, Any]:
    return {
        "method": row.method,
        "steps": int(row.steps) if row.steps else None,
        "footing": row.convention,
        "source": row.source,
        "second_hand": row.second_hand,
        "values": {name: float(text) for name, text in row.values.items()},
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else round(value, 6)


def show(make: Callable[..., list[Block]], report: object, style: TableStyle, console: Console) -> None:
    """Print a report's tables on stdout, in the encoding that stdout has."""
    import rich.console

    screen = rich.console.Console(highlight=False)
    plain = style is not TableStyle.LATEX and not screen.encoding.lower().startswith("utf")
    blocks = make(report, up="^", down="v") if plain else make(report)
    text = _RENDERERS[style](blocks)
    # A path that the terminal's encoding cannot hold is escaped: it must not cost the table.
    console.out(text.rstrip("\n").encode(screen.encoding, "backslashreplace").decode(screen.encoding))


def inputs_of(plan: PairPlan) -> set[Path]:
    """Every file of a plan that is read."""
    return {path for pair in plan.pairs for path in (pair.restored, pair.reference) if path is not None}


def targets_of(
    options: ScoreOptions, restored: Path, plan: PairPlan, console: Console
) -> tuple[Path | None, Path | None]:
    """Where CSV and JSON go: as asked, else beside the restored files if nothing foreign is in the way.

    The names carry the shard. All that was asked for is checked, before any work.

    Raises:
        UsageError: a file asked for would replace an image.
        OutputError: its folder cannot be written to.
    """
    inputs = inputs_of(plan)
    one = restored.is_file()
    folder, stem = (restored.parent, f"{restored.stem}.scores") if one else (restored, "scores")
    if options.sheet is not None:
        if options.sheet in inputs:
            raise UsageError(f"--sheet {options.sheet} is one of the images that are scored; choose another name")
        check_writable(options.sheet.parent)
    chosen: list[Path | None] = []
    for asked, suffix in ((options.csv, ".csv"), (options.json, ".json")):
        path = folder / report_name(options.shard, stem, suffix)
        elsewhere = f"--{suffix[1:]} FILE puts the scores elsewhere"
        if asked is not None:
            asked = asked.with_name(report_name(options.shard, asked.stem, asked.suffix))
            check_target(asked, inputs)
            chosen.append(asked)
        elif folder.exists() and not os.access(folder, os.W_OK):
            console.info(f"{folder} is read-only: {path.name} is not written; {elsewhere}")
            chosen.append(None)
        elif not is_ours(path):
            console.info(f"{path} holds something else and stays as it is; {elsewhere}")
            chosen.append(None)
        else:
            chosen.append(path)
    return chosen[0], chosen[1]


def check_target(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Make sure that a file asked for can be written, before the scoring starts.

    Raises:
        UsageError: the path looks like an image or is a folder.
        OutputError: its folder cannot be made or written to.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES or path in inputs or path.is_dir():
        raise UsageError(f"{path} is an image or a folder; scores go into a text file such as scores.csv")
    check_writable(path.parent)


def is_ours(path: Path) -> bool:
    """True where ``path`` is free or holds scores of an earlier run: only then is it replaced unasked."""
    if not path.exists():
        return True
    try:
        with path.open(encoding="utf-8") as file:
            start = file.read(200)
    except (OSError, UnicodeDecodeError):
        return False
    return start.startswith(",".join(CSV_HEAD)) or '"tool": "varestorer score"' in start


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as stream:
        # A file name that is no valid Unicode must not cost the scores.
        stream.write(text.encode("utf-8", "backslashreplace"))
