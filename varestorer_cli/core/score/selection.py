"""Find what ``score`` compares: the options of a run -> pairs of files, and whether they must be restored first."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from varestorer_cli.core.choices import Steps
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.score.datasets import Dataset, open_dataset
from varestorer_cli.core.score.options import DEFAULT_MODEL, SYNTHETIC, Codes, ScoreOptions
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


def select_pairs(options: ScoreOptions, console: Console) -> Selection:
    """Find the pairs of a run.

    Raises:
        UsageError: options that contradict each other, or files without partner.
        MissingDependencyError: a known set that is not there.
    """
    replaced = options.codes is not Codes.PREDICTED
    if options.dataset is None:
        return _references_alone(options) if replaced else _folders(options)
    if options.reference is not None:
        raise UsageError("--dataset brings its own references; leave out --reference, or --dataset")
    known = _dataset(options, console)
    notes: tuple[str, ...] = (known.note,) if known.note else ()
    model = options.model or DEFAULT_MODEL
    if options.restored is not None and options.model is None and not replaced and options.steps is Steps.AUTO:
        plan = known.plan(options.restored, partial=options.partial)
        return Selection(plan, options.restored, f"{options.restored} against {known.name}", known, notes=notes)
    if options.codes is Codes.REFERENCE and not known.references:
        raise UsageError(f"--codes reference takes the codes of the references, and {known.name} has none")
    folder = options.restored or _work_folder(options, known.name)
    subject = f"{model} on {known.name}"
    if replaced:
        subject = f"{model} with codes of {options.codes} on {known.name}"
        notes += (CODES_NOTES[options.codes],)
    if options.steps is not Steps.AUTO:
        subject = f"{model} by --steps {options.steps} on {known.name}"
    return Selection(known.plan_outputs(folder), folder, subject, known, True, notes)


def _work_folder(options: ScoreOptions, name: str) -> Path:
    codes = f"-codes-{options.codes}" if options.codes is not Codes.PREDICTED else ""
    steps = f"-steps-{options.steps}" if options.steps is not Steps.AUTO else ""
    return WORK_FOLDER / f"{name}-{Path(options.model or DEFAULT_MODEL).stem}{codes}{steps}"


def _folders(options: ScoreOptions) -> Selection:
    if options.restored is None:
        raise UsageError("Nothing to score: name the restored images, as in: score RESTORED --reference GT")
    if options.model:
        raise UsageError("--model restores a data set before scoring; add --dataset")
    plan = plan_pairs(options.restored, options.reference, partial=options.partial)
    return Selection(plan, options.restored, f"{options.restored} against {options.reference or 'no reference'}")


def _references_alone(options: ScoreOptions) -> Selection:
    """References through the tokenizer alone, for decoders that need no degraded image."""
    if options.codes is not Codes.REFERENCE:
        raise UsageError(f"--codes {options.codes} replaces codes while a data set is restored: add --dataset")
    if options.reference is None:
        raise UsageError("--codes reference takes the codes of references: add --dataset, or --reference GT")
    if not options.reference.is_dir():
        raise UsageError(f"{options.reference} is no folder of references")
    references = find_images(options.reference)
    known = Dataset(options.reference.resolve().name, references, references, options.reference)
    folder = options.restored or _work_folder(options, known.name)
    subject = f"{options.model or DEFAULT_MODEL} with codes of reference on {options.reference}"
    return Selection(known.plan_outputs(folder), folder, subject, known, True, (CODES_NOTES[options.codes],))


def _dataset(options: ScoreOptions, console: Console) -> Dataset:
    assert options.dataset is not None
    from varestorer_cli.core.score import synthetic

    if options.dataset.lower() != SYNTHETIC:
        return open_dataset(options.dataset, options.data_root, partial=options.partial)
    if options.photos is None:
        raise UsageError(f"--dataset {SYNTHETIC} needs a folder of photographs: score --dataset div2k-synth HQDIR")
    started = False

    def on_done(done: int, count: int) -> None:
        nonlocal started
        if not started:
            console.start(count, "making pairs")
            started = True
        console.update(done, "making pairs")

    try:
        return synthetic.make_set(options.photos, WORK_FOLDER, seed=options.seed, on_done=on_done)
    finally:
        console.finish()


def shard_of(options: ScoreOptions, selection: Selection) -> Selection:
    """The pairs of the run's shard, all of them without one."""
    if options.shard is None:
        return selection
    if selection.known is not None:
        names = selection.known.held(options.shard)
    else:
        names = frozenset(pair.name for pair in selection.plan.pairs if options.shard.holds(pair.name))
    return replace(selection, plan=selection.plan.only(names))
