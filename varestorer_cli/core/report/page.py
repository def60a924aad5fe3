"""One HTML file to look at a run: pictures with sliders, tables to sort, and nothing to install or to serve.

The page is built from plain data (:class:`Page`), so that ``restore`` and ``score`` share its look. Style and script
are inlined; a content security policy forbids everything else, and the linked picture files are read only when the
reader asks for one. The same data gives the same bytes.
"""

import base64
import hashlib
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from varestorer_cli.core.atomic import atomic_file, check_writable
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.report.crops import CROP, MOST_BYTES, MOST_PICTURES, QUALITY
from varestorer_cli.core.report.html import escape, named, number_text, section, shown_by_browsers
from varestorer_cli.version import __version__

MOST_ROWS = 5000
MOST_FAILURES = 500
_SHORT = 30  # letters that stay on one line of the table
_SUFFIXES = (".html", ".htm")
_MARK = '<meta name="generator" content="varestorer page">'
_BAD = ' class="bad"'
_KEY = ' class="key"'

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        label: its head.
        digits: decimals of a number; None makes it a column of text.
        worst: ``low`` or ``high``, the end where trouble is; an order by this column begins there.
        hint: what it means, shown on hovering.
    """

    label: str
    digits: int | None = None
    worst: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Layer:
    """One of the pictures that are laid over each other.

    Attributes:
        label: ``before``, ``after``, ...
        link: address of the file relative to the page; empty where there is none.
        crop: the embedded part as a ``data:`` address; empty where only the link is there.
    """

    label: str
    link: str = ""
    crop: str = ""


@dataclass(frozen=True)
class Entry:
    """One picture of the run: a row of the table and, where crops are embedded, a card.

    Attributes:
        name: shown name.
        cells: one value per column.
        layers: from the first to the last state of the picture.
        size: (width, height) of the whole picture.
        crop_size: (width, height) of the embedded crops, None without them.
        facts: numbers to print on the card, label and text.
        note: a warning.
        caption: where the crop is from, or why there is none.
        bad: whether it failed.
    """

    name: str
    cells: tuple[Value, ...]
    layers: tuple[Layer, ...] = ()
    size: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None
    facts: tuple[tuple[str, str], ...] = ()
    note: str = ""
    caption: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        kind: small line above the title.
        title: what was restored or scored.
        lead: sentences below it.
        tiles: the numbers to see first: value, label, and whether it is bad news.
        above: sections between the title and the pictures, as HTML made by :func:`section`.
        below: sections between the pictures and the table.
        columns: of the table.
        entries: in the order they are shown first.
        order: index of the column that the entries are ordered by, None for no column.
        descending: whether that order runs from high to low.
        sides: labels of the layers that the reader chooses from, and which two are shown first; empty hides the choice.
        rule: which pictures are embedded and how.
        rest: sentence on rows that are not on the page; empty where all are.
    """

    kind: str
    title: str
    lead: tuple[str, ...]
    tiles: tuple[tuple[str, str, bool], ...]
    above: tuple[str, ...]
    below: tuple[str, ...]
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]
    order: int | None = None
    descending: bool = False
    sides: tuple[str, ...] = ()
    rule: str = ""
    rest: str = ""


def check_page_target(path: Path) -> None:
    """Make sure, before any work, that a page can be written to ``path``.

    Raises:
        UsageError: the name is no HTML file's, or another file has it.
        OutputError: the folder cannot be made or written to.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--report {path}: a page needs a name that ends in .html")
    if path.is_dir():
        raise UsageError(f"--report {path}: is a folder; name a file in it, such as {path / 'page.html'}")
    if path.exists() and not _is_ours(path):
        raise UsageError(f"--report {path}: exists and is no page of varestorer; move it, or choose another name")
    check_writable(path.parent)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            start = stream.read(1000)
    except OSError:
        return False
    return not start or _MARK.encode() in start


def write_page(page: Page, path: Path) -> None:
    """Write the page whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as stream:
        stream.write(render(page).encode("utf-8"))


# --- pieces ----------------------------------------------------------------------------------------------------------


