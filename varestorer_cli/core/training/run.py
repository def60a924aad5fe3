"""One training run: options -> data, networks and task -> loop -> model file."""

import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.lora import merge_adapters
from models.transformer import Transformer
from varestorer_cli.core.checkpoint import save_bundle
from varestorer_cli.core.dataset import CropCache, CropCacheConfig, PairBatches
from varestorer_cli.core.errors import OutputError, UsageError
from varestorer_cli.core.labels import Labels, NcnnLabeller, make_labels
from varestorer_cli.core.options import Precision
from varestorer_cli.core.presets import Preset, Recipe, preset
from varestorer_cli.core.runtime import autocast_type, choose, keep_freed_memory
from varestorer_cli.core.training.build import MODEL, StageBuilder
from varestorer_cli.core.training.distillation import DistillTask
from varestorer_cli.core.training.loop import LoopOptions, Trainer
from varestorer_cli.core.training.options import STAGES, TrainOptions
from varestorer_cli.core.training.state import CHECKPOINT

VALIDATION_TILES = 12


def train(options: TrainOptions) -> Path:
    """Train one stage.

    Args:
        options: what, on what, how.

    Returns:
        The model file, ``out/model.safetensors``.

    Raises:
        UsageError: contradictory options, or a run folder that is in use.
        MissingDependencyError: an earlier stage or an optional package is missing.
        CheckpointError: a checkpoint or model that does not fit.
        InputError: no usable photographs.
        InterruptedRunError: told to stop; a checkpoint was written.
    """
    if options.stage not in STAGES:
        raise UsageError(f"there is no stage {options.stage!r}; choose one of {', '.join(STAGES)}")
    chosen = preset(options.preset)
    recipe = _recipe(chosen, options)
    _claim(options)
    runtime = choose(options.device, Precision(options.precision), options.threads)
    if runtime.precision == "fp16":
        raise UsageError("--precision fp16: training needs the range of bf16 or fp32; choose one of them")
    keep_freed_memory()
    device = torch.device(runtime.device)
    say = _speaker(options.quiet)
    cache = _cache(options, chosen, recipe, say)
    labels = _labels(options, cache)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    task, identity = StageBuilder(options, chosen, recipe, device, cache, generator).build()
    identity |= {
        "stage": options.stage,
        "preset": options.preset,
        "seed": options.seed,
        "cache": cache.path.name,
        "labels": 0 if labels is None else len(labels),
        "recipe": json.loads(json.dumps(asdict(recipe))),
    }
    (options.out / "run.json").write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    trainable = sum(p.numel() for p in task.trained.parameters() if p.requires_grad)
    say(
        f"{options.stage} ({options.preset}): {trainable / 1e6:.2f} M trainable weights, "
        f"{recipe.steps} steps of {recipe.batch} on {runtime.describe()}"
    )
    started = time.time()

    def export(step: int, figures: Mapping[str, float]) -> None:
        notes = {
            "stage": options.stage,
            "preset": options.preset,
            "steps": str(step),
            "seed": str(options.seed),
            "seconds": f"{time.time() - started:.0f}",
            "machine": f"{platform.machine()}, {runtime.device}, {runtime.precision}, {runtime.threads} threads",
            "validation": json.dumps({k: round(v, 4) for k, v in figures.items()}),
            "licence": options.license_text,
        }
        restorer = task.restorer.config if isinstance(task, DistillTask) else None
        dtype = torch.float16 if options.half else None
        save_bundle(options.out / MODEL, _merged(task.components()), restorer=restorer, notes=notes, dtype=dtype)

    loop = LoopOptions(
        folder=options.out,
        seed=options.seed,
        resume=options.resume,
        precision=autocast_type(runtime.precision),
        device=device,
        log_every=options.log_every,
        sample_every=options.sample_every,
        checkpoint_minutes=options.checkpoint_minutes,
        stop_after=options.stop_after,
        quiet=options.quiet,
    )
    batches = PairBatches(cache, recipe.batch, options.seed, patch=recipe.patch, labels=labels)
    steps = Trainer(task, recipe, batches, _validation(cache, recipe), loop, identity, export).run()
    if steps < recipe.steps:
        say(f"paused at step {steps} of {recipe.steps}; the same command with --resume goes on")
    say(f"model: {options.out / MODEL}")
    return options.out / MODEL


