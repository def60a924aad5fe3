"""Configurations as TOML files: one that a user wrote, with the lines of its keys, and one printed with comments."""

import inspect
import re
import textwrap
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.config import CLASS, NONE, class_names, to_plain

LARGEST_FILE = 1 << 20
"""Bytes; more is no configuration."""
_TOO_MUCH = "lists within lists or digits without end"
"""What Python's TOML reader gives up at with other errors than its own."""
_WIDTH = 110
_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


@dataclass(frozen=True)
class ConfigFile:
    """A TOML file, read.

    Attributes:
        path: of the file.
        text: of the file.
        values: its tables.
    """

    path: Path
    text: str
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Read a file; a pipe may be one, what is too large is read no further.

        Raises:
            UsageError: it cannot be read, or is not TOML.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(LARGEST_FILE + 1)
            if len(data) > LARGEST_FILE:
                raise UsageError(
                    f"{path}: has more than {LARGEST_FILE >> 20} MB, that is no configuration; give a TOML file"
                )
            text = data.decode("utf-8-sig").replace("\r\n", "\n")
            return cls(path, text, tomllib.loads(text))
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path}: cannot be read ({reason}); give an existing TOML file") from error
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UsageError(
                f"{path}, line {line}: not a TOML file (byte {data[error.start]:#x} is no UTF-8); save it as UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else _TOO_MUCH
            raise UsageError(
                f"{path}: not a TOML file ({reason}); varestorer train --show-config prints one"
            ) from error

    def at(self, key: str) -> str:
        """The file and the line where a key stands, or else what holds the key, for the beginning of a message.

        Args:
            key: as messages name it, ``recipes.distill.betas[0]``; "" for none.
        """
        parts = tuple(re.sub(r"\[\d+\]", "", key).split("."))
        for length in range(len(parts), 0, -1):
            if parts[:length] in self._lines:
                return f"{self.path}, line {self._lines[parts[:length]]}"
        return str(self.path)

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], int]:
        """Lines by key. Not a parser: what looks like a key within a text of several lines counts as one."""
        found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(self.text.split("\n"), 1):
            header, pair = _TABLE.match(line), _KEY.match(line)
            if header:
                table = _parts(header[1])
                found.setdefault(table, number)
            elif pair:
                found.setdefault(table + _parts(pair[1]), number)
        return found


def to_toml(config: Any) -> str:
    """TOML text of a configuration: every field, above each what its docstring says of it.

    Args:
        config: a dataclass, whose docstring and those of nested ones have a section ``Attributes``.
    """
    return "\n".join(_tables((), config, to_plain(config))).strip() + "\n"


def _tables(path: tuple[str, ...], config: Any, plain: dict[str, Any], classes: str = "") -> Iterator[str]:
    """Lines of a table and of those in it; ``classes`` says which it may be of, where several are possible."""
    import tomlkit

    documented, hints = {CLASS: f"One of: {classes}."}, {}
    if is_dataclass(config):
        documented |= descriptions(type(config))
        hints = typing.get_type_hints(type(config))
    if path and not all(isinstance(value, dict) for value in plain.values()):
        yield f"[{'.'.join(tomlkit.key(part).as_string() for part in path)}]"
    for name, value in plain.items():
        if not isinstance(value, dict):
            yield from _comment(documented.get(name, ""))
            yield f"{tomlkit.key(name).as_string()} = {tomlkit.item(value).as_string()}"
    for name, value in plain.items():
        if isinstance(value, dict):
            yield ""
            yield from _comment(documented.get(name, ""))
            nested = config[name] if isinstance(config, Mapping) else getattr(config, name)
            yield from _tables((*path, name), nested, value, ", ".join(class_names(hints.get(name))))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def descriptions(cls: type[Any]) -> dict[str, str]:
    """What the section ``Attributes`` of a dataclass's docstring says of each field, and the choices of few."""
    _, _, section = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n     +\S.*)*)", section.partition("\n\n")[0], re.MULTILINE)
    found = {name: _plain_text(text) for name, text in entries}
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        choices = [choice for choice in _choices(hints[field.name]) if choice not in found.get(field.name, "")]
        if choices and field.name in found:
            found[field.name] = f"{found[field.name].rstrip('.')}. One of: {', '.join(_choices(hints[field.name]))}."
    return found


def _choices(hint: Any) -> list[str]:
    """Texts that a field may hold, where its type names them."""
    options = [hint, *typing.get_args(hint)] if typing.get_origin(hint) is not typing.Literal else [hint]
    return [
        str(choice)
        for option in options
        if typing.get_origin(option) is typing.Literal
        for choice in typing.get_args(option)
    ]


def _plain_text(text: str) -> str:
    """A description without its markup, on one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    for python, toml in (("None", f'"{NONE}"'), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", toml, text)
    return " ".join(text.replace("``", "").split())


def _parts(key: str) -> tuple[str, ...]:
    """Names of a dotted key."""
    return tuple(part.strip("\"'") for part in _PART.findall(key))
