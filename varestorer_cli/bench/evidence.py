"""``make evidence``: what each part of the method does for the image, at a size that one core trains in an hour.

Pre-restorer, tokenizer and teacher are trained once, as the published teacher is one; the teacher sees the degraded
image in three of four batches. From it start, for each seed and for equally many steps, the students (the full recipe,
without KL, with causal attention) and the restorer that goes on scale after scale. Held-out crops are restored by all
of them, with the codes of the input, and with random ones. Every part that is finished is kept: run again, it goes on.

Left in ``--out``: ``rows.csv`` (a row per seed and variant), ``crops.csv`` (one per crop too), ``path.csv``,
``attention.csv``, two figures as SVG, ``sheet.png``, and ``tables.md``, which is printed too. ``--ship FILE`` trains
the student of the bundled ``mini`` and writes it and its teacher into one model file.
"""

import argparse
import csv
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch

from varestorer_cli.bench import evidence_measures as measures
from varestorer_cli.bench.evidence_page import write_page
from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.training.data.crop_cache import CropCache
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import crop_cache, train
from varestorer_cli.core.training.starting_weights import MODEL
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer, save_bundle
from varestorer_models.multistep import MultiStepRestorer
from varestorer_models.restorer import OneStepRestorer

STUDENTS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "no_kl": {"losses": {"kl": 0.0}},
    "causal": {"variant": {"attention": "causal"}},
}
"""What each student's training changes of the preset's recipe."""
AFTERWARDS: Mapping[str, Mapping[str, Any]] = {"kl_summed": {"losses": {"kl": 0.1}}}
"""The same, trained when all others are judged."""
SHIPPED: Mapping[str, Any] = {
    "steps": 2400,
    "seed": 0,
    "losses": {"kl": 0.1, "features": 0.1, "mse": 5.0},
    "variant": {"bits": "expected", "degraded": 1.0},
}
"""Recipe of the student that ``mini`` holds: longer, from a teacher that sees the degraded image, on mean codes."""
SHEET_CROPS = 6


