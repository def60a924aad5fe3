"""Run the command ``score``: find the pairs, restore where asked, score, print, write."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import ExitCode, UsageError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.metrics.protocols import PROTOCOLS, Protocol, metric_names
from varestorer_cli.core.metrics.registry import load_metrics
from varestorer_cli.core.options import RestoreOptions, RestoreRequest
from varestorer_cli.core.phrases import count, named
from varestorer_cli.core.report.page import page_folder_target
from varestorer_cli.core.report.rows import FAILED
from varestorer_cli.core.score import compare, export
from varestorer_cli.core.score.cache import ScoreCache
from varestorer_cli.core.score.contact_sheet import write_sheet
from varestorer_cli.core.score.merge import merge_shards
from varestorer_cli.core.score.options import DEFAULT_MODEL, Codes, ScoreOptions
from varestorer_cli.core.score.page import ScorePageJob, score_page_job, write_comparison_page, write_score_page
from varestorer_cli.core.score.pairing import PairPlan
from varestorer_cli.core.score.published import published_rows
from varestorer_cli.core.score.scorer import PairScore, score_pairs, score_set
from varestorer_cli.core.score.selection import Selection, select_pairs, shard_of
from varestorer_cli.core.score.summary import ScoreReport


def run_score(options: ScoreOptions, console: Console) -> ExitCode:
    """Run the command ``score``: select, restore, score, print, write.

    Returns:
        1 where a pair failed, else 0.

    Raises:
        VarestorerError: the run as a whole is impossible.
    """
    if options.also and options.page is None and options.page_folder is None:
        raise UsageError("--also shows further folders on a page: add --report FILE.html")
    if options.merge:
        assert options.restored is not None
        page = _page(replace(options, shard=None), None)
        report = merge_shards(options.restored, partial=options.partial)
        return _finish(replace(options, shard=None), report, options.restored, console, page)
    protocol = PROTOCOLS[options.protocol]
    names = metric_names(protocol, options.metrics)
    if options.compare is not None:
        return _compare(options, protocol, names, console)
    selection = shard_of(options, select_pairs(options, console))
    targets = export.targets_of(options, selection.folder, selection.plan, console)
    page = _page(options, selection)
    # The licence is no note that -q may hide: it is said wherever pyiqa is used.
    metrics = load_metrics(names, device=options.device, notify=console.warn)
    _check(options, metrics, selection)
    if selection.restores:
        if any(not pair.restored.exists() for pair in selection.plan.pairs):
            for metric in metrics:  # what is missing is said before hours of work
                metric.prepare()
        selection = _restored(options, selection, console)
    return _finish(
        options, _scored(options, protocol, metrics, selection, console), selection.folder, console, page, targets
    )


# --- restoring and scoring -------------------------------------------------------------------------------------------


def _restored(options: ScoreOptions, selection: Selection, console: Console) -> Selection:
    """Restore the degraded half of the set; what is there and up to date is kept."""
    from varestorer_cli.core.restore.run import run_restore

    known = selection.known
    assert known is not None
    settings = RestoreOptions(
        model=options.model or DEFAULT_MODEL,
        device=options.device,
        format=ImageFormat.PNG,
        shard=options.shard,
        seed=options.seed,
        steps=options.steps,
        weights=options.weights,
    )
    if options.codes is not Codes.PREDICTED:
        from varestorer_cli.core.score.codes import CodesJob, restore_with_codes

        reference = options.codes is Codes.REFERENCE
        jobs = {
            pair.name: CodesJob(
                known.degraded[pair.name] if options.dataset else None,
                pair.reference if reference else None,
                pair.restored,
            )
            for pair in selection.plan.pairs
        }
        failed = restore_with_codes(list(jobs.values()), options.codes, selection.folder, settings, console)
        problems = {known.degraded[name]: failed[one.output] for name, one in jobs.items() if one.output in failed}
    else:
        console.info(f"restoring {known.name} to {selection.folder}{os.sep}")
        done = run_restore(RestoreRequest(known.inputs, f"{selection.folder}{os.sep}"), settings, console)
        problems = {Path(row.input): row.reason for row in done.rows if row.status == FAILED}
    names = {pair.name for pair in selection.plan.pairs}
    return replace(selection, plan=known.plan_outputs(selection.folder, problems).only(names))


def _scored(
    options: ScoreOptions, protocol: Protocol, metrics: Sequence[Metric], selection: Selection, console: Console
) -> ScoreReport:
    cache = ScoreCache.open(options.cache, console.warn)
    try:
        scores = _scored_pairs(options, selection.plan, metrics, cache, console)
        values, notes = {}, list(selection.notes)
        for metric in metrics:
            if metric.whole_set:
                console.info(f"computing {metric.name} over the whole set")
                try:
                    values[metric.name] = score_set(scores, metric, crop_border=options.crop_border, cache=cache)
                except ValueError as error:
                    console.error(str(error))
                    notes.append(str(error))
    finally:
        if cache is not None:
            cache.close()
    rows = (
        published_rows(selection.benchmark)
        if selection.benchmark and not options.crop_border and options.shard is None
        else ()
    )
    if selection.benchmark and options.crop_border:
        notes.append("published rows crop no border, so none stands beside these scores")
    elif selection.benchmark and not protocol.conventions:
        notes.append(f"no published row stands under a convention of protocol {protocol.name}")
    return ScoreReport(
        scores=scores,
        metrics=tuple(metrics),
        protocol=protocol,
        crop_border=options.crop_border,
        plan=selection.plan,
        seed=options.seed,
        benchmark=selection.benchmark,
        published=tuple(row for row in rows if row.convention in protocol.conventions),
        set_values=values,
        subject=selection.subject,
        notes=tuple(notes),
        shard=str(options.shard or ""),
    )


def _scored_pairs(
    options: ScoreOptions, plan: PairPlan, metrics: Sequence[Metric], cache: ScoreCache | None, console: Console
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
        return score_pairs(plan.pairs, metrics, crop_border=options.crop_border, cache=cache, on_done=on_done)
    finally:
        console.finish()


def _check(options: ScoreOptions, metrics: Sequence[Metric], selection: Selection) -> None:
    needy = [metric.name for metric in metrics if metric.needs_reference]
    if needy and any(pair.reference is None for pair in selection.plan.pairs):
        raise UsageError(
            f"{', '.join(needy)} compare with a reference and none is given: add --reference GT, or ask for "
            f"metrics that need none, as in --metrics niqe"
        )
    whole = [metric.name for metric in metrics if metric.whole_set]
    if whole and options.shard is not None:
        raise UsageError(
            f"{', '.join(whole)} is one number for the whole set, so a shard has none: leave it out here, and score "
            "the whole folder with it once all shards are done (what is kept is not computed again)"
        )


def _compare(options: ScoreOptions, protocol: Protocol, names: tuple[str, ...], console: Console) -> ExitCode:
    """Score two restored folders and set them against each other."""
    assert options.compare is not None
    for asked, option in (
        (options.model, "--model"),
        (options.codes is not Codes.PREDICTED, "--codes"),
        (options.shard, "--shard"),
        (options.sheet, "--sheet"),
    ):
        if asked:
            raise UsageError(f"--compare judges two folders that are there: leave out {option}")
    if options.restored is not None:
        raise UsageError(f"--compare names both folders: leave out {options.restored}")
    selections = [select_pairs(replace(options, restored=folder, compare=None), console) for folder in options.compare]
    sets = [{pair.name for pair in selection.plan.pairs} for selection in selections]
    if sets[0] != sets[1] and not options.partial:
        only = sorted(sets[0] ^ sets[1])
        raise UsageError(
            f"only one of {options.compare[0]} and {options.compare[1]} has {count(len(only), 'image')}: "
            f"{named(only, 10)}. Add them, or compare those in both with --partial."
        )
    selections = [replace(selection, plan=selection.plan.only(sets[0] & sets[1])) for selection in selections]
    for path in (options.csv, options.json):
        if path is not None:
            export.check_target(path, export.inputs_of(selections[0].plan) | export.inputs_of(selections[1].plan))
    page = _page(options, selections[0])
    metrics = load_metrics(names, device=options.device, notify=console.warn)
    for selection in selections:
        _check(options, metrics, selection)
    reports = [_scored(options, protocol, metrics, selection, console) for selection in selections]
    comparison = compare.Comparison(reports[0], reports[1])
    export.show(compare.blocks, comparison, options.table, console)
    for path, text in ((options.csv, compare.csv_text), (options.json, compare.json_text)):
        if path is not None:
            export.write_text(path, text(comparison))
            console.info(f"wrote {path}")
    if page is not None:
        write_comparison_page(comparison, options.compare, page)
        console.info(f"wrote {page.target}")
    return comparison.exit_code


# --- what comes out --------------------------------------------------------------------------------------------------


def _finish(
    options: ScoreOptions,
    report: ScoreReport,
    folder: Path,
    console: Console,
    page: ScorePageJob | None,
    targets: tuple[Path | None, Path | None] | None = None,
) -> ExitCode:
    """Print the table and write the files that were asked for."""
    targets = targets or export.targets_of(options, folder, report.plan, console)
    export.show(export.blocks, report, options.table, console)
    for path, text in zip(targets, (export.csv_text(report), export.json_text(report)), strict=True):
        if path is not None:
            export.write_text(path, text)
            console.info(f"wrote {path}")
    if page is not None:
        write_score_page(report, page)
        console.info(f"wrote {page.target}")
    if options.sheet is not None:
        write_sheet(report, options.degraded, options.sheet)
        console.info(f"wrote {options.sheet}")
    return report.exit_code


def _page(options: ScoreOptions, selection: Selection | None) -> ScorePageJob | None:
    """The page that was asked for, checked; a data set brings the degraded files that it shows."""
    apart = options.page_folder is not None
    target = options.page if options.page_folder is None else page_folder_target(options.page_folder)
    if target is None:
        return None
    known = (
        selection.known.degraded
        if selection is not None and selection.known is not None and options.dataset is not None
        else None
    )
    return score_page_job(target, options.degraded or known, options.also, options.shard, apart=apart)
