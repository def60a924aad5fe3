"""Histograms, scatter plots and curves as inline SVG: no library, no script, colours from the page's style."""

import html
import math
from collections.abc import Mapping, Sequence

from varestorer_cli.core.report.html import visible

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 30
MOST_DOTS = 3000
MOST_CURVES = 8
"""Curves of one chart: so many colours can be told apart."""
_MOST_POINTS = 400


def histogram(values: Sequence[float], title: str, remark: str = "", bins: int = 24) -> str:
    """A histogram of the finite values; infinite ones are counted in the caption.

    Returns:
        A figure in HTML, empty where there is no finite value.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    ticks = _ticks(min(finite), max(finite))
    low, high = ticks[0], ticks[-1]
    counts = [0] * min(bins, max(1, len(finite)))
    for value in finite:
        counts[min(len(counts) - 1, int((value - low) / (high - low) * len(counts)))] += 1
    heights = _ticks(0, max(counts), whole=True)
    step = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    bars = []
    for place, count in enumerate(counts):
        if not count:
            continue
        top = _y(count, heights)
        begin, end = (low + (high - low) * at / len(counts) for at in (place, place + 1))
        bars.append(
            f'<rect class="col" x="{_LEFT + place * step + 0.5:.1f}" y="{top:.1f}" width="{step - 1:.1f}" '
            f'height="{_HEIGHT - _BOTTOM - top:.1f}"><title>{_short(begin)} to {_short(end)}: {count}</title></rect>'
        )
    mean = sum(finite) / len(finite)
    line = _x(mean, ticks)
    bars.append(
        f'<line class="mean" x1="{line:.1f}" x2="{line:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
        f"<title>mean {_short(mean)}</title></line>"
    )
    left_out = len(values) - len(finite)
    note = f"{remark}; {left_out} infinite not shown" if left_out else remark
    return _figure(title, note, _axes(ticks, heights) + "".join(bars), f"Histogram of {title}")


def scatter(
    points: Sequence[tuple[float, float, str, str]], across: str, up: str, *, equal: bool = False, remark: str = ""
) -> str:
    """A scatter plot with one dot per image.

    Args:
        points: x, y, name, and the address that the dot leads to (empty for none).
        across: what x is.
        up: what y is.
        equal: draw the line x = y, for two values of one kind.
        remark: added to the title.

    Returns:
        A figure in HTML, empty where fewer than two dots are finite.
    """
    finite = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if len(finite) < 2:
        return ""
    if len(finite) > MOST_DOTS:
        remark = f"{remark}; every {-(-len(finite) // MOST_DOTS)}. of {len(finite)}".lstrip("; ")
        finite = finite[:: -(-len(finite) // MOST_DOTS)]
    xs, ys = [point[0] for point in finite], [point[1] for point in finite]
    if equal:
        xs = ys = xs + ys
    columns, lines = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))
    dots = []
    if equal:
        dots.append(
            f'<line class="equal" x1="{_LEFT}" y1="{_HEIGHT - _BOTTOM}" x2="{_WIDTH - _RIGHT}" y2="{_TOP}"></line>'
        )
    for x, y, name, address in finite:
        dot = (
            f'<circle class="dot" cx="{_x(x, columns):.1f}" cy="{_y(y, lines):.1f}" r="3.5">'
            f"<title>{_escaped(name)}: {_short(x)}, {_short(y)}</title></circle>"
        )
        dots.append(f'<a href="{_escaped(address)}" tabindex="-1">{dot}</a>' if address else dot)
    title = f"{up} over {across}"
    return _figure(title, remark, _axes(columns, lines) + "".join(dots), f"Scatter plot: {title}")


def curves(series: Mapping[str, Sequence[tuple[float, float]]], title: str, across: str, remark: str = "") -> str:
    """Curves in one chart, at most ``MOST_CURVES``; a point that is not finite interrupts its curve.

    Args:
        series: (x, y) points in the order of x, by the name of the curve.
        title: what y is.
        across: what x is.
        remark: added to the title.

    Returns:
        A figure in HTML, empty where no point is finite.
    """
    shown = {name: _thinned(points) for name, points in list(series.items())[:MOST_CURVES]}
    finite = [point for points in shown.values() for point in points if math.isfinite(point[1])]
    if not finite:
        return ""
    columns = _ticks(min(x for x, _ in finite), max(x for x, _ in finite))
    lines = _ticks(min(y for _, y in finite), max(y for _, y in finite))
    parts, legend = [], []
    for place, (name, points) in enumerate(shown.items()):
        label = f"<title>{_escaped(name)}</title>"
        for run in _finite_runs(points):
            path = " ".join(f"{_x(x, columns):.1f},{_y(y, lines):.1f}" for x, y in run)
            parts.append(f'<polyline class="curve c{place}" points="{path}">{label}</polyline>')
        newest = next((point for point in reversed(points) if math.isfinite(point[1])), None)
        if newest is not None:
            x, y = newest
            parts.append(
                f'<circle class="end c{place}" cx="{_x(x, columns):.1f}" cy="{_y(y, lines):.1f}" r="3">'
                f"<title>{_escaped(name)}: {_short(y)} at {_short(x)}</title></circle>"
            )
        legend.append(f'<li class="c{place}"><bdi>{_escaped(name)}</bdi></li>')
    key = f'<ul class="legend">{"".join(legend)}</ul>' if len(shown) > 1 else ""
    note = "; ".join(filter(None, (f"over {across}", remark)))
    return _figure(title, note, _axes(columns, lines) + "".join(parts), f"Curves of {title}", key)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points where there are too many to draw."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _finite_runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _figure(title: str, remark: str, body: str, label: str, below: str = "") -> str:
    note = f" <span>{_escaped(remark)}</span>" if remark else ""
    return (
        f'<figure><figcaption>{_escaped(title)}{note}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_escaped(label)}">{body}</svg>{below}</figure>\n'
    )


def _axes(columns: Sequence[float], lines: Sequence[float]) -> str:
    parts = []
    for value in lines:
        y = _y(value, lines)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"></line>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    base = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"></line>')
    for value in columns:
        x = _x(value, columns)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"></line>')
        parts.append(f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{_short(value)}</text>')
    return "".join(parts)


def _x(value: float, ticks: Sequence[float]) -> float:
    return _LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    return _HEIGHT - _BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to seven round numbers that enclose two values."""
    if high <= low:
        spread = abs(low) * 0.05 or 1.0
        low, high = (low, low + 1) if whole else (low - spread, high + spread)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def _short(value: float) -> str:
    return f"{value:.4g}"