@dataclass(frozen=True)
class Evidence:
    """One collection of evidence.

    Attributes:
        base: options that all trainings share.
        share: of the recipes' steps; 1 is the real thing, less shows that all runs.
        seeds: of teachers and students.
        crops: held-out crops that are judged.
    """

    base: TrainOptions
    share: float
    seeds: tuple[int, ...]
    crops: int

    @property
    def out(self) -> Path:
        """Folder of everything that is left."""
        return self.base.out

    def collect(self) -> None:
        """Train what is missing, judge what has no rows yet, and write tables and figures.

        Raises:
            VarestorerError: as training.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        for stage in ("prerestorer", "tokenizer"):
            self._trained(stage, self.out / stage)
        earlier = {"tokenizer": self.out / "tokenizer", "prerestorer": self.out / "prerestorer"}
        self._trained("teacher", self.out / "teacher", **earlier)
        recipe = preset("mini").recipes["distill"]
        alike = {"steps": self._steps("distill"), "batch": recipe.batch, "learning_rate": recipe.learning_rate}
        before = {"prerestorer": self.out / "prerestorer", "teacher": self.out / "teacher"}
        for seed in self.seeds:
            folder = self.out / f"seed-{seed}"
            for name, changes in STUDENTS.items():
                self._trained("distill", folder / name, seed=seed, **before, **changes)
            on = {"init": self.out / "teacher", "variant": {"degraded": 1.0}}
            self._trained("teacher", folder / "all_steps", seed=seed, **earlier, **on, **alike)
            self._judge(seed, folder)
            write_page(self.out)
        for seed in self.seeds:
            folder = self.out / f"seed-{seed}"
            for name, changes in AFTERWARDS.items():
                self._trained("distill", folder / name, seed=seed, **before, **changes)
            self._judge(seed, folder)
        sys.stdout.write(write_page(self.out))

    def _trained(self, stage: str, out: Path, **changes: Any) -> None:
        steps = changes.pop("steps", self._steps(stage))
        file = out / MODEL
        if file.is_file() and load_bundle(file).notes.get("steps") == str(steps):
            return
        sys.stderr.write(f"{stage}: {out}\n")
        train(replace(self.base, stage=stage, out=out, steps=steps, resume=True, **changes))

    def _steps(self, stage: str) -> int:
        return max(1, round(preset("mini").recipes[stage].steps * self.share))

    @cached_property
    def _cache(self) -> CropCache:
        sizes = preset("mini")
        return crop_cache(self.base, sizes, sizes.recipes["distill"], lambda text: None)

    @cached_property
    def _held_out(self) -> measures.HeldOut:
        return measures.held_out_crops(self._cache, self.crops)

    @cached_property
    def _judge_of_images(self) -> measures.Judge:
        return measures.Judge()

    def _judge(self, seed: int, folder: Path) -> None:
        done = {row["variant"] for row in read_rows(self.out / "rows.csv") if row["seed"] == str(seed)}
        found = [name for name in (*STUDENTS, *AFTERWARDS) if (folder / name / MODEL).is_file()]
        students = {name: load_student(folder / name) for name in found}
        iterative, teacher = load_iterative(folder / "all_steps"), load_iterative(self.out / "teacher")
        full, crops, judge = students["full"], self._held_out, self._judge_of_images
        variants: dict[str, Callable[[], tuple[OneStepRestorer, measures.Variant]]] = {
            "full": lambda: (full, measures.one_step(full)),
            "no_kl": lambda: (students["no_kl"], measures.one_step(students["no_kl"])),
            "no_distillation": lambda: (iterative, measures.all_steps(iterative)),
            "causal": lambda: (students["causal"], measures.one_step(students["causal"])),
            "kl_summed": lambda: (students["kl_summed"], measures.one_step(students["kl_summed"])),
            "input_codes": lambda: (full, measures.of_input),
            "random_codes": lambda: (full, measures.at_random(full.tokenizer, seed)),
            "teacher_steps": lambda: (teacher, measures.all_steps(teacher)),
            "full_sampled": lambda: (full, measures.one_step(full, "sample", seed)),
            "full_expected": lambda: (full, measures.one_step(full, "expected")),
            "full_consistent": lambda: (full, measures.one_step(full, "consistent")),
        }
        for name, make in variants.items():
            if name in done or (name in AFTERWARDS and name not in students):
                continue
            restorer, variant = make()
            columns = measures.measure(restorer, variant, crops, judge)
            timed = name in (*STUDENTS, "no_distillation")
            self._keep(seed, name, columns, measures.milliseconds(restorer, crops) if timed else None)
        if "ceiling" not in done:
            self._keep(seed, "ceiling", measures.ceiling(full, crops, judge))
            self._keep(seed, "prerestored", measures.prerestored(full, crops, judge))
            for seeing, name in ((False, "teacher_blind"), (True, "teacher_seeing")):
                self._keep(seed, name, measures.forced_accuracy(teacher, crops, seeing=seeing))
            self._images(seed, students, iterative)

    def _keep(self, seed: int, name: str, columns: Mapping[str, list[float]], ms: float | None = None) -> None:
        row: dict[str, Any] = {"seed": seed, "variant": name, "crops": len(next(iter(columns.values())))}
        for column in ("psnr_y", "ssim_y", "lite2"):
            values = columns.get(column)
            row[column] = "" if values is None else f"{statistics.fmean(values):.5f}"
            row[f"{column}_se"] = "" if values is None else f"{statistics.stdev(values) / len(values) ** 0.5:.5f}"
        scales = range(1, len(preset("mini").tokenizer.schedule) + 1)
        for column in ("bits", *(f"bits_{scale}" for scale in scales)):
            row[column] = f"{statistics.fmean(columns[column]):.5f}" if column in columns else ""
        row["ms"] = "" if ms is None else f"{ms:.2f}"
        if "psnr_y" in columns:
            scores = zip(self._held_out.rows, columns["psnr_y"], columns["ssim_y"], columns["lite2"], strict=True)
            for crop, psnr, ssim, lite2 in scores:
                of = {"seed": seed, "variant": name, "photograph": self._photograph(crop), "crop": crop}
                one = {"psnr_y": f"{psnr:.4f}", "ssim_y": f"{ssim:.5f}", "lite2": f"{lite2:.5f}"}
                add_row(self.out / "crops.csv", of | one)
        add_row(self.out / "rows.csv", row)
        sys.stderr.write(" ".join(f"{key} {value}" for key, value in row.items() if value != "") + "\n")

    def _photograph(self, crop: int) -> str:
        """Name of the photograph that a crop was cut from."""
        sources = self._cache.sources
        return next(str(one["name"]) for one in sources if one["first"] <= crop < one["first"] + one["crops"])

    def _images(self, seed: int, students: Mapping[str, OneStepRestorer], iterative: MultiStepRestorer) -> None:
        crops, full = self._held_out, students["full"]
        paths = {
            "all steps": measures.error_path(iterative, measures.all_steps(iterative), crops),
            "one step of the iterative path alone": measures.forced_path(iterative, crops),
            "full": measures.error_path(full, measures.one_step(full), crops),
            "codes of the input": measures.error_path(full, measures.of_input, crops),
        }
        for name, path in paths.items():
            for scale, error in enumerate(path, 1):
                add_row(self.out / "path.csv", {"seed": seed, "path": name, "scale": scale, "error": f"{error:.5f}"})
        tables = measures.attention_between_scales(full, next(iter(crops.batches())))
        for block, asking, seen, share in entries(tables):
            add_row(
                self.out / "attention.csv",
                {"seed": seed, "block": block, "asking": asking, "seen": seen, "share": f"{share:.5f}"},
            )
        if seed == self.seeds[0]:
            self._sheet(students, iterative)

    @torch.no_grad()
    def _sheet(self, students: Mapping[str, OneStepRestorer], iterative: MultiStepRestorer) -> None:
        """Some crops by each variant beside each other, twice their size."""
        crops, full = self._held_out, students["full"]
        chosen = [i * len(crops) // SHEET_CROPS for i in range(min(SHEET_CROPS, len(crops)))]
        few = measures.HeldOut(crops.reference_B3TT[chosen], crops.bicubic_B3TT[chosen], tuple(chosen))
        columns = {
            "degraded": few.bicubic_B3TT,
            "pre-restored": full.prerestore(few.bicubic_B3TT),
            "input codes": measures.images(full, measures.of_input, few),
            "full": measures.images(full, measures.one_step(full), few),
            "no KL": measures.images(students["no_kl"], measures.one_step(students["no_kl"]), few),
            "causal": measures.images(students["causal"], measures.one_step(students["causal"]), few),
            "all steps": measures.images(iterative, measures.all_steps(iterative), few),
            "ceiling": (full.tokenizer(few.reference_B3TT * 2 - 1) + 1) / 2,
            "reference": few.reference_B3TT,
        }
        strips = []
        for title, images in columns.items():
            tall = torch.cat(list(images.clamp(0, 1)), dim=1).permute(1, 2, 0).numpy()
            strip = cv2.resize(np.ascontiguousarray((tall * 255).round().astype(np.uint8)), None, fx=2, fy=2)
            head = np.full((24, strip.shape[1], 3), 255, np.uint8)
            cv2.putText(head, title, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
            strips.append(np.concatenate([head, strip]))
        cv2.imwrite(str(self.out / "sheet.png"), np.concatenate(strips, axis=1)[..., ::-1])

    def ship(self, file: Path, license_text: str) -> None:
        """Train the student that is shipped, judge it, and write it and the teacher into one file in float16.

        Its file restores with mean codes, which it is trained for.

        Raises:
            CheckpointError: the earlier stages are not trained yet.
        """
        if not (self.out / "teacher" / MODEL).is_file():
            raise CheckpointError(f"{self.out}: no teacher was trained yet; run without --ship first")
        folder, recipe = self.out / "shipped", dict(SHIPPED)
        recipe["steps"] = max(1, round(recipe["steps"] * self.share))
        before = {"prerestorer": self.out / "prerestorer", "teacher": self.out / "teacher"}
        self._trained("distill", folder, **before, **recipe)
        student = load_student(folder)
        done = {row["variant"] for row in read_rows(self.out / "rows.csv")}
        for name, variant in {
            "shipped": measures.one_step(student, "expected"),
            "shipped_random": measures.at_random(student.tokenizer, 0),
        }.items():
            if name not in done:
                self._keep(0, name, measures.measure(student, variant, self._held_out, self._judge_of_images))
        bundle, teacher = load_bundle(folder / MODEL), load_bundle(self.out / "teacher" / MODEL)
        parts = {**bundle.components, "teacher": teacher.components["transformer"]}
        row = next(row for row in read_rows(self.out / "rows.csv") if row["variant"] == "shipped")
        figures = {name: value for name, value in row.items() if value}
        notes = {**bundle.notes, "licence": license_text, "held-out crops": str(figures)}
        assert bundle.restorer is not None
        restorer = replace(bundle.restorer, sampling="expected")
        save_bundle(file, parts, restorer=restorer, notes=notes, dtype=torch.float16)


def load_student(folder: Path) -> OneStepRestorer:
    """The one-step restorer of a run.

    Raises:
        CheckpointError: there is none in it.
    """
    restorer = load_restorer(folder).restorer
    if not isinstance(restorer, OneStepRestorer):
        raise CheckpointError(f"{folder}: its model has no tokens")
    return restorer


def load_iterative(folder: Path) -> MultiStepRestorer:
    """The restorer of a teacher's run."""
    return cast(MultiStepRestorer, load_student(folder))


