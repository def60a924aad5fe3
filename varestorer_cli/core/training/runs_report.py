"""The command ``runs``: a table on the terminal, and a page of curves by the parts of the report page."""

import sys
from collections.abc import Sequence

from varestorer_cli.core.phrases import count, visible
from varestorer_cli.core.report.charts import MOST_CURVES, curves
from varestorer_cli.core.report.page import Block, Charts, Lines, Page, Section, Table, check_page_target, write_page
from varestorer_cli.core.training.run_folder import LOG
from varestorer_cli.core.training.runs import (
    TrainingRun,
    chosen_figures,
    differences,
    find_runs,
    read_run,
    setting_rows,
    table,
)
from varestorer_cli.core.training.tool_options import RunsOptions

_OVER = "step"


def compare_runs(options: RunsOptions) -> None:
    """Print the table, and write the page where one is asked for.

    Raises:
        UsageError: no run, a folder that is none, an unknown figure, or a page that would replace another file.
        OutputError: the page cannot be written.
    """
    if options.report is not None:
        check_page_target(options.report)
    runs = [read_run(path, name) for path, name in find_runs(options.runs)]
    figures = chosen_figures(runs, options.figures)
    sys.stdout.write(terminal_table(runs, figures) + "\n")
    for run in runs:
        if run.skipped:
            sys.stderr.write(f"warning: {visible(str(run.path / LOG))}: {count(run.skipped, 'row')} cannot be read\n")
    if options.report is not None:
        write_page(runs_page(runs, figures), options.report)
        sys.stderr.write(f"page: {visible(str(options.report))}\n")


def terminal_table(runs: Sequence[TrainingRun], figures: Sequence[str]) -> str:
    """The table as text, and the settings in which the runs differ; numbers are never cut."""
    import rich.console
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    def grid(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
        made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for place, text in enumerate(head):
            made.add_column(Text(text), justify="left" if place < words else "right", no_wrap=True)
        for row in rows:
            made.add_row(*map(Text, row))
        wide = rich.console.Console(highlight=False, width=10_000)
        with wide.capture() as capture:
            wide.print(made)
        return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())

    parts = [grid(*table(runs, figures), words=3)]
    different = differences(runs)
    if len(runs) > 1 and different:
        parts.append(grid(("differs", *(visible(run.name) for run in runs)), setting_rows(different), words=1))
    return "\n\n".join(parts)


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
        totals=(),
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
