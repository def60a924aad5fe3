"""One training run: options -> data, networks and task -> loop -> model file."""

import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from varestorer_cli.core.choices import Precision, Progress
from varestorer_cli.core.console import Console, is_terminal
from varestorer_cli.core.degradation.pipeline import load_recipe
from varestorer_cli.core.errors import OutputError, UsageError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.runtime import Runtime, autocast_type, choose, keep_freed_memory
from varestorer_cli.core.training.builder import StageBuilder
from varestorer_cli.core.training.checkpoint import SIZES
from varestorer_cli.core.training.config import to_plain
from varestorer_cli.core.training.config_file import to_toml
from varestorer_cli.core.training.data.crop_cache import (
    CropCache,
    CropCacheConfig,
    LabelOf,
    PairBatch,
    PairBatches,
    list_photos,
)
from varestorer_cli.core.training.distill import DistillTask
from varestorer_cli.core.training.distributed import World, joined, read_world
from varestorer_cli.core.training.estimate import estimate
from varestorer_cli.core.training.fsdp import gathered, shard
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Preset, Recipe, Variant, configured, effective, is_divided
from varestorer_cli.core.training.record import hash_of_texts, write_record
from varestorer_cli.core.training.run_folder import checkpoints, remove_remains
from varestorer_cli.core.training.stages import Task, TeacherTask
from varestorer_cli.core.training.starting_weights import MODEL, model_file, require_earlier_stages
from varestorer_cli.core.training.trainer import LoopOptions, Trainer
from varestorer_cli.core.training.validation import validation_metrics
from varestorer_cli.core.weights.model_file import save_bundle
from varestorer_cli.core.weights.model_metadata import read_notes
from varestorer_models.transformer import Transformer

VALIDATION_TILES = 12
NO_SIZES = ("name", "crops", "large", "recipes")
"""Fields of a preset that a resumed run may change, or that other settings hold already."""


def train(options: TrainOptions) -> Path:
    """Train one stage.

    Args:
        options: what, on what, how.

    Returns:
        The model file, ``out/model.safetensors``; a dry run does not write it.

    Raises:
        UsageError: contradictory options, or a run folder that is in use.
        MissingDependencyError: an earlier stage or an optional package is missing.
        CheckpointError: a checkpoint or model that does not fit.
        InputError: no usable photographs.
        InterruptedRunError: a signal stopped it; a checkpoint was written.
    """
    options.check()
    world = read_world()
    chosen = effective(options)
    recipe = chosen.recipes[options.stage]
    if options.show_config:
        _print_config(chosen)
        return options.out / MODEL
    if options.dry_run:
        cost = estimate(options, chosen, recipe, options.processes)
        sys.stdout.write("\n".join(cost.lines()) + "\n")
        return options.out / MODEL
    if recipe.batch < world.size * options.accumulate:
        raise UsageError(
            f"a batch of {recipe.batch} cannot be divided among {world.size} processes with {options.accumulate} parts "
            "each; give a larger --batch, or fewer processes or --accumulate parts"
        )
    runtime = choose(options.device, Precision(options.precision), options.threads)
    if runtime.precision == "fp16":  # what auto finds on a GPU without bf16
        raise UsageError("this GPU computes natively in fp16, training needs a wider range; give --precision fp32")
    if world.size > 1 and runtime.device == "cuda":
        runtime = replace(runtime, device=f"cuda:{world.local_rank}")
    if options.init is not None and not options.license_text:  # what is trained on from weights keeps their licence
        options = replace(options, license_text=read_notes(model_file(options.init)).get("licence", ""))
    keep_freed_memory()
    with joined(world, torch.device(runtime.device)):
        # each machine counts its own restarts: those of one are none where only another's process died
        options = replace(options, resume=options.resume or world.agree(world.restarts > 0)[0])
        if world.main:
            _claim(options)
        # the steps have lines of their own where there is no terminal to draw a bar on
        console = Console(Progress.BAR if is_terminal() else Progress.NONE, quiet=options.quiet)
        _Run(options, chosen, recipe, runtime, world, console).run()
    return options.out / MODEL


