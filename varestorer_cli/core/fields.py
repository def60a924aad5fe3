"""Declaration of options: one dataclass field carries type, default, help, flags, group and check of one option.

From such fields follow the options of the command line (``commands/_from_fields.py``), the checks of values given in
Python (:class:`CheckedOptions`), the settings hash (:func:`settings_of`) and the table in ``docs/options.md``. Plain
data: knows no Typer and imports nothing heavy.
"""

import dataclasses
import difflib
import functools
import math
import os
import types
from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.phrases import and_list

_KEY = "option"


class Stale(Enum):
    """Whether existing outputs are redone when an option's value changes, and by which hash that is told."""

    NEVER = "never"
    ALWAYS = "always"  # the value is in the settings hash
    WHEN_SET = "when set"  # absent at its default: outputs that are older than the option stay up to date
    OTHER_HASH = "other hash"  # the hash of the model's file, or the text of the image, tells


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that an option accepts.

    Attributes:
        least: smallest number.
        most: largest number.
        above: ``least`` itself is refused.
        words: what is said about others, behind the option and its value; "" says least and most.
    """

    least: float
    most: float = math.inf
    above: bool = False
    words: str = ""

    def holds(self, number: float) -> bool:
        """Whether the number is accepted; NaN never is."""
        return (self.least < number if self.above else self.least <= number) and number <= self.most

    def __str__(self) -> str:
        if self.words:
            return self.words
        if math.isinf(self.most):
            return f"a number above {self.least:g} is needed" if self.above else f"at least {self.least:g} is needed"
        start = "above " if self.above else ""
        return f"{start}{self.least:g} to {self.most:g} is possible"


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of an option beside its field's name, type and default.

    Attributes:
        help: one or two short sentences.
        group: heading it stands under.
        flags: its names, the long one first; ``--name-of-the-field`` by default.
        metavar: what its value is called in the help.
        range: numbers it accepts.
        parse: makes the value of text (or of ``given_as``); raises ``UsageError``.
        given_as: type of its value on the command line, where that is neither the field's nor text for ``parse``; a
            class of choices limits a field of plain text to their values.
        stale: whether outputs are redone when it changes.
        values: suggestions for completion by the shell.
        default_text: the default in words, where the value tells nothing.
        environment: variable that sets it.
        positional: an argument, not an option.
        only: names of the commands that have it, where several share a dataclass; all by default.
    """

    help: str
    group: str = ""
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    range: Range | None = None
    parse: Callable[[Any], Any] | None = None
    given_as: Any = None
    stale: Stale = Stale.NEVER
    values: tuple[str, ...] = ()
    default_text: str = ""
    environment: str | None = None
    positional: bool = False
    only: tuple[str, ...] = ()


def option(default: Any, about: str | Option, *more: Any, **rest: Any) -> Any:
    """A dataclass field that is an option.

    Args:
        default: its default; ``dataclasses.MISSING`` makes it required, a type such as ``dict`` makes an empty one.
        about: its help text, or an :class:`Option` that several dataclasses share, changed by ``rest``.
        more: further attributes of :class:`Option` in order: the group.
        rest: further attributes of :class:`Option` by name.
    """
    made = dataclasses.replace(about, **rest) if isinstance(about, Option) else Option(about, *more, **rest)
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata={_KEY: made})
    return dataclasses.field(default=default, metadata={_KEY: made})


@dataclasses.dataclass(frozen=True)
class Declared:
    """One declared option.

    Attributes:
        name: of the field, and of the command's parameter.
        kind: type of the field.
        default: ``dataclasses.MISSING`` where it is required.
        option: what else is known of it.
    """

    name: str
    kind: Any
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """Its names on the command line."""
        return self.option.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def flag(self) -> str:
        """Its long name, for messages."""
        return self.flags[0].partition("/")[0]

    @property
    def plain_kind(self) -> Any:
        """Type of the field without None."""
        if get_origin(self.kind) not in (Union, types.UnionType):
            return self.kind
        return next(one for one in get_args(self.kind) if one is not types.NoneType)


def declared(owner: type) -> tuple[Declared, ...]:
    """The options among a dataclass's own fields."""
    return _declared(owner)


@functools.cache
def _declared(owner: type) -> tuple[Declared, ...]:
    hints = get_type_hints(owner)
    return tuple(
        Declared(field.name, hints[field.name], _default(field), field.metadata[_KEY])
        for field in dataclasses.fields(owner)
        if _KEY in field.metadata
    )


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def parts(owner: type) -> Mapping[str, type]:
    """Fields of a dataclass that are dataclasses with options themselves."""
    return _parts(owner)


