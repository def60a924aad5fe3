"""Tables and figures of ``make evidence`` from its CSV files alone, so that anybody can make them again.

``python -m varestorer_cli.bench.evidence_page FOLDER`` prints the tables and writes ``tables.md``, ``attention.svg``
and ``path.svg`` there.
"""

import csv
import html
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIANTS = {
    "full": "full",
    "no_kl": "without KL",
    "no_distillation": "without distillation (all steps)",
    "causal": "causal instead of bidirectional",
    "input_codes": "codes of the input",
    "random_codes": "random codes",
}
OTHERS = {
    "kl_summed": "full with five times the KL (0.1 on the sum over scales)",
    "teacher_steps": "the common teacher, all steps",
    "shipped": "bundled mini: 2400 steps, a KL teacher that sees the degraded image, mean codes",
    "full_sampled": "full, bits drawn (temperature 1)",
    "full_expected": "full, mean codes",
    "full_consistent": "full, mean codes quantised again",
    "prerestored": "pre-restored image, no codes",
    "ceiling": "codes of the reference (ceiling)",
    "teacher_blind": "teacher on the reference's history",
    "teacher_seeing": "the same, seeing the degraded image",
}
PUBLISHED = {"full": 0.7669, "no_kl": 0.6682, "no_distillation": 0.4794, "causal": 0.3910}
"""CLIPIQA on DIV2K of the paper's ablation; causal stands for its row without cross-scale attention."""
COLUMNS = {"psnr_y": ("PSNR-Y", 2, False), "ssim_y": ("SSIM-Y", 4, False), "lite2": ("Lite2", 4, True)}
"""Heading, digits, and whether less is better."""
PAIRS = (
    ("shipped", "teacher_steps"),
    ("shipped", "input_codes"),
    ("shipped", "prerestored"),
    ("input_codes", "teacher_steps"),
)
"""Variants of which one seed exists, or all seeds are alike: compared crop by crop."""
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)  # Student's t, 97.5 %, 1 to 30 degrees; more are taken for 30

Rows = Sequence[Mapping[str, str]]


def write_page(folder: Path) -> str:
    """Write tables and figures; returns the tables, Markdown."""
    rows = _read(folder / "rows.csv")
    tables = [table(rows), bits_table(rows), differences(rows)]
    if (folder / "crops.csv").is_file():
        tables.append(compared(_read(folder / "crops.csv")))
    text = "\n\n".join(tables) + "\n"
    (folder / "tables.md").write_text(text, encoding="utf-8")
    if (folder / "path.csv").is_file():
        (folder / "path.svg").write_text(path_figure(_read(folder / "path.csv")), encoding="utf-8")
        (folder / "attention.svg").write_text(attention_figure(_read(folder / "attention.csv")), encoding="utf-8")
    return text


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; NaN for one value, 0 where all are equal."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    degrees = min(len(values) - 1, len(_T95))
    return mean, _T95[degrees - 1] * statistics.stdev(values) / math.sqrt(len(values))


def values_of(rows: Rows, variant: str, column: str) -> dict[str, float]:
    """A column of a variant by seed."""
    return {row["seed"]: float(row[column]) for row in rows if row["variant"] == variant and row.get(column)}


def table(rows: Rows) -> str:
    """Scores of every variant, mean over seeds with its interval, the published ablation beside them."""
    heads = [name + (" (less is better)" if less else "") for name, _, less in COLUMNS.values()]
    lines = [
        "| variant | " + " | ".join([*heads, "right bits", "ms per tile", "paper: CLIPIQA"]) + " |",
        "|---" * (len(heads) + 4) + "|",
    ]
    for variant, title in (VARIANTS | OTHERS).items():
        cells = [_cell(rows, variant, column, digits) for column, (_, digits, _) in COLUMNS.items()]
        if not any(cells):
            continue
        published = PUBLISHED.get(variant)
        more = [_cell(rows, variant, "bits", 3), _cell(rows, variant, "ms", 1)]
        lines.append(
            "| " + " | ".join([title, *cells, *more, "" if published is None else f"{published:.4f}"[1:]]) + " |"
        )
    return "\n".join(lines)


def bits_table(rows: Rows) -> str:
    """Share of right bits by scale."""
    scales = sorted(name for name in (rows[0] if rows else {}) if name.startswith("bits_"))
    lines = ["| right bits | " + " | ".join(f"scale {name[5:]}" for name in scales) + " |"]
    lines.append("|---" * (len(scales) + 1) + "|")
    for variant, title in (VARIANTS | OTHERS).items():
        cells = [_cell(rows, variant, name, 3) for name in scales]
        if any(cells):
            lines.append("| " + " | ".join([title, *cells]) + " |")
    return "\n".join(lines)


