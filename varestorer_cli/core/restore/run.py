"""Everything the command ``restore`` does: plan, load, restore, report."""

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from varestorer_cli.core.atomic import check_name, check_writable, remove_stale_parts
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, MissingDependencyError, VarestorerError, exit_code_for
from varestorer_cli.core.extras import install_command, is_installed
from varestorer_cli.core.image import oiio_backend
from varestorer_cli.core.inputs.plan import NameTemplate, RestorePlan, plan_for
from varestorer_cli.core.options import RestoreOptions, RestoreRequest
from varestorer_cli.core.report.csv_file import ReportFile, free_report_path, merge_reports, report_name, reports_in
from varestorer_cli.core.report.rows import IGNORED, Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore.batch import run_batch
from varestorer_cli.core.restore.item import Reporting
from varestorer_cli.core.restore.messages import nothing_to_do, plan_line, say_end, say_ignored, say_merged
from varestorer_cli.core.restore.session import Session, automatic_model, open_session, prepare_run_texts
from varestorer_cli.core.signals import stop_on_signals

if TYPE_CHECKING:
    from varestorer_cli.core.text.prepare import RunTexts


def run_restore(request: RestoreRequest, options: RestoreOptions, console: Console) -> BatchReport:
    """Do everything ``restore`` does: plan, load, restore, report.

    Raises:
        VarestorerError: whatever ends a run before or while it works; its exit code is of the table asked for.
    """
    try:
        report = _run(request, options, console)
    except VarestorerError as error:
        error.exit_code = exit_code_for(error.exit_code, request.exit_codes)
        console.ended(error.exit_code, str(error))
        raise
    if not request.dry_run:
        console.ended(report.exit_code(options.max_failed), report.summary())
    return report


def run_merge(request: RestoreRequest, options: RestoreOptions, console: Console) -> ExitCode:
    """Do everything ``restore --merge`` does.

    Args:
        request: its output is the folder of the shards.
        options: for the failures that still count as success.
        console: for messages.

    Returns:
        The exit code.

    Raises:
        UsageError: there is nothing to merge.
        OutputError: the report cannot be written.
    """
    folder = Path(request.output)
    check_name(folder)
    page = _page_target(request)
    merged = merge_reports(folder)
    code = say_merged(merged, options, console)
    if page is not None:
        _write_page(merged.report.rows, folder, page, request)
        console.info(f"page: {page}")
    return code


def _run(request: RestoreRequest, options: RestoreOptions, console: Console) -> BatchReport:
    devices = _devices(options)
    model = automatic_model(options, devices) if NameTemplate.has_model(options.name) else None

    def look() -> RestorePlan:
        return plan_for(
            request.inputs,
            request.output,
            options,
            nul_lists=request.nul_lists,
            read_stdin=lambda: sys.stdin.buffer.read(),
            model=model,
        )

    plan = look()
    if request.watch:
        from varestorer_cli.core.restore.watch import refuse_unwatchable, watch_folders

        refuse_unwatchable(request, options, plan)
    check_name(plan.folder)
    report_path = _report_path(request, options, plan)
    report_file = ReportFile(report_path, reports_in(plan.folder))
    if request.metrics_csv is None and report_path is not None and "metrics.varestorer" in report_path.name:
        console.info(f"{plan.folder / 'metrics.csv'} is no report of varestorer and stays; the report is {report_path}")
    if len(devices) == 1:
        options = replace(options, gpus=None, device=devices[0])
    page = _page_target(request, options)
    if request.dry_run:
        from varestorer_cli.core.restore.dry_run import dry_run

        first = replace(options, gpus=None, device=devices[0]) if devices else options
        return dry_run(plan, first, console, json=request.json, processes=max(1, len(devices)))
    on_row = (lambda row: console.out(row.json())) if request.json else None
    if not plan.jobs and not plan.unreadable and not request.watch:
        return _nothing_done(plan, request, options, report_file, console, on_row)
    _refuse_without_vfx(plan)
    check_writable(plan.folder)
    remove_stale_parts({job.output.parent for job in plan.jobs} | {plan.folder})
    with stop_on_signals(console.info, console.abandon) as stop:
        prepared = prepare_run_texts(plan, options, console, stop)
        session = _opened_session(plan, options, prepared, console) if len(devices) < 2 else None
        console.info(plan_line(plan, options, session.plainly() if session is not None else ""))
        if prepared is not None:
            console.info(prepared.summary)
        say_ignored(plan, console)
        report_file.open()
        reporting = Reporting(report_file, console, on_row)
        report = reporting.report
        try:
            if session is None:
                from varestorer_cli.core.restore.pool import run_pool

                alone, earlier = replace(options, gpus=None), reports_in(plan.folder)
                run_pool(plan, devices, alone, earlier, reporting, prepared=prepared, stop=stop)
            else:
                restore = functools.partial(
                    run_batch,
                    engine=session.engine,
                    context=session.context(),
                    options=options,
                    reporting=reporting,
                    stop=stop,
                )
                if request.watch:
                    watch_folders(look, restore, report, console, stop, request.idle)
                else:
                    restore(plan)
        finally:
            report_file.close()
            say_end(report, report_file, options, plan, console)
        if stop.requested():
            console.info("told to stop when nothing was left to do")
    if page is not None:
        _write_page(report_file.rows, plan.folder, page, request, options)
        console.info(f"page: {page}")
    return report


