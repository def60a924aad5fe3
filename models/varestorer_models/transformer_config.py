"""Sizes and choices of a transformer. Every difference between two trained models is a field here."""

from dataclasses import dataclass
from typing import Literal

from varestorer_models.attention import TextAttention
from varestorer_models.rope import ExtraPositions, Rounding

_TEXT_HEAD_WIDTH = 128  # one head of the text pool for so many channels of text features

_CHOICES = {
    "head": ("bits", "latent"),
    "rotary_reference": ("infinity_1m", "schedule"),
    "rotary_rounding": ("nearest", "cell_centre"),
    "extra_block_positions": ("next_scale", "last_scale"),
    "extra_block_level": ("own_row", "last_scale"),
    "text_attention": ("exact", "bfloat16"),
}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer and the choices its weights were trained with.

    The defaults of the choices (from ``norm_eps`` on) are those of the released weights. Those marked "quirk" look like
    accidents of the released code; models trained from scratch take the other value.

    Attributes:
        width: C, channels of a position.
        depth: Number of blocks.
        heads: Attention heads; width / heads must be a multiple of 4.
        bits: d, bits per code and channels of the pyramid tokens.
        text_width: T, width of the text features; any number where only the learned null condition is used.
        text_heads: Heads of the text pool, a divisor of width; None = T / 128, at least 1.
        null_tokens: Rows of the learned null condition.
        levels: Rows of the level embedding; the scales (plus the extra block's own row) must not outnumber
            them.
        mlp_ratio: Hidden width of the feed-forward / width, then rounded to a multiple of 256, at least 256.
        mlp_hidden: Exact hidden width instead.
        head: "bits": scores of both values of each bit. "latent": one real number for each channel, zero at
            first.
        adapter_rank: Rank of the adapters on the attention projections; 0 = none.
        norm_eps: Of all norms; 1e-5 instead of 1e-6 already moves the released logits.
        attention_scale_limit: The learned scale of normalised attention is clamped here, against runaway
            logits.
        rotary_reference: Common grid of the rotary coordinates. "infinity_1m": the last grid of the released
            "1M" schedule of the same aspect ratio, whatever the size in use. "schedule": that of the schedule
            in use.
        rotary_rounding: "nearest" whole cell (quirk: coarse cells sit at their corner) or "cell_centre".
        rotary_base: Longest wavelength of the rotary positions / 2 pi. Grids of few cells want it short: with 16, not
            10000, and a start of 16, not 4, a teacher of 8x8 cells finds the place it looks for in far fewer steps.
        attention_scale_start: Learned scale of normalised attention before training.
        extra_block_positions: Rotary coordinates of the extra block. "next_scale" (quirk): first cells of the
            scale after the last, sheared against their true place. "last_scale": true positions.
        extra_block_level: Level embedding of the extra block. "own_row": the row after the last scale's.
            "last_scale": the last scale's row.
        cross_value_bias: Whether cross-attention adds its value bias. Quirk: the released student was trained
            with adapters that bypass the bias, so it must stay out (False) with its adapters and after
            merging them; models without that history use it (True).
        text_attention: "exact", or "bfloat16": round around attention to text as the released script does.

    Raises:
        ValueError: If sizes do not fit one another or a choice is unknown.
    """

    width: int
    depth: int
    heads: int
    bits: int = 32
    text_width: int = 2048
    text_heads: int | None = None
    null_tokens: int = 512
    levels: int = 15
    mlp_ratio: float = 4.0
    mlp_hidden: int | None = None
    head: Literal["bits", "latent"] = "bits"
    adapter_rank: int = 0
    norm_eps: float = 1e-6
    attention_scale_limit: float = 100.0
    rotary_reference: Literal["infinity_1m", "schedule"] = "infinity_1m"
    rotary_rounding: Rounding = "nearest"
    rotary_base: float = 10000.0
    attention_scale_start: float = 4.0
    extra_block_positions: ExtraPositions = "next_scale"
    extra_block_level: Literal["own_row", "last_scale"] = "own_row"
    cross_value_bias: bool = True
    text_attention: TextAttention = "exact"

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "bits", "text_width", "null_tokens", "levels", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width {self.width} does not give {self.heads} heads a width that is a multiple of 4, "
                "which the two rotary axes need; change one of the two"
            )
        if self.width % self.pool_heads:
            raise ValueError(f"width {self.width} is not divisible by text_heads {self.pool_heads}; set text_heads")
        for name in ("rotary_base", "attention_scale_start"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.adapter_rank < 0:
            raise ValueError(f"adapter_rank must not be negative, got {self.adapter_rank}; 0 means no adapters")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward."""
        if self.mlp_hidden is not None:
            return self.mlp_hidden
        return max(256, round(self.width * self.mlp_ratio / 256) * 256)

    @property
    def pool_heads(self) -> int:
        """Heads of the text pool."""
        return self.text_heads or max(1, self.text_width // _TEXT_HEAD_WIDTH)