def embedding_rule(embedded: int, shown: int, order: str, fitting: str) -> str:
    """Which pictures are embedded, how many there could be, and how.

    Args:
        embedded: pictures on the page.
        shown: pictures that could be.
        order: which come first.
        fitting: how states of other sizes are laid under each other.
    """
    if not embedded:
        return "No picture is embedded; the table links to the files."
    width, height = CROP
    which = "each picture" if embedded == shown else f"{embedded} of {shown} pictures, {order}"
    return (
        f"Embedded: {which} (at most {MOST_PICTURES}, {MOST_BYTES // 10**6} MB), {width}x{height} pixels from the "
        f"place that changed most, at 100 %: one pixel of the result is one pixel of the page; {fitting}. Embedded "
        f"parts are JPEG of quality {QUALITY} in sRGB; the links and 'whole picture' open the files themselves."
    )


def failure_list(failures: Sequence[tuple[str, str]], title: str) -> str:
    """The failed pictures and why; empty without any."""
    if not failures:
        return ""
    lines = "".join(
        f"<li>{named(name)}<span>{escape(reason)}</span></li>\n" for name, reason in failures[:MOST_FAILURES]
    )
    if len(failures) > MOST_FAILURES:
        lines += f"<li>and {len(failures) - MOST_FAILURES} more, all in the table's file</li>\n"
    return f'<section class="failures" id="failures"><h2>{escape(title)}</h2><ul>\n{lines}</ul></section>'


# --- the whole -------------------------------------------------------------------------------------------------------


def render(page: Page) -> str:
    """The page as HTML."""
    style, script = _asset("page.css"), _asset("page.js")
    tiles = "".join(
        f"<li{_BAD if bad else ''}><b>{escape(value)}</b><span>{escape(label)}</span></li>\n"
        for value, label, bad in page.tiles
    )
    return string.Template(_asset("page.html")).substitute(
        title=escape(page.title),
        kind=escape(page.kind),
        lead="\n".join(f'<p class="lead">{escape(text)}</p>' for text in page.lead),
        tiles=tiles,
        above="\n".join(page.above),
        gallery=_gallery(page),
        below="\n".join(page.below),
        table=_table(page),
        footer=f"varestorer {escape(__version__)}. This page needs no network; its links lead to the files on disk.",
        style=style,
        style_hash=_policy_hash(style),
        script=script,
        script_hash=_policy_hash(script),
    )


