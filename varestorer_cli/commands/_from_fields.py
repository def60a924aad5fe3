"""A command's options from declared fields: the one place where a signature is made for Typer.

Typer reads a function's signature. A command here is a function that takes whole dataclasses of options;
:func:`with_options` gives it the signature of their fields (see :mod:`varestorer_cli.core.fields`), builds the
dataclasses from the values that Typer parsed, and calls it. Types, ranges and choices are checked by the dataclasses.
"""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from varestorer_cli.core.fields import Declared, all_declared, build


def with_options(
    command: Callable[..., None], groups: Sequence[str] = (), *, name: str = "", **fixed: Any
) -> Callable[..., None]:
    """The function to register for a command whose parameters are dataclasses of options.

    Args:
        command: each parameter's annotation is a dataclass with options; one may be ``typer.Context``.
        groups: order of the headings in the help.
        name: leaves out options that belong to commands of other names only.
        fixed: values of fields that are no options.

    Raises:
        TypeError: two options have one name.
    """
    hints = {parameter: kind for parameter, kind in get_type_hints(command).items() if parameter != "return"}
    owners = {parameter: kind for parameter, kind in hints.items() if kind is not typer.Context}
    contexts = {parameter: kind for parameter, kind in hints.items() if kind is typer.Context}
    options = [one for owner in owners.values() for one in all_declared(owner) if name in (one.option.only or (name,))]
    if len({one.name for one in options}) != len(options):
        raise TypeError(f"{command.__name__}: two fields have one name")
    if groups:
        options.sort(key=lambda one: groups.index(one.option.group))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = fixed | {one.name: _from_command_line(one, values[one.name]) for one in options}
        built = {parameter: build(owner, given) for parameter, owner in owners.items()}
        command(**built, **{parameter: values[parameter] for parameter in contexts})

    parameters = [inspect.Parameter(one, inspect.Parameter.KEYWORD_ONLY, annotation=contexts[one]) for one in contexts]
    parameters += [_parameter(one) for one in options]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _parameter(one: Declared) -> inspect.Parameter:
    default = one.default
    if default is MISSING:
        default = inspect.Parameter.empty
    elif _is_optional(one):
        default = None
    elif one.option.given_as is not None:
        default = one.option.given_as(default)
    elif one.option.parse is not None:
        default = str(default)
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_annotation(one))


def _is_optional(one: Declared) -> bool:
    """Whether None stands for the default on the command line: nothing, or an empty collection."""
    return one.default is None or one.default == () or one.default == {}


def _annotation(one: Declared) -> Any:
    return Annotated[_given_as(one), _typer_info(one)]


def _given_as(one: Declared) -> Any:
    """Type of the value on the command line; Typer knows lists, not tuples of any length."""
    kind = one.option.given_as or (str if one.option.parse is not None else one.plain_kind)
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    return kind | None if _is_optional(one) else kind


def _typer_info(one: Declared) -> Any:
    option = one.option
    shared: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "envvar": option.environment}
    if option.group:
        shared["rich_help_panel"] = option.group
    if option.default_text:
        shared["show_default"] = option.default_text
    if option.values:
        shared["autocompletion"] = lambda incomplete: [word for word in option.values if word.startswith(incomplete)]
    elif one.flag == "--model":
        shared["autocompletion"] = _models
    if option.positional:
        return typer.Argument(**shared | {"show_default": False})
    return typer.Option(*one.flags, **shared)


def _from_command_line(one: Declared, value: Any) -> Any:
    if value is None:
        return one.default
    return tuple(value) if get_origin(one.plain_kind) is tuple and isinstance(value, list) else value


def _models(incomplete: str) -> list[str]:
    """What the shell completes --model to: names of models, else paths."""
    from varestorer_cli.core.weights.root import BUNDLED_MODELS, installed_names, weights_root

    names = dict.fromkeys(["auto", *BUNDLED_MODELS, *installed_names(weights_root())])
    found = [name for name in names if name.startswith(incomplete)]
    head, slash, start = incomplete.rpartition(os.sep)
    parent = Path(head + slash)
    paths = sorted(path for path in parent.glob("*") if path.name.startswith(start)) if parent.is_dir() else []
    return found or [f"{path}{os.sep if path.is_dir() else ''}" for path in paths]