def entries(tables: Sequence[Sequence[Sequence[float]]]) -> Iterator[tuple[int, int, int, float]]:
    """(block, asking scale, scale that is looked at, share), all from 1; the extra block comes after the last scale."""
    for block, table in enumerate(tables, 1):
        for asking, shares in enumerate(table, 1):
            for seen, share in enumerate(shares, 1):
                yield block, asking, seen, share


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row at the end of a CSV file, and a heading to a new one; it is on the disk when this returns."""
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
        stream.flush()
        os.fsync(stream.fileno())


def main() -> None:
    """Read the options, collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="photographs, as for training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=None, help="crop caches [default: OUT/cache]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=1.0, help="of the recipes' steps; 0.01 shows that all runs")
    parser.add_argument("--crops", type=int, default=None, help="training crops to cut instead of the preset's number")
    parser.add_argument("--held-out", type=int, default=256, help="held-out crops that are judged")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--ship", type=Path, default=None, metavar="FILE", help="only train the bundled mini and write it there"
    )
    parser.add_argument("--license", default="", help="licence to write into the shipped file")
    asked = parser.parse_args()
    base = TrainOptions(
        stage="distill",
        data=asked.data,
        out=asked.out,
        preset="mini",
        crops=asked.crops,
        cache=asked.cache or asked.out / "cache",
        threads=asked.threads,
        precision=asked.precision,
        device=asked.device,
        quiet=True,
        sample_every=10_000,
    )
    evidence = Evidence(base, asked.share, tuple(asked.seeds), asked.held_out)
    if asked.ship is not None:
        evidence.ship(asked.ship, asked.license)
    else:
        evidence.collect()


if __name__ == "__main__":
    main()
