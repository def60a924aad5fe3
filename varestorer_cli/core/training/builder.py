"""The networks of a stage: new ones from the preset, those of earlier stages from their files."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from varestorer_cli.core.errors import CheckpointError, UsageError
from varestorer_cli.core.training.checkpoint import weights_sha256
from varestorer_cli.core.training.compression import NAME as REALESRGAN
from varestorer_cli.core.training.compression import Hints, compressed_start, load_realesrgan
from varestorer_cli.core.training.data.crop_cache import CropCache
from varestorer_cli.core.training.distill import DistillTask
from varestorer_cli.core.training.labels import LabelNetwork, Labels
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Preset, Recipe
from varestorer_cli.core.training.stages import (
    PrerestorerTask,
    Task,
    TeacherTask,
    TokenizerTask,
    degraded,
    has_image_terms,
    pixels,
    sharp,
)
from varestorer_cli.core.training.starting_weights import (
    earlier_folder,
    earlier_network,
    model_file,
    start_from,
    train_only,
)
from varestorer_cli.core.training.text_features import TextFolder
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer
from varestorer_cli.core.weights.root import choose_model
from varestorer_models.autoencoder import AutoencoderConfig
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.lora import share_frozen, train_adapters_only
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

COMPRESSION_SAMPLE = 24

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class StageBuilder:
    """Builds the task of one stage.

    Attributes:
        options: what was asked for.
        preset, recipe: sizes of the networks; the stage's recipe with the options' changes.
        device: where the networks go.
        cache: training crops; a tokenizer starts from their statistics where given.
        generator: of all initial weights.
        fresh: take new networks where earlier stages' would be read: a plan needs their shapes only.
        divided: transformers will be divided among processes, each with pieces of its own: student and teacher then
            share no weights.
    """

    options: TrainOptions
    preset: Preset
    recipe: Recipe
    device: torch.device
    cache: CropCache | None
    generator: torch.Generator
    fresh: bool = False
    divided: bool = False

    def build(self) -> tuple[Task, dict[str, Any]]:
        """The task, and what a checkpoint must share with it to be resumed.

        Raises:
            MissingDependencyError: an earlier stage or an optional package is missing.
            CheckpointError: a model file that does not fit.
            UsageError: contradictory options.
        """
        stages: dict[str, Callable[[], tuple[Task, dict[str, Any]]]] = {
            "prerestorer": self._prerestorer,
            "tokenizer": self._tokenizer,
            "teacher": self._teacher,
            "distill": self._distill,
        }
        return stages[self.options.stage]()

    def _prerestorer(self) -> tuple[Task, dict[str, Any]]:
        module = self._new_prerestorer()
        if isinstance(module, ConvRestorer):
            module.reset_parameters(self.generator)
        hints = None
        wants_hints = bool(self.recipe.losses.get("hints"))
        if isinstance(module, RRDBNet) and (wants_hints or self.options.init is None):
            hints = self._compressed(module)
        if self.options.init is not None:
            start_from(module, self.options.init, "prerestorer")
        if self.options.trainable is not None:
            train_only(module, self.options.trainable)
        module = self._placed(module, channels_last=True)
        share = self.recipe.label_share if has_image_terms(self.recipe.losses) else 0.0
        identity = {"model": _plain(self.preset.prerestorer)}
        if (wants_hints or share) and not self.fresh:
            identity["label"] = self._larger.sha256
        if self.options.trainable is not None:
            identity["trainable"] = sorted(self.options.trainable)
        task = PrerestorerTask(module, self.recipe.losses, self.device, hints if wants_hints else None, share)
        return task, identity

    def labels(self, precision: torch.dtype | None) -> Labels | None:
        """The labels of the training images, where a pre-restorer's recipe has a share of them in its target.

        Args:
            precision: dtype of autocast, None for float32.

        Raises:
            MissingDependencyError, CheckpointError: the network that makes them is missing or damaged.
        """
        share = self.recipe.label_share and has_image_terms(self.recipe.losses)
        if self.options.stage != "prerestorer" or not share or self.cache is None:
            return None
        return Labels(self._larger, self.cache, self.device, precision)

    @cached_property
    def _larger(self) -> LabelNetwork:
        """The network to learn from: the one of ``--label``, by default Real-ESRGAN x4plus."""
        given = self.options.label
        if given is None:
            if not isinstance(self.preset.prerestorer, RRDBConfig):
                raise UsageError(
                    "--keep needs a network to learn from: give --label MODEL, or a preset with an RRDBNet, which has "
                    "Real-ESRGAN x4plus"
                )
            module: nn.Module = load_realesrgan()
            return LabelNetwork(self._placed(module, channels_last=True), weights_sha256(module), REALESRGAN)
        path = choose_model(str(given), self.options.weights).path
        bundle = load_bundle(path)
        if bundle.restorer is not None and len(bundle.components) > 1:
            module = load_restorer(path).restorer
            if self.preset.tokenizer.tile not in module.tile_sides:
                raise CheckpointError(
                    f"{path}: works on tiles of {module.tile} pixels, the crops of preset {self.preset.name} have "
                    f"{self.preset.tokenizer.tile}; give another --label"
                )
        elif "prerestorer" in bundle.components:
            module = bundle.components["prerestorer"]
        else:
            raise CheckpointError(f"{path}: holds {', '.join(bundle.components)}, nothing that restores an image")
        return LabelNetwork(self._placed(module, channels_last=True), weights_sha256(module), str(given))

    def _compressed(self, module: RRDBNet) -> Hints:
        """The larger network as the one to learn from, whose weights the module starts with."""
        if self.fresh or self.cache is None:
            return Hints(RRDBNet(RRDBConfig(unshuffle=1)), [1.0] * module.config.blocks)
        large = self._larger.module
        large = large.prerestorer if isinstance(large, OneStepRestorer) else large
        if not isinstance(large, RRDBNet):
            raise UsageError(
                f"--label {self.options.label}: its network is a {type(large).__name__}; this preset's pre-restorer "
                "starts from an RRDBNet's weights. Give such a model, or --init"
            )
        rows = self.cache.train_indices
        # the same crops in every run of these photographs, so that a run can go on from another's weights
        sample = self.cache.read(rows[:: max(1, len(rows) // COMPRESSION_SAMPLE)])
        small = self._placed(module, channels_last=True)
        return compressed_start(small, large, pixels(sample.lq, self.device), degraded(sample, self.device))

    def _placed(self, module: M, *, channels_last: bool = False) -> M:
        """The module on its device; ``channels_last``: with the memory layout that convolutions like."""
        if self.fresh:
            return module  # has no storage to move
        if channels_last:
            return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return module.to(self.device)

    def _texts(self) -> TextFolder | None:
        if self.options.texts is None or self.cache is None:
            return None
        return TextFolder(self.options.texts, self.cache, self.preset.teacher.text_width)

    def _new_prerestorer(self) -> nn.Module:
        config = self.preset.prerestorer
        if isinstance(config, RRDBConfig):
            return RRDBNet(config)
        return SwinIR(config) if isinstance(config, SwinIRConfig) else ConvRestorer(config)

    def _tokenizer(self) -> tuple[Task, dict[str, Any]]:
        tokenizer = ImageTokenizer(self.preset.tokenizer)
        tokenizer.autoencoder.reset_parameters(self.generator)
        tokenizer = self._placed(tokenizer, channels_last=True)
        task = TokenizerTask(tokenizer, self.recipe.losses, self.device)
        if self.options.init is not None:
            start_from(tokenizer, self.options.init, "tokenizer")
        elif self.cache is not None:
            rows = self.cache.train_indices
            chosen_rows = torch.randperm(len(rows), generator=self.generator)[:256].numpy()
            task.initialise(sharp(self.cache.read(rows[chosen_rows]), self.device), self.generator)
        return task, {"model": _plain(self.preset.tokenizer)}

    def _teacher(self) -> tuple[Task, dict[str, Any]]:
        if self.fresh:
            tokenizer = ImageTokenizer(self.preset.tokenizer)
        else:
            tokenizer = cast(ImageTokenizer, earlier_network(self.options, "tokenizer", self.options.tokenizer))
            if tokenizer.config.autoencoder.guided:  # validation decodes without a pre-restored image
                path = earlier_folder(self.options, "tokenizer", self.options.tokenizer)
                raise CheckpointError(
                    f"{path}: its tokenizer is a student's, whose decoder draws on the pre-restored image; "
                    "give the one that varestorer train tokenizer made"
                )
            self._check_preset(earlier_folder(self.options, "tokenizer", self.options.tokenizer), tokenizer)
        tokenizer = self._placed(tokenizer)
        transformer = Transformer(self.preset.teacher)
        transformer.reset_parameters(self.generator)
        if self.options.init is not None:
            start_from(transformer, self.options.init, "transformer")
        prerestorer = self._seen_through()
        frozen = {"tokenizer": tokenizer} | ({} if prerestorer is None else {"prerestorer": prerestorer})
        placed = None if prerestorer is None else self._placed(prerestorer, channels_last=True)
        task = TeacherTask(tokenizer, self._placed(transformer), self.recipe, self.device, self._texts(), placed)
        return task, {
            "model": _plain(self.preset.teacher),
            "tokenizer": _plain(tokenizer.config),
            "frozen": self._hashes(**frozen),
        }

    def _seen_through(self) -> nn.Module | None:
        """The pre-restorer of a teacher that sees degraded images.

        Raises:
            UsageError: a pre-restorer is given that the recipe does not use.
        """
        if not self.recipe.variant.degraded:
            if self.options.prerestorer is not None:
                raise UsageError("--prerestorer: a teacher needs it only with --degraded above 0; leave it out")
            return None
        if self.fresh:
            return self._new_prerestorer()
        return earlier_network(self.options, "prerestorer", self.options.prerestorer)

    def _distill(self) -> tuple[Task, dict[str, Any]]:
        prerestorer, tokenizer, teacher = self._before_distillation()
        frozen = self._hashes(prerestorer=prerestorer, tokenizer=tokenizer, teacher=teacher)
        if self.preset.student_autoencoder is not None:
            tokenizer = _with_decoder(tokenizer, self.preset.student_autoencoder, self.generator)
        head = _head(self.options.head or self.preset.student_head)
        positions = self.recipe.variant.extra_positions or teacher.config.extra_block_positions
        student = Transformer(replace(teacher.config, head=head, extra_block_positions=positions))
        student.reset_parameters(self.generator)
        same = {k: v for k, v in teacher.state_dict().items() if head == "bits" or not k.startswith("head.")}
        student.load_state_dict({**student.state_dict(), **same})
        causal = self.recipe.variant.attention == "causal"
        restorer = OneStepRestorer(replace(self.preset.restorer, causal=causal), prerestorer, tokenizer, student)
        if self.options.init is not None:
            for name, module in restorer.components().items():
                if name != "prerestorer" or self.options.prerestorer is None:  # one that is asked for stays
                    start_from(module, self.options.init, name)
        if self.preset.adapter_rank:
            student.add_adapters(self.preset.adapter_rank)
            train_adapters_only(student)
            if head == "latent":
                student.head.requires_grad_(True)  # a new head: adapters of the teacher's attention cannot teach it
            if not self.divided:
                share_frozen(student, teacher.requires_grad_(False))
        else:
            student.requires_grad_(True)
        restorer = self._placed(restorer)
        self._placed(restorer.prerestorer, channels_last=True)
        self._placed(restorer.tokenizer, channels_last=True)
        task = DistillTask(
            restorer,
            self._placed(teacher),
            self.recipe.losses,
            self.recipe.decoder,
            self.device,
            self.recipe.label_share,
            self.recipe.variant,
            self._texts(),
            self.preset.adapter_rank,
            share=not self.divided,
        )
        return task, {"model": _plain(student.config), "head": head, "frozen": frozen}

    def _hashes(self, **parts: nn.Module) -> dict[str, str]:
        """Hash of the weights of each frozen part, which a resumed run must share."""
        return {} if self.fresh else {name: weights_sha256(module) for name, module in parts.items()}

    def _before_distillation(self) -> tuple[nn.Module, ImageTokenizer, Transformer]:
        """Pre-restorer, tokenizer and teacher."""
        if self.fresh:
            return self._new_prerestorer(), ImageTokenizer(self.preset.tokenizer), Transformer(self.preset.teacher)
        prerestorer = earlier_network(self.options, "prerestorer", self.options.prerestorer)
        path = earlier_folder(self.options, "teacher", self.options.teacher)
        bundle = load_bundle(model_file(path))
        both = "teacher" in bundle.components  # a file of student and teacher
        teacher = bundle.components.get("teacher" if both else "transformer")
        tokenizer = bundle.components.get("tokenizer")
        if not isinstance(teacher, Transformer) or not isinstance(tokenizer, ImageTokenizer):
            raise CheckpointError(f"{path}: holds no teacher and tokenizer; train one with varestorer train teacher")
        restores = bundle.restorer is not None and bundle.restorer.steps == "one" and not both
        if restores or teacher.config.head != "bits":
            raise CheckpointError(
                f"{path}: holds a student, which predicts all bits at once where a teacher predicts them scale after "
                "scale; train a teacher with varestorer train teacher"
            )
        self._check_preset(path, tokenizer)
        return prerestorer, tokenizer, teacher

    def _check_preset(self, path: Path, tokenizer: ImageTokenizer) -> None:
        """Refuse a tokenizer of another preset: crops, schedule and decoder would not fit it.

        Raises:
            CheckpointError: the first difference is named.
        """
        ours, theirs = self.preset.tokenizer, tokenizer.config
        for name, mine, other in (
            ("tile", ours.tile, theirs.tile),
            ("bits", ours.quantizer.bits, theirs.quantizer.bits),
            ("scales", ours.schedule.grids, theirs.schedule.grids),
            ("stride", ours.autoencoder.stride, theirs.autoencoder.stride),
        ):
            if mine != other:
                raise CheckpointError(
                    f"{path}: its tokenizer has {name} {other}, preset {self.preset.name} has {mine}; "
                    "give the --preset that it was made with"
                )


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

    The tokenizer's own decoder is no start: beside its linear path its features are near zero, and a
    norm-free layer whose features are near zero passes no gradient.
    """
    guided = ImageTokenizer(replace(tokenizer.config, autoencoder=autoencoder))
    guided.autoencoder.reset_parameters(generator)
    guided.autoencoder.encoder.load_state_dict(tokenizer.autoencoder.encoder.state_dict())
    guided.quantizer.load_state_dict(tokenizer.quantizer.state_dict())
    return guided.requires_grad_(False)


def _plain(config: Any) -> Any:
    """A configuration as a checkpoint stores it: lists for tuples, nothing but JSON types."""
    return json.loads(json.dumps(asdict(config)))
