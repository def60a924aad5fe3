"""What a training run is asked to do; the commands and the library fill in the same objects."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from varestorer_cli.core.errors import UsageError

STAGES = ("tokenizer", "prerestorer", "teacher", "distill")


@dataclass(frozen=True)
class TrainOptions:
    """One training run.

    Attributes:
        stage: one of ``STAGES``.
        data: folder of photographs, or a text file with one path a line.
        out: folder of the run; checkpoints, logs, pictures and the model go there.
        preset: name of the model size; None: ``compact``, or the base that ``config`` names.
        config: TOML file with other sizes and recipes; what it leaves out is as in the preset.
        show_config: print the effective configuration as TOML on stdout and do nothing.
        steps, batch, learning_rate: override the preset's recipe where given.
        losses: overrides of single loss weights by name; 0 switches a term off.
        head: overrides the student's head, ``bits`` or ``latent`` (distill).
        seed: of initialisation, data order, augmentation and noise.
        resume: go on from the run's last checkpoint; starts anew where there is none.
        init: model file or run whose weights the stage starts from instead of random ones.
        weights: folder of installed models; None asks the environment.
        tokenizer, prerestorer, teacher: earlier stages: run folders, files or model names; by default the folders of
            that name beside ``out``.
        texts: folder of text features, one file a photograph (teacher, distill); see ``core.training.texts``.
        variant: changes of the recipe's ``Variant`` by field name.
        label: model whose result is the sharper image, and whose weights and features a smaller network starts from;
            Real-ESRGAN x4plus by default (prerestorer).
        label_share: overrides the share of a sharper image in the target (prerestorer, distill).
        decoder: overrides the recipe's learning-rate factor of the decoder (distill).
        cache: folder for crop caches, by default ``out``'s parent / ``cache``.
        recipe: degradation recipe, by name or file.
        crops: training crops cut from the photographs; the preset's number by default.
        device, precision, threads: where and how to compute.
        checkpoint_minutes: time between checkpoints.
        keep_checkpoints: the newest so many stay.
        log_every, sample_every: steps between log lines, and between validations with sample pictures.
        metrics: comma list of ``score``'s metrics for validation; None, those that need no weights.
        stop_after: minutes after which the run pauses with a checkpoint; for machines lent by the piece.
        license_text: licence written into the model file.
        accumulate: parts in which each process computes its share of a batch, to save memory.
        parallel: how several processes share the work: ``ddp`` all hold all weights, ``fsdp`` the transformers' are
            divided among them, ``auto`` what the preset's size wants.
        recompute: keep only the inputs of transformer blocks for the backward pass; None, where the preset is large.
        half: store the model file in float16, half the size.
        dry_run: print weights, memory, arithmetic and hours on stdout and do nothing.
        processes: that ``dry_run`` plans for.
        quiet: no progress on stderr.
    """

    stage: str
    data: Path
    out: Path
    preset: str | None = None
    config: Path | None = None
    show_config: bool = False
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    head: str | None = None
    seed: int = 0
    resume: bool = False
    init: Path | None = None
    weights: Path | None = None
    tokenizer: Path | None = None
    prerestorer: Path | None = None
    teacher: Path | None = None
    texts: Path | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)
    label: Path | None = None
    label_share: float | None = None
    decoder: float | None = None
    cache: Path | None = None
    recipe: str = "moderate"
    crops: int | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 2
    log_every: int = 20
    sample_every: int = 500
    metrics: str | None = None
    stop_after: float | None = None
    license_text: str = ""
    accumulate: int = 1
    parallel: str = "auto"
    recompute: bool | None = None
    half: bool = False
    dry_run: bool = False
    processes: int = 1
    quiet: bool = False

    def check(self) -> None:
        """Refuse values that mean nothing, and options that the stage has no use for.

        Raises:
            UsageError: the first one, with its name and what it may be.
        """
        if self.stage not in STAGES:
            raise UsageError(f"there is no stage {self.stage!r}; choose one of {', '.join(STAGES)}")
        for name, stages in _USED_BY.items():
            if getattr(self, name) is not None and self.stage not in stages:
                raise UsageError(
                    f"{_option(name)}: stage {self.stage} has no use for it; it belongs to {' and '.join(stages)}"
                )
        for name in self.variant:
            if self.stage != "distill" and (name != "text_drop" or self.stage != "teacher"):
                raise UsageError(f"{_option(name)}: stage {self.stage} has no use for it")
        if "text_drop" in self.variant and self.texts is None:
            raise UsageError("--text-drop: there are no texts to drop; give --texts DIR, or leave it out")
        if self.stage in ("prerestorer", "tokenizer") and (self.recompute or self.parallel == "fsdp"):
            given = "--recompute" if self.recompute else "--parallel fsdp"
            raise UsageError(f"{given}: stage {self.stage} has no transformer; leave it out")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--lr {self.learning_rate:g}: the learning rate must be a number above 0")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed {self.seed}: a seed is a whole number from 0 to {2**31 - 1}")
        for name, weight in self.losses.items():
            if not 0 <= weight < math.inf:
                raise UsageError(f"--loss {name}={weight:g}: a weight must be a number from 0 up; 0 drops the term")
        numbers = {name: getattr(self, name) for name in _LIMITS if hasattr(self, name)} | dict(self.variant)
        for name, (low, high) in _LIMITS.items():
            value = numbers.get(name)
            if value is not None and not low <= value <= high:
                what = f"from {low:g} to {high:g}" if high < _HUGE else f"from {low:g} up"
                raise UsageError(f"{_option(name)} {value:g}: it must be a number {what}")


_USED_BY = {
    "head": ("distill",),
    "tokenizer": ("teacher",),
    "prerestorer": ("distill",),
    "teacher": ("distill",),
    "texts": ("teacher", "distill"),
    "label": ("prerestorer",),
    "label_share": ("prerestorer", "distill"),
    "decoder": ("distill",),
}
_HUGE = 1e12
_LIMITS: dict[str, tuple[float, float]] = {
    "steps": (0, _HUGE),
    "batch": (1, _HUGE),
    "crops": (1, _HUGE),
    "threads": (1, _HUGE),
    "accumulate": (1, _HUGE),
    "processes": (1, _HUGE),
    "log_every": (1, _HUGE),
    "sample_every": (1, _HUGE),
    "keep_checkpoints": (1, _HUGE),
    "checkpoint_minutes": (0, _HUGE),
    "stop_after": (0, _HUGE),
    "label_share": (0, 1),
    "decoder": (0, _HUGE),
    "encoder": (0, _HUGE),
    "flips": (0, 1),
    "text_drop": (0, 1),
    "guidance": (0, _HUGE),
}
"""Least and largest value by the name of the field; nothing is within limits that is not a number."""
_NAMES = {"label_share": "--keep", "learning_rate": "--lr"}


def _option(name: str) -> str:
    return _NAMES.get(name, "--" + name.replace("_", "-"))
