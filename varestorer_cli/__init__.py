"""Command line tools and core of varestorer."""

from typing import TYPE_CHECKING, Any

from varestorer_cli.version import __version__

if TYPE_CHECKING:
    from varestorer_cli.core.api import Restorer as Restorer
    from varestorer_cli.core.options import RestoreOptions as RestoreOptions
    from varestorer_cli.core.sizing import Sizing as Sizing

__all__ = ["RestoreOptions", "Restorer", "Sizing", "__version__"]

# The library's names and where they live; importing them brings torch, so it waits until one is used.
_LIBRARY = {
    "Restorer": "varestorer_cli.core.api",
    "RestoreOptions": "varestorer_cli.core.options",
    "Sizing": "varestorer_cli.core.sizing",
}


def __getattr__(name: str) -> Any:
    if name in _LIBRARY:
        from importlib import import_module

        return getattr(import_module(_LIBRARY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
