"""Seeded synthetic damage: a sharp image in, a small degraded one out.

The second-order pipeline of Real-ESRGAN (Wang et al. 2021, section 3): blur, resize, noise and JPEG, twice,
with a final sinc filter; and the single-stage pipeline of the released model (DiffBIR, Lin et al. 2024,
section 4.1), which is what a recipe with a ``downsample_range`` means.

Every draw comes from the one generator that the caller passes in, so that the same seed gives the same
bytes. Images are RGB, height x width x 3; inside, float32 in [0, 1].
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.special import bessel_j1

from varestorer_cli.core.degradation.recipes import RECIPES, DegradationConfig, load_recipe

__all__ = ["RECIPES", "DegradationConfig", "degrade", "load_recipe"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_SMALLEST_KERNEL = 7
_SMALLEST_SIDE = 16  # a stage never shrinks a side below this many pixels
_MODES = ("area", "bilinear", "bicubic")
_PILLOW = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_OPENCV = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def degrade(image: npt.NDArray[Any], scale: int, config: DegradationConfig, rng: np.random.Generator) -> Bytes:
    """Damage one image and reduce it by ``scale``.

    Args:
        image: (H, W, 3) RGB, uint8 or float in [0, 1]; H and W multiples of ``scale``.
        scale: How many times smaller the result is.
        config: The recipe.
        rng: Where every draw comes from; advanced by an amount that depends on what was drawn.

    Returns:
        (H / scale, W / scale, 3) uint8 RGB.

    Raises:
        ValueError: Wrong rank or channels, or a side that ``scale`` does not divide.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an (H, W, 3) RGB image, got shape {image.shape}")
    height, width = image.shape[:2]
    if height % scale or width % scale or not height or not width:
        raise ValueError(f"the image is {width}x{height}: both sides must be multiples of the scale {scale}")
    work = image.astype(np.float32)
    if image.dtype == np.uint8:
        work /= 255
    size = (height // scale, width // scale)
    if config.no_degradation_prob and rng.random() < config.no_degradation_prob:
        return _to_bytes(_resize(work, size, "bicubic", antialias=True))
    if config.downsample_range is not None:
        return _single_stage(work, size, config, config.downsample_range, rng)
    return _second_order(work, size, config, rng)


def _single_stage(
    work: Floats,
    size: tuple[int, int],
    config: DegradationConfig,
    downsample_range: tuple[float, float],
    rng: np.random.Generator,
) -> Bytes:
    height, width = work.shape[:2]
    work = _filter(work, _draw_kernel(config, "", rng))
    factor = 1 / rng.uniform(*downsample_range)
    work = _resize(work, _scaled((height, width), factor), "bilinear", config.antialias)
    work = _jpeg(_noise(work, config, "", rng), config.jpeg_range, rng)
    # The published pipeline goes back to full size; a small result has to average where it shrinks.
    return _to_bytes(_resize(work, size, "bilinear", antialias=True))


def _second_order(work: Floats, size: tuple[int, int], config: DegradationConfig, rng: np.random.Generator) -> Bytes:
    work = _filter(work, _draw_kernel(config, "", rng))
    work = _draw_resize(work, work.shape[:2], config, "", rng)
    work = _jpeg(_noise(work, config, "", rng), config.jpeg_range, rng)

    if rng.random() < config.second_blur_prob:
        work = _filter(work, _draw_kernel(config, "2", rng))
    work = _draw_resize(work, size, config, "2", rng)
    work = _noise(work, config, "2", rng)

    sinc = _draw_final_sinc(config, rng)
    mode = str(rng.choice(_MODES))
    if config.final_order == "sinc_resize_jpeg":
        work = np.clip(_filter(work, sinc), 0, 1)
        return _to_bytes(_jpeg(_resize(work, size, mode, config.antialias), config.jpeg_range2, rng))
    if rng.random() < 0.5:
        work = _filter(_resize(work, size, mode, config.antialias), sinc)
        return _to_bytes(_jpeg(work, config.jpeg_range2, rng))
    work = _jpeg(work, config.jpeg_range2, rng)
    return _to_bytes(_filter(_resize(work, size, mode, config.antialias), sinc))


def _draw_kernel(config: DegradationConfig, end: str, rng: np.random.Generator) -> Floats:
    """A blur kernel of stage ``end`` ("" or "2"), sum 1: odd square, or (size,) when it is separable."""
    size = _draw_size(getattr(config, f"blur_kernel_size{end}"), rng)
    if rng.random() < getattr(config, f"sinc_prob{end}"):
        low, high = config.sinc_cutoff
        # A short kernel cannot hold a low cut-off: its first zero would lie outside.
        low = max(low, 1 / 3) if size < 13 else low
        return _sinc(size, rng.uniform(low, high), config.sinc_window)
    odds = np.asarray(getattr(config, f"kernel_prob{end}"))
    kind = str(rng.choice(getattr(config, f"kernel_list{end}"), p=odds / odds.sum()))
    sigma_range = getattr(config, f"blur_sigma{end}")
    sigma_x = sigma_y = rng.uniform(*sigma_range)
    if kind == "iso":
        line = np.exp(-0.5 * (_taps(size) / sigma_x) ** 2)
        return np.asarray(line / line.sum(), dtype=np.float32)
    theta = 0.0
    if kind.endswith("aniso"):
        sigma_y, theta = rng.uniform(*sigma_range), rng.uniform(-np.pi, np.pi)
    distance = _ellipse(size, sigma_x, sigma_y, theta)
    if kind.startswith("plateau"):
        kernel = 1 / (1 + distance ** _draw_beta(getattr(config, f"betap_range{end}"), rng))
    elif kind.startswith("generalized"):
        kernel = np.exp(-0.5 * distance ** _draw_beta(getattr(config, f"betag_range{end}"), rng))
    else:
        kernel = np.exp(-0.5 * distance)
    return _trim((kernel / kernel.sum()).astype(np.float32))


def _trim(kernel: Floats) -> Floats:
    """Drop rims that hold less than one 8-bit step together: small kernels filter several times faster."""
    while kernel.shape[0] > _SMALLEST_KERNEL:
        core = kernel[1:-1, 1:-1]
        if core.sum() < 1 - 1 / 512:
            break
        kernel = core
    return np.ascontiguousarray(kernel / kernel.sum(), dtype=np.float32)


def _draw_size(largest: int, rng: np.random.Generator) -> int:
    return int(2 * rng.integers(_SMALLEST_KERNEL // 2, largest // 2 + 1) + 1)


def _draw_beta(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Half of the draws below 1 (heavy tails), half above, where the range holds both sides."""
    low, high = limits
    if low < 1 < high:
        return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
    return float(rng.uniform(low, high))


def _draw_final_sinc(config: DegradationConfig, rng: np.random.Generator) -> Floats | None:
    if rng.random() >= config.final_sinc_prob:
        return None
    size = config.final_kernel_size or _draw_size(config.blur_kernel_size2, rng)
    return _sinc(size, rng.uniform(*config.final_sinc_cutoff), config.sinc_window)


def _taps(size: int) -> npt.NDArray[np.float64]:
    return np.arange(-(size // 2), size // 2 + 1, dtype=np.float64)


def _ellipse(size: int, sigma_x: float, sigma_y: float, theta: float) -> npt.NDArray[np.float64]:
    """Squared distance to the centre in units of the rotated sigmas."""
    rows, columns = _taps(size)[:, None], _taps(size)
    cos, sin = np.cos(theta), np.sin(theta)
    along, across = cos * columns + sin * rows, cos * rows - sin * columns
    return np.asarray((along / sigma_x) ** 2 + (across / sigma_y) ** 2)


def _sinc(size: int, cutoff: float, window: bool) -> Floats:
    """Ideal low-pass at ``cutoff`` of Nyquist: rings and overshoots at edges.

    Circular: cutoff * J1(pi * cutoff * r) / (2 r), the transform of a disc; separable otherwise.
    """
    if window:
        kernel = np.sinc(cutoff * _taps(size)) * np.hanning(size + 2)[1:-1]
    else:
        radius = np.hypot(_taps(size)[:, None], _taps(size))
        radius[size // 2, size // 2] = 1
        kernel = cutoff * bessel_j1(torch.from_numpy(np.pi * cutoff * radius)).numpy() / (2 * radius)
        kernel[size // 2, size // 2] = np.pi * cutoff**2 / 4
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def _filter(work: Floats, kernel: Floats | None) -> Floats:
    if kernel is None:
        return work
    if kernel.ndim == 1:
        return np.asarray(cv2.sepFilter2D(work, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101))
    return np.asarray(cv2.filter2D(work, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _scaled(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(_SMALLEST_SIDE, round(size[0] * factor)), max(_SMALLEST_SIDE, round(size[1] * factor))


def _draw_resize(
    work: Floats, base: tuple[int, ...], config: DegradationConfig, end: str, rng: np.random.Generator
) -> Floats:
    """Resize to ``base`` times a drawn factor: up, down, or ``base`` itself."""
    up, down, keep = getattr(config, f"resize_prob{end}")
    low, high = getattr(config, f"resize_range{end}")
    draw = rng.random() * (up + down + keep)
    if draw < up:
        factor = rng.uniform(max(1.0, low), max(1.0, high))
    elif draw < up + down:
        factor = rng.uniform(min(1.0, low), min(1.0, high))
    else:
        factor = 1.0
    return _resize(work, _scaled(base, factor), str(rng.choice(_MODES)), config.antialias)


def _resize(work: Floats, size: tuple[int, int], mode: str, antialias: bool) -> Floats:
    """Resize to (height, width), pixel centres aligned."""
    if work.shape[:2] == size:
        return work
    height, width = size
    shrinks = height < work.shape[0] or width < work.shape[1]
    # OpenCV averages only in its area mode, and there interpolates when it grows, where others repeat pixels.
    if shrinks if mode == "area" else not (shrinks and antialias):
        return np.asarray(cv2.resize(work, (width, height), interpolation=_OPENCV[mode]))
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(work[..., c])).resize((width, height), _PILLOW[mode]))
        for c in range(3)
    ]
    return np.stack(planes, axis=-1)


def _noise(work: Floats, config: DegradationConfig, end: str, rng: np.random.Generator) -> Floats:
    """Add Gaussian or Poisson noise, the same in all channels ("gray") or not; result clipped to [0, 1]."""
    gray = rng.random() < getattr(config, f"gray_noise_prob{end}")
    if rng.random() < getattr(config, f"gaussian_noise_prob{end}"):
        sigma = rng.uniform(*getattr(config, f"noise_range{end}")) / 255
        grain = rng.standard_normal((*work.shape[:2], 1 if gray else 3), dtype=np.float32)
        return np.clip(work + grain * np.float32(sigma), 0, 1)
    strength = rng.uniform(*getattr(config, f"poisson_scale_range{end}"))
    clean = np.clip(work, 0, 1)
    light = np.asarray(cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY))[..., None] if gray else clean
    grain = _poisson(np.asarray(light * 255, dtype=np.float32), rng) / np.float32(255) - light
    return np.clip(work + grain * np.float32(strength), 0, 1)


def _poisson(mean: Floats, rng: np.random.Generator) -> Floats:
    """Poisson counts by the Cornish-Fisher expansion of a normal draw, to the order of the skewness.

    Mean and variance are right to 0.05 counts and 6 % down to a mean of 1. Four times as fast as the exact
    sampler, which would take longer than all other steps together.
    """
    z = rng.standard_normal(mean.shape, dtype=np.float32)
    return np.asarray(np.maximum(np.rint(mean + np.sqrt(mean) * z + (z * z - 1) / 6), 0))


def _jpeg(work: Floats, quality_range: tuple[float, float], rng: np.random.Generator) -> Floats:
    quality = int(rng.integers(int(quality_range[0]), int(quality_range[1]) + 1))
    # The codec takes BGR; colour planes at half resolution, as cameras and web pages store them.
    done, coded = cv2.imencode(".jpg", _to_bytes(work)[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not done:
        raise RuntimeError(f"JPEG encoding of a {work.shape} image failed")
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
    return np.asarray(decoded, dtype=np.float32) / np.float32(255)


def _to_bytes(work: Floats) -> Bytes:
    return np.clip(np.rint(work * 255), 0, 255).astype(np.uint8)
