"""Test sets: where their pairs lie on disk, under which names, and what to do where they are missing.

The released crops are what every paper scores; cutting one's own from the raw photographs gives other
numbers. They come as one archive, ``SOURCE``, which this program never downloads.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.image.formats import output_name
from varestorer_cli.core.phrases import named, reason_of
from varestorer_cli.core.score.pairing import Pair, PairPlan, find_images, match_pairs
from varestorer_cli.core.sharding import Shard

SOURCE = "https://huggingface.co/datasets/Iceclear/StableSR-TestSets"
ARCHIVE_FOLDER = "StableSR_testsets"
DATA_ROOT_VARIABLE = "VARESTORER_DATA"
REFERENCE_FOLDERS = ("gt", "test_HR", "HR", "hq")
DEGRADED_FOLDERS = ("lq", "test_LR", "LR")


@dataclass(frozen=True)
class Benchmark:
    """A test set that ``--dataset`` knows by name.

    Attributes:
        name: what the user types.
        pairs: how many the released set holds; None where that is not known.
        folders: names it goes by below the data root, the released one first; case does not matter.
        references: False for a set of degraded photographs only.
    """

    name: str
    pairs: int | None
    folders: tuple[str, ...]
    references: bool = True


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("div2k", 3000, ("DIV2K_V2_val", "DIV2K-Val", "benchmark_div2k")),
        Benchmark("realsr", 100, ("RealSRVal_crop128", "benchmark_realsr")),
        Benchmark("drealsr", 93, ("DrealSRVal_crop128", "benchmark_drealsr")),
        Benchmark("dped", None, ("DPED", "DPED-iphone", "DPEDiphone_crop128", "benchmark_dped"), references=False),
    )
}


@dataclass(frozen=True)
class Dataset:
    """The pairs of a test set on this machine.

    Attributes:
        name: of the benchmark, or of the folder or manifest.
        degraded: key -> degraded file; outputs of a restoration carry the same keys.
        folder: what the keys of ``degraded`` are relative to; None for a manifest, whose outputs lie side by side.
        references: key -> what the restored file should look like; empty for a set without references.
        unpaired: files of either half without partner, left out because partial scoring was asked for.
        benchmark: name of the known set, whose published rows may stand beside ours; empty for another.
        note: what is odd about it, e.g. files missing from a known set; empty as a rule.
    """

    name: str
    degraded: Mapping[str, Path]
    references: Mapping[str, Path]
    folder: Path | None = None
    unpaired: tuple[str, ...] = ()
    benchmark: str = ""
    note: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What to give to ``restore`` as its inputs."""
        return (str(self.folder),) if self.folder else tuple(str(path) for path in self.degraded.values())

    def held(self, shard: Shard) -> frozenset[str]:
        """Keys of the pairs that ``restore --shard`` restores in this shard."""
        return frozenset(key for key, path in self.degraded.items() if shard.holds(self._job_key(path)))

    def _job_key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if self.folder else path.name

    def plan_outputs(self, output: Path, problems: Mapping[Path, str] | None = None) -> PairPlan:
        """Pair what ``restore`` makes of :attr:`inputs` as PNG below ``output`` with the references.

        Args:
            output: the folder restored to.
            problems: degraded file -> why it could not be restored; its pair fails by name.
        """
        problems = problems or {}
        pairs = []
        for key, path in self.degraded.items():
            inner = path.relative_to(self.folder).parent if self.folder else Path()
            restored = output / inner / output_name(path.name, ImageFormat.PNG)
            problem = f"not restored: {problems[path]}" if path in problems else ""
            pairs.append(Pair(key, restored, self.references.get(key), problem))
        return PairPlan(tuple(pairs), unpaired_reference=self.unpaired)

    def plan(self, restored: Path, *, partial: bool = False) -> PairPlan:
        """Pair the restored files of a folder with the references.

        Raises:
            UsageError: the folder is none, or files have no partner and not ``partial``.
        """
        if not restored.is_dir():
            raise UsageError(
                f"{restored} is no folder; with --dataset give the folder of all restored files, "
                "or add --model to restore to it first"
            )
        plan = match_pairs(
            find_images(restored),
            self.references or self.degraded,
            partial=partial,
            restored=str(restored),
            reference=f"the {'references' if self.references else 'degraded images'} of {self.name}",
        )
        if not self.references:
            plan = replace(plan, pairs=tuple(replace(pair, reference=None) for pair in plan.pairs))
        return replace(plan, unpaired_reference=(*plan.unpaired_reference, *self.unpaired))


def open_dataset(dataset: str, data_root: Path | None = None, *, partial: bool = False) -> Dataset:
    """Find the pairs of a test set.

    Args:
        dataset: ``div2k``, ``realsr``, ``drealsr``, ``dped``; or a folder that holds one of gt, test_HR, HR, hq and
            one of lq, test_LR, LR; or a CSV file with the columns ``lq,gt`` (relative paths start at its folder).
        data_root: where the known sets lie: the archive's folder, the one above it, or a set's own.
        partial: leave out files without partner instead of refusing the set.

    Raises:
        MissingDependencyError: a known set that is not there; the message says where to get and put it.
        UsageError: no such name or path, or files without partner.
    """
    if dataset.lower() in BENCHMARKS:
        return _open_benchmark(BENCHMARKS[dataset.lower()], data_root, partial)
    path = Path(dataset)
    if path.is_file() and path.suffix.lower() == ".csv":
        return _open_manifest(path)
    if path.is_dir():
        return open_folder(path, path.resolve().name, partial=partial)
    raise UsageError(
        f"--dataset {dataset} is neither a known test set ({', '.join(BENCHMARKS)}, div2k-synth) nor an existing "
        f"folder or CSV file of pairs; check the spelling"
    )