def differences(rows: Rows) -> str:
    """What each variant has more than the full recipe of the same seed, with its interval, and what that tells."""
    lines = [
        "| minus full, same seed | " + " | ".join(name for name, _, _ in COLUMNS.values()) + " | paper: CLIPIQA |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for variant, title in VARIANTS.items():
        if variant == "full":
            continue
        cells = []
        for column, (_, digits, less) in COLUMNS.items():
            full, other = values_of(rows, "full", column), values_of(rows, variant, column)
            both = [other[seed] - full[seed] for seed in full if seed in other]
            cells.append(f"{_text(*interval(both), digits, sign=True)} {verdict(both, less)}" if both else "")
        published = PUBLISHED.get(variant)
        change = "" if published is None else f"{published - PUBLISHED['full']:+.4f}"
        lines.append("| " + " | ".join([title, *cells, change]) + " |")
    return "\n".join(lines)


def compared(rows: Rows) -> str:
    """Differences on the same crops, of the first seed that has both, with their interval over photographs."""
    lines = [
        "| the first minus the second, same crops | " + " | ".join(name for name, _, _ in COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    by: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in rows:
        by.setdefault((row["variant"], row["seed"]), {})[row["crop"]] = row
    titles = VARIANTS | OTHERS
    for first, second in PAIRS:
        seeds = sorted({seed for variant, seed in by if variant == first and (second, seed) in by})
        if not seeds:
            continue
        one, other = by[first, seeds[0]], by[second, seeds[0]]
        cells = []
        for column, (_, digits, less) in COLUMNS.items():
            of: dict[str, list[float]] = {}
            for crop in one.keys() & other.keys():
                of.setdefault(one[crop]["photograph"], []).append(float(one[crop][column]) - float(other[crop][column]))
            mean, half = clustered(list(of.values()))
            cells.append(f"{_text(mean, half, digits, sign=True)} {_told(mean, half, less)}")
        lines.append("| " + " | ".join([f"{titles[first].partition(':')[0]} - {titles[second]}", *cells]) + " |")
    return "\n".join(lines)


def clustered(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean over all values, and half its 95 % interval where groups are independent, values within one are not.

    Crops of one photograph are such a group. The variance is the cluster-robust one of a mean (Liang and Zeger 1986),
    with Student's t of one degree less than there are groups; NaN for one group.
    """
    count, number = sum(map(len, groups)), len(groups)
    mean = sum(map(sum, groups)) / count
    if number < 2:
        return mean, math.nan
    squares = math.fsum(math.fsum(value - mean for value in group) ** 2 for group in groups)
    t = _T95[min(number - 1, len(_T95)) - 1]
    return mean, t * math.sqrt(squares * number / (number - 1)) / count


def verdict(differences: Sequence[float], less_is_better: bool) -> str:
    """``better``, ``worse``, or that the interval holds both."""
    return _told(*interval(differences), less_is_better)


def _told(mean: float, half: float, less_is_better: bool) -> str:
    if math.isnan(half) or abs(mean) <= half:
        return "(cannot tell)"
    return "better" if (mean < 0) is less_is_better else "worse"


def _cell(rows: Rows, variant: str, column: str, digits: int) -> str:
    values = list(values_of(rows, variant, column).values())
    return _text(*interval(values), digits) if values else ""


def _text(mean: float, half: float, digits: int, *, sign: bool = False) -> str:
    number = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return number if math.isnan(half) else f"{number} ± {half:.{digits}f}"


def path_figure(rows: Rows) -> str:
    """Error of the accumulated codes after each scale, a line per path, mean over seeds; SVG."""
    paths: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        paths.setdefault(row["path"], {}).setdefault(int(row["scale"]), []).append(float(row["error"]))
    scales = sorted({scale for path in paths.values() for scale in path})
    highest = max(statistics.fmean(values) for path in paths.values() for values in path.values())
    width, height, left, top = 640, 300, 50, 20

    def place(scale: int, error: float) -> tuple[float, float]:
        return left + (scale - 1) * 300 / max(1, len(scales) - 1), top + 230 * (1 - error / highest)

    parts = [f'<text x="{left}" y="{top + 268}">scale, coarse to fine; error as a share of the final codes</text>']
    for tick in range(5):
        value = highest * tick / 4
        _, y = place(1, value)
        parts.append(f'<line x1="{left}" x2="{left + 300}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for scale in scales:
        parts.append(f'<text x="{place(scale, 0)[0]:.1f}" y="{top + 248}" text-anchor="middle">{scale}</text>')
    for number, (name, path) in enumerate(paths.items()):
        color = ("#1b6ca8", "#e07b00", "#2a9d4a", "#888888", "#b0307a")[number % 5]
        dots = [place(scale, statistics.fmean(values)) for scale, values in sorted(path.items())]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in dots]
        parts.append(f'<text x="370" y="{top + 20 + 20 * number}" fill="{color}">{html.escape(name)}</text>')
    return _svg(width, height, parts)


def attention_figure(rows: Rows) -> str:
    """Attention between scales, a square per block of the student, mean over seeds; SVG."""
    shares: dict[tuple[int, int, int], list[float]] = {}
    for row in rows:
        key = (int(row["block"]), int(row["asking"]), int(row["seen"]))
        shares.setdefault(key, []).append(float(row["share"]))
    blocks, asking, seen = (max(key[axis] for key in shares) for axis in range(3))
    cell, left, top = 30, 60, 40
    step = seen * cell + 40
    parts = []
    for block in range(1, blocks + 1):
        x0 = left + (block - 1) * step
        parts.append(f'<text x="{x0}" y="14">block {block}</text>')
        for column in range(1, seen + 1):
            label = "extra" if column == seen else str(column)
            parts.append(f'<text x="{x0 + (column - 0.5) * cell}" y="{top - 8}" text-anchor="middle">{label}</text>')
        for row_number in range(1, asking + 1):
            y = top + (row_number - 1) * cell
            if block == 1:
                parts.append(f'<text x="{left - 8}" y="{y + 19}" text-anchor="end">scale {row_number}</text>')
            for column in range(1, seen + 1):
                share = statistics.fmean(shares[block, row_number, column])
                x, dark = x0 + (column - 1) * cell, share > 0.5
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="#1b6ca8" fill-opacity="{share:.3f}"/>'
                    f'<text x="{x + cell / 2}" y="{y + 19}" text-anchor="middle" font-size="10" '
                    f'fill="{"#fff" if dark else "#222"}">{share * 100:.0f}</text>'
                )
    note = f'<text x="{left}" y="{top + asking * cell + 22}">rows ask, columns are looked at; percent of a row</text>'
    return _svg(left + blocks * step, top + asking * cell + 34, [*parts, note])


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    sys.stdout.write(write_page(Path(sys.argv[1])))
