"""Configuration dataclasses as the values of TOML and back: presets, ``--config`` and ``--show-config``.

TOML has no null: a field that may be None is written ``"none"`` then. A field that may hold one of several dataclasses
has the key ``class`` that names it without "Config". A table of loss weights replaces the one before; all else is
overlaid field by field.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from varestorer_cli.core.errors import UsageError

CLASS = "class"
NONE = "none"
LARGEST_NUMBER = 1 << 40
"""Largest whole number; the largest sensible one is a count of steps or crops."""


class _RefusedError(ValueError):
    """A value that its field cannot take; the text names the field, whose key is apart too."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def overlaid(where: Callable[[str], str], cls: type[Any], base: Any, values: Mapping[str, Any]) -> Any:
    """A configuration with some of its fields replaced.

    Args:
        where: says of a key where its value comes from, for messages.
        cls: dataclass, nested ones included.
        base: one of them that gives the fields which ``values`` leave out; None: the dataclass's defaults.
        values: of TOML.

    Raises:
        UsageError: an unknown key, a value of another type, a missing field, or values that do not fit each other; the
            key is named.
    """
    try:
        return _dataclass("", cls, base, values)
    except _RefusedError as error:
        raise UsageError(f"{where(error.key)}: {error}") from error


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as tables, lists and plain values, as :func:`overlaid` takes it."""
    plain: dict[str, Any] = _plain(config, several=False)
    return plain


def _plain(value: Any, *, several: bool) -> Any:
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        fields = {
            f.name: _plain(getattr(value, f.name), several=len(_dataclasses(hints[f.name])) > 1)
            for f in dataclasses.fields(value)
        }
        tables = {name: field for name, field in fields.items() if isinstance(field, dict)}
        first = {CLASS: class_name(type(value))} if several else {}
        return first | {name: field for name, field in fields.items() if name not in tables} | tables
    if isinstance(value, Mapping):
        return {key: _plain(item, several=False) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item, several=False) for item in value]
    return NONE if value is None else value


def class_names(hint: Any) -> list[str]:
    """Values of the key ``class`` of a field that may hold one of several dataclasses."""
    several = _dataclasses(hint)
    return [class_name(cls) for cls in several] if len(several) > 1 else []


def class_name(cls: type[Any]) -> str:
    """A dataclass's name without "Config", as the key ``class`` has it."""
    return cls.__name__.removesuffix("Config")


def _options(hint: Any) -> list[Any]:
    """Types of a union, or the type itself."""
    several = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return list(typing.get_args(hint)) if several else [hint]


def _dataclasses(hint: Any) -> list[type[Any]]:
    return [option for option in _options(hint) if dataclasses.is_dataclass(option) and isinstance(option, type)]


def _dataclass(key: str, cls: type[Any], base: Any, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise _RefusedError(key, f"{key} is {_shown(values)}; it must be a table, [{key}]")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    fields = {}
    for name, value in values.items():
        if name not in names:
            raise _RefusedError(_joined(key, name), f"there is no key {_joined(key, name)}{nearest(name, names)}")
        fields[name] = _value(_joined(key, name), hints[name], getattr(base, name, None), value)
    try:
        return cls(**fields) if base is None else dataclasses.replace(base, **fields)
    except TypeError as error:
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.name not in fields
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        text = f"{_joined(key, missing[0])} is missing" if missing else f"{key or 'it'} is not usable ({error})"
        raise _RefusedError(key, text) from error
    except (ValueError, ArithmeticError) as error:
        field = str(error).partition(" ")[0]  # of what a dataclass checks itself, the first word names the field
        raise _RefusedError(_joined(key, field), f"{key}: {error}" if key else str(error)) from error


def _value(key: str, hint: Any, base: Any, value: Any) -> Any:
    """A TOML value as the field's type."""
    options = _options(hint)
    if type(None) in options and value == NONE:
        return None
    classes = _dataclasses(hint)
    if classes:
        return _one_of(key, classes, base, value)
    options = [option for option in options if option is not type(None)]
    origin, arguments = typing.get_origin(options[0]), typing.get_args(options[0])
    if origin is typing.Literal:
        if value not in arguments:
            raise _RefusedError(key, f"{key} is {_shown(value)}; it must be one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple(key, arguments, value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _table(key, arguments[1], base, value)
    return _scalar(key, options[0], value)


def _one_of(key: str, classes: Sequence[type[Any]], base: Any, value: Any) -> Any:
    """A nested dataclass; of several, the one that ``class`` names or that the base has."""
    if not isinstance(value, Mapping):
        raise _RefusedError(key, f"{key} is {_shown(value)}; it must be a table, [{key}]")
    cls = classes[0] if base is None or len(classes) == 1 else type(base)
    if len(classes) > 1:
        value = dict(value)
        names = {class_name(option): option for option in classes}
        name = value.pop(CLASS, None if base is None else class_name(cls))
        if not isinstance(name, str) or name not in names:
            what = f"{key}.{CLASS} is missing" if name is None else f"{key}.{CLASS} is {_shown(name)}"
            raise _RefusedError(f"{key}.{CLASS}", f"{what}; it must be one of {', '.join(names)}")
        cls = names[name]
    return _dataclass(key, cls, base if isinstance(base, cls) else None, value)


def _table(key: str, hint: Any, base: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _RefusedError(key, f"{key} is {_shown(value)}; it must be a table, [{key}]")
    if not _dataclasses(hint):
        return {name: _value(_joined(key, name), hint, None, item) for name, item in value.items()}
    known = dict(base or {})
    changed = {name: _value(_joined(key, name), hint, known.get(name), item) for name, item in value.items()}
    return known | changed


def _tuple(key: str, hints: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _RefusedError(key, f"{key} is {_shown(value)}; it must be a list")
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _RefusedError(key, f"{key} is {_shown(value)}; it needs {len(hints)} entries")
    return tuple(
        _value(f"{key}[{n}]", hint, None, item) for n, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _scalar(key: str, hint: type[Any], value: Any) -> Any:
    if hint in (int, float):
        whole = type(value) is int and abs(value) <= LARGEST_NUMBER
        if not whole and not (hint is float and type(value) is float and math.isfinite(value)):
            what = "whole number" if hint is int else "number"
            most = f" from {-LARGEST_NUMBER} to {LARGEST_NUMBER}" if type(value) is int else ""
            raise _RefusedError(key, f"{key} is {_shown(value)}; it must be a {what}{most}")
        return hint(value)
    if type(value) is not hint:
        what = "true or false" if hint is bool else "a text in quotes" if hint is str else f"of type {hint.__name__}"
        raise _RefusedError(key, f"{key} is {_shown(value)}; it must be {what}")
    return value


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name nearest to a wrong one, or all of them, as the end of a sentence."""
    found = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(known)}"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: ``{"recipe": {"steps": 6}}`` -> ``{"recipe.steps": 6}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
