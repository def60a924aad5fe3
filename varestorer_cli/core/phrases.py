"""How numbers and names are written: counts with their noun, a few of many names, times, bytes, odd characters."""

import re
from collections.abc import Sequence

MOST_NAMED = 3
FAILED_LIST_MARK = "# varestorer: inputs that failed"  # begins our own lists, whose names are escaped
REPORT_HEADER = "input,output,status,reason"  # with which every report of a run begins

# Control characters, separators of lines, and marks that turn the direction of writing.
_ODD = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNSEEN = re.compile(f"[{_ODD}]")
_TO_ESCAPE = re.compile(rf"[{_ODD}]|\\(?=x[0-9a-f]{{2}}|u[0-9a-f]{{4}})")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})")
# What a spreadsheet takes for a formula; apostrophes before it are doubled, so that the cell can be read back.
_FORMULA = re.compile(r"'*[=+\-@]")


def visible(text: str) -> str:
    """Text for one line of a message: control characters and characters that reverse the text are escaped."""
    return _UNSEEN.sub(_escape, text)


def escaped(text: str) -> str:
    """As :func:`visible`, for files that :func:`unescaped` reads back unchanged."""
    return _TO_ESCAPE.sub(_escape, text)


def unescaped(text: str) -> str:
    """The text that :func:`escaped` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text) if "\\" in text else text


def to_cell(text: str) -> str:
    """Text as a cell of a CSV file: escaped, and with an apostrophe where a spreadsheet would run it."""
    text = escaped(text)
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The text that :func:`to_cell` was given."""
    return unescaped(text[1:] if text.startswith("'") and _FORMULA.match(text) else text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 image``, ``3 images``, ``2 entries``.

    Args:
        number: how many.
        noun: in the singular.
        plural: of the noun, where it does not just get an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def named(names: Sequence[object], most: int = MOST_NAMED) -> str:
    """The first few of many names: ``a, b, c and 4 more``.

    Args:
        names: anything that ``str`` turns into a name.
        most: names that are written out.
    """
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def and_list(words: Sequence[object]) -> str:
    """All words of a list as a sentence has them: ``a, b and c``."""
    *first, last = (str(word) for word in words)
    return f"{', '.join(first)} and {last}" if first else last


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss; below ten seconds with one decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(number: float) -> str:
    """A number per second: two decimals, and one digit that counts where it is small."""
    return f"{number:.2f}" if number >= 0.1 or number == 0 else f"{number:.1g}"


def byte_size(number: float) -> str:
    """A number of bytes in decimal units: ``12 B``, ``3.4 MB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def reason_of(error: BaseException) -> str:
    """Why something failed, without error numbers and without the path that the message names anyway."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
