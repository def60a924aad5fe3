"""Published test sets: where their pairs lie on disk, and what the papers report on them.

The released crops are what every paper scores; cutting one's own from the raw photographs gives other
numbers. They come as one archive, ``SOURCE``, which this program never downloads.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.formats import output_name
from varestorer_cli.core.options import ImageFormat
from varestorer_cli.core.scoring import Pair, PairPlan, find_images, match_pairs

SOURCE = "https://huggingface.co/datasets/Iceclear/StableSR-TestSets"
DATA_ROOT_VARIABLE = "VARESTORER_DATA"
REFERENCE_FOLDERS = ("gt", "test_HR", "HR", "hq")
DEGRADED_FOLDERS = ("lq", "test_LR", "LR")


@dataclass(frozen=True)
class Benchmark:
    """A test set that ``--dataset`` knows by name.

    Attributes:
        name: what the user types.
        pairs: how many the released set holds.
        folders: where it may lie below the data root, most usual first.
        published: method -> metric name -> value in its paper. OSEDiff's PSNR and SSIM are Y and its MANIQA
            is ``maniqa-pipal`` (its released script); VARestorer's are pyiqa's defaults (protocol ``paper``).
    """

    name: str
    pairs: int
    folders: tuple[str, ...]
    published: Mapping[str, Mapping[str, float]]


def _osediff(*values: float) -> dict[str, float]:
    names = ("psnr_y", "ssim_y", "lpips", "dists", "clipiqa", "niqe", "musiq", "maniqa-pipal")
    return dict(zip(names, values, strict=True))


def _varestorer(*values: float) -> dict[str, float]:
    names = ("psnr_rgb", "ssim_yiq", "lpips", "maniqa", "musiq", "niqe", "clipiqa", "liqe", "qalign")
    return dict(zip(names, values, strict=True))


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "div2k",
            3000,
            ("StableSR_testsets/DIV2K_V2_val", "DIV2K_V2_val", "DIV2K-Val", "benchmark_div2k"),
            {
                "VARestorer": _varestorer(21.08, 0.5355, 0.3131, 0.5590, 72.32, 4.410, 0.7669, 4.664, 4.363),
                "OSEDiff": _osediff(23.72, 0.6108, 0.2941, 0.1976, 0.6683, 4.710, 67.97, 0.6148),
            },
        ),
        Benchmark(
            "realsr",
            100,
            ("StableSR_testsets/RealSRVal_crop128", "RealSRVal_crop128", "benchmark_realsr"),
            {
                "VARestorer": _varestorer(22.78, 0.6453, 0.3249, 0.5655, 71.37, 4.763, 0.7423, 4.601, 4.180),
                "OSEDiff": _osediff(25.15, 0.7341, 0.2921, 0.2128, 0.6693, 5.648, 69.09, 0.6326),
            },
        ),
        Benchmark(
            "drealsr",
            93,
            ("StableSR_testsets/DrealSRVal_crop128", "DrealSRVal_crop128", "benchmark_drealsr"),
            {
                "VARestorer": _varestorer(24.31, 0.6894, 0.3584, 0.5638, 69.49, 5.494, 0.7810, 4.582, 4.188),
                "OSEDiff": _osediff(27.92, 0.7835, 0.2968, 0.2165, 0.6963, 6.490, 64.65, 0.5899),
            },
        ),
    )
}


@dataclass(frozen=True)
class Dataset:
    """The pairs of a test set on this machine.

    Attributes:
        name: of the benchmark, or of the folder or manifest.
        degraded: key -> degraded file; outputs of a restoration carry the same keys.
        folder: what the keys of ``degraded`` are relative to; None for a manifest, whose outputs lie side by side.
        references: key -> what the restored file should look like.
        published: rows to print beside ours; empty for a set of one's own.
        note: what is odd about it, e.g. files missing from a known set; empty as a rule.
    """

    name: str
    degraded: Mapping[str, Path]
    references: Mapping[str, Path]
    folder: Path | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What to give to ``restore`` as its inputs."""
        return (str(self.folder),) if self.folder else tuple(str(path) for path in self.degraded.values())

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
            pairs.append(Pair(key, restored, self.references[key], problem))
        return PairPlan(tuple(pairs))

    def plan(self, restored: Path, *, partial: bool = False) -> PairPlan:
        """Pair the restored files of a folder with the references.

        Raises:
            UsageError: the folder is none, or files have no partner and not ``partial``.
        """
        if not restored.is_dir():
            raise UsageError(f"{restored} is no folder; with --dataset give the folder of all restored files")
        return match_pairs(
            find_images(restored),
            self.references,
            partial=partial,
            restored=str(restored),
            reference=f"the references of {self.name}",
        )


