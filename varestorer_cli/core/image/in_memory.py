"""Images in memory, arrays and Pillow's, to what the stages work on, and back to the same kind."""

from typing import Any

import numpy as np
from PIL import Image

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.image_data import DecodedImage, Samples

_TOLERANCE = 0.1  # by which floats may leave [0, 1]: resampling overshoots
_MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "I;16": "I;16", "1": "L"}
_SHAPES = "(H, W), (H, W, 1), (H, W, 2) with alpha, (H, W, 3) or (H, W, 4) with alpha"


def from_array(array: Samples) -> DecodedImage:
    """An image from an array.

    Args:
        array: (H, W) or (H, W, 1) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB, (H, W, 4) RGB and straight alpha;
            uint8, uint16, or float32 in [0, 1].

    Raises:
        UsageError: another shape, type or range.
    """
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        raise UsageError(f"samples of type {array.dtype} are not supported: uint8, uint16 or float32 is needed")
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 4):
        raise UsageError(f"an array of shape {array.shape} is no image: {_SHAPES} is needed")
    if array.dtype == np.float32:
        array = _within_one(array)
    planes = array[..., None] if array.ndim == 2 else array
    has_alpha = planes.shape[2] in (2, 4)
    color = planes[..., :-1] if has_alpha else planes
    return DecodedImage(color, planes[..., -1] if has_alpha else None, "array")


def from_pillow(image: Image.Image) -> DecodedImage:
    """An image from Pillow's, pixels as they lie in it: EXIF orientation is for files.

    Args:
        image: of mode 1, L, LA, RGB, RGBA, P, PA or I;16.

    Raises:
        UsageError: another mode.
    """
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in _MODES:
        raise UsageError(
            f"a Pillow image of mode {image.mode} is not supported: convert it first, image.convert('RGB'), or give "
            "the path of its file"
        )
    mode = _MODES[image.mode]
    return from_array(np.asarray(image if mode == image.mode else image.convert(mode)))


def to_pillow(array: Samples, like: Image.Image) -> Image.Image:
    """Pillow's image of an array, with the colour profile of another.

    Args:
        array: (H, W) or (H, W, 2 to 4), uint8 or uint16.
        like: whose profile it gets.
    """
    result = Image.fromarray(array)
    profile = like.info.get("icc_profile")
    if profile:
        result.info["icc_profile"] = profile
    return result


def shaped_like(planes: Samples, array: Samples) -> Samples:
    """(H, W, channels) as the array is shaped: without the last axis where that has none."""
    return planes[..., 0] if array.ndim == 2 else planes


def _within_one(array: Any) -> Any:
    low, high = float(array.min()), float(array.max())  # NaN goes through both
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise UsageError(
            f"float32 samples must be in [0, 1], these are from {low:g} to {high:g}; divide by the largest value, "
            "255 for 8 bits"
        )
    return np.clip(array, 0, 1)
