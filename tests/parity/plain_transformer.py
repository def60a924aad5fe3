"""The released transformer once more, straight from its description, in float64 over the released keys.

Slow, without classes, sharing no code with ``models``: an independent route for sizes of which there are no vectors.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# Scales of the "1M" sequences by aspect ratio (height / width), coarse to fine.
GRIDS = {
    1.0: [(s, s) for s in (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)],
    1.333: [
        (1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15), (24, 18), (28, 21), (36, 27), (48, 36), (60, 45),
        (72, 54),
    ],
}  # fmt: skip


def random_state(
    *, width: int, depth: int, heads: int, bits: int, text_width: int, rank: int, chunks: int, seed: int
) -> dict[str, Tensor]:
    """A released state dict of these sizes in which every value matters; rank 0 has no adapters."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, size: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * size

    def linear(name: str, outputs: int, inputs: int, bias: bool = True, adapted: bool = False) -> None:
        inner = f"{name}.linear" if adapted and rank else name
        state[f"{inner}.weight"] = random(outputs, inputs, size=inputs**-0.5)
        if bias:
            state[f"{inner}.bias"] = random(outputs, size=0.3)
        if adapted and rank:
            state[f"{name}.lora_down.weight"] = random(rank, inputs, size=inputs**-0.5)
            state[f"{name}.lora_up.weight"] = random(outputs, rank, size=0.5 * rank**-0.5)

    pool_heads, hidden = text_width // 128, max(1, round(width * 4 / 256)) * 256
    state: dict[str, Tensor] = {
        "cfg_uncond": random(9, text_width),
        "pos_start": random(1, 1, width, size=0.3),
        "text_norm.weight": 1 + random(text_width, size=0.2),
        "text_proj_for_sos.ca.mat_q": random(1, pool_heads, width // pool_heads),
        "text_proj_for_sos.ca.v_bias": random(width, size=0.3),
        "text_proj_for_sos.ca.zero_k_bias": torch.zeros(width),
        "lvl_embed.weight": random(15, width, size=0.3),
    }
    linear("text_proj_for_sos.ca.mat_kv", 2 * width, text_width, bias=False)
    linear("text_proj_for_sos.ca.proj", width, width)
    linear("text_proj_for_ca.0", width, text_width)
    linear("text_proj_for_ca.2", width, width)
    linear("word_embed", width, bits)
    linear("shared_ada_lin.1", 6 * width, width)
    linear("head_nm.ada_lin.1", 2 * width, width)
    linear("head", 2 * bits, width)
    for block in range(depth):
        a = f"block_chunks.{block // (depth // chunks)}.module.{block % (depth // chunks)}"
        state[f"{a}.ada_gss"] = random(1, 1, 6, width, size=0.3)
        state[f"{a}.sa.scale_mul_1H11"] = random(1, heads, 1, 1, size=0.5) + 2
        state[f"{a}.sa.scale_mul_1H11"][:, 0] = 4.7  # above the cap
        for name in ("sa.q_bias", "sa.v_bias", "ca.v_bias"):
            state[f"{a}.{name}"] = random(width, size=0.3)
        for name in ("sa.zero_k_bias", "ca.zero_k_bias"):
            state[f"{a}.{name}"] = torch.zeros(width)
        linear(f"{a}.sa.mat_qkv", 3 * width, width, bias=False, adapted=True)
        linear(f"{a}.sa.proj", width, width, adapted=True)
        linear(f"{a}.ca.mat_q", width, width, adapted=True)
        linear(f"{a}.ca.mat_kv", 2 * width, width, bias=False, adapted=True)
        linear(f"{a}.ca.proj", width, width, adapted=True)
        linear(f"{a}.ffn.fc1", hidden, width)
        linear(f"{a}.ffn.fc2", width, hidden)
        state[f"{a}.ca_norm.weight"], state[f"{a}.ca_norm.bias"] = 1 + random(width, size=0.2), random(width, size=0.2)
    return state


def logits(state: dict[str, Tensor], tokens: Tensor, text: Tensor, ratio: float, scales: int, extra: bool) -> Tensor:
    """Scores of all positions of the first ``scales`` scales, (L, 2 bits), for one tile and one text.

    Args:
        state: released keys.
        tokens: (L - 1, bits), with the extra block's rows at the end if ``extra``.
        text: (n, text width), compact.
        ratio: a key of ``GRIDS``.
        scales: number of scales.
        extra: the full-resolution block follows the scales.
    """
    p = {key: value.double() for key, value in state.items()}
    grids = GRIDS[ratio][:scales]
    lengths = [h * w for h, w in grids]
    width = p["pos_start"].shape[-1]
    depth = sum(key.endswith(".ada_gss") for key in p)
    per_chunk = sum(key.startswith("block_chunks.0.") and key.endswith(".ada_gss") for key in p)

    def linear(name: str, x: Tensor, bias: Tensor | None = None) -> Tensor:
        inner = f"{name}.linear" if f"{name}.linear.weight" in p else name
        y = x @ p[f"{inner}.weight"].T
        if f"{name}.lora_up.weight" in p:
            y = y + x @ p[f"{name}.lora_down.weight"].T @ p[f"{name}.lora_up.weight"].T
        own = p.get(f"{inner}.bias") if bias is None else bias
        return y if own is None else y + own

    def norm(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def gelu(x: Tensor) -> Tensor:
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """(L, N, K) each."""
        weights = torch.einsum("lnk,mnk->nlm", q, k).mul(scale).softmax(-1)
        return torch.einsum("nlm,mnk->lnk", weights, v).flatten(1)

    # text
    e = text.double()
    e = e / (e.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p["text_norm.weight"]
    query = p["text_proj_for_sos.ca.mat_q"]
    pool_heads, pool_width = query.shape[1:]
    k, v = linear("text_proj_for_sos.ca.mat_kv", e).chunk(2, -1)
    v = v + p["text_proj_for_sos.ca.v_bias"]
    k, v = (part.view(len(e), pool_heads, pool_width) for part in (k, v))
    vector = linear("text_proj_for_sos.ca.proj", attention(query, k, v, pool_width**-0.5))
    condition = linear("text_proj_for_ca.2", gelu(linear("text_proj_for_ca.0", e)))
    shared = linear("shared_ada_lin.1", F.silu(vector)).view(6, width)

    # sequence
    x = torch.cat([vector + p["pos_start"][0], linear("word_embed", tokens.double())])
    levels = [k for k, length in enumerate(lengths) for _ in range(length)] + [scales] * (lengths[-1] * extra)
    x = x + p["lvl_embed.weight"][levels]

    # rotary angles: the first rows of the 1M table, whatever they belong to
    top_h, top_w = GRIDS[ratio][-1]
    table = [(round(i * top_h / h), round(j * top_w / w)) for h, w in GRIDS[ratio] for i in range(h) for j in range(w)]
    coordinates = torch.tensor(table[: len(x)], dtype=torch.float64)

    def rotated(heads: Tensor) -> Tensor:
        count = heads.shape[-1] // 4
        frequencies = 10000.0 ** (-4 * torch.arange(count, dtype=torch.float64) / heads.shape[-1])
        angles = (coordinates[:, :, None] * frequencies).flatten(1)[:, None]  # rows, then columns
        a, b = heads[..., 0::2], heads[..., 1::2]
        turned = torch.stack([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)
        return turned.flatten(-2)

    for block in range(depth):
        a = f"block_chunks.{block // per_chunk}.module.{block % per_chunk}"
        g1, g2, s1, s2, b1, b2 = p[f"{a}.ada_gss"][0, 0] + shared
        heads = p[f"{a}.sa.scale_mul_1H11"].shape[1]
        zero = torch.zeros(width, dtype=torch.float64)
        qkv = linear(
            f"{a}.sa.mat_qkv", norm(x) * (1 + s1) + b1, torch.cat([p[f"{a}.sa.q_bias"], zero, p[f"{a}.sa.v_bias"]])
        )
        q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, -1))
        scale = p[f"{a}.sa.scale_mul_1H11"].view(heads, 1).clamp(max=math.log(100)).exp()
        q = rotated(q / q.norm(dim=-1, keepdim=True) * scale)
        k = rotated(k / k.norm(dim=-1, keepdim=True))
        x = x + g1 * linear(f"{a}.sa.proj", attention(q, k, v, 1.0))
        normed = norm(x) * p[f"{a}.ca_norm.weight"] + p[f"{a}.ca_norm.bias"]
        q = linear(f"{a}.ca.mat_q", normed).unflatten(-1, (heads, -1))
        k, v = linear(f"{a}.ca.mat_kv", condition).chunk(2, -1)
        if f"{a}.ca.mat_kv.lora_up.weight" not in p:  # adapters forget it
            v = v + p[f"{a}.ca.v_bias"]
        k, v = (part.unflatten(-1, (heads, -1)) for part in (k, v))
        x = x + linear(f"{a}.ca.proj", attention(q, k, v, (width // heads) ** -0.5))
        x = x + g2 * linear(f"{a}.ffn.fc2", gelu(linear(f"{a}.ffn.fc1", norm(x) * (1 + s2) + b2)))
    scale, shift = linear("head_nm.ada_lin.1", F.silu(vector))[0].chunk(2)
    return linear("head", norm(x) * (1 + scale) + shift)[: sum(lengths)]
