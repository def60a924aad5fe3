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
from typing import Any, Literal, cast

import torch
from torch import nn

from models.autoencoder import AutoencoderConfig
from models.lora import add_adapters, merge_adapters, train_adapters_only
from models.prerestorer import ConvRestorer
from models.restorer import Restorer
from models.swinir import SwinIR, SwinIRConfig
from models.tokenizer import ImageTokenizer
from models.transformer import Transformer
from varestorer_cli.core.checkpoint import load_bundle, save_bundle
from varestorer_cli.core.dataset import CropCache, CropCacheConfig, PairBatches
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, OutputError, UsageError
from varestorer_cli.core.labels import Labels, NcnnLabeller, make_labels
from varestorer_cli.core.options import Precision
from varestorer_cli.core.presets import Preset, Recipe, preset
from varestorer_cli.core.runtime import autocast_type, choose, keep_freed_memory
from varestorer_cli.core.training.distillation import DistillTask
from varestorer_cli.core.training.loop import LoopOptions, Trainer
from varestorer_cli.core.training.options import STAGES, TrainOptions
from varestorer_cli.core.training.state import CHECKPOINT
from varestorer_cli.core.training.tasks import PrerestorerTask, Task, TeacherTask, TokenizerTask, sharp

MODEL = "model.safetensors"
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
    task, identity = _task(options, chosen, recipe, device, cache)
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
    recipe = chosen.recipes[options.stage]
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


def _task(
    options: TrainOptions, chosen: Preset, recipe: Recipe, device: torch.device, cache: CropCache
) -> tuple[Task, dict[str, Any]]:
    generator = torch.Generator().manual_seed(options.seed)
    build = {"prerestorer": _prerestorer, "tokenizer": _tokenizer, "teacher": _teacher, "distill": _distill}
    return build[options.stage](options, chosen, recipe, device, cache, generator)


def _prerestorer(
    options: TrainOptions,
    chosen: Preset,
    recipe: Recipe,
    device: torch.device,
    cache: CropCache,
    generator: torch.Generator,
) -> tuple[Task, dict[str, Any]]:
    config = chosen.prerestorer
    module = SwinIR(config) if isinstance(config, SwinIRConfig) else ConvRestorer(config)
    if isinstance(module, ConvRestorer):
        module.reset_parameters(generator)
    if options.init is not None:
        _start_from(module, options.init, "prerestorer")
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return PrerestorerTask(module, recipe.losses, device), {"model": _plain(config)}


def _tokenizer(
    options: TrainOptions,
    chosen: Preset,
    recipe: Recipe,
    device: torch.device,
    cache: CropCache,
    generator: torch.Generator,
) -> tuple[Task, dict[str, Any]]:
    tokenizer = ImageTokenizer(chosen.tokenizer)
    tokenizer.autoencoder.reset_parameters(generator)
    tokenizer = tokenizer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = TokenizerTask(tokenizer, recipe.losses, device)
    if options.init is not None:
        _start_from(tokenizer, options.init, "tokenizer")
    else:
        rows = cache.train_indices
        chosen_rows = torch.randperm(len(rows), generator=generator)[:256].numpy()
        task.initialise(sharp(cache.read(rows[chosen_rows]), device), generator)
    return task, {"model": _plain(chosen.tokenizer)}


def _teacher(
    options: TrainOptions,
    chosen: Preset,
    recipe: Recipe,
    device: torch.device,
    cache: CropCache,
    generator: torch.Generator,
) -> tuple[Task, dict[str, Any]]:
    tokenizer = cast(ImageTokenizer, _earlier(options, "tokenizer", options.tokenizer)).to(device)
    transformer = Transformer(chosen.teacher)
    transformer.reset_parameters(generator)
    if options.init is not None:
        _start_from(transformer, options.init, "transformer")
    task = TeacherTask(tokenizer, transformer.to(device), recipe.losses, recipe.flip, device)
    return task, {"model": _plain(chosen.teacher), "tokenizer": _plain(tokenizer.config)}


