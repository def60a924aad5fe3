"""A score report as text: title, table, Markdown, CSV, JSON.

An infinite PSNR (identical images) is printed as ``inf``; CSV and JSON know no infinity, so there the cell is
empty or null and a note and a count say why. A cell is never NaN.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import varestorer_cli
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.files import atomic_file, check_writable
from varestorer_cli.core.metrics import Metric
from varestorer_cli.core.scoring import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_LEVEL,
    IMAGE_SUFFIXES,
    PairScore,
    ScoreReport,
    listed,
)

CSV_HEAD = ("name", "status", "reason", "note", "width", "height", "restored", "reference")
BAR = "|"


@dataclass(frozen=True)
class Table:
    """A table as cells of text, the same for the terminal and for Markdown."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def title(report: ScoreReport) -> list[str]:
    """Lines above the table: how many pairs, protocol, colour space, crop, libraries, failures."""
    scored = len(report.scores) - len(report.failed)
    subject = f"{report.subject}: " if report.subject else ""
    lines = [f"{subject}{_count(scored, 'pair')} scored, {len(report.failed)} failed"]
    lone = [*report.plan.unpaired_restored, *report.plan.unpaired_reference]
    if lone:
        lines.append(f"PARTIAL: {_count(len(lone), 'file')} without partner left out ({listed(lone)})")
    lines.append(f"Protocol {report.protocol.name}: {report.protocol.words}; 8 bit, border crop {report.crop_border}")
    libraries = dict.fromkeys(metric.library for metric in report.metrics)
    lines.append(f"Computed by {', '.join(libraries)}")
    lines.append(
        f"Mean over the pairs and its {BOOTSTRAP_LEVEL:.0%} bootstrap interval "
        f"({BOOTSTRAP_DRAWS} draws, seed {report.seed})"
    )
    return lines


def footnotes(report: ScoreReport) -> list[str]:
    """Lines below the table: identical pairs, and where published values stand on other ground."""
    lines = list(report.notes)
    for metric in report.metrics:
        summary = report.summary(metric.name)
        if summary.infinite:
            identical = _count(summary.infinite, "identical pair")
            lines.append(f"{metric.label}: {identical} (infinite) not in the mean")
    shown = {metric.name for metric in report.metrics}
    if any(shown & {"psnr_rgb", "ssim_yiq"} & row.keys() for row in report.published.values()):
        lines.append("VARestorer's published PSNR and SSIM: protocol paper, found by recomputing rivals' rows")
    return lines


def table(report: ScoreReport, *, up: str = "↑", down: str = "↓") -> Table:
    """One row per metric: mean, interval, and the published values of a known test set.

    Args:
        report: what to show.
        up: mark of a metric where higher is better.
        down: mark of one where lower is better.
    """
    names = {metric.name for metric in report.metrics}
    published = {method: row for method, row in report.published.items() if names & row.keys()}
    rows = []
    for metric in report.metrics:
        summary = report.summary(metric.name)
        interval = ", ".join(number(metric.name, end) for end in summary.interval or ())
        rows.append(
            (
                f"{metric.label} {down if metric.lower_better else up}",
                number(metric.name, summary.mean),
                f"[{interval}]" if interval else "-",
                *(f"{row[metric.name]:g}" if metric.name in row else "-" for row in published.values()),
            )
        )
    interval_head = f"{BOOTSTRAP_LEVEL:.0%} interval"
    return Table(("metric", "mean", interval_head, *(f"{name}, published" for name in published)), tuple(rows))


def number(name: str, value: float | None) -> str:
    """A score as printed: decibels with two digits, others with four; ``-`` for none, ``inf``."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "inf"
    return f"{value:.2f}" if name.startswith("psnr") or abs(value) >= 10 else f"{value:.4f}"


def markdown(report: ScoreReport, *, up: str = "↑", down: str = "↓") -> str:
    """Title, table and footnotes as Markdown."""
    cells = table(report, up=up, down=down)
    rows = [cells.head, tuple("---" if i == 0 else "---:" for i in range(len(cells.head))), *cells.rows]
    body = "\n".join(f"{BAR} {f' {BAR} '.join(row)} {BAR}" for row in rows)
    above = "  \n".join(title(report))
    below = "  \n".join(footnotes(report))
    return f"{above}\n\n{body}\n" + (f"\n{below}\n" if below else "")


def csv_text(report: ScoreReport) -> str:
    """One line per pair: what became of it, and its scores."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [metric.name for metric in report.metrics]
    writer.writerow([*CSV_HEAD, *names])
    for score in report.scores:
        width, height = score.size or ("", "")
        status = "failed" if score.failed else "scored"
        reference = score.pair.reference or ""
        cells = [_finite(score.values.get(name)) for name in names]
        writer.writerow(
            [score.pair.name, status, score.reason, score.note, width, height, score.pair.restored, reference]
            + ["" if cell is None else cell for cell in cells]
        )
    return out.getvalue()


def json_text(report: ScoreReport) -> str:
    """The whole report: settings, means, published values, one object per pair."""
    content: dict[str, Any] = {
        "tool": "varestorer score",
        "version": varestorer_cli.__version__,
        "subject": report.subject,
        "protocol": report.protocol.name,
        "colour": report.protocol.words,
        "bit_depth": 8,
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
        "published": {method: dict(row) for method, row in report.published.items()},
        "images": [_score_json(score, report.metrics) for score in report.scores],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _summary_json(report: ScoreReport, metric: Metric) -> dict[str, Any]:
    summary = report.summary(metric.name)
    low, high = summary.interval or (None, None)
    return {
        "mean": _finite(summary.mean),
        "low": _finite(low),
        "high": _finite(high),
        "count": summary.count,
        "infinite": summary.infinite,
        "lower_better": metric.lower_better,
        "library": metric.library,
    }


def _score_json(score: PairScore, metrics: Sequence[Metric]) -> dict[str, Any]:
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
        **{metric.name: _finite(score.values.get(metric.name)) for metric in metrics},
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else round(value, 6)


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"


def check_target(path: Path, inputs: Sequence[Path] = ()) -> None:
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
