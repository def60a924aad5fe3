"""Presets: sizes of all networks and the recipe that trains each stage, as TOML files in ``data/presets``."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from torch import nn

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.config import flat, nearest, overlaid, to_plain
from varestorer_cli.core.training.config_file import ConfigFile
from varestorer_cli.core.training.options import STAGES, TrainOptions
from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.meta_init import on_meta_device
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer, TokenizerConfig
from varestorer_models.transformer import Transformer, TransformerConfig

DEFAULT = "compact"
"""The preset of a run that names none."""
_PACKAGE, _FOLDER, _SUFFIX = "varestorer_cli.data", "presets", ".toml"
_BASE, _NAME = "base", "name"
_COUNTS = {"depth", "depths", "blocks", "encoder_blocks", "decoder_blocks", "mid_blocks"}
"""Fields that count blocks, each of which is a Python object."""
_MOST_BLOCKS = 1000


def _within(config: object, limits: Mapping[str, tuple[float, float]], prefix: str = "") -> None:
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            what = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g} up"
            raise ValueError(f"{prefix}{name} must be a number {what}, got {value:g}")


@dataclass(frozen=True)
class Variant:
    """Choices of a recipe that research varies; the defaults are the published ones.

    Attributes:
        bits: what image losses see of a bits head: ``sampled`` Gumbel bits, ``greedy`` the likelier ones (both hard,
            with the gradient of soft ones), or ``expected`` soft bits.
        extra_positions: rotary coordinates of the student's extra block, ``next_scale`` (released) or ``last_scale``
            (its true places); None = as the teacher's configuration says.
        flips: largest probability of flipping bits of the degraded image's pyramid in training.
        guidance: classifier-free guidance of the teacher's scores; 1 = none. Needs texts.
        encoder: train the student's encoder on degraded images, at this fraction of the learning rate; 0 = frozen.
        text_drop: probability of training on the null condition instead of an image's text.
        degraded: share of the batches in which the teacher sees the degraded image's tokens too; with 1 it is a
            multi-step restorer alone, between 0 and 1 teacher and restorer in one.
            In distillation, of a teacher trained so: share of the batches in which the teacher of the KL sees them.
        attention: ``all``: the student's positions see all others; ``causal``: their own and coarser scales only.
    """

    bits: Literal["sampled", "greedy", "expected"] = "sampled"
    extra_positions: Literal["next_scale", "last_scale"] | None = None
    flips: float = 0.0
    guidance: float = 1.0
    encoder: float = 0.0
    text_drop: float = 0.0
    degraded: float = 0.0
    attention: Literal["all", "causal"] = "all"

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("flips", "text_drop", "degraded"), (0.0, 1.0))
        _within(self, {**shares, "guidance": (0, math.inf), "encoder": (0, math.inf)})


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained.

    Attributes:
        steps: optimiser steps.
        batch: images per step.
        patch: side of the training images in pixels; the tile for the stages with tokens.
        learning_rate: peak; cosine to zero after a linear warm-up.
        losses: weight of each loss term by name; a term that is absent is not computed.
        betas: AdamW's.
        weight_decay: AdamW's.
        warmup: steps of linear warm-up.
        clip: largest gradient norm.
        ema: decay of the averaged weights, which are the ones kept.
        flip: largest probability of bitwise self-correction (teacher).
        decoder: train the student's decoder too (distillation), at this fraction of the learning rate; 0 = frozen.
        label_share: share of a sharper image in the target of the image terms, the rest is the true one: of the
            larger network's (prerestorer), of the pre-restored image (distillation).
        variant: choices that research varies.
    """

    steps: int
    batch: int
    patch: int
    learning_rate: float
    losses: Mapping[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 40
    clip: float = 1.0
    ema: float = 0.999
    flip: float = 0.0
    decoder: float = 0.0
    label_share: float = 0.0
    variant: Variant = field(default_factory=Variant)

    def __post_init__(self) -> None:
        most = math.inf
        _within(self, {"steps": (0, most), "batch": (1, most), "patch": (8, most), "warmup": (0, most)})
        _within(self, {"weight_decay": (0, most), "decoder": (0, most), "flip": (0, 1), "label_share": (0, 1)})
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name):g}")
        for name, values in (("betas", self.betas), ("ema", (self.ema,))):
            if not all(0 <= value < 1 for value in values):
                raise ValueError(f"{name} must be from 0 up and below 1, got {getattr(self, name)}")
        for name, weight in self.losses.items():
            if not 0 <= weight < most:
                raise ValueError(f"losses.{name} must be a number from 0 up, got {weight:g}")


