"""An HTML page to look at a run: images with sliders, tables to sort, and nothing to install or to serve.

The page is built from plain data (:class:`Page`), so that ``restore`` and ``score`` share its look. Style and script
are inlined; a content security policy forbids everything else, and the linked image files are read only when the
reader asks for one. The same data gives the same bytes.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from varestorer_cli.core.atomic import atomic_file, check_writable
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.report import crops
from varestorer_cli.core.report.html import asset, environment, shown_by_browsers
from varestorer_cli.version import __version__

MOST_ROWS = 5000
MOST_FAILURES = 500
MOST_NAMES = 200
_SUFFIXES = (".html", ".htm")
_MARK = '<meta name="generator" content="varestorer page">'

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

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers."""
        return self.digits is not None


@dataclass(frozen=True)
class Layer:
    """One state of an image; the states are laid over each other.

    Attributes:
        label: ``before``, ``after``, ...
        link: address of the file relative to the page; empty where there is none.
        crop: address of the part that is shown; empty where only the link is there.
    """

    label: str
    link: str = ""
    crop: str = ""

    @property
    def shown(self) -> bool:
        """Whether a browser can show the file itself."""
        return bool(self.link) and shown_by_browsers(self.link)


@dataclass(frozen=True)
class PageEntry:
    """One image of the run: a row of the table, a thumbnail and, where crops are embedded, a card.

    Attributes:
        name: shown name.
        cells: one value per column.
        layers: from the first to the last state of the image.
        size: (width, height) of the whole image.
        crop_size: (width, height) of the embedded crops, None without them.
        facts: numbers to print on the card, label and text.
        note: a warning.
        caption: where the crop is from, or why there is none.
        bad: whether it failed.
        thumbnail: address of the whole image, small; empty without one.
        number: place on the page, from 0; given by :func:`render`.
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
    thumbnail: str = ""
    number: int = 0

    @property
    def shown(self) -> bool:
        """Whether a browser can show one of its files."""
        return any(layer.shown for layer in self.layers)


@dataclass(frozen=True)
class Lines:
    """Sentences, one below the other."""

    kind: ClassVar[str] = "lines"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """A warning."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Charts:
    """Charts as markup, from :mod:`.charts`."""

    kind: ClassVar[str] = "charts"
    svg: str


@dataclass(frozen=True)
class Table:
    """A small table of text; columns from ``numbers_from`` on are set to the right."""

    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers_from: int = 10**6


@dataclass(frozen=True)
class Folded:
    """A table behind a line to click on."""

    kind: ClassVar[str] = "folded"
    title: str
    table: Table


@dataclass(frozen=True)
class Names:
    """Names of files behind a line to click on; at most so many, ``more`` counts the others."""

    kind: ClassVar[str] = "names"
    title: str
    names: tuple[str, ...]
    more: int = 0

    @classmethod
    def of(cls, title: str, names: Sequence[str]) -> "Names":
        """The first of the names in their order."""
        return cls(title, tuple(sorted(names)[:MOST_NAMES]), max(0, len(names) - MOST_NAMES))


@dataclass(frozen=True)
class Reasons:
    """Names with their reasons; ``more`` counts those left out."""

    kind: ClassVar[str] = "reasons"
    items: tuple[tuple[str, str], ...]
    more: int = 0


Block = Lines | Note | Charts | Table | Folded | Names | Reasons


@dataclass(frozen=True)
class Section:
    """A part of the page with a title of its own.

    Attributes:
        title: its head.
        blocks: what it holds.
        name: anchor that links lead to, empty for none.
        failures: whether it is set as bad news.
    """

    title: str
    blocks: tuple[Block, ...]
    name: str = ""
    failures: bool = False


@dataclass(frozen=True)
class Page:
    """Everything that a page shows.

    Attributes:
        kind: small line above the title.
        title: what was restored or scored.
        lead: sentences below it.
        totals: the numbers to see first: value, label, and whether it is bad news.
        above: sections between the title and the images.
        below: sections between the images and the table.
        columns: of the table.
        entries: in the order they are shown first.
        order: index of the column that the entries are ordered by, None for no column.
        descending: whether that order runs from high to low.
        sides: labels of the layers that the reader chooses from, and which two are shown first; empty hides the choice.
        rule: which images are embedded and how.
        rest: sentence on rows that are not on the page; empty where all are.
    """

    kind: str
    title: str
    lead: tuple[str, ...]
    totals: tuple[tuple[str, str, bool], ...]
    above: tuple[Section, ...]
    below: tuple[Section, ...]
    columns: tuple[Column, ...]
    entries: tuple[PageEntry, ...]
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