def open_dataset(dataset: str, data_root: Path | None = None) -> Dataset:
    """Find the pairs of a test set.

    Args:
        dataset: ``div2k``, ``realsr``, ``drealsr``; or a folder that holds one of gt, test_HR, HR, hq and one
            of lq, test_LR, LR; or a CSV file with the columns ``lq,gt`` (relative paths start at its folder).
        data_root: where the known sets lie.

    Raises:
        MissingDependencyError: a known set that is not there; the message says where to get and put it.
        UsageError: no such name or path, or files without partner.
    """
    if dataset.lower() in BENCHMARKS:
        return _open_benchmark(BENCHMARKS[dataset.lower()], data_root)
    path = Path(dataset)
    if path.is_file() and path.suffix.lower() == ".csv":
        return _open_manifest(path)
    if path.is_dir():
        return _open_folder(path, path.name)
    raise UsageError(
        f"--dataset {dataset} is neither a known test set ({', '.join(BENCHMARKS)}) nor an existing "
        f"folder or CSV file of pairs; check the spelling"
    )


def _open_benchmark(benchmark: Benchmark, data_root: Path | None) -> Dataset:
    place = benchmark.folders[0]
    advice = (
        f"Get the archive from {SOURCE} (3 GB, S-Lab licence, non-commercial) and unpack it so that "
        f"DATA_ROOT/{place} holds the {benchmark.pairs} pairs; DATA_ROOT is given by --data-root "
        f"or {DATA_ROOT_VARIABLE}."
    )
    if data_root is None:
        raise MissingDependencyError(f"The test set {benchmark.name} needs a data root, and none is given. {advice}")
    for folder in benchmark.folders:
        if (data_root / folder).is_dir():
            found = _open_folder(data_root / folder, benchmark.name)
            count = len(found.references)
            note = ""
            if count != benchmark.pairs:
                note = (
                    f"{data_root / folder} holds {count} pairs, the released {benchmark.name} "
                    f"{benchmark.pairs}: the published values are of another set"
                )
            return replace(found, published=benchmark.published, note=note)
    looked = ", ".join(str(data_root / folder) for folder in benchmark.folders)
    raise MissingDependencyError(f"The test set {benchmark.name} is not there (looked for {looked}). {advice}")


def _open_folder(folder: Path, name: str) -> Dataset:
    references = _subfolder(folder, REFERENCE_FOLDERS, "references")
    degraded = _subfolder(folder, DEGRADED_FOLDERS, "degraded images")
    left, right = find_images(degraded), find_images(references)
    # Refuses a set whose own halves do not pair: scores on it would mean nothing.
    match_pairs(left, right, partial=False, restored=str(degraded), reference=str(references))
    return Dataset(name, left, right, degraded)


def _subfolder(folder: Path, names: tuple[str, ...], what: str) -> Path:
    found = [folder / name for name in names if (folder / name).is_dir()]
    if len({path.resolve() for path in found}) > 1:
        raise UsageError(f"{folder} holds several folders of {what}: {', '.join(path.name for path in found)}")
    if not found:
        raise UsageError(f"{folder} holds no folder of {what}; it should be called {' or '.join(names)}")
    return found[0]


def _open_manifest(path: Path) -> Dataset:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not reader.fieldnames or not {"lq", "gt"} <= set(reader.fieldnames):
            raise UsageError(f"{path} starts with the columns {reader.fieldnames}; a manifest of pairs needs lq and gt")
        rows = [(path.parent / row["lq"], path.parent / row["gt"]) for row in reader if row["lq"] and row["gt"]]
    missing = [str(file) for row in rows for file in row if not file.is_file()]
    if missing:
        raise MissingDependencyError(
            f"{path} names {len(missing)} files that do not exist, {missing[0]} first; "
            f"relative paths are taken from {path.parent.resolve()}"
        )
    degraded = {lq.stem: lq for lq, _ in rows}
    if len(degraded) != len(rows) or not rows:
        raise UsageError(
            f"{path} holds {len(rows)} pairs but {len(degraded)} different names of degraded files; "
            f"outputs are matched by name, so each must be there once"
        )
    return Dataset(path.stem, degraded, {lq.stem: gt for lq, gt in rows})
