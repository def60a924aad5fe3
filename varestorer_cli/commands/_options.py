"""Option types shared by commands that declare theirs in a signature."""

from pathlib import Path
from typing import Annotated

import typer

from varestorer_cli.core.options import DEVICE, QUIET, THREADS, WEIGHTS

WeightsOption = Annotated[Path | None, typer.Option("--weights", metavar=WEIGHTS.metavar, help=WEIGHTS.help)]
DeviceOption = Annotated[str, typer.Option("--device", help=DEVICE.help)]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help=THREADS.help)]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help=QUIET.help)]
