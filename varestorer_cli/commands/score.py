"""``varestorer score``: how close restored pictures are to what they should be."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from varestorer_cli.commands._options import WeightsOption
from varestorer_cli.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from varestorer_cli.core.benchmarks import Dataset
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.metrics import Metric
    from varestorer_cli.core.scoring import PairPlan, PairScore, ScoreReport


class ProtocolName(StrEnum):
    """Names of the protocols; ``core.scoring`` says what they mean."""

    BOTH = "both"
    OSEDIFF = "osediff"
    PAPER = "paper"
    RGB = "rgb"


_HELP = """Score restored images against references: PSNR, SSIM and any pyiqa metric.

Images are paired by name. The table says by which protocol it was made; scores.csv and scores.json are written
beside the restored images.

\b
  varestorer score restored/ --reference originals/
  varestorer score restored/ --dataset realsr --protocol osediff --metrics psnr,ssim,lpips,niqe
  varestorer score --dataset realsr --model compact
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("score", help=_HELP, no_args_is_help=True)(score)


def score(
    restored: Annotated[
        Path | None, typer.Argument(help="Folder of restored images, or one image.", show_default=False)
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", "-r", metavar="GT", help="What they should look like: a folder, or one image."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="div2k, realsr, drealsr; a folder with gt and lq (or test_HR and test_LR); a CSV of lq,gt.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="VARESTORER_DATA", help="Where the known test sets lie."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Restore the data set with this model first. [default: compact]"),
    ] = None,
    weights: WeightsOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where it is restored to and kept. [default: scores/DATASET-MODEL]"
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="osediff: PSNR and SSIM on Y. rgb: on RGB. paper: PSNR on RGB, SSIM on Y of YIQ."),
    ] = ProtocolName.BOTH,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Comma list: psnr_y, ssim_y, psnr_rgb, ssim_rgb, ssim_yiq; other names are pyiqa's (extra 'score').",
        ),
    ] = None,
    crop_border: Annotated[int, typer.Option(min=0, help="Pixels to cut off each side first.")] = 0,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score the pairs there are although files have no partner.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One line per pair. [default: RESTORED/scores.csv]")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The whole report. [default: RESTORED/scores.json]")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Contact sheet to look at, a .jpg or .png: restored, reference.")
    ] = None,
    degraded: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Degraded inputs, shown first on the sheet.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    device: Annotated[str, typer.Option(help="Where model and pyiqa compute: auto, cpu, cuda, cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap interval.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes, errors only.")] = False,
) -> None:
    """Check the options, restore where asked, score, print, write."""
    from varestorer_cli.core import score_output, scoring
    from varestorer_cli.core.console import Console
    from varestorer_cli.core.metrics import load_metrics

    console = Console(quiet=quiet)
    chosen = scoring.PROTOCOLS[protocol.value]
    names = scoring.metric_names(chosen, metrics)
    asked = _Asked(restored, reference, dataset, data_root, model, weights, output, device, partial)
    plan, known, folder, subject = asked.plan()
    targets = _targets(folder, csv, json, plan, console.info)
    # The licence is no note that -q may hide: it is said wherever pyiqa is used.
    columns = load_metrics(names, device=device, notify=console.warn)
    needy = [metric.name for metric in columns if metric.needs_reference]
    if needy and any(pair.reference is None for pair in plan.pairs):
        raise UsageError(
            f"{', '.join(needy)} compare with a reference and none is given: add --reference GT, or ask for "
            f"metrics that need none, as in --metrics niqe"
        )
    if restored is None and known is not None:
        plan = known.plan_outputs(folder, asked.restore(folder, known, console))
    report = scoring.ScoreReport(
        scores=_scored(plan, columns, crop_border, console),
        metrics=tuple(columns),
        protocol=chosen,
        crop_border=crop_border,
        plan=plan,
        seed=seed,
        published=known.published if known and not crop_border else {},
        subject=subject,
        notes=(known.note,) if known and known.note else (),
    )
    _show(report, markdown, console)
    if sheet is not None:
        _write_sheet(report, degraded, sheet)
        console.info(f"wrote {sheet}")
    texts = (score_output.csv_text(report), score_output.json_text(report))
    for path, text in zip(targets, texts, strict=True):
        if path is not None:
            score_output.write_text(path, text)
            console.info(f"wrote {path}")
    if report.exit_code is not ExitCode.OK:
        raise typer.Exit(report.exit_code)


