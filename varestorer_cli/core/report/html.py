"""Pieces of HTML: text and names made harmless, addresses, small tables."""

import html
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from urllib.parse import quote

# What browsers show in an <img>; the others are linked only.
_SHOWN = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".avif"})


def link_to(path: str | Path, folder: Path) -> str:
    """Address of a file as seen from a page in ``folder``: relative where possible, every odd byte escaped."""
    # Symbolic links stay: a browser takes "../" off the address as it is written.
    absolute = os.path.abspath(path)  # noqa: PTH100
    try:
        relative = os.path.relpath(absolute, folder)
    except ValueError:  # another drive
        return Path(absolute).as_uri()
    address = quote(os.fsencode(PurePath(relative).as_posix()))
    # "a:b.png" alone would be read as a scheme
    return address if address.startswith(("../", "./")) else f"./{address}"


def shown_by_browsers(link: str) -> bool:
    """Whether a browser shows this kind of file."""
    return PurePath(link).suffix.lower() in _SHOWN


def escape(text: str) -> str:
    """Text for HTML, inside and outside of attributes; what no reader could see is spelt out."""
    visible = "".join(
        c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text
    )
    return html.escape(visible)


def named(text: str) -> str:
    """A file's name for HTML; its writing direction does not leak into its surroundings."""
    return f"<bdi>{escape(text)}</bdi>"


def number_text(value: float | int, digits: int) -> str:
    """A number with fixed decimals; infinite ones by their name."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "inf"


def section(title: str, body: str, name: str = "") -> str:
    """A section of the page; ``body`` is HTML."""
    mark = f' id="{escape(name)}"' if name else ""
    return f"<section{mark}><h2>{escape(title)}</h2>\n{body}</section>"


def lines_of(lines: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return f'<p class="lead">{"<br>".join(escape(line) for line in lines)}</p>\n' if lines else ""


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 10**6) -> str:
    """A small table of text; columns from ``numbers_from`` on are set to the right."""
    kinds = [' class="num"' if place >= numbers_from else "" for place in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for text, kind in zip(head, kinds, strict=True))
    lines = []
    for row in rows:
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row[1:], kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>\n')
    return (
        f'<div class="wide plain"><table><thead><tr>{top}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table></div>'
    )
