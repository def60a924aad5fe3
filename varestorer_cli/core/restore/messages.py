"""What a run says before and after its work: the plan, what is ignored, what failed."""

import os
from collections.abc import Sequence
from contextlib import suppress

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.image.formats import said_to_be_read
from varestorer_cli.core.inputs.plan import RestorePlan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import count
from varestorer_cli.core.report.csv_file import Merged, ReportFile, failed_list_path, report_name, write_failed_list
from varestorer_cli.core.report.rows import FAILED
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.consistency import outliers
from varestorer_cli.core.sizing import DEFAULT_SCALE, Sizing

_NAMED_AT_MOST = 10


def plan_line(plan: RestorePlan, options: RestoreOptions, means: str = "") -> str:
    """What will be done, in one line; ``means`` says with which model and where."""
    sizing = options.sizing if options.sizing != Sizing() else Sizing(scale=DEFAULT_SCALE)
    text = f"plan: {count(len(plan.jobs), 'image')} -> {_target(plan)}, {sizing.describe()}"
    if sizing.scale not in (None, DEFAULT_SCALE):
        text += f" (the model is made for scale {DEFAULT_SCALE:g}; images are resized before it)"
    if means:
        text += f", {means}"
    if options.shard is not None:
        text += f"; shard {options.shard}, {plan.elsewhere} for the others"
    return text + f"; existing outputs: {options.existing.value}"


def _target(plan: RestorePlan) -> str:
    return str(plan.jobs[0].output) if len(plan.jobs) == 1 else f"{plan.folder}{os.sep}"


def nothing_to_do(inputs: Sequence[str], plan: RestorePlan) -> str:
    """Why there is nothing to do."""
    names = ", ".join(inputs[:3]) + (" ..." if len(inputs) > 3 else "")
    if plan.elsewhere:
        belong = "belongs" if plan.elsewhere == 1 else "belong"
        return f"nothing to do: {count(plan.elsewhere, 'image')} of {names} {belong} to other shards"
    ignored = f" ({count(len(plan.ignored), 'other file')} ignored)" if plan.ignored else ""
    return f"nothing to do: no image in {names}{ignored}; {said_to_be_read()}"


def say_end(
    report: BatchReport, report_file: ReportFile, options: RestoreOptions, plan: RestorePlan, console: Console
) -> None:
    """Write the list of failures; say the summary."""
    failed = report.failed_inputs
    listed = None
    if report_file.path is not None or not plan.single:  # nothing is left beside a single image
        with suppress(OSError):
            report_path = report_file.path or plan.folder / report_name(options.shard, frames=options.frames)
            listed = write_failed_list(failed_list_path(report_path), failed)
    text = report.summary()
    if report_file.path is not None:
        text += f"; report: {report_file.path}"
    console.info(text)
    _say_outliers(report, console)
    _say_failed(report, console)
    if failed and listed is not None:
        console.info(f"to try only these again: give @{listed} as the input")


def _say_failed(report: BatchReport, console: Console) -> None:
    names = [row for row in report.rows if row.status == FAILED]
    if names:
        console.info(f"{len(names)} failed:")
    for row in names[:_NAMED_AT_MOST]:
        console.info(f"  {row.input}: {row.reason}")
    if len(names) > _NAMED_AT_MOST:
        console.info(f"  and {len(names) - _NAMED_AT_MOST} more, all in the report")


def say_merged(merged: Merged, options: RestoreOptions, console: Console) -> ExitCode:
    """Say what a merge found.

    Returns:
        the exit code: as of one run over everything; 1 where a shard has left no report.
    """
    report = merged.report
    _say_failed(report, console)
    console.info(
        f"{merged.count - len(merged.missing)} of {count(merged.count, 'report')}: {report.summary()}; {merged.path}"
    )
    if merged.missing:
        names = ", ".join(str(index) for index in merged.missing)
        one = len(merged.missing) == 1
        console.error(
            f"{'shard' if one else 'shards'} {names} of {merged.count} {'has' if one else 'have'} left no report; "
            f"run {'it' if one else 'them'}, then merge again"
        )
        return ExitCode.SOME_FAILED
    return report.exit_code(options.max_failed)


def _say_outliers(report: BatchReport, console: Console) -> None:
    found = outliers(report.rows)
    if not found:
        return
    console.info(f"{len(found)} came out unlike the rest of the run, worth a look (faces and text first):")
    for one in found[:_NAMED_AT_MOST]:
        console.info(f"  {one.row.output}: {one.reason}")
    if len(found) > _NAMED_AT_MOST:
        console.info(f"  and {len(found) - _NAMED_AT_MOST} more; sort the report by consistency_psnr")


def say_ignored(plan: RestorePlan, console: Console) -> None:
    """Name what is ignored, and gaps in frame sequences."""
    for note in plan.notes:
        console.warn(note)
    if not plan.ignored:
        return
    shown = plan.ignored if console.verbose else plan.ignored[:_NAMED_AT_MOST]
    console.info(f"ignored {count(len(plan.ignored), 'path')}:")
    for skipped in shown:
        console.info(f"  {skipped.path}: {skipped.reason}")
    if len(plan.ignored) > len(shown):
        console.info(f"  and {len(plan.ignored) - len(shown)} more (-v names all)")
