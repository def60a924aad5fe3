"""How pixels are deflated for PNG and TIFF: by ISA-L, or by zlib where that leaves the smaller file.

ISA-L deflates photographs ten times as fast as zlib at level 4, to files 1 to 3 % larger; what has large even areas
(text, drawings, masks) it leaves 12 % and more larger, and zlib is fast there.
"""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from isal import isal_zlib

from varestorer_cli.core.image.image_data import OutputImage

_ZLIB_LEVEL = 4
_ISAL_LEVEL = 2
_SAMPLED_ROWS = 24


def deflater_for(output: OutputImage) -> Callable[[], Any]:
    """What makes a compressor (``compress``, ``flush``) for the pixels of an image; each makes one zlib stream."""
    if _is_even(output):
        return lambda: zlib.compressobj(_ZLIB_LEVEL)
    return lambda: isal_zlib.compressobj(_ISAL_LEVEL)


def _is_even(output: OutputImage) -> bool:
    """Whether most pixels are equal to their left neighbours, judged by a few rows."""
    if output.width < 2:
        return False
    tops = sorted({round(share * (output.height - 1)) for share in np.linspace(0, 1, _SAMPLED_ROWS)})
    same = [np.mean(row[:, 1:] == row[:, :-1]) for row in (output.rows(top, top + 1) for top in tops)]
    return bool(np.mean(same) > 0.5)
