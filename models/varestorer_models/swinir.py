"""SwinIR pre-restorer: a windowed-attention network that cleans a degraded image before it is tokenised.

Architecture: SwinIR (Liang et al. 2021, "SwinIR: Image Restoration Using Swin Transformer") in the form
DiffBIR trained for blind restoration: the image is folded by pixel-unshuffle, so attention runs on a grid
eight times smaller, and is brought back by nearest upsampling. Parameter names are those of the published
weights; tables that can be computed (relative positions, shift masks) are not part of the state dict.

Shape legend: B batch, H W pixels, h w token grid (H / unshuffle, W / unshuffle), L = h * w tokens, C width,
N heads, K head width, G windows of the grid, n tokens of one window (window ** 2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from varestorer_models.upsampling import UpsamplingConv

# Additive penalty between regions that only touch because the map was rolled; finite, as published.
_SHIFT_PENALTY = -100.0
# Slopes of the published network: the first activation was left at the framework's default.
_FIRST_SLOPE = 0.01
_SLOPE = 0.2
_GEOMETRIES_KEPT = 8  # token grids whose window tables are kept; tiles of a run have few sizes


@dataclass(frozen=True)
class SwinIRConfig:
    """Hyperparameters of ``SwinIR``; the defaults are the published general restoration model (15.8 M).

    Attributes:
        width: channels of a token; divisible by every entry of ``heads``.
        depths: blocks of each residual group; odd-numbered blocks attend across shifted windows.
        heads: attention heads of each residual group, one entry per group.
        window: side of an attention window in tokens, at least 2.
        mlp_ratio: hidden width of the feed-forward part over ``width``.
        unshuffle: side of the pixel square folded into one token; a power of two.
        feature_width: channels of the upsampling part.
        image_mean: subtracted from the red, green and blue channels on the way in, added on the way out.
    """

    width: int = 180
    depths: tuple[int, ...] = (6,) * 8
    heads: tuple[int, ...] = (6,) * 8
    window: int = 8
    mlp_ratio: float = 2.0
    unshuffle: int = 8
    feature_width: int = 64
    image_mean: tuple[float, float, float] = (0.4488, 0.4371, 0.4040)

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.heads) or min(self.depths) < 1:
            raise ValueError(
                f"depths {self.depths} and heads {self.heads} do not fit: "
                "each group needs one entry in both, and at least one block"
            )
        for heads in self.heads:
            if heads < 1 or self.width % heads:
                raise ValueError(f"width {self.width} is not divisible by {heads} heads; choose a multiple")
        if self.unshuffle < 1 or self.unshuffle & (self.unshuffle - 1):
            raise ValueError(f"unshuffle {self.unshuffle} is not a power of two; use 1, 2, 4 or 8")
        if self.window < 2:
            raise ValueError(f"window {self.window} is too small; use at least 2")

    @property
    def hidden_width(self) -> int:
        """Hidden channels of the feed-forward part."""
        return round(self.width * self.mlp_ratio)

    @property
    def upsampling_steps(self) -> int:
        """Number of doublings that undo the unshuffle."""
        return self.unshuffle.bit_length() - 1

    @property
    def size_multiple(self) -> int:
        """Pixels a side is padded to a multiple of: whole windows of whole tokens."""
        return self.unshuffle * self.window


class SwinIR(nn.Module):
    """Degraded image in, cleaned image of the same size out.

    Contract: ``image_B3HW`` float, RGB, [0, 1], any H and W from 1 up; the result has the same shape, dtype and
    device, nominally [0, 1] but **not clamped**. Sides that are not multiples of ``config.size_multiple`` are
    continued by reflection at the bottom and right and cropped afterwards; at multiples the function is the
    published one.
    """

    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        self.config = config
        width, features = config.width, config.feature_width
        self.conv_first = nn.Sequential(nn.PixelUnshuffle(config.unshuffle), _conv3x3(3 * config.unshuffle**2, width))
        self.patch_embed = TokenEmbedding(width)
        self.layers = nn.ModuleList(
            ResidualGroup(config, depth, heads) for depth, heads in zip(config.depths, config.heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = _conv3x3(width, width)
        self.conv_before_upsample = nn.Sequential(_conv3x3(width, features), nn.LeakyReLU(_FIRST_SLOPE))
        for step in range(1, config.upsampling_steps + 1):
            self.add_module(f"conv_up{step}", UpsamplingConv(features, features))
        self.conv_hr = _conv3x3(features, features)
        self.conv_last = _conv3x3(features, 3)
        # Mean colour and window tables by what they depend on; no buffers, so they stay out of the state dict.
        self._means: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._geometries: dict[tuple[int, int, torch.device], WindowGeometry] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights for training from scratch.

        | weights | value |
        |---|---|
        | linear layers, tables of attention biases | truncated normal, std 0.02 |
        | convolutions | He normal for the activation that follows |
        | last convolution of a group and of the network | that x0.1: training starts near the identity, and the mean |
        | biases | 0 |
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
            elif isinstance(module, nn.Conv2d):
                # Slope 1 is "no activation": the gain becomes 1.
                nn.init.kaiming_normal_(module.weight, a=1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.startswith(("conv_before_upsample", "conv_up", "conv_hr")) and name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, a=_SLOPE)
        with torch.no_grad():
            self.conv_last.weight.mul_(0.1)
            for module in self.layers.modules():
                if isinstance(module, ResidualGroup):
                    module.conv.weight.mul_(0.1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Clean a batch of images.

        Args:
            image_B3HW: float RGB in [0, 1].

        Returns:
            Tensor of the same shape, not clamped.

        Raises:
            ValueError: not a batch of three-channel images.
        """
        if image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3 or 0 in image_B3HW.shape[2:]:
            raise ValueError(
                f"expected a batch of RGB images (B, 3, H, W), got {tuple(image_B3HW.shape)}; "
                "add the batch axis or convert to RGB first"
            )
        height, width = image_B3HW.shape[-2:]
        mean_311 = self._mean(image_B3HW)
        padded_B3HW = reflect_to_multiple(image_B3HW, self.config.size_multiple) - mean_311

        # Tokens are rows of channels; with maps laid out alike, going to and fro copies nothing.
        shallow_BChw = self.conv_first(padded_B3HW).contiguous(memory_format=torch.channels_last)
        geometry = self._geometry(shallow_BChw.shape[-2], shallow_BChw.shape[-1], shallow_BChw.device)
        tokens_BLC = self.patch_embed(_to_tokens(shallow_BChw))
        for group in self.layers:
            tokens_BLC = group(tokens_BLC, geometry)
        deep_BChw = _to_map(self.norm(tokens_BLC), geometry)
        features = self.conv_before_upsample(self.conv_after_body(deep_BChw) + shallow_BChw)
        for upsampler in self._upsamplers():
            features = F.leaky_relu(upsampler(features), _SLOPE, inplace=True)
        features = F.leaky_relu(self.conv_hr(features), _SLOPE, inplace=True)
        restored_B3HW: Tensor = self.conv_last(features) + mean_311
        # Plain layout again: the next network must not inherit this one's.
        return restored_B3HW[..., :height, :width].to(image_B3HW.dtype).contiguous()

    def _mean(self, image: Tensor) -> Tensor:
        """Mean colour in the type and on the device of an image, (3, 1, 1)."""
        key = (image.device, image.dtype)
        if key not in self._means:
            with torch.inference_mode(False):  # a table made under inference_mode could not be used in training later
                mean = torch.tensor(self.config.image_mean, device=image.device, dtype=image.dtype)
                self._means[key] = mean.view(3, 1, 1)
        return self._means[key]

    def _geometry(self, height: int, width: int, device: torch.device) -> "WindowGeometry":
        """Window tables of a token grid."""
        key = (height, width, device)
        if key not in self._geometries:
            if len(self._geometries) >= _GEOMETRIES_KEPT:
                self._geometries.pop(next(iter(self._geometries)))
            with torch.inference_mode(False):
                self._geometries[key] = WindowGeometry.of(self.config.window, height, width, device)
        return self._geometries[key]

    def _upsamplers(self) -> list[nn.Module]:
        return [self.get_submodule(f"conv_up{i}") for i in range(1, self.config.upsampling_steps + 1)]


