"""Helpers of the page templates: addresses of files, visible text, numbers, and Jinja with autoescape on."""

import functools
import math
import os
from importlib import resources
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from jinja2 import Environment

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


def visible(text: str) -> str:
    """The text with invisible characters written out: control characters, writing directions, broken bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text)


def number_text(value: float | int, digits: int) -> str:
    """A number with fixed decimals; infinite ones by their name."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "inf"


def asset(name: str) -> str:
    """A file of ``data/page``."""
    return resources.files("varestorer_cli.data").joinpath("page", name).read_text(encoding="utf-8")


@functools.cache
def environment() -> "Environment":
    """Jinja with autoescape; text is made visible before it is escaped."""
    import jinja2
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["fixed"] = number_text
    made.filters["exact"] = lambda value: repr(value) if math.isfinite(value) else "Infinity"
    return made