def page_folder_target(folder: Path) -> Path:
    """The page in a folder of ``--report-dir``."""
    return folder / "index.html"


def images_beside(target: Path) -> crops.ImageFolder:
    """The folder of small images that belongs to a page of ``--report-dir``.

    Raises:
        OutputError: it cannot be made.
    """
    return crops.ImageFolder(target.with_name(f"{target.stem}-images"))


def write_page(page: Page, path: Path, images: crops.ImageFolder | None = None) -> None:
    """Write the page whole or not at all.

    Args:
        page: what it shows.
        path: its file.
        images: its small images, those of an earlier page are removed; None where they are embedded.

    Raises:
        OutputError: it cannot be written.
    """
    text = render(page)
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8"))
    if images is not None:
        images.remove_others(text)


# --- pieces ----------------------------------------------------------------------------------------------------------


def embedding_rule(embedder: crops.Embedder, shown: int, order: str, fitting: str) -> str:
    """Sentences on which images the page shows, how many there could be, and how.

    Args:
        embedder: what it did.
        shown: images that could be shown.
        order: which come first.
        fitting: how states of other sizes are laid under each other.
    """
    if not embedder.embedded:
        return "No image is embedded; the table links to the files."
    width, height = crops.CROP
    folder = embedder.folder
    kept = "Embedded" if folder is None else f"In {folder.folder.name}/"
    most = (
        f"at most {crops.MOST_CARDS}, {crops.MOST_BYTES // 10**6} MB"
        if folder is None
        else f"at most {crops.MOST_CARDS_APART}"
    )
    which = "each image" if embedder.embedded == shown else f"{embedder.embedded} of {shown} images, {order}"
    text = (
        f"{kept}: {which} ({most}), {width}x{height} pixels "
        f"from the place that changed most, at 100 %: one pixel of the result is one pixel of the page; {fitting}. "
        f"These parts are JPEG of quality {crops.QUALITY} in sRGB; the links and 'whole image' open the files "
        "themselves."
    )
    if embedder.left_out:
        text += f" {embedder.left_out} have no thumbnail, the page is full: --report-dir shows all."
    return text


def failure_list(failures: Sequence[tuple[str, str]], title: str) -> tuple[Section, ...]:
    """The section of the failed images and why; none without any."""
    if not failures:
        return ()
    block = Reasons(tuple(failures[:MOST_FAILURES]), max(0, len(failures) - MOST_FAILURES))
    return (Section(title, (block,), "failures", failures=True),)


# --- the whole -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Card:
    """An entry with embedded crops, and which of them lie left and right at first."""

    entry: PageEntry
    layers: tuple[Layer, ...]
    left: Layer
    right: Layer

    @property
    def compares(self) -> bool:
        """Whether there are two states."""
        return len(self.layers) > 1

    def place(self, layer: Layer) -> str:
        """Class of a layer's image."""
        return "right" if layer is self.right else "left" if layer is self.left else "off"


def render(page: Page) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    entries = tuple(dataclasses.replace(entry, number=number) for number, entry in enumerate(page.entries))
    page = dataclasses.replace(page, entries=entries)
    cards = [_card(entry, page) for entry in entries if entry.crop_size]
    small = sum(bool(entry.thumbnail) for entry in entries)
    style, script = asset("page.css"), asset("page.js")
    return (
        environment()
        .get_template("page.html")
        .render(
            page=page,
            cards=cards,
            thumbnails=small if small > min(len(cards), crops.MOST_CARDS) else 0,  # a few cards show more of each
            version=__version__,
            style=Markup(style),
            style_hash=_policy_hash(style),
            script=Markup(script),
            script_hash=_policy_hash(script),
        )
    )


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _card(entry: PageEntry, page: Page) -> _Card:
    layers = tuple(layer for layer in entry.layers if layer.crop)
    labels = [layer.label for layer in layers]
    right = labels.index(page.sides[1]) if page.sides and page.sides[1] in labels else len(labels) - 1
    left = labels.index(page.sides[0]) if page.sides and page.sides[0] in labels else 0
    if left == right:
        left = next((place for place in range(len(labels)) if place != right), right)
    return _Card(entry, layers, layers[left], layers[right])