@dataclass(frozen=True)
class WindowGeometry:
    """What all blocks of one forward pass share about the token grid; computed once per grid, never saved.

    Attributes:
        window: window side in tokens.
        height: rows of the grid, a multiple of ``window``.
        width: columns of the grid, a multiple of ``window``.
        bias_index: long (n, n), row of the relative position table for query (first axis) and key.
        shift_mask: float (G, n, n), 0 between tokens of one region of a shifted window, else a penalty.
    """

    window: int
    height: int
    width: int
    bias_index: Tensor
    shift_mask: Tensor

    @classmethod
    def of(cls, window: int, height: int, width: int, device: torch.device) -> "WindowGeometry":
        """Build the tables of a grid of ``height`` x ``width`` tokens on ``device``."""
        side = torch.arange(window, device=device)
        row_n = side.repeat_interleave(window)
        column_n = side.repeat(window)
        # Query minus key, moved from -(window - 1)..window - 1 to 0..2 * window - 2.
        delta_row_nn = row_n[:, None] - row_n[None, :] + window - 1
        delta_column_nn = column_n[:, None] - column_n[None, :] + window - 1
        bias_index_nn = delta_row_nn * (2 * window - 1) + delta_column_nn

        region_hw = 3 * _shift_band(height, window, device)[:, None] + _shift_band(width, window, device)
        region_Gn = _to_windows(region_hw[None, :, :, None], window).flatten(0, 1).squeeze(-1)
        apart_Gnn = region_Gn[:, :, None] != region_Gn[:, None, :]
        shift_mask_Gnn = apart_Gnn.to(torch.float32) * _SHIFT_PENALTY
        return cls(window, height, width, bias_index_nn, shift_mask_Gnn)


