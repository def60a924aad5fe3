"""The released command from image to image around our modules, its habits included.

It squashes an image to one square tile or always pads a tiled one, truncates to 8 bits and returns BGR; none of
that is wanted elsewhere, so it lives with the tests that compare whole images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from varestorer_models.autoencoder import Autoencoder
from varestorer_models.quantizer import MultiScaleQuantizer
from varestorer_models.sampler import draw_bits
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.swinir import SwinIR
from varestorer_models.transformer import Condition, Transformer

Photo = NDArray[np.uint8]

TILE = 512
OVERLAP = 128


@dataclass(frozen=True)
class Steps:
    """What one tile passes through, in order: (1, 3, T, T) images, (1, d, h, w) maps, (1, L, d) rows."""

    clean: Tensor
    latent: Tensor
    bits_in: Tensor
    tokens: Tensor
    logits: Tensor
    bits: Tensor
    codes: Tensor
    image: Tensor


@dataclass(frozen=True)
class ReleasedModels:
    """The three networks and the schedule of the released command."""

    prerestorer: SwinIR
    autoencoder: Autoencoder
    transformer: Transformer
    quantizer: MultiScaleQuantizer
    schedule: ScaleSchedule

    @torch.inference_mode()
    def restore_tile(self, tile: Photo, condition: Condition, uniforms_1Ld2: Tensor) -> Steps:
        """One tile, 8-bit RGB, as large as the schedule says."""
        image = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        clean = self.prerestorer((image + 1) / 2)
        latent = self.autoencoder.encode(clean + clean - 1)
        quantized = self.quantizer(latent, self.schedule)
        tokens = quantized.tokens_with_extra()
        logits = self.transformer(tokens, self.schedule, condition, extra_block=True)
        bits = draw_bits(logits, uniforms_1Ld2)
        codes = self.quantizer.accumulate(bits, self.schedule)
        restored = self.autoencoder.decode(codes)
        return Steps(clean, latent, quantized.bits_BLd, tokens, logits, bits, codes, restored)


def to_bgr(image_13HW: Tensor) -> Photo:
    """[-1, 1] -> 8-bit BGR by truncation, in float32."""
    values = (image_13HW[0].permute(1, 2, 0) + 1) / 2 * 255
    return values.to(torch.uint8).flip(-1).numpy()


def evaluation_noise(seed: int, schedule: ScaleSchedule, bits: int) -> Iterator[Tensor]:
    """Uniforms (1, L, d, 2) of one tile after another, drawn scale by scale from a generator seeded once."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        scales = [torch.rand((1, height * width * bits, 2), generator=generator) for height, width in schedule.grids]
        yield torch.cat([scale.view(1, -1, bits, 2) for scale in scales], dim=1)


def restore_image(
    picture_rgb: Photo,
    sr_scale: float,
    *,
    tiled: bool,
    restore: Callable[[Photo], Photo],
    side: int = TILE,
    overlap: int = OVERLAP,
) -> Photo:
    """The command's handling of a whole image.

    Args:
        picture_rgb: 8-bit HWC.
        sr_scale: factor of both sides.
        tiled: overlapping tiles instead of one squashed one.
        restore: RGB tile -> BGR tile.
        side: of the tiles; the script knows 512 only.
        overlap: of the tiles.

    Returns:
        8-bit BGR image.
    """
    height, width = (max(1, round(side * sr_scale)) for side in picture_rgb.shape[:2])
    image = Image.fromarray(picture_rgb)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if tiled:
        return _restore_tiled(np.asarray(image), restore, side, overlap)
    square = image if image.size == (side, side) else image.resize((side, side), Image.Resampling.LANCZOS)
    restored = restore(np.asarray(square))
    if (width, height) == (side, side):
        return restored
    return np.array(Image.fromarray(restored).resize((width, height), Image.Resampling.LANCZOS))


def _restore_tiled(pixels: Photo, restore: Callable[[Photo], Photo], side: int, overlap: int) -> Photo:
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((overlap, overlap), (overlap, overlap), (0, 0)), mode="reflect")
    weighted = np.zeros(padded.shape, np.float32)
    weights = np.zeros((*padded.shape[:2], 1), np.float32)
    window = _tile_weight(side)
    for top in _positions(padded.shape[0], side, overlap):
        for left in _positions(padded.shape[1], side, overlap):
            tile = padded[top : top + side, left : left + side]
            rows, columns = tile.shape[:2]
            tile = np.pad(tile, ((0, side - rows), (0, side - columns), (0, 0)), mode="reflect")
            restored = restore(tile)[:rows, :columns].astype(np.float32)
            weight = window[:rows, :columns, None]
            weighted[top : top + rows, left : left + columns] += restored * weight
            weights[top : top + rows, left : left + columns] += weight
    blended = np.rint(weighted / np.maximum(weights, 1e-8)).clip(0, 255).astype(np.uint8)
    return blended[overlap : overlap + height, overlap : overlap + width]


def _positions(size: int, side: int, overlap: int) -> Iterator[int]:
    if size <= side:
        yield 0
        return
    last = size - side
    yield from range(0, last, side - overlap)
    yield last


def _tile_weight(side: int) -> NDArray[np.float32]:
    position = np.arange(side, dtype=np.float64)
    middle = (side - 1) / 2
    profile = np.exp(-((position - middle) ** 2) / side**2 / 0.02) / np.sqrt(2 * np.pi * 0.01)
    window = np.outer(profile, profile).astype(np.float32)
    return window / window.max()
