"""Nearest upsampling by two and a 3x3 convolution as one step, without computing what is the same twice.

After nearest upsampling every 3x3 window sees at most 2x2 different values. So each of the four phases of the output
(even or odd row, even or odd column) is a 2x2 convolution of the small map, whose weights are sums of the 3x3 ones:
4 instead of 9 multiplications per output value, and the large map is never made.

Shapes: B batch, I input and O output channels, h w rows and columns of the small map.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class UpsamplingConv(nn.Conv2d):
    """Nearest upsampling by two, then a 3x3 convolution; parameters as of ``nn.Conv2d(I, O, 3, padding=1)``.

    Without gradients both are computed as four 2x2 convolutions, the same up to rounding: sums of weights are formed
    first, so results differ from the plain form by a few units in the last place of float32. Set ``folded`` to False
    for the plain form, which training always takes.

    Args:
        channels_in: I.
        channels_out: O.
        bias: whether there is one.
    """

    def __init__(self, channels_in: int, channels_out: int, *, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, padding=1, bias=bias)
        self.folded = True
        self._kept: tuple[Tensor, Tensor | None] | None = None

    def keep_folded(self, dtype: torch.dtype) -> None:
        """Form and round the sums of weights once, for calls under autocast with ``dtype`` without gradients.

        They follow neither the weights nor the device afterwards.
        """
        with torch.no_grad():
            kernels = folded_kernels(self.weight).to(dtype)
            if self.weight.is_contiguous(memory_format=torch.channels_last):
                kernels = kernels.movedim(3, -1).contiguous().movedim(-1, 3)
            self._kept = kernels, None if self.bias is None else self.bias.to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(B, I, h, w) -> (B, O, 2 h, 2 w)."""
        if not self.folded or torch.is_grad_enabled():
            return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))
        kernels, bias = self._kept or (folded_kernels(self.weight), self.bias)
        parts = [
            F.conv2d(F.pad(input, (1 - column, column, 1 - row, row)), kernels[row, column], bias)
            for row in (0, 1)
            for column in (0, 1)
        ]
        height, width = input.shape[-2:]
        # like the parts, so that the layout and the type that autocast chose are kept
        output = _doubled(parts[0], height, width)
        for phase, part in enumerate(parts):
            output[:, :, phase // 2 :: 2, phase % 2 :: 2] = part
        return output


def folded_kernels(weight_OI33: Tensor) -> Tensor:
    """Weights behind nearest upsampling -> 2x2 kernels by row and column phase, (2, 2, O, I, 2, 2).

    An even output row sees the small rows (i - 1, i) with weights (w0, w1 + w2), an odd one (i, i + 1) with
    (w0 + w1, w2); columns alike.
    """
    first, middle, last = weight_OI33.unbind(2)
    rows = torch.stack([torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2)])
    first, middle, last = rows.unbind(-1)
    return torch.stack([torch.stack([first, middle + last], -1), torch.stack([first + middle, last], -1)], 1)


def set_folded(module: nn.Module, folded: bool) -> None:
    """Choose the form of every :class:`UpsamplingConv` inside a module."""
    for part in module.modules():
        if isinstance(part, UpsamplingConv):
            part.folded = folded


def _doubled(part_BOhw: Tensor, height: int, width: int) -> Tensor:
    """Uninitialised map of twice the size, in the type and memory layout of a part."""
    shape = (len(part_BOhw), part_BOhw.shape[1], 2 * height, 2 * width)
    last = part_BOhw.is_contiguous(memory_format=torch.channels_last) and not part_BOhw.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=part_BOhw.dtype, device=part_BOhw.device, memory_format=layout)