def _asset(name: str) -> str:
    return resources.files("varestorer_cli.data").joinpath("page", name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _gallery(page: Page) -> str:
    cards = [_card(number, entry, page) for number, entry in enumerate(page.entries) if entry.crop_size]
    if not page.entries:
        return ""
    rule = f'<p class="rule">{escape(page.rule)}</p>' if page.rule else ""
    grid = f'<div class="cards">\n{"".join(cards)}</div>' if cards else ""
    return section("Pictures", f"{rule}\n{_bar(page, bool(cards))}\n{grid}", "pictures")


def _bar(page: Page, choice: bool) -> str:
    """Order, search, and which two states are compared."""
    options = "".join(
        f'<option value="{place + 1}"{" selected" if place == page.order else ""}>{escape(column.label)}</option>'
        for place, column in enumerate(page.columns)
        if column.digits is not None
    )
    blank = "" if page.order is not None else '<option value="" selected disabled>as given</option>'
    turned = "high to low" if page.descending else "low to high"
    parts = []
    if options:
        parts.append(
            f'<label>Order by <select id="order">{blank}{options}</select></label>'
            f'<button type="button" id="turn" title="Turn the order round">{turned}</button>'
        )
    if page.sides and choice:
        for side, shown in (("left", page.sides[0]), ("right", page.sides[1])):
            buttons = "".join(
                f'<button type="button" aria-pressed="{str(label == shown).lower()}">{escape(label)}</button>'
                for label in page.sides[2:]
            )
            parts.append(
                f'<div class="group" role="group" aria-label="{side} side" data-side="{side}">{side.capitalize()} '
                f"{buttons}</div>"
            )
    parts.append('<label>Find <input type="search" id="search" placeholder="name, status, warning"></label>')
    parts.append('<span id="shown" role="status"></span>')
    return f'<div class="bar">{"".join(parts)}</div>'


def _pair(page: Page, layers: Sequence[Layer]) -> tuple[int, int]:
    """Which layers lie left and right at first."""
    labels = [layer.label for layer in layers]
    right = labels.index(page.sides[1]) if page.sides and page.sides[1] in labels else len(labels) - 1
    left = labels.index(page.sides[0]) if page.sides and page.sides[0] in labels else 0
    return (left, right) if left != right else (next((i for i in range(len(labels)) if i != right), right), right)


def _card(number: int, entry: Entry, page: Page) -> str:
    assert entry.crop_size is not None
    width, height = entry.crop_size
    layers = [layer for layer in entry.layers if layer.crop]
    left, right = _pair(page, layers)
    images = "".join(
        f'<img class="{"right" if place == right else "left" if place == left else "off"}" src="{layer.crop}" '
        f'data-label="{escape(layer.label)}" width="{width}" height="{height}" loading="lazy" decoding="async" '
        f'draggable="false" alt="{escape(entry.name)}, {escape(layer.label)}">\n'
        for place, layer in enumerate(layers)
    )
    handle = ""
    if len(layers) > 1:
        one, two = escape(layers[left].label), escape(layers[right].label)
        handle = (
            f'<div class="handle" role="slider" tabindex="0" aria-label="{one} and {two} of {escape(entry.name)}" '
            f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="50" aria-valuetext="50 % {one}, 50 % {two}"></div>'
            f'<span class="tag l">{one}</span><span class="tag r">{two}</span>'
        )
    facts = "".join(
        f"<div{_KEY if place == 0 else ''}><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>"
        for place, (label, text) in enumerate(entry.facts)
    )
    note = f'<p class="note">{escape(entry.note)}</p>' if entry.note else ""
    caption = f"<span>{escape(entry.caption)}</span>" if entry.caption else ""
    return (
        f'<article class="card" data-row="row-{number}">\n<div class="frame"><div class="cmp'
        f'{"" if handle else " single"}">{images}{handle}</div></div>\n'
        f'<div class="body"><h3>{named(entry.name)}</h3><dl class="facts">{facts}</dl>{note}'
        f'<p class="links">{_links(number, entry, marked=False)}{caption}</p></div></article>\n'
    )


def _links(number: int, entry: Entry, *, marked: bool) -> str:
    """Links to the files, and the button that shows them over each other."""
    parts = []
    for layer in entry.layers:
        if layer.link:
            shown = " data-show" if shown_by_browsers(layer.link) else ""
            mark = f' data-label="{escape(layer.label)}"{shown}' if marked else ""
            parts.append(f'<a href="{escape(layer.link)}"{mark}>{escape(layer.label)}</a>')
    if any(layer.link and shown_by_browsers(layer.link) for layer in entry.layers):
        parts.append(f'<button type="button" class="whole" data-row="row-{number}">whole picture</button>')
    return " ".join(parts)


def _table(page: Page) -> str:
    if not page.entries:
        return ""
    heads = ['<th scope="col" data-worst=""><button type="button">Picture</button></th>']
    for place, column in enumerate(page.columns):
        kind = ' class="num"' if column.digits is not None else ""
        now = f' aria-sort="{"descending" if page.descending else "ascending"}"' if place == page.order else ""
        hint = f' title="{escape(column.hint)}"' if column.hint else ""
        heads.append(
            f'<th scope="col"{kind}{now}{hint} data-worst="{column.worst}"><button type="button">'
            f"{escape(column.label)}</button></th>"
        )
    heads.append('<th scope="col">Files</th>')
    rows = "".join(_row(number, entry, page.columns) for number, entry in enumerate(page.entries))
    rest = f'<p class="rule">{escape(page.rest)}</p>' if page.rest else ""
    body = (
        f'{rest}<div class="wide" tabindex="0" role="region" aria-label="All pictures">'
        f'<table id="rows"><thead><tr>{"".join(heads)}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
    )
    return section("All pictures", body, "all")


def _row(number: int, entry: Entry, columns: Sequence[Column]) -> str:
    cells = []
    for place, (column, value) in enumerate(zip(columns, entry.cells, strict=True)):
        if column.digits is None:
            text = str(value or "")
            kind = "short state" if place == 0 else "text" if len(text) > _SHORT else "short"
            cells.append(f'<td class="{kind}">{escape(text)}</td>')
        elif isinstance(value, int | float):
            exact = repr(value) if math.isfinite(value) else "Infinity"
            cells.append(f'<td class="num" data-v="{exact}">{number_text(value, column.digits)}</td>')
        else:
            cells.append('<td class="num"></td>')
    size = f' data-size="{entry.size[0]}x{entry.size[1]}"' if entry.size else ""
    bad = _BAD if entry.bad else ""
    return (
        f'<tr id="row-{number}"{bad}{size}><th scope="row">{named(entry.name)}</th>{"".join(cells)}'
        f'<td class="files">{_links(number, entry, marked=True)}</td></tr>\n'
    )
