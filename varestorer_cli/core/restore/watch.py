"""``restore --watch``: look into the input folders again and again and restore what has come; deletes nothing."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

from varestorer_cli.core.choices import Captioning, Existing
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.inputs.plan import RestorePlan
from varestorer_cli.core.options import RestoreOptions, RestoreRequest
from varestorer_cli.core.report.rows import DONE, FAILED
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.signals import StopFlag

POLL_SECONDS = 2.0
_STEP = 0.05


def refuse_unwatchable(request: RestoreRequest, options: RestoreOptions, plan: RestorePlan) -> None:
    """Refuse options that make no sense for files that come later.

    Raises:
        UsageError: naming the option, or the input.
    """
    for flag, given in (
        ("--dry-run", request.dry_run),
        ("--gpus", options.gpus is not None),
        ("--frames", options.frames is not None),
        ("--captions", options.text.captions is not None),
        ("--caption auto", options.text.captioning is not Captioning.NONE),
        ("--existing error", options.existing is Existing.ERROR),
        ("a list on stdin", "-" in request.inputs),
    ):
        if given:
            raise UsageError(
                f"--watch takes images as they come, and {flag} needs all of them at the start; leave it out"
            )
    if plan.single:
        raise UsageError("--watch looks into folders; name a folder as the input and one as the output")


def watch_folders(
    look: Callable[[], RestorePlan],
    restore: Callable[[RestorePlan], object],
    report: BatchReport,
    console: Console,
    stop: StopFlag,
    idle: float | None,
) -> None:
    """Restore what is there and what comes, until a signal, or until nothing has come for a while.

    A file is taken once its size and its time of change are the same in two looks, so that one that is being copied is
    left to the next look. A file that failed is tried again when it changes.

    Args:
        look: plans anew.
        restore: restores the jobs of a plan and fills ``report``.
        report: books of the whole run.
        console: for messages.
        stop: set by a signal.
        idle: seconds without a new image after which this ends; None for never.

    Raises:
        InterruptedRunError: a signal came.
    """
    taken: dict[str, tuple[int, int]] = {}
    before: dict[str, tuple[int, int]] = {}
    named: set[str] = set()
    problem, seconds = "", 0.0
    last_news = time.monotonic()
    console.info("watching for new images; Ctrl-C ends" + ("" if idle is None else f", and {idle:g} s without any"))
    while not stop.requested():
        try:
            plan, said = look(), ""
        except UsageError as error:  # such as two new files that would become one output
            plan, said = None, str(error)
        if said and said != problem:
            console.error(said)
        problem = said
        if plan is not None:
            now = {job.input: signature for job in plan.jobs if (signature := _signature(job.input)) is not None}
            fresh = [job for job in plan.jobs if job.input in now and now[job.input] != taken.get(job.input)]
            ready = [job for job in fresh if before.get(job.input) == now[job.input]]
            before = now
            if fresh:
                last_news = time.monotonic()
            if ready:
                aside = [one for one in plan.ignored if one.path not in named]
                named |= {one.path for one in aside}
                first = len(report.rows)
                try:
                    restore(replace(plan, jobs=ready, ignored=aside, unreadable=[], notes=[]))
                finally:
                    seconds += report.seconds
                    report.seconds = seconds
                taken |= {job.input: now[job.input] for job in ready}
                statuses = [row.status for row in report.rows[first:]]
                console.info(f"{statuses.count(DONE)} restored, {statuses.count(FAILED)} failed; watching")
                last_news = time.monotonic()
                continue
        if idle is not None and time.monotonic() - last_news >= idle:
            return
        _wait(stop)
    raise stop.error(f"stopped watching: {report.summary()}; run the same command again to go on")


def _signature(path: str) -> tuple[int, int] | None:
    """Size and time of change; None for what is gone. An image inside an archive has its archive's."""
    name = path
    while name:
        try:
            found = os.stat(name)  # noqa: PTH116  (names need not be valid in the locale's encoding)
        except NotADirectoryError:
            name = os.path.dirname(name)  # noqa: PTH120
            continue
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns
    return None


def _wait(stop: StopFlag) -> None:
    until = time.monotonic() + POLL_SECONDS
    while not stop.requested() and time.monotonic() < until:
        time.sleep(_STEP)