def show_config(preset: str | None, config: Path | None) -> None:
    """Print a preset, or what a file makes of one, as TOML on stdout.

    Raises:
        UsageError: there is none, or the file cannot be used.
    """
    _print_config(configured(preset, config))


def _print_config(config: Preset) -> None:
    sys.stdout.write(to_toml(config))


@dataclass(frozen=True)
class _Run:
    """One run in one process."""

    options: TrainOptions
    preset: Preset
    recipe: Recipe
    runtime: Runtime
    world: World
    console: Console

    def run(self) -> None:
        """Train to the end or to a pause."""
        options, recipe = self.options, self.recipe
        say = self.console.info if self.world.main else _silent
        # only the process that writes scores the validation images
        metrics = validation_metrics(options.metrics, self.runtime.device, say) if self.world.main else ()
        list_photos(options.data)  # what was typed wrong comes before what is missing
        require_earlier_stages(options, recipe)
        cache: CropCache = self.world.in_turn(lambda: crop_cache(options, self.preset, recipe, say))
        torch.manual_seed(options.seed)
        generator = torch.Generator().manual_seed(options.seed)
        device = torch.device(self.runtime.device)
        builder = StageBuilder(options, self.preset, recipe, device, cache, generator, divided=self._divided)
        task, identity = builder.build()
        maker = builder.labels(autocast_type(self.runtime.precision))
        labels = None if maker is None else maker.of
        identity |= {
            "stage": options.stage,
            "preset": self.preset.name,
            "seed": options.seed,
            "cache": cache.path.name,
            "recipe": _plain_recipe(recipe),
        }
        if options.degrade != "cache":
            if labels is not None:
                raise UsageError(
                    "--degrade fly: labels are made once per degraded version in the cache; leave out --label and "
                    "--keep, or take --degrade cache"
                )
            identity["degrade"] = options.degrade
        identity[SIZES] = {name: value for name, value in to_plain(self.preset).items() if name not in NO_SIZES}
        if options.texts is not None:
            identity["texts"] = hash_of_texts(options.texts)
        trainable = sum(p.numel() for p in task.trained.parameters() if p.requires_grad)
        processes = f"{self.world.size} processes, each " if self.world.size > 1 else ""
        say(
            f"{options.stage} ({self.preset.name}): {trainable / 1e6:.2f} M trainable weights, "
            f"{recipe.steps} steps of {recipe.batch} on {processes}{self.runtime.describe()}"
        )
        self._prepare(task)
        batches = PairBatches(
            cache,
            recipe.batch,
            options.seed,
            self.world.size,
            self.world.rank,
            patch=recipe.patch,
            labels=labels,
            recipe=load_recipe(options.recipe) if options.degrade == "fly" else None,
        )
        started = time.time()
        trainer = Trainer(
            task,
            recipe,
            batches,
            validation_batches(cache, labels),
            self._loop(device, metrics),
            identity,
            lambda step, figures, name: self._export(task, step, figures, time.time() - started, name or MODEL),
        )
        if options.resume:
            trainer.resume()
        if self.world.main:  # after the checkpoint: a start with other settings is refused and leaves no trace
            write_record(options, self.preset, identity, self.runtime.describe(), self.world.size)
        steps = trainer.run()
        if steps < recipe.steps:
            say(f"paused at step {steps} of {recipe.steps}; the same command with --resume goes on")
        say(f"model: {options.out / MODEL}")

    @property
    def _divided(self) -> bool:
        return is_divided(self.options, self.preset, self.world.size)

    def _prepare(self, task: Task) -> None:
        """Save memory where the preset or the options ask for it."""
        modules = [task.trained, *(m for m in (getattr(task, "teacher", None),) if isinstance(m, nn.Module))]
        if self.preset.large if self.options.recompute is None else self.options.recompute:
            for module in task.trained.modules():
                if isinstance(module, Transformer):
                    module.recompute_blocks()
        if self._divided:
            shard(modules)

    def _loop(self, device: torch.device, metrics: tuple[Metric, ...]) -> LoopOptions:
        options = self.options
        return LoopOptions(
            folder=options.out,
            seed=options.seed,
            precision=autocast_type(self.runtime.precision),
            device=device,
            log_every=options.log_every,
            sample_every=options.sample_every,
            checkpoint_minutes=options.checkpoint_minutes,
            stop_after=options.stop_after,
            console=self.console,
            accumulate=options.accumulate,
            world=self.world,
            divided=self._divided,
            metrics=metrics,
            keep=options.keep_checkpoints,
            best=options.best,
        )

    def _export(self, task: Task, step: int, figures: Mapping[str, float], seconds: float, name: str) -> None:
        """Write the model file from the weights in place."""
        options, runtime = self.options, self.runtime
        components = gathered(task.components())
        if not self.world.main:
            return
        notes = {
            "stage": options.stage,
            "preset": self.preset.name,
            "steps": str(step),
            "seed": str(options.seed),
            "seconds": f"{seconds:.0f}",
            "machine": f"{platform.machine()}, {runtime.device}, {runtime.precision}, {runtime.threads} threads",
            "validation": json.dumps({k: round(v, 4) for k, v in figures.items() if "/" not in k}),
            "licence": options.license_text,
        }
        if options.trainable is not None:
            notes["trainable"] = ",".join(options.trainable)
        restorer, text = None, None
        if options.stage == "prerestorer":
            restorer = self.preset.first_stage
        elif isinstance(task, TeacherTask) and task.prerestorer is not None:
            restorer = task.restorer(self.preset.restorer).config
        elif isinstance(task, DistillTask):
            restorer = task.restorer.config
            if task.texts is not None:
                restorer, text = replace(restorer, takes_text=True), task.texts.default
        dtype = torch.float16 if options.half else None
        save_bundle(options.out / name, _merged(components), restorer=restorer, notes=notes, dtype=dtype, text=text)