def _open_benchmark(benchmark: Benchmark, data_root: Path | None, partial: bool) -> Dataset:
    count = f"the {benchmark.pairs} pairs" if benchmark.pairs else "its images"
    advice = (
        f"Get the archive from {SOURCE} (3 GB, S-Lab licence, non-commercial) and unpack it so that "
        f"DATA_ROOT/{ARCHIVE_FOLDER}/{benchmark.folders[0]} holds {count}; DATA_ROOT is given by --data-root "
        f"or {DATA_ROOT_VARIABLE}."
    )
    if data_root is None:
        raise MissingDependencyError(f"The test set {benchmark.name} needs a data root, and none is given. {advice}")
    for folder in _places(data_root, benchmark.folders):
        if not benchmark.references:
            return _open_degraded(folder, benchmark.name)
        found = open_folder(folder, benchmark.name, partial=partial)
        pairs, note = len(found.references), ""
        if pairs != benchmark.pairs:
            note = (
                f"{folder} holds {pairs} pairs, the released {benchmark.name} "
                f"{benchmark.pairs}: the published values are of another set"
            )
        return replace(found, benchmark=benchmark.name, note=note)
    looked = ", ".join(str(data_root / ARCHIVE_FOLDER / name) for name in benchmark.folders)
    raise MissingDependencyError(
        f"The test set {benchmark.name} is not there (looked for {looked}, and for the same straight below "
        f"{data_root}). {advice}"
    )


def _places(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Folders that go by one of the names: below the root, below the archive's folder, the root itself."""
    for name in names:
        for parent in (root, root / ARCHIVE_FOLDER):
            if parent.is_dir():
                yield from sorted(p for p in parent.iterdir() if p.name.lower() == name.lower() and p.is_dir())
        if root.resolve().name.lower() == name.lower() and root.is_dir():
            yield root


def open_folder(folder: Path, name: str, *, partial: bool = False) -> Dataset:
    """A folder with a subfolder of references and one of degraded images.

    Raises:
        UsageError: a subfolder is missing or there twice, or files have no partner and not ``partial``.
    """
    references = _subfolder(folder, REFERENCE_FOLDERS, "references")
    degraded = _subfolder(folder, DEGRADED_FOLDERS, "degraded images")
    left, right = find_images(degraded), find_images(references)
    # Refuses a set whose own halves do not pair: scores on it would mean nothing.
    plan = match_pairs(left, right, partial=partial, restored=str(degraded), reference=str(references))
    keys = [pair.name for pair in plan.pairs]
    unpaired = (*plan.unpaired_restored, *plan.unpaired_reference)
    return Dataset(name, {key: left[key] for key in keys}, {key: right[key] for key in keys}, degraded, unpaired)


def _open_degraded(folder: Path, name: str) -> Dataset:
    inner = [folder / half for half in DEGRADED_FOLDERS if (folder / half).is_dir()]
    degraded = inner[0] if inner else folder
    return Dataset(name, find_images(degraded), {}, degraded)


def _subfolder(folder: Path, names: tuple[str, ...], what: str) -> Path:
    found = [folder / name for name in names if (folder / name).is_dir()]
    if len({path.resolve() for path in found}) > 1:
        raise UsageError(f"{folder} holds several folders of {what}: {', '.join(path.name for path in found)}")
    if not found:
        raise UsageError(f"{folder} holds no folder of {what}; it should be called {' or '.join(names)}")
    return found[0]


def _open_manifest(path: Path) -> Dataset:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            lines = [(number, row) for number, row in enumerate(reader, 2) if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a manifest of pairs ({reason_of(error)})") from error
    if not {"lq", "gt"} <= set(columns):
        raise UsageError(f"{path} starts with the columns {columns}; a manifest of pairs needs lq and gt")
    half = [str(number) for number, row in lines if not (row["lq"] and row["gt"])]
    if half:
        raise UsageError(f"{path}: lines {named(half, 10)} name only one of lq and gt; fill them or take them out")
    rows = [(path.parent / row["lq"], path.parent / row["gt"]) for _, row in lines]
    missing = [str(file) for row in rows for file in row if not file.is_file()]
    if missing:
        raise MissingDependencyError(
            f"{path} names {len(missing)} files that do not exist: {named(missing, 10)}; "
            f"relative paths are taken from {path.parent.resolve()}"
        )
    degraded = {lq.stem: lq for lq, _ in rows}
    if len(degraded) != len(rows) or not rows:
        raise UsageError(
            f"{path} holds {len(rows)} pairs but {len(degraded)} different names of degraded files; "
            f"outputs are matched by name, so each must be there once"
        )
    return Dataset(path.stem, degraded, {lq.stem: gt for lq, gt in rows})
