"""A pre-restorer of few blocks made from a published one of many.

Both are an ``RRDBNet``. The blocks of the large one are divided into as many spans of neighbours as the small one has
blocks. Each small block starts as the one block of its span that comes nearest to what the whole span does, up to a
factor, and then learns the rest: its output is compared with the span's (hints, as in FitNets, arXiv 1412.6550).

Shapes: B batch, H W pixels of the wanted size, h w of the small picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_cli.core.errors import UsageError
from varestorer_models.rrdb import RRDBNet


def span_ends(blocks: int, spans: int) -> tuple[int, ...]:
    """Number of large blocks up to the end of each span; the spans differ by one at most, longer ones first.

    Raises:
        UsageError: more spans than blocks.
    """
    if not 1 <= spans <= blocks:
        raise UsageError(f"{spans} blocks cannot be made from {blocks}; a compressed network has fewer")
    short, longer = divmod(blocks, spans)
    return tuple(short * (i + 1) + min(i + 1, longer) for i in range(spans))


class Hints(nn.Module):
    """What the small network is told: the features of the large one at the end of each span, and its picture.

    Args:
        large: the published network, frozen here; it takes small pictures.
        factors: the large network's features are so many times the small one's, by span.
    """

    def __init__(self, large: RRDBNet, factors: Sequence[float]) -> None:
        super().__init__()
        self.large = large.eval().requires_grad_(False)
        self.factors = tuple(factors)
        self.ends = span_ends(large.config.blocks, len(self.factors))

    @torch.no_grad()
    def forward(self, small_B3hw: Tensor, *, picture: bool = True) -> tuple[list[Tensor], Tensor | None]:
        """Features at the span ends in the small network's size, and the large network's picture.

        Args:
            small_B3hw: degraded pictures in [0, 1].
            picture: False leaves it out, a fourteenth of the arithmetic.

        Returns:
            (B, width, h, w) a span, and (B, 3, 4h, 4w), about [0, 1].
        """
        first, outputs = self.large.features(small_B3hw)
        ends = [outputs[end - 1].float() / factor for end, factor in zip(self.ends, self.factors, strict=True)]
        return ends, self.large.render(first, outputs[-1]).float() if picture else None


def hint_distance(features: Sequence[Tensor], hints: Sequence[Tensor]) -> Tensor:
    """Mean over spans of the L1 distance, as a share of the hint's own mean size."""
    shares = [(f.float() - h).abs().mean() / h.abs().mean() for f, h in zip(features, hints, strict=True)]
    return torch.stack(shares).mean()


@torch.no_grad()
def compressed_start(small: RRDBNet, large: RRDBNet, small_B3hw: Tensor, upscaled_B3HW: Tensor) -> Hints:
    """Give the small network its first weights, taken from the large one.

    Args:
        small: takes upscaled pictures; same width and growth as the large one.
        large: takes small pictures.
        small_B3hw: a sample of degraded pictures in [0, 1].
        upscaled_B3HW: the same, upscaled.

    Returns:
        The hints that belong to these weights.

    Raises:
        UsageError: the networks do not fit each other.
    """
    for name in ("width", "growth"):
        ours, theirs = getattr(small.config, name), getattr(large.config, name)
        if ours != theirs:
            raise UsageError(f"a network of {name} {ours} cannot be made from one of {name} {theirs}")
    ends = span_ends(large.config.blocks, small.config.blocks)
    first, outputs = large.features(small_B3hw)
    factor, start, entering = 1.0, 0, first
    factors = []
    for block, end in zip(small.body, ends, strict=True):
        wanted = outputs[end - 1].float()
        best, gain = _nearest(large.body[start:end], entering, wanted)
        block.load_state_dict(best.state_dict())
        # features are smaller by `factor` here; a block is homogeneous but for its biases
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.div_(factor)
        factor *= gain
        factors.append(factor)
        start, entering = end, wanted
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"):
        small.get_submodule(name).load_state_dict(large.get_submodule(name).state_dict())
    small.conv_body.weight.mul_(factor)
    _fit_input(small, upscaled_B3HW, first.float())
    return Hints(large, factors)


def _nearest(blocks: nn.Module, entering: Tensor, wanted: Tensor) -> tuple[nn.Module, float]:
    """The block that alone does most of what all do one after another, and the factor its output needs."""
    found: tuple[float, nn.Module, float] | None = None
    for block in blocks.children():
        out = block(entering).float()
        gain = float((wanted * out).sum() / out.square().sum())
        error = float((wanted - gain * out).square().mean())
        if found is None or error < found[0]:
            found = error, block, gain
    assert found is not None
    return found[1], found[2]


def _fit_input(small: RRDBNet, upscaled_B3HW: Tensor, wanted: Tensor) -> None:
    """Least squares: the first convolution on the upscaled picture says what the large one's says on the small one."""
    u = small.config.unshuffle
    unshuffled = F.pixel_unshuffle(upscaled_B3HW.float(), u)
    rows = F.unfold(unshuffled, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)], dim=1)
    targets = wanted.flatten(2).transpose(1, 2).flatten(0, 1).double()
    gram = rows.T @ rows / len(rows)
    # neighbouring pixels of an upscaled picture say almost the same: the ridge keeps weights small enough for bfloat16
    gram.diagonal().add_(1e-6)
    solution = torch.linalg.solve(gram, rows.T @ targets / len(rows))
    small.conv_first.weight.copy_(solution[:-1].T.reshape(small.conv_first.weight.shape))
    assert small.conv_first.bias is not None
    small.conv_first.bias.copy_(solution[-1])
