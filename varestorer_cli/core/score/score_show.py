"""Where the results of ``score`` go: the table on stdout, files beside the restored ones, a contact sheet."""

import os
from collections.abc import Callable
from pathlib import Path

from varestorer_cli.core.atomic import check_writable
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.report.csv_file import report_name
from varestorer_cli.core.score import export as score_output
from varestorer_cli.core.score.options import ScoreOptions, TableStyle
from varestorer_cli.core.score.pairing import PairPlan, find_images
from varestorer_cli.core.score.summary import ScoreReport
from varestorer_cli.core.score.tables import Block, latex, markdown, terminal

_RENDERERS: dict[TableStyle, Callable[[list[Block]], str]] = {
    TableStyle.TEXT: terminal,
    TableStyle.MARKDOWN: markdown,
    TableStyle.LATEX: latex,
}


def show(make: Callable[..., list[Block]], report: object, style: TableStyle, console: Console) -> None:
    """Print on stdout."""
    import rich.console

    screen = rich.console.Console(highlight=False)
    plain = style is not TableStyle.LATEX and not screen.encoding.lower().startswith("utf")
    blocks = make(report, up="^", down="v") if plain else make(report)
    text = _RENDERERS[style](blocks)
    # A path that the terminal's encoding cannot hold is escaped: it must not cost the table.
    console.out(text.rstrip("\n").encode(screen.encoding, "backslashreplace").decode(screen.encoding))


def inputs_of(plan: PairPlan) -> set[Path]:
    """Every file that is read."""
    return {path for pair in plan.pairs for path in (pair.restored, pair.reference) if path is not None}


def targets_of(job: ScoreOptions, restored: Path, plan: PairPlan, console: Console) -> tuple[Path | None, Path | None]:
    """Where CSV and JSON go: as asked, else beside the restored files if nothing foreign is in the way.

    The names carry the shard. All that was asked for is checked, before any work.

    Raises:
        UsageError: a file asked for would replace a picture.
        OutputError: its folder cannot be written to.
    """
    inputs = inputs_of(plan)
    one = restored.is_file()
    folder, stem = (restored.parent, f"{restored.stem}.scores") if one else (restored, "scores")
    if job.sheet is not None:
        if job.sheet in inputs:
            raise UsageError(f"--sheet {job.sheet} is one of the pictures that are scored; choose another name")
        check_writable(job.sheet.parent)
    chosen: list[Path | None] = []
    for asked, suffix in ((job.csv, ".csv"), (job.json, ".json")):
        path = folder / report_name(job.shard, stem, suffix)
        elsewhere = f"--{suffix[1:]} FILE puts the scores elsewhere"
        if asked is not None:
            asked = asked.with_name(report_name(job.shard, asked.stem, asked.suffix))
            score_output.check_target(asked, inputs)
            chosen.append(asked)
        elif folder.exists() and not os.access(folder, os.W_OK):
            console.info(f"{folder} is read-only: {path.name} is not written; {elsewhere}")
            chosen.append(None)
        elif not score_output.is_ours(path):
            console.info(f"{path} holds something else and stays as it is; {elsewhere}")
            chosen.append(None)
        else:
            chosen.append(path)
    return chosen[0], chosen[1]


def write_sheet(report: ScoreReport, degraded: Path | None, target: Path) -> None:
    """The scored pictures side by side; degraded inputs are found by the same names."""
    from varestorer_cli.core.score.contact_sheet import contact_sheet

    inputs = find_images(degraded) if degraded is not None else {}
    rows = []
    for score in report.scores:
        pair = score.pair
        if score.failed or (degraded is not None and pair.name not in inputs):
            continue
        files = (inputs.get(pair.name), pair.restored, pair.reference)
        rows.append([path for path in files if path is not None])
    if not rows:
        raise UsageError("there is nothing to show on the sheet: no pair was scored, or no degraded input has its name")
    labels = ["degraded"] * bool(degraded) + ["restored", "reference"][: len(rows[0]) - bool(degraded)]
    contact_sheet(rows, labels, target, per_line=2 if len(rows) > 4 else 1)
