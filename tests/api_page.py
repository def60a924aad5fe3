"""Write ``docs/api.md`` from the docstrings of the library: ``python tests/api_page.py > docs/api.md``."""

import dataclasses
import inspect
import re
import sys
from typing import Any

from varestorer_cli import RestoreOptions, Restorer, Sizing
from varestorer_cli.core import api, errors
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.report.summary import BatchReport

_HEADS = ("Args", "Attributes", "Returns", "Raises", "Yields")


def page() -> str:
    """The whole page."""
    parts = [
        "# From Python",
        "Made from the docstrings (`make api-page`); a test runs the examples and compares this page with them.",
        _fenced(inspect.getdoc(api) or ""),
        *_of_class(Restorer, "Restorer", ("restore", "restore_image", "model_sha256")),
        *_of_class(Sizing, "Sizing", ()),
        "## RestoreOptions",
        _first_paragraphs(RestoreOptions)
        + "\n\nIts fields are the options of the command: [options.md](options.md) lists them with types and defaults.",
        *_of_class(BatchReport, "BatchReport", ("count", "total", "summary", "exit_code")),
        "## Row",
        _first_paragraphs(Row) + "\n\nColumns: " + ", ".join(f"`{one.name}`" for one in dataclasses.fields(Row)) + ".",
        "## Errors",
        "In `varestorer_cli.core.errors`, all below `VarestorerError`; `exit_code` is what the command ends with.",
        _table_of_errors(),
    ]
    return "\n\n".join(parts) + "\n"


def _of_class(kind: type, name: str, members: tuple[str, ...]) -> list[str]:
    parameters = inspect.signature(kind) if not dataclasses.is_dataclass(kind) else None
    parts = [f"## {name}{_call(parameters)}" if parameters else f"## {name}", _described(kind)]
    for member in members:
        found = inspect.getattr_static(kind, member)
        if isinstance(found, property):
            parts += [f"### {name}.{member}", _described(found)]
        else:
            parts += [f"### {name}.{member}{_call(inspect.signature(found))}", _described(found)]
    return parts


def _call(signature: inspect.Signature) -> str:
    """Names and defaults; types stand in the text."""
    words, starred = [], False
    for one in signature.parameters.values():
        if one.name == "self":
            continue
        if one.kind is one.VAR_KEYWORD:
            words.append(f"\\*\\*{one.name}")
            continue
        if one.kind is one.KEYWORD_ONLY and not starred:
            words.append("\\*")
            starred = True
        words.append(one.name if one.default is one.empty else f"{one.name}={one.default!r}")
    return f"({', '.join(words)})"


def _described(thing: Any) -> str:
    """A docstring with its sections as lists."""
    lines: list[str] = []
    in_section = False
    for line in (inspect.getdoc(thing) or "").splitlines():
        head = line.removesuffix(":")
        if line.endswith(":") and head in _HEADS:
            lines.append(f"**{head}**\n")
            in_section = head
            continue
        if in_section and line.startswith("    ") and not line.startswith("     "):
            item = line.strip()
            named = re.match(r"([\w, ]+): (.*)", item)
            if named and in_section not in ("Returns", "Yields"):
                item = f"`{named[1]}`: {named[2]}"
            lines.append(f"- {item}")
        elif in_section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section if not line.strip() else ""
            lines.append(line)
    return _plain("\n".join(lines)).strip()


def _first_paragraphs(thing: Any) -> str:
    return _plain(re.split(r"\n\n(?:Args|Attributes|Raises):", inspect.getdoc(thing) or "")[0])


def _fenced(text: str) -> str:
    """Paragraphs of examples as blocks of code."""
    blocks = [
        f"```python\n{block}\n```" if block.startswith(">>>") else _plain(block) for block in text.strip().split("\n\n")
    ]
    return "\n\n".join(blocks)


def _plain(text: str) -> str:
    """Markdown of reStructuredText's roles and quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    return text.replace("``", "`")


def _table_of_errors() -> str:
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.VarestorerError)
    ]
    rows = sorted(
        (int(kind.exit_code), kind.__name__, (inspect.getdoc(kind) or "").partition("\n")[0]) for kind in kinds
    )
    return "\n".join(
        [
            "| class | exit code | meaning |",
            "|---|---|---|",
            *(f"| `{name}` | {code} | {text} |" for code, name, text in rows),
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())