@functools.cache
def _parts(owner: type) -> Mapping[str, type]:
    hints = get_type_hints(owner)
    names = [field.name for field in dataclasses.fields(owner) if _KEY not in field.metadata]
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name]) and declared(hints[name])}


def all_declared(owner: type) -> tuple[Declared, ...]:
    """The options of a dataclass and of its parts."""
    return declared(owner) + tuple(one for part in parts(owner).values() for one in all_declared(part))


def build(owner: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass with options.

    Args:
        owner: the dataclass.
        values: by name of the field, those of its parts among them.

    Raises:
        UsageError: a value is impossible.
    """
    given = {field.name: values[field.name] for field in dataclasses.fields(owner) if field.name in values}
    return owner(**given, **{name: build(part, values) for name, part in parts(owner).items()})


def changed(instance: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a dataclass with options in which some have other values.

    Args:
        instance: as it is.
        values: by name of the field, those of its parts among them.

    Raises:
        UsageError: there is no such option, or a value is impossible.
    """
    own = {field.name for field in dataclasses.fields(instance)}
    new = {name: value for name, value in values.items() if name in own}
    for part, kind in parts(type(instance)).items():
        inner = {field.name for field in dataclasses.fields(kind)} - own
        if given := {name: value for name, value in values.items() if name in inner}:
            new[part] = changed(new.get(part, getattr(instance, part)), given)
            own |= inner
    if unknown := next((name for name in values if name not in own), None):
        known = sorted(one.name for one in all_declared(type(instance)))
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise UsageError(f"{unknown}: there is no such option; {hint}")
    return dataclasses.replace(instance, **new)


def values_of(instance: Any) -> list[tuple[Declared, Any]]:
    """Every option of an instance and of its parts, with its value."""
    own = [(one, getattr(instance, one.name)) for one in declared(type(instance))]
    return own + [pair for name in parts(type(instance)) for pair in values_of(getattr(instance, name))]


class CheckedOptions:
    """Base of frozen dataclasses with options: checks every option of a new instance; text becomes the field's type.

    Raises:
        UsageError: a value is none of the choices, of another type, or out of range.
    """

    def __post_init__(self) -> None:
        for one in declared(type(self)):
            value = getattr(self, one.name)
            if value is not None:
                object.__setattr__(self, one.name, _checked(one, value))
        for name, kind in parts(type(self)).items():
            if not isinstance(getattr(self, name), kind):
                raise UsageError(f"{name}: a {kind.__name__} is needed")


def _checked(one: Declared, value: Any) -> Any:
    kind, given_as = one.plain_kind, one.option.given_as
    if one.option.parse is not None and isinstance(value, str | list):
        value = one.option.parse(value)
    elif kind is str and isinstance(given_as, type) and issubclass(given_as, StrEnum):
        value = choice(given_as, value, one.flag).value
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        value = choice(kind, value, one.flag)
    elif isinstance(value, str | os.PathLike) and kind in (Path, str):
        value = kind(os.fspath(value))
    elif kind in _NUMBERS:
        number, words = _NUMBERS[kind]
        if not isinstance(value, number) or isinstance(value, bool):
            raise UsageError(f"{one.flag} {value!r}: {words} is needed")
    elif kind in (Path, str, bool) and not isinstance(value, kind):
        raise UsageError(f"{one.flag} {value!r}: {'True or False' if kind is bool else 'text'} is needed")
    if one.option.range is not None and not one.option.range.holds(value):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        raise UsageError(f"{one.flag} {text}: {one.option.range}")
    return value


_NUMBERS: Mapping[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}


def choice(kind: type[StrEnum], value: str, flag: str) -> StrEnum:
    """One of the values of an option.

    Raises:
        UsageError: it is none of them; the message names them.
    """
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{flag} {value}: possible are {and_list(list(kind))}") from None


def settings_of(instance: Any) -> dict[str, Any]:
    """Values of the options that make outputs stale, as plain data by name of the field.

    Numbers of one value are equal however they are written: 1 and 1.0 for an option that takes fractions.
    """
    found: dict[str, Any] = {}
    for one in declared(type(instance)):
        value, stale = getattr(instance, one.name), one.option.stale
        if stale is Stale.ALWAYS or (stale is Stale.WHEN_SET and value != one.default):
            found[one.name] = float(value) if one.plain_kind is float and value is not None else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
