"""What the command line offers, as data: names, defaults and kinds of every option of every command."""

from enum import Enum
from typing import Any, get_args, get_origin

import typer

from varestorer_cli.app import build_app


def all_options() -> dict[str, dict[str, Any]]:
    """Every option and argument by command and longest flag, without help texts and order."""
    found: dict[str, dict[str, Any]] = {}

    def visit(command: Any, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is not None:
            for word, one in inner.items():
                visit(one, f"{name} {word}".strip())
            return
        found[name] = {}
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            key = max(parameter.opts, key=len) if is_option else parameter.metavar or parameter.name
            assert key not in found[name]
            found[name][key] = _described(parameter, is_option=is_option)

    visit(typer.main.get_command(build_app()), "")
    return found


def _described(parameter: Any, *, is_option: bool) -> dict[str, Any]:
    default = parameter.default
    return {
        "flags": sorted([*parameter.opts, *parameter.secondary_opts]) if is_option else [],
        "type": _kind(parameter.type_descriptor.annotation),
        "default": None if default is None or default is False else str(default),
        "required": parameter.required,
        "environment": parameter.envvar,
        "values": parameter.nargs,
    }


def _kind(annotation: Any) -> Any:
    if get_origin(annotation) is not None:
        return [get_origin(annotation).__name__, *map(_kind, get_args(annotation))]
    if issubclass(annotation, Enum):
        return [str(one.value) for one in annotation]
    return str(annotation.__name__)
