"""Options that several commands have, and the headings under which all options stand."""

from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.fields import CheckedOptions, Option, Range, option
from varestorer_cli.core.sharding import parse_shard
from varestorer_cli.core.sizing import SIZE

INPUT, OUTPUT, QUALITY, MODEL, TEXT = "Input", "Output", "Quality", "Model", "Text"
COMPUTING, FARM, METADATA, MESSAGES = "Computing", "Farm", "Metadata", "Messages"
SCORES, RECIPE, RUN = "Scores", "Recipe", "Run"
GROUPS = (INPUT, OUTPUT, SIZE, QUALITY, SCORES, RECIPE, MODEL, TEXT, RUN, COMPUTING, FARM, METADATA, MESSAGES)
"""Headings of the help and of the table in the docs, in their order."""

WEIGHTS = Option("Installed models [default: VARESTORER_WEIGHTS or the user's].", MODEL, metavar="DIR")
DEVICE = Option("auto, cpu, cuda, cuda:N or mps.", COMPUTING, values=("auto", "cpu", "cuda", "cuda:0", "mps"))
THREADS = Option("CPU threads [default: OMP_NUM_THREADS, scheduler's share, all].", COMPUTING, range=Range(1))
QUIET = Option("Only warnings and errors.", MESSAGES, flags=("--quiet", "-q"))
SHARD = Option("Part I of N of the inputs, from 0; auto: array job.", FARM, metavar="I/N|auto", parse=parse_shard)


@dataclass(frozen=True)
class QuietOptions(CheckedOptions):
    """Whether a command prints progress and information."""

    quiet: bool = option(False, QUIET)


@dataclass(frozen=True)
class ConsoleOptions(QuietOptions):
    """Messages and progress of a command while it works."""

    progress: Progress = option(
        Progress.AUTO, "A bar on a terminal and lines elsewhere, or what a farm reads.", MESSAGES
    )
    verbose: bool = option(False, "Every file, and tracebacks.", MESSAGES, flags=("--verbose", "-v"))


@dataclass(frozen=True)
class InstalledOptions(CheckedOptions):
    """Which installed models a command tells about, and in what form."""

    weights: Path | None = option(None, WEIGHTS)
    json: bool = option(False, "As JSON on stdout.", MESSAGES)