@dataclass(frozen=True)
class Preset:
    """A model size: configurations of its parts and the recipe of each stage.

    Attributes:
        name: as given to ``--preset``.
        prerestorer: configuration of the first clean-up.
        tokenizer: autoencoder, quantiser and schedule.
        teacher: multi-step transformer; the student has the same shape plus ``student_head`` and adapters.
        student_head: ``bits`` (the paper's) or ``latent``.
        adapter_rank: rank of the student's adapters; 0 = all of its weights are trained.
        restorer: settings written into the student's file.
        recipes: by stage name.
        student_autoencoder: the student's, with a new decoder that is guided by the pre-restored image; None = the
            tokenizer's own.
        crops: training crops cut from the photographs.
        large: for GPUs: several processes divide the transformers' weights, blocks are recomputed for gradients.
    """

    name: str
    prerestorer: ConvRestorerConfig | RRDBConfig | SwinIRConfig
    tokenizer: TokenizerConfig
    teacher: TransformerConfig
    student_head: Literal["bits", "latent"]
    adapter_rank: int
    restorer: RestorerConfig
    recipes: Mapping[str, Recipe]
    student_autoencoder: AutoencoderConfig | None = None
    crops: int = 8000
    large: bool = False

    def __post_init__(self) -> None:
        _within(self, {"crops": (1, math.inf), "adapter_rank": (0, math.inf)})
        side, levels = (0, 1 << 16), (0, 16)
        limits = {"scale": (1, 16), "tile": side, "tile_step": (1, 1 << 16), "largest_tile": side}
        _within(self.restorer, limits | {"wavelet_levels": levels, "input_color_levels": levels}, "restorer.")
        if not (self.name and self.name.isprintable()):
            raise ValueError(f"name must be a text that can be printed, got {self.name!r}")
        for stage in self.recipes:
            if stage not in STAGES:
                raise ValueError(f"recipes: there is no stage {stage}{nearest(stage, STAGES)}")
        missing = [stage for stage in STAGES if stage not in self.recipes]
        if missing:
            raise ValueError(f"recipes.{missing[0]} is missing")
        schedule, bits = self.tokenizer.schedule, self.tokenizer.quantizer.bits
        scales = self.tokenizer.quantizer.scales
        if self.teacher.bits != bits:
            raise ValueError(
                f"teacher.bits is {self.teacher.bits}, tokenizer.quantizer.bits {bits}; they must be equal"
            )
        if self.tokenizer.quantizer.learned_gains and scales != len(schedule):
            raise ValueError(f"tokenizer.quantizer.scales is {scales}, the schedule has {len(schedule)} grids")
        own_row = self.restorer.extra_block and self.teacher.extra_block_level == "own_row"
        if self.teacher.levels < len(schedule) + own_row:
            raise ValueError(
                f"teacher.levels is {self.teacher.levels}, the schedule needs {len(schedule) + own_row}: one per grid"
                + (", one for the extra block" if own_row else "")
            )
        student = self.student_autoencoder
        if student is not None and (student.stride, student.latent_channels) != (
            self.tokenizer.autoencoder.stride,
            self.tokenizer.autoencoder.latent_channels,
        ):
            raise ValueError("student_autoencoder must have the stride and latent_channels of tokenizer.autoencoder")
        scale = self.restorer.scale
        for stage, recipe in self.recipes.items():
            if recipe.patch % scale or recipe.patch > self.tokenizer.tile:
                raise ValueError(
                    f"recipes.{stage}.patch is {recipe.patch}; it must be a multiple of restorer.scale, {scale}, "
                    f"and at most the tile, {self.tokenizer.tile}"
                )
            if stage != "prerestorer" and recipe.patch != self.tokenizer.tile:
                raise ValueError(
                    f"recipes.{stage}.patch is {recipe.patch}, its scales belong to tiles of {self.tokenizer.tile} "
                    "pixels; both must be the same"
                )

    @property
    def first_stage(self) -> RestorerConfig:
        """Settings of a restorer that is this preset's pre-restorer alone."""
        # the zeros around a tile reach further through 23 blocks than the overlap of a small tile: on 512 x 512 images
        # tiles of 272 pixels cost .0019 in GMSD and .0012 in VSI against a single tile
        wide = 2 if isinstance(self.prerestorer, RRDBConfig) else 1
        return RestorerConfig(
            scale=self.restorer.scale,
            tile=wide * self.tokenizer.tile,
            # windows of 8 on 8 x 8 unshuffled pixels
            tile_step=64 if isinstance(self.prerestorer, SwinIRConfig) else 16,
            extra_block=False,
            sampling="argmax",
            input_color_levels=self.restorer.input_color_levels,
            largest_tile=wide * self.restorer.largest_tile,
            upscale_filter=self.restorer.upscale_filter,
        )


def preset_names() -> tuple[str, ...]:
    """Names of the packaged presets."""
    found = resources.files(_PACKAGE).joinpath(_FOLDER).iterdir()
    return tuple(sorted(entry.name.removesuffix(_SUFFIX) for entry in found if entry.name.endswith(_SUFFIX)))


