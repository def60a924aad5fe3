"""Configurations in model files: dataclasses as JSON and back, checked against their types and a budget.

A model file may come from anywhere. Every value is checked before a network is built from it, and building stops
as soon as the network has more tensors than the file.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from varestorer_cli.core.errors import CheckpointError
from varestorer_models.meta_init import on_meta_device

LARGEST_NUMBER = 1 << 16
"""Largest size, count or factor in a configuration; the 2B model's largest is 8192."""
MOST_ENTRIES = 256
"""Most entries of a list in a configuration; the 2B model's longest has 13."""
LARGEST_TILE = 8192
"""Largest tile side in pixels that a model may ask for."""
_SPARE_TENSORS = 64  # so that a file in which some tensors are missing is told which


def config_to_dict(config: Any) -> dict[str, Any]:
    """Fields of a configuration dataclass as JSON-ready values."""
    return dataclasses.asdict(config)


def config_from_dict(cls: type[Any], values: Any) -> Any:
    """Rebuild a (nested) configuration dataclass from JSON values.

    Raises:
        CheckpointError: an unknown field, a value of another type or beyond the budget, or one that the configuration
            refuses.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"the file's {cls.__name__} is not a table of settings; the file is damaged")
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(
            f"{cls.__name__} has no field {unknown[0]!r}: the file was written by a newer version; update varestorer"
        )
    try:
        config = cls(**{name: _value(f"{cls.__name__}.{name}", hints[name], value) for name, value in values.items()})
        tile = getattr(config, "tile", 0)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"the file's {cls.__name__} is not usable: {error}") from error
    if tile > LARGEST_TILE:
        raise CheckpointError(f"the file's {cls.__name__} asks for tiles of {tile} pixels; at most {LARGEST_TILE}")
    return config


def _value(name: str, hint: Any, value: Any) -> Any:
    """A JSON value as the field's type; :class:`CheckpointError` if it is of another type or beyond the budget."""
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _value(name, options[0], value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value)
    if typing.get_origin(hint) is tuple:
        return _tuple(name, typing.get_args(hint), value)
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise CheckpointError(f"{name} is {_shown(value)}; known: {', '.join(map(str, choices))}")
        return value
    if hint in (int, float):
        return _number(name, hint, value)
    if isinstance(hint, type) and type(value) is not hint:
        raise CheckpointError(f"{name} is {_shown(value)}, not of type {hint.__name__}")
    return value


def _number(name: str, hint: type[Any], value: Any) -> Any:
    if type(value) is not int and not (hint is float and type(value) is float and math.isfinite(value)):
        raise CheckpointError(f"{name} is {_shown(value)}, not a{'n integer' if hint is int else ' number'}")
    if abs(value) > LARGEST_NUMBER:
        raise CheckpointError(f"{name} is {_shown(value)}, beyond any model that can run ({LARGEST_NUMBER})")
    return value


def _tuple(name: str, hints: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{name} is {_shown(value)}, not a list")
    if len(value) > MOST_ENTRIES:
        raise CheckpointError(f"{name} has {len(value)} entries; at most {MOST_ENTRIES}")
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise CheckpointError(f"{name} is {_shown(value)}; it needs {len(hints)} entries")
    return tuple(_value(name, hint, item) for hint, item in zip(hints, value, strict=True))


def _shown(value: Any) -> str:
    text = f"a number of {value.bit_length()} bits" if type(value) is int and abs(value) > 1 << 64 else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def build(config_class: type[Any], module_class: type[nn.Module], values: Any, *, tensors: int) -> nn.Module:
    """Build a network on the meta device from a configuration in a file.

    Args:
        config_class: dataclass of the configuration.
        module_class: network that takes it.
        values: the configuration's JSON values.
        tensors: number of the network's tensors in the file, which bounds the work.

    Raises:
        CheckpointError: the configuration is refused, or describes a network with more tensors.
    """
    config = config_from_dict(config_class, values)
    most, made = 2 * tensors + _SPARE_TENSORS, 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise CheckpointError(
                f"the {config_class.__name__} describes more tensors than the file holds ({tensors}); "
                "the file is damaged or forged"
            )

    watch = register_module_parameter_registration_hook(counted)
    try:
        return on_meta_device(lambda: module_class(config))
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"the {config_class.__name__} is not usable: {error}") from error
    finally:
        watch.remove()
