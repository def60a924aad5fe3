"""What a training run is asked to do; the commands and the library fill in the same objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("tokenizer", "prerestorer", "teacher", "distill")


@dataclass(frozen=True)
class TrainOptions:
    """One training run.

    Attributes:
        stage: one of ``STAGES``.
        data: folder of photographs, or a text file with one path a line.
        out: folder of the run; checkpoints, logs, pictures and the model go there.
        preset: name of the model size.
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
    preset: str = "compact"
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
