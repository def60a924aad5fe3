"""What ``score`` compares: the options of a run -> pairs of files, and whether they must be restored first."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.score.datasets import Dataset, open_dataset
from varestorer_cli.core.score.pairing import PairPlan, find_images, plan_pairs
from varestorer_cli.core.sharding import Shard

TableStyle = Literal["text", "markdown", "latex"]
DEFAULT_MODEL = "compact"
WORK_FOLDER = Path("scores")  # where sets and restored files of --dataset runs go unless told otherwise
_CEILING_NOTE = (
    "ceiling: references sent through the tokenizer alone; a restorer with this tokenizer can reach this much"
)


@dataclass(frozen=True)
class ScoreJob:
    """What ``score`` was asked to do.

    Attributes:
        restored: folder or file to judge; with ``model`` it is restored to first.
        reference: folder or file it should look like.
        dataset: name, folder or manifest; brings degraded images and references.
        photos: photographs that div2k-synth makes its pairs from.
        data_root: where the known sets lie.
        model: restores the set's degraded images before scoring.
        weights: folder of the released files, for models that need them.
        ceiling: score the references sent through the model's tokenizer instead.
        compare: two restored folders.
        merge: join the scores of shards in this folder.
        shard: score (and restore) this part only.
        protocol: name of the protocol.
        metrics: comma list, None for the protocol's.
        crop_border: pixels cut off each side.
        partial: go on although files have no partner, or shards are missing.
        csv: file for one line per pair; None beside the restored files.
        json: file for the whole report; None beside the restored files.
        sheet: contact sheet to write.
        degraded: inputs to show on it, and on the page.
        page: HTML page to write.
        also: further folders to show on the page.
        table: how the table is printed.
        device: where model and pyiqa compute.
        seed: of the bootstrap, of div2k-synth, of the model's noise.
        cache: folder of kept scores, ``none``, or None for the user's.
    """

    restored: Path | None = None
    reference: Path | None = None
    dataset: str | None = None
    photos: Path | None = None
    data_root: Path | None = None
    model: str | None = None
    weights: Path | None = None
    ceiling: bool = False
    compare: tuple[Path, Path] | None = None
    merge: Path | None = None
    shard: Shard | None = None
    protocol: str = "both"
    metrics: str | None = None
    crop_border: int = 0
    partial: bool = False
    csv: Path | None = None
    json: Path | None = None
    sheet: Path | None = None
    degraded: Path | None = None
    page: Path | None = None
    also: tuple[Path, ...] = ()
    table: TableStyle = "text"
    device: str = "auto"
    seed: int = 0
    cache: str | None = None


@dataclass(frozen=True)
class Work:
    """What is compared, and how the title names it.

    Attributes:
        plan: the pairs.
        folder: where the restored files lie.
        subject: for the title.
        known: the set, if there is one.
        restores: the restored files are made first.
        benchmark: name of the known set.
        notes: for below the table.
    """

    plan: PairPlan
    folder: Path
    subject: str
    known: Dataset | None = None
    restores: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def benchmark(self) -> str:
        """Name of the known test set, empty for another."""
        return self.known.benchmark if self.known else ""


def find_work(job: ScoreJob, console: Console) -> Work:
    """Find the pairs of a run.

    Raises:
        UsageError: options that contradict each other, or files without partner.
        MissingDependencyError: a known set that is not there.
    """
    if job.dataset is None:
        return _ceiling_of_folder(job) if job.ceiling else _folders(job)
    if job.reference is not None:
        raise UsageError("--dataset brings its own references; leave out --reference, or --dataset")
    known = _dataset(job, console)
    notes: tuple[str, ...] = (known.note,) if known.note else ()
    model = job.model or DEFAULT_MODEL
    if job.restored is not None and job.model is None and not job.ceiling:
        plan = known.plan(job.restored, partial=job.partial)
        return Work(plan, job.restored, f"{job.restored} against {known.name}", known, notes=notes)
    stem = Path(model).stem + ("-ceiling" if job.ceiling else "")
    folder = job.restored or WORK_FOLDER / f"{known.name}-{stem}"
    if job.ceiling and not known.references:
        raise UsageError(f"--ceiling sends references through the tokenizer, and {known.name} has none")
    subject = f"{'ceiling of ' if job.ceiling else ''}{model} on {known.name}"
    notes += (_CEILING_NOTE,) if job.ceiling else ()
    return Work(known.plan_outputs(folder), folder, subject, known, True, notes)


def _folders(job: ScoreJob) -> Work:
    if job.restored is None:
        raise UsageError("Nothing to score: name the restored images, as in: score RESTORED --reference GT")
    if job.model:
        raise UsageError("--model restores a data set before scoring; add --dataset")
    plan = plan_pairs(job.restored, job.reference, partial=job.partial)
    return Work(plan, job.restored, f"{job.restored} against {job.reference or 'no reference'}")


def _ceiling_of_folder(job: ScoreJob) -> Work:
    if job.reference is None:
        raise UsageError("--ceiling sends references through the tokenizer: add --reference GT or --dataset")
    if not job.reference.is_dir():
        raise UsageError(f"{job.reference} is no folder of references")
    references = find_images(job.reference)
    model = job.model or DEFAULT_MODEL
    known = Dataset(job.reference.resolve().name, references, references, job.reference)
    folder = job.restored or WORK_FOLDER / f"{known.name}-{Path(model).stem}-ceiling"
    subject = f"ceiling of {model} on {job.reference}"
    return Work(known.plan_outputs(folder), folder, subject, known, True, (_CEILING_NOTE,))


def _dataset(job: ScoreJob, console: Console) -> Dataset:
    assert job.dataset is not None
    from varestorer_cli.core.score import synthetic

    if job.dataset.lower() != synthetic.NAME:
        return open_dataset(job.dataset, job.data_root, partial=job.partial)
    if job.photos is None:
        raise UsageError(f"--dataset {synthetic.NAME} needs a folder of photographs: score --dataset div2k-synth HQDIR")
    started = False

    def on_done(done: int, count: int) -> None:
        nonlocal started
        if not started:
            console.start(count, "making pairs")
            started = True
        console.update(done, "making pairs")

    try:
        return synthetic.make_set(job.photos, WORK_FOLDER, seed=job.seed, on_done=on_done)
    finally:
        console.finish()


def shard_of(job: ScoreJob, work: Work) -> Work:
    """The pairs of the job's shard, all of them without one."""
    if job.shard is None:
        return work
    if work.known is not None:
        names = work.known.held(job.shard)
    else:
        names = frozenset(pair.name for pair in work.plan.pairs if job.shard.holds(pair.name))
    return replace(work, plan=work.plan.only(names))
