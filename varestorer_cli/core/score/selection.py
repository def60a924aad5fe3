"""What ``score`` compares: the options of a run -> pairs of files, and whether they must be restored first."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.score.datasets import Dataset, open_dataset
from varestorer_cli.core.score.options import DEFAULT_MODEL, Codes, ScoreOptions
from varestorer_cli.core.score.pairing import PairPlan, find_images, plan_pairs

WORK_FOLDER = Path("scores")  # where sets and restored files of --dataset runs go unless told otherwise
CODES_NOTES = {
    Codes.INPUT: "codes input: the encoder's own of the pre-restored input; the transformer was not asked",
    Codes.REFERENCE: "codes reference: the encoder's of the reference, which a prediction without error would give",
    Codes.NOISE: "codes noise: coin flips in place of the model's bits",
    Codes.ZEROS: "codes zeros: nothing in place of the model's codes",
}


@dataclass(frozen=True)
class Selection:
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


def select_pairs(job: ScoreOptions, console: Console) -> Selection:
    """Find the pairs of a run.

    Raises:
        UsageError: options that contradict each other, or files without partner.
        MissingDependencyError: a known set that is not there.
    """
    replaced = job.codes is not Codes.PREDICTED
    if job.dataset is None:
        return _references_alone(job) if replaced else _folders(job)
    if job.reference is not None:
        raise UsageError("--dataset brings its own references; leave out --reference, or --dataset")
    known = _dataset(job, console)
    notes: tuple[str, ...] = (known.note,) if known.note else ()
    model = job.model or DEFAULT_MODEL
    if job.restored is not None and job.model is None and not replaced:
        plan = known.plan(job.restored, partial=job.partial)
        return Selection(plan, job.restored, f"{job.restored} against {known.name}", known, notes=notes)
    if job.codes is Codes.REFERENCE and not known.references:
        raise UsageError(f"--codes reference takes the codes of the references, and {known.name} has none")
    folder = job.restored or _work_folder(job, known.name)
    subject = f"{model} on {known.name}"
    if replaced:
        subject = f"{model} with codes of {job.codes} on {known.name}"
        notes += (CODES_NOTES[job.codes],)
    return Selection(known.plan_outputs(folder), folder, subject, known, True, notes)


def _work_folder(job: ScoreOptions, name: str) -> Path:
    codes = f"-codes-{job.codes}" if job.codes is not Codes.PREDICTED else ""
    return WORK_FOLDER / f"{name}-{Path(job.model or DEFAULT_MODEL).stem}{codes}"


def _folders(job: ScoreOptions) -> Selection:
    if job.restored is None:
        raise UsageError("Nothing to score: name the restored images, as in: score RESTORED --reference GT")
    if job.model:
        raise UsageError("--model restores a data set before scoring; add --dataset")
    plan = plan_pairs(job.restored, job.reference, partial=job.partial)
    return Selection(plan, job.restored, f"{job.restored} against {job.reference or 'no reference'}")


def _references_alone(job: ScoreOptions) -> Selection:
    """References through the tokenizer alone, for decoders that need no degraded image."""
    if job.codes is not Codes.REFERENCE:
        raise UsageError(f"--codes {job.codes} replaces codes while a data set is restored: add --dataset")
    if job.reference is None:
        raise UsageError("--codes reference takes the codes of references: add --dataset, or --reference GT")
    if not job.reference.is_dir():
        raise UsageError(f"{job.reference} is no folder of references")
    references = find_images(job.reference)
    known = Dataset(job.reference.resolve().name, references, references, job.reference)
    folder = job.restored or _work_folder(job, known.name)
    subject = f"{job.model or DEFAULT_MODEL} with codes of reference on {job.reference}"
    return Selection(known.plan_outputs(folder), folder, subject, known, True, (CODES_NOTES[job.codes],))


def _dataset(job: ScoreOptions, console: Console) -> Dataset:
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


def shard_of(job: ScoreOptions, work: Selection) -> Selection:
    """The pairs of the job's shard, all of them without one."""
    if job.shard is None:
        return work
    if work.known is not None:
        names = work.known.held(job.shard)
    else:
        names = frozenset(pair.name for pair in work.plan.pairs if job.shard.holds(pair.name))
    return replace(work, plan=work.plan.only(names))
