"""The visual autoregressive transformer: one class for the one-step student and the multi-step teacher.

Student: pyramid tokens of a degraded image, usually followed by the extra full-resolution block, no mask.
Teacher: a block-causal mask over scales, or one scale at a time with a cache. Same weights layout, same code.
Sources: Infinity (arXiv 2412.04431) for the network, VARestorer for the one-step pass and the extra block.

Shapes: B batch, L positions of the schedule (position 0 = start token), l positions of one scale, C width, d
bits per code, h w latent grid, n condition tokens, T width of the text features.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.attention import GroupedKeysValues, KeysValues, KeyValueCache
from varestorer_models.condition import Condition, TextFeatures, padded
from varestorer_models.layers import Block, TextPool, float32_linear, modulated_norm
from varestorer_models.lora import add_adapters, merge_adapters
from varestorer_models.rope import RotaryLayout, rotary_coordinates, rotary_table
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer_config import TransformerConfig

__all__ = ["Condition", "TextFeatures", "Transformer", "TransformerConfig"]


class Transformer(nn.Module):
    """Pyramid tokens and a condition -> bit scores or latent values of every position.

    Keys of the state dict keep the released shapes; :mod:`varestorer_models.released_keys` has the table of names.

    Args:
        config: Sizes and choices. With ``adapter_rank`` the attention projections get adapters at once.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.null_text = nn.Parameter(torch.empty(config.null_tokens, config.text_width))
        self.text_norm = nn.RMSNorm(config.text_width, eps=1e-6)
        self.text_pool = TextPool(config.text_width, width, config.pool_heads, config.text_attention)
        self.text_projection = nn.Sequential(
            nn.Linear(config.text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.shared_modulation = nn.Linear(width, 6 * width)
        self.start_position = nn.Parameter(torch.empty(1, 1, width))
        self.token_embedding = nn.Linear(config.bits, width)
        self.level_embedding = nn.Embedding(config.levels, width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                config.hidden,
                eps=config.norm_eps,
                scale_limit=config.attention_scale_limit,
                use_value_bias=config.cross_value_bias,
                precision=config.text_attention,
            )
            for _ in range(config.depth)
        )
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, (2 if config.head == "bits" else 1) * config.bits)
        # Rotations and masks by what they depend on; no buffers, so they stay out of the state dict.
        self._tables: dict[tuple[object, ...], Tensor] = {}
        self.reset_parameters()
        if config.adapter_rank:
            add_adapters(self, config.adapter_rank)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch.

        | weights | value |
        |---|---|
        | linear layers | normal, variance 1 / inputs: activations keep their size |
        | last projection of a residual branch | that / (3 depth): so does the sum of all branches |
        | shared and head modulation | 0; the blocks' own: gates 1, scales and shifts 0 |
        | attention scale | ``attention_scale_start``, stored as its logarithm |
        | token embedding | normal, variance 1 / d |
        | null text, pool query | normal, std 1 |
        | level embedding, start position | normal, std 0.1: visible beside tokens of size 1 |
        | head | "bits": a tenth of a linear layer, "latent": 0 |
        | biases | 0 |
        | adapters | untouched |
        """
        branches = 3 * self.config.depth

        def normal(weight: Tensor, std: float) -> None:
            weight.normal_(0.0, std, generator=generator)

        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 2 and "adapter_" not in name:
                residual = name.startswith("blocks.") and name.endswith(("proj.weight", "fc2.weight"))
                normal(parameter, (parameter.shape[1] * (branches if residual else 1)) ** -0.5)
        for block in self._blocks():
            block.modulation[:, :, :2] = 1.0
            block.modulation[:, :, 2:] = 0.0
            block.self_attention.log_scale.fill_(self.config.attention_scale_start).log_()
            block.cross_norm.weight.fill_(1.0)
        for zero in (self.shared_modulation.weight, self.head_modulation.weight):
            zero.zero_()
        normal(self.null_text, 1.0)
        normal(self.text_pool.query, 1.0)
        normal(self.level_embedding.weight, 0.1)
        normal(self.start_position, 0.1)
        self.text_norm.weight.fill_(1.0)
        self.head.weight.mul_(0.1 if self.config.head == "bits" else 0.0)

    def null_features(self, lengths: tuple[int, ...] | None = None) -> TextFeatures:
        """The learned null condition as text: for each length its first rows; None = one item with all rows.

        Raises:
            ValueError: If a length exceeds the number of learned rows.
        """
        lengths = lengths or (self.config.null_tokens,)
        if max(lengths) > self.config.null_tokens:
            raise ValueError(
                f"the learned null condition has {self.config.null_tokens} rows, a text has {max(lengths)} "
                "tokens; cut the text"
            )
        return TextFeatures(torch.cat([self.null_text[:length] for length in lengths]), lengths)

    def encode_condition(self, text: TextFeatures | None = None, batch: int | None = None) -> Condition:
        """Text features -> condition; made once per prompt, reused for all its tiles. float32 throughout.

        Args:
            text: Features of one item for all, or of every item. None = the learned null condition.
            batch: Items the result must serve; only checked. The result keeps batch 1 for a single text.

        Raises:
            ValueError: If the number of texts is neither 1 nor ``batch``, or the features have another width.
        """
        text = text or self.null_features()
        count = len(text.lengths)
        if batch is not None and count not in (1, batch):
            raise ValueError(f"{count} texts do not fit a batch of {batch}; give one text, or one per item")
        if text.rows.shape[-1] != self.config.text_width:
            raise ValueError(
                f"text features are {text.rows.shape[-1]} wide, the transformer expects "
                f"{self.config.text_width}; use the text encoder the model was trained with"
            )
        rows = F.rms_norm(
            text.rows.float(), (self.config.text_width,), self.text_norm.weight.float(), self.text_norm.eps
        )
        longest = max(text.lengths)
        mask = None
        if min(text.lengths) < longest:
            lengths = torch.tensor(text.lengths, device=rows.device)
            mask = torch.arange(longest, device=rows.device) < lengths[:, None]
        vector = self.text_pool(padded(rows, text.lengths), mask)
        first, last = (cast(nn.Linear, self.text_projection[index]) for index in (0, 2))
        tokens = float32_linear(last, F.gelu(float32_linear(first, rows), approximate="tanh"))
        tokens = padded(tokens, text.lengths)
        modulation = float32_linear(self.shared_modulation, F.silu(vector)).view(count, 1, 6, -1)
        return Condition(vector, tokens, modulation, mask)

    def with_keys_values(self, condition: Condition) -> Condition:
        """Add every block's keys and values of the condition tokens, for inference with many tiles or steps.

        They follow the weights and the autocast state of this moment: make them anew after either changed.
        """
        keys_values = tuple(block.cross_attention.keys_values(condition.tokens_BnC) for block in self._blocks())
        return dataclasses.replace(condition, keys_values=keys_values)

    def forward(
        self,
        tokens_BLd: Tensor,
        schedule: ScaleSchedule,
        condition: Condition,
        *,
        extra_block: bool = False,
        causal: bool = False,
        degraded_Bld: Tensor | None = None,
    ) -> Tensor:
        """Scores of all scales in one pass.

        Args:
            tokens_BLd: Pyramid tokens of all scales after the first, (B, L - 1, d); with the extra block
                (B, L - 1 + h w, d). The start token comes from the condition.
            schedule: Grids of the sequence.
            condition: From :meth:`encode_condition`, batch B or 1.
            extra_block: The last h * w tokens are the accumulated codes at full resolution. They are attended
                to, but nothing comes out for them; the last block skips their queries, projection and
                feed-forward.
            causal: Positions see their own and coarser scales only (teacher). Excludes ``extra_block``.
            degraded_Bld: Of a causal pass: the degraded image's accumulated codes at full resolution (B, h w, d), in
                the place of the extra block. They see each other, every scale sees them, nothing comes out for them.

        Returns:
            float32. Head "bits": (B, L, d, 2), [..., b] = score of bit value b. Head "latent": (B, L, d).

        Raises:
            ValueError: If tokens, schedule, condition or options do not fit.
        """
        batch, rows, _ = tokens_BLd.shape
        extra = schedule.latent_length if extra_block else 0
        if rows != schedule.length - 1 + extra:
            sequence = f"{schedule.length} positions" + (" and the extra block" if extra_block else "")
            raise ValueError(
                f"expected {schedule.length - 1 + extra} token rows for {sequence}, got {rows}; "
                "check schedule and extra_block"
            )
        if causal and extra_block:
            raise ValueError("a causal pass has no extra block: its rows would tell every scale what follows")
        if degraded_Bld is not None and not causal:
            raise ValueError("only a causal pass takes the degraded image's codes; without mask it is the sequence")
        self._check_condition(condition, batch)
        device = tokens_BLd.device
        behind = extra_block or degraded_Bld is not None
        if degraded_Bld is not None:
            self._check_degraded(degraded_Bld, schedule)
            tokens_BLd = torch.cat([tokens_BLd, degraded_Bld], dim=1)
        levels = self._levels(schedule, behind, device)
        start = self._start(condition, batch)
        hidden = torch.cat([start, float32_linear(self.token_embedding, tokens_BLd)], dim=1) + levels
        rotation = self._rotation(schedule, behind, device)
        mask = self._causal_mask(schedule, behind, device) if causal else None
        asked = schedule.length if behind else None
        hidden = self._through_blocks(hidden, condition, rotation, mask_LL=mask, last_queries=asked)
        return self._scores(hidden, condition)

    def read_degraded(
        self, tokens_Bld: Tensor, schedule: ScaleSchedule, condition: Condition, caches: list[KeyValueCache]
    ) -> None:
        """Put the degraded image into empty caches, for :meth:`forward_scale` to see at every scale.

        Args:
            tokens_Bld: Its accumulated codes at full resolution, (B, h w, d).
            schedule: Grids of the sequence.
            condition: Batch B or 1.
            caches: From :meth:`new_caches` with ``degraded``.

        Raises:
            ValueError: If the tokens do not fit, or the caches are not empty.
        """
        if caches[0].filled:
            raise ValueError(f"the degraded image comes first, but {caches[0].filled} positions are cached already")
        self._check_condition(condition, len(tokens_Bld))
        self._check_degraded(tokens_Bld, schedule)
        device, behind = tokens_Bld.device, slice(schedule.length, None)
        hidden = float32_linear(self.token_embedding, tokens_Bld) + self._levels(schedule, True, device)[behind]
        rotation = self._rotation(schedule, True, device)[behind]
        self._through_blocks(hidden, condition, rotation, caches=caches)

    def forward_scale(
        self,
        tokens_Bld: Tensor,
        scale: int,
        schedule: ScaleSchedule,
        condition: Condition,
        caches: list[KeyValueCache],
    ) -> Tensor:
        """Scores of one scale, given those before it in the caches; equals the causal pass.

        Args:
            tokens_Bld: Pyramid tokens of this scale (B, l, d); (B, 0, d) for scale 0, the start token.
            scale: Index of the scale; scales must come in order.
            schedule: Grids of the sequence.
            condition: Batch B or 1; with :meth:`with_keys_values` the text is not projected at every scale.
            caches: From :meth:`new_caches`; this scale is added.

        Returns:
            As :meth:`forward`, for the l positions of the scale.

        Raises:
            ValueError: If the tokens do not fit, or the caches do not end where the scale begins.
        """
        batch, rows, _ = tokens_Bld.shape
        here = schedule.slices[scale]
        expected = 0 if scale == 0 else schedule.lengths[scale]
        before = here.start + caches[0].length - schedule.length  # the degraded image's positions come first
        if rows != expected or caches[0].filled != before:
            raise ValueError(
                f"scale {scale} takes {expected} token rows after {before} cached positions, got {rows} "
                f"after {caches[0].filled}; run the scales in order, each once"
            )
        self._check_condition(condition, batch)
        device = tokens_Bld.device
        embedded = float32_linear(self.token_embedding, tokens_Bld)
        hidden = embedded if scale else self._start(condition, batch)
        hidden = hidden + self.level_embedding.weight[scale].float()
        rotation = self._rotation(schedule, False, device)[here]
        hidden = self._through_blocks(hidden, condition, rotation, caches=caches)
        return self._scores(hidden, condition)

    def add_adapters(self, rank: int, scale: float = 1.0) -> None:
        """Give every attention projection an adapter, in place; see :func:`varestorer_models.lora.add_adapters`."""
        add_adapters(self, rank, scale)
        self.config = dataclasses.replace(self.config, adapter_rank=rank)

    def merge_adapters(self) -> None:
        """Fold all adapters into their layers, in place; without adapters nothing happens."""
        merge_adapters(self)
        self.config = dataclasses.replace(self.config, adapter_rank=0)

    def recompute_blocks(self) -> None:
        """From now on training keeps the blocks' inputs only and computes each block again in the backward pass.

        About a third more arithmetic for a fraction of the memory; the results are the same.
        """
        for block in self._blocks():
            block.recompute = True

    def new_caches(self, schedule: ScaleSchedule, *, degraded: bool = False) -> list[KeyValueCache]:
        """Empty caches for :meth:`forward_scale`, one per block; ``degraded``: :meth:`read_degraded` comes first."""
        length = schedule.length + (schedule.latent_length if degraded else 0)
        return [KeyValueCache(length) for _ in self.blocks]

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _through_blocks(
        self,
        hidden_BlC: Tensor,
        condition: Condition,
        rotation: Tensor,
        *,
        mask_LL: Tensor | None = None,
        last_queries: int | None = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """All blocks over some positions; with caches they see what those hold, and are added to it.

        The last block computes the first ``last_queries`` positions only, all where it is None.
        """
        for index, block in enumerate(self._blocks()):
            hidden_BlC = block(
                hidden_BlC,
                condition.modulation_B16C,
                self._text(condition, index),
                rotation,
                condition_mask_Bn=condition.mask_Bn,
                mask_LL=mask_LL,
                queries=last_queries if index == self.config.depth - 1 else None,
                cache=None if caches is None else caches[index],
            )
        return hidden_BlC

    def _check_condition(self, condition: Condition, batch: int) -> None:
        if condition.batch not in (1, batch):
            raise ValueError(
                f"a condition of {condition.batch} items does not fit a batch of {batch}; it needs 1 or {batch}"
            )

    def _start(self, condition: Condition, batch: int) -> Tensor:
        """Start token (B, 1, C): the condition vector at the start position."""
        return (condition.vector_BC[:, None] + self.start_position.float()).expand(batch, -1, -1)

    def _levels(self, schedule: ScaleSchedule, extra_block: bool, device: torch.device) -> Tensor:
        """Level embedding of every position, float32 (positions, C)."""
        own_row = extra_block and self.config.extra_block_level == "own_row"
        extra_row = len(schedule) if own_row else len(schedule) - 1
        if extra_row >= self.config.levels:
            raise ValueError(
                f"the sequence needs {extra_row + 1} level embeddings, the model has {self.config.levels}; "
                "use fewer scales or a model with more levels"
            )
        key = ("levels", schedule, extra_block, device)
        if key not in self._tables:
            with torch.inference_mode(False):
                levels = schedule.scale_index(device)
                if extra_block:
                    levels = torch.cat([levels, levels.new_full((schedule.latent_length,), extra_row)])
                self._tables[key] = levels
        levels = self._tables[key]
        return F.embedding(levels, self.level_embedding.weight).float()

    @staticmethod
    def _check_degraded(tokens_Bld: Tensor, schedule: ScaleSchedule) -> None:
        if tokens_Bld.shape[1] != schedule.latent_length:
            raise ValueError(
                f"expected {schedule.latent_length} token rows of the degraded image, got {tokens_Bld.shape[1]}"
            )

    @staticmethod
    def _text(condition: Condition, index: int) -> KeysValues | GroupedKeysValues | Tensor:
        """Keys and values of a block where they were made before, else what the block makes them from."""
        return condition.keys_values[index] if condition.keys_values else condition.tokens_BnC

    def _rotation(self, schedule: ScaleSchedule, extra_block: bool, device: torch.device) -> Tensor:
        """Rotations of every position, float32 (positions, K / 2, 2)."""
        config = self.config
        key = ("rotation", schedule, extra_block, device)
        if key not in self._tables:
            reference = None
            if config.rotary_reference == "infinity_1m":
                reference = schedule.infinity_reference()
                if reference is None:
                    raise ValueError(
                        f"no released schedule begins with {schedule.grids}, so it has no released rotary "
                        'coordinates; set rotary_reference to "schedule"'
                    )
            layout = RotaryLayout(config.rotary_rounding, config.extra_block_positions, config.rotary_base)
            # A table made under inference_mode could not be used in training later.
            with torch.inference_mode(False):
                coordinates = rotary_coordinates(schedule, reference=reference, extra_block=extra_block, layout=layout)
                table = rotary_table(coordinates, config.width // config.heads, layout.base)
                self._tables[key] = table.to(device)
        return self._tables[key]

    def _causal_mask(self, schedule: ScaleSchedule, behind: bool, device: torch.device) -> Tensor:
        """Causal over scales; a degraded image behind them is seen by all and sees itself only."""
        key = ("mask", schedule, behind, device)
        if key not in self._tables:
            with torch.inference_mode(False):
                mask = schedule.block_causal_mask(device)
                if behind:
                    seen = schedule.latent_length
                    mask = F.pad(F.pad(mask, (0, seen), value=True), (0, 0, 0, seen), value=False)
                    mask[-seen:, -seen:] = True
                self._tables[key] = mask
        return self._tables[key]

    def _scores(self, hidden_BLC: Tensor, condition: Condition) -> Tensor:
        modulation = float32_linear(self.head_modulation, F.silu(condition.vector_BC))[:, None]
        scale, shift = modulation.chunk(2, dim=-1)
        normed = modulated_norm(hidden_BLC, scale, shift, self.config.norm_eps)
        scores = float32_linear(self.head, normed)
        return scores.view(*scores.shape[:2], -1, 2) if self.config.head == "bits" else scores
