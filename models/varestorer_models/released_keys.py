"""Tables of parameter names: what a tensor is called in the released files and in our modules.

A row is (released, ours); ``{}`` stands for a number and keeps its value. ``KeyTable`` looks names up in both
directions. Shapes are equal on both sides. The transformer's blocks are stored in chunks there and in one
list here: ``flatten_chunk`` turns ``block_chunks.<c>.module.<m>`` into ``blocks.<b>`` before a lookup,
``released_name`` turns it back after one.
"""

from collections.abc import Iterable

Rows = list[tuple[str, str]]


class KeyTable:
    """Two-way lookup of parameter names.

    Args:
        rows: (released, ours) pairs.
        buffers: released names that are recomputed or unused, hence ignored on the way in.
    """

    def __init__(self, rows: Rows, buffers: Iterable[str] = ()) -> None:
        self._rows = [(released.split("."), ours.split(".")) for released, ours in rows]
        self._reversed = [(ours, released) for released, ours in self._rows]
        self._buffers = [(name.split("."), name.split(".")) for name in buffers]

    def ours(self, released_key: str) -> str | None:
        """Our name of a released parameter, None if no row fits."""
        return _translate(released_key, self._rows)

    def released(self, our_key: str) -> str | None:
        """The released name of our parameter, None if no row fits."""
        return _translate(our_key, self._reversed)

    def is_buffer(self, released_key: str) -> bool:
        """Whether the released name belongs to a buffer that is ignored."""
        return _translate(released_key, self._buffers) is not None


def _translate(key: str, rows: Iterable[tuple[list[str], list[str]]]) -> str | None:
    parts = key.split(".")
    for source, target in rows:
        if len(source) != len(parts):
            continue
        numbers = [part for part, row in zip(parts, source, strict=True) if row == "{}"]
        fixed = all(row in ("{}", part) for part, row in zip(parts, source, strict=True))
        if fixed and all(number.isascii() and number.isdecimal() for number in numbers):
            return ".".join(target).format(*numbers)
    return None


def _layers(*stems: tuple[str, str]) -> Rows:
    """Rows for weight and bias of layers given as (released, ours)."""
    return [(f"{a}.{part}", f"{b}.{part}") for a, b in stems for part in ("weight", "bias")]


