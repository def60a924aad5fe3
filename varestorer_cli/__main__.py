"""``python -m varestorer_cli`` and the command ``varestorer``."""

import sys

from varestorer_cli.app import run


def main() -> None:
    """Run the command and end the process with its exit code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