def _plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """As a checkpoint keeps it; runs of before there were variants stay resumable."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    if recipe.variant == Variant():
        del plain["variant"]
    return plain


def _claim(options: TrainOptions) -> None:
    """Make the run folder; refuse one that holds another run, unless it is resumed."""
    if checkpoints(options.out) and not options.resume:
        raise UsageError(f"{options.out} holds a run already; give --resume to go on, or another --out")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise OutputError(
            f"{options.out}: the run folder cannot be used ({reason_of(error)}); choose another --out"
        ) from error
    remove_remains(options.out)


def _merged(components: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Adapters folded into a copy of their transformer: a model file never needs them."""
    transformer = components.get("transformer")
    if isinstance(transformer, Transformer) and transformer.config.adapter_rank:
        merged = copy.deepcopy(transformer)
        merged.merge_adapters()
        return {**components, "transformer": merged}
    return components


def _silent(text: str) -> None:
    """Say nothing: of several processes, one speaks."""


def crop_cache(options: TrainOptions, chosen: Preset, recipe: Recipe, say: Callable[[str], None]) -> CropCache:
    """The crops a run uses, cut from its photographs unless they are there already."""
    config = CropCacheConfig(
        crop=chosen.tokenizer.tile,
        scale=chosen.restorer.scale,
        crops=chosen.crops,
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


def validation_batches(cache: CropCache, labels: LabelOf | None = None) -> list[PairBatch]:
    """Some crops of held-out photographs, spread over them."""
    rows = cache.val_indices
    if not len(rows):
        return []
    spread = [int(rows[i * len(rows) // VALIDATION_TILES]) for i in range(min(VALIDATION_TILES, len(rows)))]
    return [cache.read(spread[i : i + 4], labels=labels) for i in range(0, len(spread), 4)]