class TokenEmbedding(nn.Module):
    """Normalises the tokens that enter the first group (a module of its own only for the published names)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BLC: Tensor) -> Tensor:
        """Layer normalisation; shape kept."""
        normed_BLC: Tensor = self.norm(tokens_BLC)
        return normed_BLC


class ResidualGroup(nn.Module):
    """A stack of blocks and a 3 x 3 convolution, around which the group's input is added back."""

    def __init__(self, config: SwinIRConfig, depth: int, heads: int) -> None:
        super().__init__()
        self.residual_group = BlockStack(config, depth, heads)
        self.conv = _conv3x3(config.width, config.width)

    def forward(self, tokens_BLC: Tensor, geometry: WindowGeometry) -> Tensor:
        """Shape kept."""
        deep_BChw = _to_map(self.residual_group(tokens_BLC, geometry), geometry)
        return tokens_BLC + _to_tokens(self.conv(deep_BChw))


class BlockStack(nn.Module):
    """Blocks in sequence; every second one sees windows shifted by half a side."""

    def __init__(self, config: SwinIRConfig, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(config, heads, shifted=i % 2 == 1) for i in range(depth))

    def forward(self, tokens_BLC: Tensor, geometry: WindowGeometry) -> Tensor:
        """Shape kept."""
        for block in self.blocks:
            tokens_BLC = block(tokens_BLC, geometry)
        return tokens_BLC


class SwinBlock(nn.Module):
    """x + attention(norm1 x), then x + feed-forward(norm2 x)."""

    def __init__(self, config: SwinIRConfig, heads: int, *, shifted: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = WindowAttention(config.width, heads, config.window, shifted=shifted)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config.width, config.hidden_width)

    def forward(self, tokens_BLC: Tensor, geometry: WindowGeometry) -> Tensor:
        """Shape kept."""
        tokens_BLC = tokens_BLC + self.attn(self.norm1(tokens_BLC), geometry)
        out_BLC: Tensor = tokens_BLC + self.mlp(self.norm2(tokens_BLC))
        return out_BLC


