"""Named model sizes with the recipe that trains each of their stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from varestorer_cli.core.errors import UsageError
from varestorer_models.autoencoder import AutoencoderConfig
from varestorer_models.conv_restorer import ConvRestorerConfig
from varestorer_models.quantizer import QuantizerConfig
from varestorer_models.restorer import RestorerConfig
from varestorer_models.rrdb import RRDBConfig
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.swinir import SwinIRConfig
from varestorer_models.tokenizer import TokenizerConfig
from varestorer_models.transformer import TransformerConfig

UPSCALE: Literal["bicubic_sharp"] = "bicubic_sharp"
"""How training upscales its degraded pictures (PyTorch's bicubic), and what a model should be given back."""


@dataclass(frozen=True)
class Variant:
    """Choices of a recipe that research varies; the defaults are the published ones.

    Attributes:
        bits: what picture losses see of a bits head: ``sampled`` Gumbel bits, ``greedy`` the likelier ones (both hard,
            with the gradient of soft ones), or ``expected`` soft bits.
        extra_positions: rotary coordinates of the student's extra block, ``next_scale`` (released) or ``last_scale``
            (its true places); None = as the teacher's configuration says.
        flips: largest probability of flipping bits of the degraded picture's pyramid in training.
        guidance: classifier-free guidance of the teacher's scores; 1 = none. Needs texts.
        encoder: train the student's encoder on degraded pictures, at this fraction of the learning rate; 0 = frozen.
        text_drop: probability of training on the null condition instead of a picture's text.
    """

    bits: Literal["sampled", "greedy", "expected"] = "sampled"
    extra_positions: Literal["next_scale", "last_scale"] | None = None
    flips: float = 0.0
    guidance: float = 1.0
    encoder: float = 0.0
    text_drop: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained.

    Attributes:
        steps: optimiser steps.
        batch: pictures a step.
        patch: side of the training pictures in pixels; the tile for the stages with tokens.
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
        student_autoencoder: the student's, with a new decoder that is guided by the pre-restored picture; None = the
            tokenizer's own.
        restorer: settings written into the student's file.
        recipes: by stage name.
        crops: training crops cut from the photographs.
        large: for GPUs: several processes divide the transformers' weights, blocks are recomputed for gradients.
    """

    name: str
    prerestorer: ConvRestorerConfig | RRDBConfig | SwinIRConfig
    tokenizer: TokenizerConfig
    teacher: TransformerConfig
    student_head: str
    adapter_rank: int
    student_autoencoder: AutoencoderConfig | None
    restorer: RestorerConfig
    recipes: Mapping[str, Recipe]
    crops: int = 8000
    large: bool = False

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


def _compact() -> Preset:
    schedule = ScaleSchedule.from_sides(1, 2, 4, 8, 16, 16)
    autoencoder = AutoencoderConfig(
        latent_channels=96,
        width=64,
        multipliers=(1, 2, 3),
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(4, 2, 2),
        mid_blocks=0,
        unshuffle=4,
        norm="none",
        residual_scale=0.3,
        narrow_upsample=True,
        linear_path=True,
    )
    return Preset(
        name="compact",
        prerestorer=RRDBConfig(blocks=5),
        tokenizer=TokenizerConfig(
            autoencoder, QuantizerConfig(bits=96, scales=len(schedule), learned_gains=True), schedule
        ),
        teacher=_small_transformer(width=192, depth=4, heads=4, bits=96, levels=len(schedule) + 1),
        student_head="latent",
        adapter_rank=0,
        student_autoencoder=replace(autoencoder, guided=True),
        restorer=RestorerConfig(
            extra_block=False,
            sampling="argmax",
            color_fix="none",
            wavelet_levels=1,
            input_color_levels=5,  # Real-ESRGAN shifts colours, by up to 14 levels of 255 on moss
            largest_tile=320,
            upscale_filter=UPSCALE,
        ),
        recipes={
            "prerestorer": Recipe(2400, 2, 256, 2e-4, {"hints": 1.0}),
            "tokenizer": Recipe(2500, 2, 256, 4e-4, {"l1": 1.0, "gradient": 0.5, "codebook": 1.0, "commitment": 0.1}),
            "teacher": Recipe(
                500,
                4,
                256,
                1e-3,
                {"cross_entropy": 1.0},
                betas=(0.9, 0.97),
                weight_decay=0.05,
                clip=5.0,
                flip=0.3,
            ),
            "distill": Recipe(
                620,
                2,
                256,
                4e-4,
                {
                    "l1": 1.0,
                    "gradient": 0.25,
                    "texture": 0.5,
                    "features": 0.2,
                    "kl": 0.005,
                    "latent": 0.05,
                },
                ema=0.998,
                decoder=0.5,
                label_share=0.75,
            ),
        },
    )


def _small_transformer(width: int, depth: int, heads: int, bits: int, levels: int) -> TransformerConfig:
    """Own transformers: no text encoder, so a few learned null tokens; corrected positions of the extra block."""
    return TransformerConfig.corrected(
        width,
        depth,
        heads,
        bits=bits,
        text_width=width,
        text_heads=heads,
        null_tokens=4,
        levels=levels,
        mlp_hidden=4 * width,
    )


def _fine() -> Preset:
    """All 23 blocks of the network that ``compact`` is made from, trained on from its published weights."""
    compact = _compact()
    losses = {"l1": 0.5, "balanced_features": 0.4, "texture": 0.5}
    return replace(
        compact,
        name="fine",
        prerestorer=RRDBConfig(blocks=23),
        recipes={**compact.recipes, "prerestorer": Recipe(700, 2, 192, 1e-4, losses, warmup=20)},
    )


def _smoke() -> Preset:
    schedule = ScaleSchedule.from_sides(1, 2, 4, 8)
    return Preset(
        name="smoke",
        prerestorer=ConvRestorerConfig(width=8, blocks=1),
        tokenizer=TokenizerConfig(
            AutoencoderConfig(
                latent_channels=16,
                width=16,
                multipliers=(1, 2),
                encoder_blocks=(1, 1),
                decoder_blocks=(1, 1),
                mid_blocks=0,
                unshuffle=4,
                norm="none",
                residual_scale=0.3,
                narrow_upsample=True,
                linear_path=True,
            ),
            QuantizerConfig(bits=16, scales=len(schedule), learned_gains=True),
            schedule,
        ),
        teacher=_small_transformer(width=32, depth=2, heads=2, bits=16, levels=len(schedule) + 1),
        student_head="bits",
        adapter_rank=4,
        student_autoencoder=None,
        restorer=RestorerConfig(
            extra_block=True, sampling="argmax", color_fix="wavelet", wavelet_levels=2, upscale_filter=UPSCALE
        ),
        recipes={
            "prerestorer": Recipe(30, 4, 64, 1e-3, {"l1": 1.0}, warmup=5),
            "tokenizer": Recipe(
                30,
                2,
                64,
                1e-3,
                {"l1": 1.0, "gradient": 0.5, "codebook": 1.0, "commitment": 0.1, "entropy": 0.01},
                warmup=5,
            ),
            "teacher": Recipe(30, 2, 64, 1e-3, {"cross_entropy": 1.0}, betas=(0.9, 0.97), flip=0.3, warmup=5),
            "distill": Recipe(30, 2, 64, 1e-3, {"kl": 0.1, "texture": 0.25, "mse": 0.5}, warmup=5),
        },
        crops=48,
    )


def _mini() -> Preset:
    """The paper's own form at a size that one core trains in minutes: bits head, extra block, nothing past the codes.

    Eight pixels per cell and a last scale that comes twice: at equal pixels seen this keeps more texture per bit than
    sixteen pixels with more bits, and 149 positions are few enough for thousands of crops in five minutes.
    """
    schedule = ScaleSchedule.from_sides(1, 2, 4, 8, 8)
    return Preset(
        name="mini",
        prerestorer=ConvRestorerConfig(width=48, blocks=6),
        tokenizer=TokenizerConfig(
            AutoencoderConfig(
                latent_channels=32,
                width=64,
                multipliers=(1, 2),
                encoder_blocks=(1, 1),
                decoder_blocks=(4, 2),
                mid_blocks=0,
                unshuffle=4,
                norm="none",
                residual_scale=0.3,
                narrow_upsample=True,
                linear_path=True,
            ),
            QuantizerConfig(bits=32, scales=len(schedule), learned_gains=True),
            schedule,
        ),
        teacher=_small_transformer(width=128, depth=4, heads=4, bits=32, levels=2 * len(schedule)),
        student_head="bits",
        adapter_rank=0,
        student_autoencoder=None,
        restorer=RestorerConfig(extra_block=True, sampling="argmax", color_fix="none", upscale_filter=UPSCALE),
        recipes={
            "prerestorer": Recipe(1000, 8, 64, 4e-4, {"l1": 1.0}),
            "tokenizer": Recipe(2800, 8, 64, 4e-4, {"l1": 1.0, "gradient": 0.5, "codebook": 1.0, "commitment": 0.1}),
            "teacher": Recipe(
                500, 8, 64, 1e-3, {"cross_entropy": 1.0}, betas=(0.9, 0.97), weight_decay=0.05, clip=5.0, flip=0.3
            ),
            "distill": Recipe(500, 8, 64, 1e-3, {"kl": 0.1, "features": 0.25, "mse": 0.5}, ema=0.995),
        },
        crops=12000,
    )


def _2b() -> Preset:
    schedule = ScaleSchedule.infinity("0.25M")
    return Preset(
        name="2b",
        prerestorer=SwinIRConfig(),
        tokenizer=TokenizerConfig(AutoencoderConfig(), QuantizerConfig(), schedule),
        teacher=TransformerConfig(width=2048, depth=32, heads=16),
        student_head="bits",
        adapter_rank=32,
        student_autoencoder=None,
        restorer=RestorerConfig(upscale_filter=UPSCALE, takes_text=True),
        recipes={
            "prerestorer": Recipe(100_000, 32, 512, 1e-4, {"mse": 1.0}),
            "tokenizer": Recipe(
                250_000, 32, 512, 1e-4, {"l1": 4.0, "commitment": 0.25, "entropy": 0.1, "perceptual": 1.0}
            ),
            "teacher": Recipe(
                200_000,
                32,
                512,
                1e-4,
                {"cross_entropy": 1.0},
                betas=(0.9, 0.97),
                clip=5.0,
                flip=0.3,
                variant=Variant(text_drop=0.1),
            ),
            "distill": Recipe(
                10_000,
                32,
                512,
                1e-6,
                {"kl": 0.1, "perceptual": 0.25, "mse": 0.5},
                weight_decay=1e-2,
                variant=Variant(text_drop=0.1),
            ),
        },
        crops=80_000,
        large=True,
    )


_BUILDERS = {"compact": _compact, "fine": _fine, "mini": _mini, "smoke": _smoke, "2b": _2b}
PRESET_NAMES = tuple(_BUILDERS)


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in _BUILDERS:
        raise UsageError(f"there is no preset {name!r}; choose one of {', '.join(PRESET_NAMES)}")
    return _BUILDERS[name]()