def _nothing_done(
    plan: RestorePlan,
    request: RestoreRequest,
    options: RestoreOptions,
    report_file: ReportFile,
    console: Console,
    on_row: Callable[[Row], None] | None,
) -> BatchReport:
    """Say why there is nothing to do."""
    for note in plan.notes:
        console.warn(note)
    console.info(nothing_to_do(request.inputs, plan))
    if options.shard is not None:  # --merge asks for a report of every shard
        check_writable(plan.folder)
        report_file.open()
        report_file.close()
    report = BatchReport([Row(input=one.path, status=IGNORED, reason=one.reason) for one in plan.ignored])
    for row in report.rows:
        if on_row is not None:
            on_row(row)
    return report


def _opened_session(
    plan: RestorePlan, options: RestoreOptions, prepared: "RunTexts | None", console: Console
) -> Session:
    """Load the model and say what should be known of it."""
    console.start(len(plan.jobs), "loading the model")
    try:
        session = open_session(options, prepared=prepared, on_stage=console.stage)
    finally:
        console.finish()
    if session.runtime.warning:
        console.warn(session.runtime.warning)
    console.detail(session.describe())
    if session.warning:
        console.warn(session.warning)
    return session


def _page_target(request: RestoreRequest, options: RestoreOptions | None = None) -> Path | None:
    """Where the page goes; None where none is asked for, and nothing of pages is loaded."""
    if request.page is None and request.page_folder is None:
        return None
    from varestorer_cli.core.restore.page import page_target

    shard, frames = (options.shard, options.frames) if options is not None else (None, None)
    return page_target(request.page, shard, frames, request.page_folder)


def _write_page(
    rows: Iterable[Row], folder: Path, target: Path, request: RestoreRequest, options: RestoreOptions | None = None
) -> None:
    from varestorer_cli.core.restore.page import write_restore_page

    write_restore_page(rows, folder, target, options, apart=request.page_folder is not None)


def _devices(options: RestoreOptions) -> tuple[str, ...]:
    if options.gpus is None:
        return ()
    from varestorer_cli.core.runtime import several

    return several(options.gpus)


def _refuse_without_vfx(plan: RestorePlan) -> None:
    """A run that can do nothing without an extra says so at once; in a mixed run its images fail one by one."""
    kinds = set(oiio_backend.KINDS.values())
    if plan.jobs and not is_installed("vfx") and all(Path(job.input).suffix.lower() in kinds for job in plan.jobs):
        advice = install_command("vfx")
        raise MissingDependencyError(f"all inputs are OpenEXR or DPX, which OpenImageIO reads; {advice}")


def _report_path(request: RestoreRequest, options: RestoreOptions, plan: RestorePlan) -> Path | None:
    if request.metrics_csv == "none":
        return None
    if request.metrics_csv is None:
        alone = plan.single and options.shard is None
        return None if alone else free_report_path(plan.folder, options.shard, options.frames)
    path = Path(request.metrics_csv)
    return path.with_name(report_name(options.shard, path.stem, path.suffix, options.frames))