def _distill(
    options: TrainOptions,
    chosen: Preset,
    recipe: Recipe,
    device: torch.device,
    cache: CropCache,
    generator: torch.Generator,
) -> tuple[Task, dict[str, Any]]:
    prerestorer = _earlier(options, "prerestorer", options.prerestorer)
    teacher_path = _folder(options, "teacher", options.teacher)
    teacher_bundle = load_bundle(_model_file(teacher_path))
    teacher = teacher_bundle.components.get("transformer")
    tokenizer = teacher_bundle.components.get("tokenizer")
    if not isinstance(teacher, Transformer) or not isinstance(tokenizer, ImageTokenizer):
        raise CheckpointError(
            f"{teacher_path}: holds no teacher and tokenizer; train one with varestorer train teacher"
        )
    if chosen.student_autoencoder is not None:
        tokenizer = _with_decoder(tokenizer, chosen.student_autoencoder, generator)
    head = _head(options.head or chosen.student_head)
    student = Transformer(replace(teacher.config, head=head))
    student.reset_parameters(generator)
    same = {k: v for k, v in teacher.state_dict().items() if head == "bits" or not k.startswith("head.")}
    student.load_state_dict({**student.state_dict(), **same})
    restorer = Restorer(chosen.restorer, prerestorer, tokenizer, student)
    if options.init is not None:
        for name, module in restorer.components().items():
            _start_from(module, options.init, name)
    if chosen.adapter_rank:
        add_adapters(student, chosen.adapter_rank)
        train_adapters_only(student)
        if head == "latent":
            student.head.requires_grad_(True)  # a new head: adapters of the teacher's attention cannot teach it
    else:
        student.requires_grad_(True)
    restorer = restorer.to(device)
    restorer.prerestorer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    restorer.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = DistillTask(restorer, teacher.to(device), recipe.losses, recipe.decoder, device, recipe.label_share)
    identity = {"model": _plain(student.config), "teacher": teacher_bundle.sha256, "head": head}
    return task, identity


def _head(name: str) -> Literal["bits", "latent"]:
    if name == "bits":
        return "bits"
    if name == "latent":
        return "latent"
    raise UsageError(f"there is no head {name!r}; choose bits or latent")


def _with_decoder(
    tokenizer: ImageTokenizer, autoencoder: AutoencoderConfig, generator: torch.Generator
) -> ImageTokenizer:
    """The same encoder and quantiser with a new decoder.

    The tokenizer's own decoder is no start: beside its linear path its features have gone quiet, and a quiet
    norm-free layer passes no gradient.
    """
    guided = ImageTokenizer(replace(tokenizer.config, autoencoder=autoencoder))
    guided.autoencoder.reset_parameters(generator)
    guided.autoencoder.encoder.load_state_dict(tokenizer.autoencoder.encoder.state_dict())
    guided.quantizer.load_state_dict(tokenizer.quantizer.state_dict())
    return guided.requires_grad_(False)


def _merged(components: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Adapters folded into a copy of their transformer: a model file never needs them."""
    transformer = components.get("transformer")
    if isinstance(transformer, Transformer) and transformer.config.adapter_rank:
        merged = copy.deepcopy(transformer)
        merge_adapters(merged)
        return {**components, "transformer": merged}
    return components


def _folder(options: TrainOptions, stage: str, given: Path | None) -> Path:
    path = given or options.out.parent / stage
    if not path.exists():
        raise MissingDependencyError(
            f"stage {options.stage} needs a trained {stage}, but {path} does not exist; "
            f"run varestorer train {stage} first or give --{stage}"
        )
    return path


def _model_file(path: Path) -> Path:
    return path / MODEL if path.is_dir() else path


def _earlier(options: TrainOptions, stage: str, given: Path | None) -> nn.Module:
    path = _folder(options, stage, given)
    bundle = load_bundle(_model_file(path))
    if stage not in bundle.components:
        raise CheckpointError(f"{path}: holds {', '.join(bundle.components)}, no {stage}")
    return bundle.components[stage]


def _start_from(module: nn.Module, path: Path, component: str) -> None:
    """Load weights to start a stage from; configurations must agree."""
    bundle = load_bundle(_model_file(path))
    source = bundle.components.get(component)
    if source is None:
        raise CheckpointError(f"{path}: holds {', '.join(bundle.components)}, no {component}")
    try:
        module.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its {component} does not fit this preset ({error})") from error


def _plain(config: Any) -> Any:
    """A configuration as a checkpoint stores it: lists for tuples, nothing but JSON types."""
    return json.loads(json.dumps(asdict(config)))