def prerestorer_table() -> KeyTable:
    """Names of the pre-restorer (general_swinir_v1); SwinIR keeps the released ones."""
    block = "layers.{}.residual_group.blocks.{}"
    stems = [f"{block}.{part}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
    stems += ["conv_first.1", "patch_embed.norm", "layers.{}.conv", "norm", "conv_after_body"]
    stems += ["conv_before_upsample.0", *(f"conv_up{i}" for i in range(1, 7)), "conv_hr", "conv_last"]
    table = f"{block}.attn.relative_position_bias_table"
    rows = [*_layers(*((stem, stem) for stem in stems)), (table, table)]
    return KeyTable(rows, buffers=[f"{block}.attn_mask", f"{block}.attn.relative_position_index"])


def autoencoder_table(*, wrapped: bool) -> KeyTable:
    """Names of the autoencoder (infinity_vae_d32reg).

    Files exist with every layer wrapped once more (``conv1.conv.weight``, as released) and bare
    (``conv1.weight``).
    """
    conv, norm = (".conv", ".norm") if wrapped else ("", "")
    blocks = ["encoder.down.{}.block.{}", "decoder.up.{}.block.{}"]
    blocks += [f"{net}.mid.block_{i}" for net in ("encoder", "decoder") for i in (1, 2)]
    stems: Rows = []
    for block in blocks:
        stems += [(f"{block}.{name}{norm}", f"{block}.{name}") for name in ("norm1", "norm2")]
        stems += [(f"{block}.{name}{conv}", f"{block}.{name}") for name in ("conv1", "conv2")]
        stems.append((f"{block}.nin_shortcut{conv}", f"{block}.shortcut"))
    for name in ("encoder.down.{}.downsample.conv", "decoder.up.{}.upsample.conv"):
        stems.append((f"{name}{conv}", name))
    for net in ("encoder", "decoder"):
        stems += [(f"{net}.{name}{conv}", f"{net}.{name}") for name in ("conv_in", "conv_out")]
        stems.append((f"{net}.norm_out{norm}", f"{net}.norm_out"))
    return KeyTable(_layers(*stems), buffers=["quantizer.lfq.mask", "quantize.lfq.mask"])


def transformer_table(*, adapters: bool) -> KeyTable:
    """Names of the transformer; with adapters (varestorer) the adapted layers sit one level deeper."""
    block = "blocks.{}"
    rows = [
        ("cfg_uncond", "null_text"),
        ("pos_start", "start_position"),
        ("text_norm.weight", "text_norm.weight"),
        ("lvl_embed.weight", "level_embedding.weight"),
        ("text_proj_for_sos.ca.mat_q", "text_pool.query"),
        ("text_proj_for_sos.ca.v_bias", "text_pool.value_bias"),
        ("text_proj_for_sos.ca.mat_kv.weight", "text_pool.key_value.weight"),
        (f"{block}.ada_gss", f"{block}.modulation"),
        (f"{block}.sa.scale_mul_1H11", f"{block}.self_attention.log_scale"),
        (f"{block}.sa.q_bias", f"{block}.self_attention.query_bias"),
        (f"{block}.sa.v_bias", f"{block}.self_attention.value_bias"),
        (f"{block}.ca.v_bias", f"{block}.cross_attention.value_bias"),
    ]
    rows += _layers(
        ("text_proj_for_sos.ca.proj", "text_pool.proj"),
        ("text_proj_for_ca.0", "text_projection.0"),
        ("text_proj_for_ca.2", "text_projection.2"),
        ("word_embed", "token_embedding"),
        ("shared_ada_lin.1", "shared_modulation"),
        ("head_nm.ada_lin.1", "head_modulation"),
        ("head", "head"),
        (f"{block}.ca_norm", f"{block}.cross_norm"),
        (f"{block}.ffn.fc1", f"{block}.feed_forward.fc1"),
        (f"{block}.ffn.fc2", f"{block}.feed_forward.fc2"),
    )
    for released, ours in (
        ("sa.mat_qkv", "self_attention.qkv"),
        ("sa.proj", "self_attention.proj"),
        ("ca.mat_q", "cross_attention.query"),
        ("ca.mat_kv", "cross_attention.key_value"),
        ("ca.proj", "cross_attention.proj"),
    ):
        stem = f"{block}.{released}"
        rows += _layers((f"{stem}.linear" if adapters else stem, f"{block}.{ours}"))
        if adapters:
            rows.append((f"{stem}.lora_down.weight", f"{block}.{ours}.adapter_down"))
            rows.append((f"{stem}.lora_up.weight", f"{block}.{ours}.adapter_up"))
    buffers = ["text_proj_for_sos.ca.zero_k_bias", f"{block}.sa.zero_k_bias", f"{block}.ca.zero_k_bias"]
    return KeyTable(rows, buffers)


def stored_chunk_size(keys: Iterable[str]) -> int | None:
    """Blocks per chunk of a stored transformer, None if its blocks are not in chunks.

    Raises:
        ValueError: the chunks are not equally long or not numbered without a gap.
    """
    found = {position[:2] for key in keys if (position := _chunk_position(key)) is not None}
    if not found:
        return None
    chunks = len({chunk for chunk, _ in found})
    size = sum(chunk == 0 for chunk, _ in found)
    expected = {(chunk, member) for chunk in range(chunks) for member in range(size)}
    for kind, wrong in (("missing", expected - found), ("unexpected", found - expected)):
        if wrong:
            chunk, member = min(wrong)
            raise ValueError(
                f"{len(wrong)} {kind} block(s), first block_chunks.{chunk}.module.{member}: the keys name "
                f"{chunks} chunks and the first has {size} blocks; the file is incomplete"
            )
    return size


def flatten_chunk(released_key: str, size: int | None) -> str:
    """``block_chunks.<c>.module.<m>.<rest>`` as ``blocks.<c * size + m>.<rest>``; other keys stay."""
    position = _chunk_position(released_key) if size is not None else None
    if position is None or size is None:
        return released_key
    return f"blocks.{position[0] * size + position[1]}.{position[2]}"


def released_name(our_key: str, table: KeyTable, size: int | None = None) -> str | None:
    """The released name of our parameter, in chunks of ``size`` blocks where given; None if there is none."""
    released = table.released(our_key)
    if released is None or size is None or not released.startswith("blocks."):
        return released
    _, block, rest = released.split(".", 2)
    return f"block_chunks.{int(block) // size}.module.{int(block) % size}.{rest}"


def _chunk_position(released_key: str) -> tuple[int, int, str] | None:
    parts = released_key.split(".", 4)
    if len(parts) < 5 or parts[0] != "block_chunks" or parts[2] != "module":
        return None
    if not all(part.isascii() and part.isdecimal() for part in (parts[1], parts[3])):
        return None
    return int(parts[1]), int(parts[3]), parts[4]
