"""Colour fixes: the low frequencies of the result are taken from the pre-restored image."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def wavelet_low(image_BCHW: Tensor, levels: int) -> Tensor:
    """Low band of an undecimated wavelet (a trous, binomial 3x3 kernel, edges replicated).

    Args:
        image_BCHW: image.
        levels: dilation doubles at each; 1 keeps all but the finest detail, 5 only colour and shading.

    Returns:
        Low band of the same shape.
    """
    channels = image_BCHW.shape[1]
    row = image_BCHW.new_full((3,), 0.25)  # filled on the device: a tensor of a list would be a copy from the host
    row.narrow(0, 1, 1).fill_(0.5)
    vertical = row.view(1, 1, 3, 1).expand(channels, 1, 3, 1)
    horizontal = row.view(1, 1, 1, 3).expand(channels, 1, 1, 3)
    low = image_BCHW
    for level in range(levels):
        step = 2**level
        low = F.conv2d(F.pad(low, (0, 0, step, step), mode="replicate"), vertical, dilation=(step, 1), groups=channels)
        low = F.conv2d(
            F.pad(low, (step, step, 0, 0), mode="replicate"), horizontal, dilation=(1, step), groups=channels
        )
    return low


def wavelet_fix(image_BCHW: Tensor, source_BCHW: Tensor, levels: int = 5) -> Tensor:
    """High band of the image on the low band of the source (StableSR, section 3.3)."""
    return image_BCHW - wavelet_low(image_BCHW, levels) + wavelet_low(source_BCHW, levels)


def adain_fix(image_BCHW: Tensor, source_BCHW: Tensor) -> Tensor:
    """Give each channel the mean and deviation of the source (AdaIN, arXiv 1703.06868, equation 8)."""
    mean, deviation = image_BCHW.mean((2, 3), keepdim=True), image_BCHW.std((2, 3), keepdim=True)
    target_mean, target_deviation = (
        source_BCHW.mean((2, 3), keepdim=True),
        source_BCHW.std((2, 3), keepdim=True),
    )
    return (image_BCHW - mean) / deviation.clamp_min(1e-5) * target_deviation + target_mean