@dataclass(frozen=True)
class _Asked:
    """What is to be compared with what, as the user said it."""

    restored: Path | None
    reference: Path | None
    dataset: str | None
    data_root: Path | None
    model: str | None
    weights: Path | None
    output: Path | None
    device: str
    partial: bool

    def plan(self) -> "tuple[PairPlan, Dataset | None, Path, str]":
        """The pairs, the data set if there is one, where the restored files lie, and the title's subject."""
        from varestorer_cli.core import benchmarks, scoring

        if self.dataset is None:
            if self.restored is None:
                raise UsageError("Nothing to score: name the restored images, as in: score RESTORED --reference GT")
            if self.model or self.output:
                raise UsageError("--model and --output restore a data set before scoring; add --dataset")
            plan = scoring.plan_pairs(self.restored, self.reference, partial=self.partial)
            return plan, None, self.restored, f"{self.restored} against {self.reference or 'no reference'}"
        if self.reference is not None:
            raise UsageError("--dataset brings its own references; leave out --reference, or --dataset")
        known = benchmarks.open_dataset(self.dataset, self.data_root)
        if self.restored is not None:
            if self.model or self.output:
                raise UsageError(
                    f"{self.restored} is restored already: leave it out, or leave out --model and --output"
                )
            plan = known.plan(self.restored, partial=self.partial)
            return plan, known, self.restored, f"{self.restored} against {known.name}"
        folder = self.output or Path("scores") / f"{known.name}-{Path(self._model).stem}"
        return known.plan_outputs(folder), known, folder, f"{self._model} on {known.name}"

    @property
    def _model(self) -> str:
        return self.model or "compact"

    def restore(self, folder: Path, known: "Dataset", console: "Console") -> dict[Path, str]:
        """Restore the degraded half of the data set; what is there and up to date is kept.

        Returns:
            Inputs that failed, and why.
        """
        from varestorer_cli.core.options import ImageFormat, RestoreOptions
        from varestorer_cli.core.report import FAILED
        from varestorer_cli.core.restoring import Job, run_restore

        options = RestoreOptions(
            model=self._model,
            device=self.device,
            format=ImageFormat.PNG,
            weights=str(self.weights) if self.weights else None,
        )
        report = run_restore(Job(known.inputs, f"{folder}{os.sep}"), options, console)
        return {Path(row.input): row.reason for row in report.rows if row.status == FAILED}


def _targets(
    restored: Path, csv: Path | None, json: Path | None, plan: "PairPlan", note: Callable[[str], None]
) -> tuple[Path | None, Path | None]:
    """Where CSV and JSON go: as asked, else beside the restored files if nothing foreign is in the way."""
    from varestorer_cli.core import score_output

    inputs = [path for pair in plan.pairs for path in (pair.restored, pair.reference) if path is not None]
    one = restored.is_file()
    folder, stem = (restored.parent, f"{restored.stem}.scores") if one else (restored, "scores")
    chosen: list[Path | None] = []
    for asked, suffix in ((csv, ".csv"), (json, ".json")):
        path = folder / f"{stem}{suffix}"
        elsewhere = f"--{suffix[1:]} FILE puts the scores elsewhere"
        if asked is not None:
            score_output.check_target(asked, inputs)
            chosen.append(asked)
        elif folder.exists() and not os.access(folder, os.W_OK):
            note(f"{folder} is read-only: {path.name} is not written; {elsewhere}")
            chosen.append(None)
        elif not score_output.is_ours(path):
            note(f"{path} holds something else and stays as it is; {elsewhere}")
            chosen.append(None)
        else:
            chosen.append(path)
    return chosen[0], chosen[1]


def _write_sheet(report: "ScoreReport", degraded: Path | None, target: Path) -> None:
    """The scored pictures side by side; degraded inputs are found by the same names."""
    from varestorer_cli.core.scoring import find_images
    from varestorer_cli.core.sheet import contact_sheet

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


def _scored(plan: "PairPlan", columns: "list[Metric]", crop_border: int, console: "Console") -> "tuple[PairScore, ...]":
    """Run the scoring with progress, naming each failure as it happens."""
    from varestorer_cli.core.scoring import score_pairs

    done = 0

    def on_done(score: "PairScore") -> None:
        nonlocal done
        done += 1
        if score.failed:
            console.error(f"{score.pair.name}: {score.reason}")
        console.update(done)

    console.start(len(plan.pairs))
    try:
        return score_pairs(plan.pairs, columns, crop_border=crop_border, on_done=on_done)
    finally:
        console.finish()


def _show(report: "ScoreReport", as_markdown: bool, console: "Console") -> None:
    """Print title and table on stdout."""
    import rich.console
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from varestorer_cli.core import score_output

    screen = rich.console.Console(highlight=False)
    up, down = ("↑", "↓") if screen.encoding.lower().startswith("utf") else ("^", "v")
    if as_markdown:
        text = score_output.markdown(report, up=up, down=down)
    else:
        cells = score_output.table(report, up=up, down=down)
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, head in enumerate(cells.head):
            grid.add_column(Text(head), justify="left" if i == 0 else "right", min_width=8)
        for row in cells.rows:
            grid.add_row(*(Text(cell, no_wrap=True) for cell in row))
        with screen.capture() as capture:
            screen.print(grid)
        text = "\n".join([*score_output.title(report), capture.get().rstrip("\n"), *score_output.footnotes(report)])
    # A path that the terminal's encoding cannot hold is escaped: it must not cost the table.
    console.out(text.rstrip("\n").encode(screen.encoding, "backslashreplace").decode(screen.encoding))