def preset(name: str) -> Preset:
    """The packaged preset of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in preset_names():
        raise UsageError(f"there is no preset {name!r}; choose one of {', '.join(preset_names())}")
    values = tomllib.loads(resources.files(_PACKAGE).joinpath(_FOLDER, name + _SUFFIX).read_text(encoding="utf-8"))
    return _made(lambda key: name, values, None)


def read_preset(path: Path, name: str | None) -> Preset:
    """A preset from a TOML file; what it leaves out is as in the preset that its key ``base`` names.

    Args:
        path: the file.
        name: of the base, where the file names none; ``DEFAULT`` for None.

    Raises:
        UsageError: the file cannot be used, or names another base than ``name``; the key is named.
    """
    file = ConfigFile.read(path)
    base = file.values.get(_BASE, name or DEFAULT)
    if base not in preset_names():
        raise UsageError(
            f"{file.at(_BASE)}: there is no preset {base!r} for its base; choose one of {', '.join(preset_names())}"
        )
    if name is not None and base != name:
        raise UsageError(f"{file.at(_BASE)}: its base is {base!r}, --preset says {name}; leave one of them out")
    stages = file.values.get("recipes", {})
    unknown = [stage for stage in stages if stage not in STAGES] if isinstance(stages, dict) else []
    if unknown:
        key = f"recipes.{unknown[0]}"
        raise UsageError(f"{file.at(key)}: there is no key {key}{nearest(unknown[0], STAGES)}")
    made = _made(file.at, {_NAME: path.stem, **file.values}, base)
    _check_networks(file.at, made)
    return made


def configured(name: str | None, config: Path | None) -> Preset:
    """The preset of that name, ``DEFAULT`` for None, or what a TOML file makes of it.

    Raises:
        UsageError: there is none, or the file cannot be used.
    """
    return preset(name or DEFAULT) if config is None else read_preset(config, name)


def is_divided(options: TrainOptions, chosen: Preset, processes: int) -> bool:
    """Whether so many processes divide the transformers' weights among them."""
    return processes > 1 and (options.parallel == "fsdp" or (options.parallel == "auto" and chosen.large))


def effective(options: TrainOptions) -> Preset:
    """The configuration of a run: its preset, its file, and on top of both what single options change.

    Raises:
        UsageError: no such preset, a file that cannot be used, or values that do not fit each other.
    """
    chosen = configured(options.preset, options.config)
    recipe = chosen.recipes[options.stage]
    if options.label is not None and options.label_share is None and not recipe.label_share:
        recipe = replace(recipe, label_share=1.0)
    recipe = replace(
        recipe,
        variant=replace(recipe.variant, **options.variant),
        label_share=recipe.label_share if options.label_share is None else options.label_share,
        decoder=recipe.decoder if options.decoder is None else options.decoder,
        steps=recipe.steps if options.steps is None else options.steps,
        batch=options.batch or recipe.batch,
        patch=options.patch or recipe.patch,
        learning_rate=options.learning_rate or recipe.learning_rate,
        losses={**recipe.losses, **options.losses},
    )
    changes: dict[str, Any] = {} if options.head is None else {"student_head": options.head}
    recipes = {**chosen.recipes, options.stage: recipe}
    try:
        return replace(chosen, recipes=recipes, crops=options.crops or chosen.crops, **changes)
    except ValueError as error:
        raise UsageError(f"the options do not fit the preset {chosen.name}: {error}") from error


def _made(where: Callable[[str], str], values: Mapping[str, Any], base: str | None) -> Preset:
    """The preset that values describe.

    Args:
        where: says of a key where its value comes from, for messages.
        values: of TOML.
        base: preset for what they leave out, unless they name one themselves.
    """
    own = {key: value for key, value in values.items() if key != _BASE}
    start = values.get(_BASE, base)
    made: Preset = overlaid(where, Preset, None if start is None else preset(str(start)), own)
    return made


def _check_networks(where: Callable[[str], str], made: Preset) -> None:
    """Refuse sizes of which no network can be built; without storage, so that it costs little."""
    for key, value in flat(to_plain(made)).items():
        counts = value if isinstance(value, list) else [value]
        if key.rpartition(".")[2] in _COUNTS and any(count > _MOST_BLOCKS for count in counts):
            raise UsageError(f"{where(key)}: {key} is {value}; it must be at most {_MOST_BLOCKS}")
    classes: dict[type[Any], type[nn.Module]] = {
        ConvRestorerConfig: ConvRestorer,
        RRDBConfig: RRDBNet,
        SwinIRConfig: SwinIR,
    }
    student = made.student_autoencoder or made.tokenizer.autoencoder
    parts: dict[str, Callable[[], nn.Module]] = {
        "prerestorer": lambda: classes[type(made.prerestorer)](made.prerestorer),
        "tokenizer": lambda: ImageTokenizer(made.tokenizer),
        "student_autoencoder": lambda: Autoencoder(student),
        "teacher": lambda: Transformer(made.teacher),
    }
    for name, build in parts.items():
        try:
            on_meta_device(build)
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, AssertionError) as error:
            raise UsageError(
                f"{where(name)}: no network can be built from {name} ({str(error).splitlines()[0]}); change its sizes"
            ) from error
