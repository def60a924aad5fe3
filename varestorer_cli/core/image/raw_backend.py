"""Camera raw files developed by LibRaw through rawpy (extra ``raw``), never their thumbnails.

Developed are 16 bits per sample in sRGB, with the white balance of the camera, without automatic brightness, turned
upright; linear light goes through the curve of sRGB (IEC 61966-2-1: power 2.4, slope 12.92).
"""

import io
from typing import Any, BinaryIO

import numpy as np

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.extras import is_installed
from varestorer_cli.core.image.formats import camera_raw
from varestorer_cli.core.image.image_data import Loss, Samples


def _open(source: BinaryIO, kind: str) -> Any:
    if not is_installed("raw"):
        raise InputError(camera_raw(kind))
    import rawpy

    try:
        return rawpy.imread(source)
    except rawpy.LibRawError as error:
        said = error.args[0] if error.args else error
        said = said.decode("latin-1") if isinstance(said, bytes) else said
        raise InputError(f"a camera raw file ({kind}) that LibRaw does not read ({said})") from error


def probe(source: BinaryIO, kind: str) -> tuple[int, int]:
    """(width, height) upright.

    Args:
        source: the file.
        kind: for messages.

    Raises:
        InputError: rawpy is missing, or does not read the file.
    """
    with _open(source, kind) as raw:
        sizes = raw.sizes
        size = int(sizes.iwidth), int(sizes.iheight)
        return size[::-1] if sizes.flip in (5, 6) else size


def read(data: bytes, kind: str, losses: list[Loss]) -> Samples:
    """(H, W, 3) uint16 sRGB, upright.

    Raises:
        InputError: rawpy is missing, or does not read the file.
    """
    with _open(io.BytesIO(data), kind) as raw:
        import rawpy

        pixels: Samples = raw.postprocess(
            output_bps=16,
            output_color=rawpy.ColorSpace.sRGB,
            gamma=(2.4, 12.92),
            no_auto_bright=True,
            use_camera_wb=True,
        )
    losses.append(
        Loss("raw", f"the camera raw file ({kind}) is developed by LibRaw: sRGB, white balance as shot", strict=False)
    )
    return np.ascontiguousarray(pixels)
