"""The HTML page of the command ``runs``: table, settings that differ, curves; by the parts of the report page."""

from collections.abc import Sequence
from pathlib import Path

from varestorer_cli.core.phrases import count
from varestorer_cli.core.report.charts import MOST_CURVES, curves
from varestorer_cli.core.report.page import Block, Charts, Lines, Page, Section, Table, write_page
from varestorer_cli.core.training.runs import TrainingRun, differences, setting_rows, table

_OVER = "step"


def write_runs_page(runs: Sequence[TrainingRun], figures: Sequence[str], path: Path) -> None:
    """Write the comparison as one file that needs no network.

    Raises:
        OutputError: it cannot be written.
    """
    write_page(runs_page(runs, figures), path)


def runs_page(runs: Sequence[TrainingRun], figures: Sequence[str]) -> Page:
    """The page as data."""
    head, rows = table(runs, figures)
    different = differences(runs)
    above: list[Section] = [Section("Runs", (Table(head, tuple(rows), numbers_from=3),), "runs")]
    if len(runs) > 1:
        block: Block = Lines(("The runs have the same settings.",))
        if different:
            block = Table(("setting", *(run.name for run in runs)), tuple(setting_rows(different)))
        above.append(Section("Settings that differ", (block,), "settings"))
    above += [
        _section("Validation", runs, "validation"),
        _section("Training", runs, "train"),
        _profiles(runs),
    ]
    lead = (f"Curves of the first {MOST_CURVES} runs.",) if len(runs) > MOST_CURVES else ()
    return Page(
        kind="varestorer runs",
        title=count(len(runs), "training run"),
        lead=lead,
        tiles=(),
        above=tuple(section for section in above if section.blocks),
        below=(),
        columns=(),
        entries=(),
    )


def _section(title: str, runs: Sequence[TrainingRun], kind: str) -> Section:
    """A chart per figure, one curve per run; figures of single scales and groups have charts of their own kind."""
    series = {run.name: run.train if kind == "train" else run.validation for run in runs}
    figures = dict.fromkeys(name for each in series.values() for name in each if "/" not in name)
    charts = [
        curves({run: each[figure] for run, each in series.items() if figure in each}, figure, _OVER)
        for figure in figures
    ]
    return Section(title, (Charts("".join(charts)),) if any(charts) else (), title.lower())


def _profiles(runs: Sequence[TrainingRun]) -> Section:
    """The newest value of each figure that has one per scale, over the scales from the coarsest."""
    series = {run.name: {**run.train, **run.validation} for run in runs}
    figures = dict.fromkeys(
        name.partition("/")[0] for each in series.values() for name in each if name.partition("/")[2].isdigit()
    )
    charts = []
    for figure in figures:
        lines = {
            run: sorted(
                (int(scale), rows[-1][1])
                for name, rows in each.items()
                for kind, _, scale in [name.partition("/")]
                if kind == figure and scale.isdigit()
            )
            for run, each in series.items()
        }
        charts.append(curves({run: line for run, line in lines.items() if line}, figure, "scale, 1 is the coarsest"))
    return Section("By scale", (Charts("".join(charts)),) if any(charts) else (), "scales")
