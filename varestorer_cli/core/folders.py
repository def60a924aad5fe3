"""The user's folders on this system: one rule for caches and installed models."""

from pathlib import Path

import platformdirs


def cache_folder() -> Path | None:
    r"""Folder of everything that can be made again; None where there is no home directory.

    ``$XDG_CACHE_HOME/varestorer`` or ``~/.cache/varestorer`` on Linux, ``~/Library/Caches/varestorer`` on macOS,
    ``%LOCALAPPDATA%\varestorer\Cache`` on Windows.
    """
    folder = platformdirs.user_cache_path("varestorer", appauthor=False)
    return folder if folder.is_absolute() else None


def data_folder() -> Path:
    r"""Folder of installed models.

    ``$XDG_DATA_HOME/varestorer`` or ``~/.local/share/varestorer`` on Linux,
    ``~/Library/Application Support/varestorer`` on macOS, ``%LOCALAPPDATA%\varestorer`` on Windows.
    """
    return platformdirs.user_data_path("varestorer", appauthor=False)