def label(options: TrainOptions, count: int) -> bool:
    """Make labels for the crop cache that a run with these options would use.

    Args:
        options: data, preset, recipe and folders; ``out`` gets the labels.
        count: crops to label.

    Returns:
        Whether all are made; else the same call goes on.

    Raises:
        MissingDependencyError: the labeller is not installed.
        UsageError: ``out`` holds labels of another kind.
    """
    chosen = preset(options.preset)
    say = _speaker(options.quiet)
    labeller = NcnnLabeller(options.threads or 1)
    cache = _cache(options, chosen, _recipe(chosen, options), say)
    last = [0.0]

    def progress(done: int, total: int) -> None:
        if time.monotonic() - last[0] > 30 or done == total:
            last[0] = time.monotonic()
            say(f"labels: {done}/{total}")

    return make_labels(cache, options.out, count, labeller, options.seed, options.stop_after, progress)


def _speaker(quiet: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    return say


def _recipe(chosen: Preset, options: TrainOptions) -> Recipe:
    name = "decoder" if options.decoder_only else options.stage
    recipe = chosen.recipes.get(name)
    if recipe is None:
        raise UsageError(f"preset {chosen.name} has no recipe for the decoder alone; leave --decoder-only out")
    return replace(
        recipe,
        steps=options.steps or recipe.steps,
        batch=options.batch or recipe.batch,
        learning_rate=options.learning_rate or recipe.learning_rate,
        losses={**recipe.losses, **options.losses},
    )


def _claim(options: TrainOptions) -> None:
    """Make the run folder; refuse one that holds another run unless told to resume."""
    if (options.out / CHECKPOINT).exists() and not options.resume:
        raise UsageError(f"{options.out} holds a run already; give --resume to go on, or another --out")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise OutputError(f"{options.out}: the run folder cannot be used ({error}); choose another --out") from error


def _cache(options: TrainOptions, chosen: Preset, recipe: Recipe, say: Callable[[str], None]) -> CropCache:
    config = CropCacheConfig(
        crop=chosen.tokenizer.tile,
        scale=chosen.restorer.scale,
        crops=options.crops or chosen.crops,
        recipe=options.recipe,
    )
    if recipe.patch > config.crop:
        raise UsageError(f"the recipe's patch {recipe.patch} is larger than the cached crops ({config.crop})")
    folder = options.cache or options.out.parent / "cache"
    last = [0.0]

    def progress(done: int, total: int) -> None:
        if time.monotonic() - last[0] > 5 or done == total:
            last[0] = time.monotonic()
            say(f"cutting crops: {done}/{total}")

    return CropCache.build(options.data, folder, config, on_progress=progress, on_warning=say, workers=options.threads)


def _labels(options: TrainOptions, cache: CropCache) -> Labels | None:
    if options.labels is None:
        return None
    if options.stage != "distill":
        raise UsageError(f"--labels: stage {options.stage} has no use for labels, only distillation has")
    labels = Labels(options.labels)
    if labels.cache != cache.path.name:
        raise UsageError(
            f"{options.labels}: labels of the crop cache {labels.cache}, but this run uses {cache.path.name}; "
            "give the photographs, crops and recipe they were made with"
        )
    return labels


def _validation(cache: CropCache, recipe: Recipe) -> list[Any]:
    rows = cache.val_indices
    if not len(rows):
        return []
    spread = [int(rows[i * len(rows) // VALIDATION_TILES]) for i in range(min(VALIDATION_TILES, len(rows)))]
    return [cache.read(spread[i : i + 4]) for i in range(0, len(spread), 4)]


def _merged(components: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Adapters folded into a copy of their transformer: a model file never needs them."""
    transformer = components.get("transformer")
    if isinstance(transformer, Transformer) and transformer.config.adapter_rank:
        merged = copy.deepcopy(transformer)
        merge_adapters(merged)
        return {**components, "transformer": merged}
    return components