class WindowAttention(nn.Module):
    """Multi-head attention inside square windows, with a learned bias for each relative position and head.

    Attributes:
        padded: whether heads are widened by zeros to a multiple of 8 channels, which the fast attention of GPUs needs
            where there is a bias; the result is the same up to rounding. None: on CUDA devices.
        keeps_bias: whether the bias of all windows is kept between calls without gradient, as long as weights, grid and
            type stay the same.
    """

    def __init__(self, width: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.shift = window // 2 if shifted else 0
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.padded: bool | None = None
        self.keeps_bias = True
        self._kept: tuple[Tensor, tuple[object, ...], Tensor] | None = None

    def forward(self, tokens_BLC: Tensor, geometry: WindowGeometry) -> Tensor:
        """Shape kept; ``tokens_BLC`` are the rows of ``geometry``'s grid."""
        batch, _, width = tokens_BLC.shape
        grid_BhwC = tokens_BLC.reshape(batch, geometry.height, geometry.width, width)
        if self.shift:
            grid_BhwC = grid_BhwC.roll((-self.shift, -self.shift), dims=(1, 2))
        windows_BGnC = _to_windows(grid_BhwC, geometry.window)
        count, size = windows_BGnC.shape[1:3]
        head_width = width // self.heads
        qkv = self.qkv(windows_BGnC).view(batch, count, size, 3, self.heads, head_width)
        padded = tokens_BLC.device.type == "cuda" if self.padded is None else self.padded
        if padded and head_width % 8:
            qkv = F.pad(qkv, (0, -head_width % 8))
        # Windows and heads share one axis: a window's mask is then not copied for every image.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)  # each (B, G * N, n, K)
        bias = self._bias(geometry, count, q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=head_width**-0.5)[..., :head_width]
        attended_BGnC = attended.reshape(batch, count, self.heads, size, -1).transpose(2, 3).flatten(3)
        mixed_BhwC = _from_windows(self.proj(attended_BGnC), geometry)
        if self.shift:
            mixed_BhwC = mixed_BhwC.roll((self.shift, self.shift), dims=(1, 2))
        return mixed_BhwC.flatten(1, 2)

    def _bias(self, geometry: WindowGeometry, count: int, dtype: torch.dtype) -> Tensor:
        """Additive attention bias (1, G * N, n, n)."""
        table = self.relative_position_bias_table
        if not self.keeps_bias or torch.is_grad_enabled() or torch.compiler.is_compiling() or table.is_inference():
            return self._new_bias(geometry, count).to(dtype)
        key = (table._version, table.device, table.dtype, geometry.height, geometry.width, dtype)
        if self._kept is None or self._kept[0] is not table or self._kept[1] != key:
            self._kept = table, key, self._new_bias(geometry, count).to(dtype)
        return self._kept[2]

    def _new_bias(self, geometry: WindowGeometry, count: int) -> Tensor:
        bias_Nnn = self.relative_position_bias_table[geometry.bias_index].permute(2, 0, 1)
        bias_GNnn = bias_Nnn[None].expand(count, -1, -1, -1)
        if self.shift:
            bias_GNnn = bias_GNnn + geometry.shift_mask[:, None]
        return bias_GNnn.flatten(0, 1)[None]


def set_window_attention(module: nn.Module, *, padded: bool | None = None, keeps_bias: bool = True) -> None:
    """Choose the form of every :class:`WindowAttention` inside a module; the defaults are those of a new one."""
    for part in module.modules():
        if isinstance(part, WindowAttention):
            part.padded, part.keeps_bias, part._kept = padded, keeps_bias, None


class FeedForward(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens_BLC: Tensor) -> Tensor:
        """Shape kept."""
        out_BLC: Tensor = self.fc2(F.gelu(self.fc1(tokens_BLC)))
        return out_BLC


def reflect_to_multiple(image_BCHW: Tensor, multiple: int) -> Tensor:
    """Continue an image at the bottom and right by reflection until both sides are multiples of ``multiple``.

    The edge itself is not repeated. Unlike the framework's reflection the image may be smaller than the
    padding: it is then reflected to and fro. Sides that fit already are left alone.
    """
    for axis in (-2, -1):
        size = image_BCHW.shape[axis]
        target = -(-size // multiple) * multiple
        if target != size:
            period = max(2 * (size - 1), 1)
            position = torch.arange(target, device=image_BCHW.device) % period
            position = torch.minimum(position, period - position) if size > 1 else position
            image_BCHW = image_BCHW.index_select(axis, position)
    return image_BCHW


def _conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


def _shift_band(size: int, window: int, device: torch.device) -> Tensor:
    """Band (0, 1 or 2) of each row after rolling by half a window.

    The last window holds the old end and, behind it, the old beginning; only that window mixes two bands.
    """
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - window // 2).long()


def _to_tokens(map_BChw: Tensor) -> Tensor:
    return map_BChw.flatten(2).transpose(1, 2)


def _to_map(tokens_BLC: Tensor, geometry: WindowGeometry) -> Tensor:
    batch, _, channels = tokens_BLC.shape
    return tokens_BLC.transpose(1, 2).reshape(batch, channels, geometry.height, geometry.width)


def _to_windows(grid_BhwC: Tensor, window: int) -> Tensor:
    """(B, h, w, C) -> (B, G, n, C), windows and their tokens row by row."""
    batch, height, width, channels = grid_BhwC.shape
    split = grid_BhwC.reshape(batch, height // window, window, width // window, window, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, window * window, channels)


def _from_windows(windows_BGnC: Tensor, geometry: WindowGeometry) -> Tensor:
    """Inverse of ``_to_windows``."""
    window, height, width = geometry.window, geometry.height, geometry.width
    batch, channels = windows_BGnC.shape[0], windows_BGnC.shape[-1]
    split = windows_BGnC.reshape(batch, height // window, width // window, window, window, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
