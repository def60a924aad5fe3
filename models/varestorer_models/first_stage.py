"""The first stage of the method alone, a pre-restorer on tiles, and the settings that all restorers share.

Shapes: B batch, T tile side in pixels.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from varestorer_models.color_fix import wavelet_low

Sampling = Literal["argmax", "sample", "expected", "consistent"]
ColorFix = Literal["wavelet", "adain", "none"]


@dataclass(frozen=True)
class RestorerConfig:
    """Settings of a restorer that its parts do not hold.

    Attributes:
        scale: native factor; images are upscaled by it before the model sees them.
        tile: side in pixels of the native tile of a :class:`FirstStageRestorer`, a multiple of ``tile_step``; 0 for a
            :class:`OneStepRestorer`, whose tokenizer says it.
        tile_step: step in pixels between the sides that tiles of a :class:`FirstStageRestorer` may have.
        extra_block: append the full-resolution block of accumulated codes to the pyramid tokens (released: yes).
        sampling: default way from logits to codes, the best on validation for the model at hand.
        color_fix: default colour fix; ``wavelet`` takes the low band from the pre-restored image.
        wavelet_levels: dyadic levels counted as high band; 1 = finest detail only, 5 = all but colour and shading.
        input_color_levels: the pre-restored image takes the bands coarser than so many dyadic levels from the
            degraded one, for pre-restorers that shift colours; 0 = none, 5 = colour and shading.
        largest_tile: the model also takes tiles up to this side, in steps of its stride, with stretched scales;
            fewer tiles then cover an image. 0 = its native tile only.
        upscale_filter: what the model's input is upscaled with before tiles are cut, as in its training: ``lanczos``
            (released), ``bicubic`` (a = -0.5) or ``bicubic_sharp`` (a = -0.75, as OpenCV and PyTorch have it).
        takes_text: trained with text features; otherwise only the learned null condition means anything.
        causal: the student's positions see their own and coarser scales only, and there is no extra block: what the
            attention between all scales is measured against.
        steps: ``all``: the transformer predicts scale after scale, see :mod:`varestorer_models.multistep`.
    """

    scale: int = 4
    tile: int = 0
    tile_step: int = 16
    extra_block: bool = True
    sampling: Sampling = "sample"
    color_fix: ColorFix = "none"
    wavelet_levels: int = 5
    input_color_levels: int = 0
    largest_tile: int = 0
    upscale_filter: Literal["lanczos", "bicubic", "bicubic_sharp"] = "lanczos"
    takes_text: bool = False
    causal: bool = False
    steps: Literal["one", "all"] = "one"


@dataclass(frozen=True)
class RestoredTiles:
    """Restored tiles and the pre-restored ones they were made from, both (B, 3, T, T) in [0, 1]."""

    image_B3TT: Tensor
    prerestored_B3TT: Tensor


class FirstStageRestorer(nn.Module):
    """The first stage of the method alone: the pre-restorer, with the colours of its input; it has no tokens.

    In and out: float32 RGB tiles (B, 3, T, T) in [0, 1], the input already upscaled to the wanted size, the output of
    the same size. Each side is one of ``tile_sides`` or ``small_sides``, multiples of ``tile_step``. The same holds for
    :class:`OneStepRestorer`, whose tile is its tokenizer's.

    Args:
        config: settings; of them ``scale``, ``tile``, ``largest_tile``, ``input_color_levels`` and ``upscale_filter``
            matter here.
        prerestorer: image (B, 3, H, W) in [0, 1] -> the same size.
    """

    def __init__(self, config: RestorerConfig, prerestorer: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.prerestorer = prerestorer

    def components(self) -> dict[str, nn.Module]:
        """The parts by name, as a model file stores them."""
        return {"prerestorer": self.prerestorer}

    @property
    def tile(self) -> int:
        """Side in pixels of the square tile the model works on."""
        return self.config.tile

    @property
    def tile_sides(self) -> range:
        """Sides a tile may have, the native one first; an image of the largest side fits with its margin."""
        largest = self.tile
        if self.config.largest_tile > self.tile:
            largest = self.config.largest_tile + 2 * self.border_margin
        return range(self.tile, largest + 1, self._tile_step)

    @property
    def small_sides(self) -> range:
        """Sides below the native one, for images smaller than a tile; the network is convolutions only."""
        return range(2 * self._tile_step, self.tile, self._tile_step)

    @property
    def border_margin(self) -> int:
        """Pixels by which an image is to go on beyond its border, since convolutions pad with zeros.

        Without it the bundled ``compact`` made the corners of a black image up to 24 of 255 levels brighter; two pixels
        of the degraded image leave 0.7.
        """
        return 2 * self.config.scale

    @property
    def _tile_step(self) -> int:
        return self.config.tile_step

    def prerestore(self, degraded_B3TT: Tensor) -> Tensor:
        """Degraded image in [0, 1] -> pre-restored image, about [0, 1]."""
        out: Tensor = self.prerestorer(degraded_B3TT).float()
        if self.config.input_color_levels:
            # the wavelet fix with one low band instead of two: the band is linear
            return out + wavelet_low(degraded_B3TT.float() - out, self.config.input_color_levels)
        return out

    def forward(self, degraded_B3TT: Tensor) -> RestoredTiles:
        """Restore a batch of tiles.

        Args:
            degraded_B3TT: tiles already upscaled to the wanted size, (B, 3, T, T) in [0, 1]; each side one of
                ``tile_sides``.

        Raises:
            ValueError: the tiles have a size the model does not work on.
        """
        self._require_tile_sides(degraded_B3TT)
        image = self.prerestore(degraded_B3TT).clamp(0, 1)
        return RestoredTiles(image, image)

    def _require_tile_sides(self, degraded_B3TT: Tensor) -> None:
        sides = self.tile_sides
        if any(side not in sides and side not in self.small_sides for side in degraded_B3TT.shape[-2:]):
            known = f"{self.tile}" if len(sides) == 1 else f"{sides[0]} to {sides[-1]} in steps of {sides.step}"
            raise ValueError(f"tiles are {tuple(degraded_B3TT.shape[-2:])}, the model works on sides of {known}")
