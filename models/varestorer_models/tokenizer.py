"""Image tokenizer: image <-> bits of all scales (autoencoder and quantiser with their schedule)."""

from dataclasses import dataclass

from torch import Tensor, nn

from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.quantizer import MultiScaleQuantizer, Quantized, QuantizerConfig
from varestorer_models.schedule import ScaleSchedule


@dataclass(frozen=True)
class TokenizerConfig:
    """Parts of an :class:`ImageTokenizer`.

    Attributes:
        autoencoder: between images and latents.
        quantizer: of the latents.
        schedule: grids of the scales; the last one fixes the tile size.
    """

    autoencoder: AutoencoderConfig
    quantizer: QuantizerConfig
    schedule: ScaleSchedule

    def __post_init__(self) -> None:
        if self.autoencoder.latent_channels != self.quantizer.bits:
            raise ValueError(
                f"the autoencoder has {self.autoencoder.latent_channels} latent channels, "
                f"the quantiser {self.quantizer.bits} bits; they must be equal"
            )

    @property
    def tile(self) -> int:
        """Side in pixels of the square image one schedule describes."""
        return self.autoencoder.stride * self.schedule.latent_grid[0]


class ImageTokenizer(nn.Module):
    """Autoencoder and multi-scale quantiser under one schedule."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = Autoencoder(config.autoencoder)
        self.quantizer = MultiScaleQuantizer(config.quantizer)

    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Image (B, 3, H, W) in [-1, 1] -> latent (B, d, h, w)."""
        return self.autoencoder.encode(image_B3HW)

    def schedule_for(self, grid: tuple[int, int]) -> ScaleSchedule:
        """The schedule of a latent grid: the native one, its full-resolution scales stretched or shrunk to the grid.

        Coarse scales keep their grids, which pool over other areas then; none is finer than the latent grid.
        """
        schedule = self.config.schedule
        if grid == schedule.latent_grid:
            return schedule
        return ScaleSchedule(
            tuple(
                grid if own == schedule.latent_grid else (min(own[0], grid[0]), min(own[1], grid[1]))
                for own in schedule.grids
            )
        )

    def quantize(self, latent_Bdhw: Tensor) -> Quantized:
        """Latent -> bits of all scales, pyramid tokens and accumulated codes."""
        height, width = latent_Bdhw.shape[-2:]
        return self.quantizer(latent_Bdhw, self.schedule_for((height, width)))  # type: ignore[no-any-return]

    def decode(self, accumulated_Bdhw: Tensor, guide_B3HW: Tensor | None = None, *, clamp: bool = True) -> Tensor:
        """Accumulated codes -> image (B, 3, H, W) in [-1, 1]; with a guide, its codes are to be subtracted before."""
        return self.autoencoder.decode(accumulated_Bdhw, guide_B3HW, clamp=clamp)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Round trip through the bits: image in [-1, 1] -> image in [-1, 1], the ceiling of any restorer."""
        return self.decode(self.quantize(self.encode(image_B3HW)).accumulated_Bdhw)
