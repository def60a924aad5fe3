"""What ``score`` does: find the pairs, restore where asked, score, show, write."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, UsageError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.metrics.protocols import PROTOCOLS, Protocol, metric_names
from varestorer_cli.core.metrics.registry import load_metrics
from varestorer_cli.core.options import ImageFormat, RestoreOptions
from varestorer_cli.core.phrases import named
from varestorer_cli.core.report.rows import FAILED
from varestorer_cli.core.score import compare as score_compare
from varestorer_cli.core.score import export as score_output
from varestorer_cli.core.score.cache import ScoreCache
from varestorer_cli.core.score.merge import merge_shards
from varestorer_cli.core.score.options import DEFAULT_MODEL, Codes, ScoreOptions
from varestorer_cli.core.score.page import ScorePageJob, score_page_job, write_comparison_page, write_score_page
from varestorer_cli.core.score.pairing import PairPlan
from varestorer_cli.core.score.published import published_rows
from varestorer_cli.core.score.score_show import inputs_of, show, targets_of, write_sheet
from varestorer_cli.core.score.scorer import PairScore, score_pairs, score_set
from varestorer_cli.core.score.selection import Selection, select_pairs, shard_of
from varestorer_cli.core.score.summary import ScoreReport


def run_score(job: ScoreOptions, console: Console) -> ExitCode:
    """Do everything ``score`` does.

    Returns:
        1 where a pair failed, else 0.

    Raises:
        VarestorerError: the run as a whole is impossible.
    """
    if job.also and job.page is None:
        raise UsageError("--also shows further folders on a page: add --report FILE.html")
    if job.merge is not None:
        page = _page(replace(job, shard=None), None)
        report = merge_shards(job.merge, partial=job.partial)
        return _finish(replace(job, shard=None), report, job.merge, console, page)
    protocol = PROTOCOLS[job.protocol]
    names = metric_names(protocol, job.metrics)
    if job.compare is not None:
        return _compare(job, protocol, names, console)
    work = shard_of(job, select_pairs(job, console))
    targets = targets_of(job, work.folder, work.plan, console)
    page = _page(job, work)
    # The licence is no note that -q may hide: it is said wherever pyiqa is used.
    metrics = load_metrics(names, device=job.device, notify=console.warn)
    _check(job, metrics, work)
    if work.restores:
        if any(not pair.restored.exists() for pair in work.plan.pairs):
            for metric in metrics:  # what is missing is said before hours of work
                metric.prepare()
        work = _restored(job, work, console)
    return _finish(job, _scored(job, protocol, metrics, work, console), work.folder, console, page, targets)


# --- restoring and scoring -------------------------------------------------------------------------------------------


def _restored(job: ScoreOptions, work: Selection, console: Console) -> Selection:
    """Restore the degraded half of the set; what is there and up to date is kept."""
    from varestorer_cli.core.restore.run import RestoreRequest, run_restore

    known = work.known
    assert known is not None
    options = RestoreOptions(
        model=job.model or DEFAULT_MODEL,
        device=job.device,
        format=ImageFormat.PNG,
        shard=job.shard,
        seed=job.seed,
        weights=str(job.weights) if job.weights else None,
    )
    if job.codes is not Codes.PREDICTED:
        from varestorer_cli.core.score.codes import CodesJob, restore_with_codes

        reference = job.codes is Codes.REFERENCE
        jobs = {
            pair.name: CodesJob(
                known.degraded[pair.name] if job.dataset else None, pair.reference if reference else None, pair.restored
            )
            for pair in work.plan.pairs
        }
        failed = restore_with_codes(list(jobs.values()), job.codes, work.folder, options, console)
        problems = {known.degraded[name]: failed[one.output] for name, one in jobs.items() if one.output in failed}
    else:
        console.info(f"restoring {known.name} to {work.folder}{os.sep}")
        done = run_restore(RestoreRequest(known.inputs, f"{work.folder}{os.sep}"), options, console)
        problems = {Path(row.input): row.reason for row in done.rows if row.status == FAILED}
    names = {pair.name for pair in work.plan.pairs}
    return replace(work, plan=known.plan_outputs(work.folder, problems).only(names))


def _scored(
    job: ScoreOptions, protocol: Protocol, metrics: Sequence[Metric], work: Selection, console: Console
) -> ScoreReport:
    cache = ScoreCache.open(job.cache, console.warn)
    try:
        scores = _scored_pairs(job, work.plan, metrics, cache, console)
        values, notes = {}, list(work.notes)
        for metric in metrics:
            if metric.whole_set:
                console.info(f"computing {metric.name} over the whole set")
                try:
                    values[metric.name] = score_set(scores, metric, crop_border=job.crop_border, cache=cache)
                except ValueError as error:
                    console.error(str(error))
                    notes.append(str(error))
    finally:
        if cache is not None:
            cache.close()
    rows = published_rows(work.benchmark) if work.benchmark and not job.crop_border and job.shard is None else ()
    if work.benchmark and job.crop_border:
        notes.append("published rows crop no border, so none stands beside these scores")
    elif work.benchmark and not protocol.footings:
        notes.append(f"no published row stands on the footing of protocol {protocol.name}")
    return ScoreReport(
        scores=scores,
        metrics=tuple(metrics),
        protocol=protocol,
        crop_border=job.crop_border,
        plan=work.plan,
        seed=job.seed,
        benchmark=work.benchmark,
        published=tuple(row for row in rows if row.footing in protocol.footings),
        set_values=values,
        subject=work.subject,
        notes=tuple(notes),
        shard=str(job.shard or ""),
    )


def _scored_pairs(
    job: ScoreOptions, plan: PairPlan, metrics: Sequence[Metric], cache: ScoreCache | None, console: Console
) -> tuple[PairScore, ...]:
    """Run the scoring with progress, naming each failure as it happens."""
    done = 0

    def on_done(score: PairScore) -> None:
        nonlocal done
        done += 1
        if score.failed:
            console.error(f"{score.pair.name}: {score.reason}")
        console.update(done, "scoring")

    console.start(len(plan.pairs), "scoring")
    try:
        return score_pairs(plan.pairs, metrics, crop_border=job.crop_border, cache=cache, on_done=on_done)
    finally:
        console.finish()


def _check(job: ScoreOptions, metrics: Sequence[Metric], work: Selection) -> None:
    needy = [metric.name for metric in metrics if metric.needs_reference]
    if needy and any(pair.reference is None for pair in work.plan.pairs):
        raise UsageError(
            f"{', '.join(needy)} compare with a reference and none is given: add --reference GT, or ask for "
            f"metrics that need none, as in --metrics niqe"
        )
    whole = [metric.name for metric in metrics if metric.whole_set]
    if whole and job.shard is not None:
        raise UsageError(
            f"{', '.join(whole)} is one number for the whole set, so a shard has none: leave it out here, and score "
            "the whole folder with it once all shards are done (what is kept is not computed again)"
        )


def _compare(job: ScoreOptions, protocol: Protocol, names: tuple[str, ...], console: Console) -> ExitCode:
    """Score two restored folders and set them against each other."""
    assert job.compare is not None
    for asked, option in (
        (job.model, "--model"),
        (job.codes is not Codes.PREDICTED, "--codes"),
        (job.shard, "--shard"),
        (job.sheet, "--sheet"),
    ):
        if asked:
            raise UsageError(f"--compare judges two folders that are there: leave out {option}")
    if job.restored is not None:
        raise UsageError(f"--compare names both folders: leave out {job.restored}")
    works = [select_pairs(replace(job, restored=folder, compare=None), console) for folder in job.compare]
    sets = [{pair.name for pair in work.plan.pairs} for work in works]
    if sets[0] != sets[1] and not job.partial:
        only = sorted(sets[0] ^ sets[1])
        raise UsageError(
            f"{len(only)} pictures are in only one of {job.compare[0]} and {job.compare[1]}: {named(only, 10)}. "
            "Add them, or compare those in both with --partial."
        )
    works = [replace(work, plan=work.plan.only(sets[0] & sets[1])) for work in works]
    for path in (job.csv, job.json):
        if path is not None:
            score_output.check_target(path, inputs_of(works[0].plan) | inputs_of(works[1].plan))
    page = _page(job, works[0])
    metrics = load_metrics(names, device=job.device, notify=console.warn)
    for work in works:
        _check(job, metrics, work)
    reports = [_scored(job, protocol, metrics, work, console) for work in works]
    comparison = score_compare.Comparison(reports[0], reports[1])
    show(score_compare.blocks, comparison, job.table, console)
    for path, text in ((job.csv, score_compare.csv_text), (job.json, score_compare.json_text)):
        if path is not None:
            score_output.write_text(path, text(comparison))
            console.info(f"wrote {path}")
    if page is not None:
        write_comparison_page(comparison, job.compare, page)
        console.info(f"wrote {page.target}")
    return comparison.exit_code


# --- what comes out --------------------------------------------------------------------------------------------------


def _finish(
    job: ScoreOptions,
    report: ScoreReport,
    folder: Path,
    console: Console,
    page: ScorePageJob | None,
    targets: tuple[Path | None, Path | None] | None = None,
) -> ExitCode:
    """Print the table, write the files."""
    targets = targets or targets_of(job, folder, report.plan, console)
    show(score_output.blocks, report, job.table, console)
    for path, text in zip(targets, (score_output.csv_text(report), score_output.json_text(report)), strict=True):
        if path is not None:
            score_output.write_text(path, text)
            console.info(f"wrote {path}")
    if page is not None:
        write_score_page(report, page)
        console.info(f"wrote {page.target}")
    if job.sheet is not None:
        write_sheet(report, job.degraded, job.sheet)
        console.info(f"wrote {job.sheet}")
    return report.exit_code


def _page(job: ScoreOptions, work: Selection | None) -> ScorePageJob | None:
    """The page that was asked for, checked; a data set brings the degraded files that it shows."""
    if job.page is None:
        return None
    known = work.known.degraded if work is not None and work.known is not None and job.dataset is not None else None
    return score_page_job(job.page, job.degraded or known, job.also, job.shard)
