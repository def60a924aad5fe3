"""What deflates pixels: files stay within a tenth of the peers', photographs and drawings alike."""

import io
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.image.deflate import deflater_for
from varestorer_cli.core.image.image_data import Extras, OutputImage
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.image.writer import write_image
from varestorer_cli.core.weights.root import PACKAGE


def photograph(depth: int) -> Any:
    samples = (decode(read_bytes(path)).color for path in sorted((PACKAGE / "data" / "samples").glob("*.png")))
    small = np.concatenate(list(samples), 1).astype(np.float32) * (1 if depth == 8 else 257)
    large = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    return np.clip(large + 0.5, 0, 2**depth - 1).astype(np.uint8 if depth == 8 else np.uint16)


def drawing(depth: int) -> Any:
    image = np.full((512, 512, 3), 240, np.uint8)
    for number in range(12):
        cv2.circle(image, (40 * number, 37 * number), 60, (20 * number, 90, 200), 3)
        cv2.putText(image, f"line {number}", (10, 40 * number + 30), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 0, 0), 1)
    return image if depth == 8 else image.astype(np.uint16) * 257


@pytest.mark.filterwarnings("error")
def test_an_image_of_one_column_is_no_warning() -> None:
    output = OutputImage(np.zeros((40, 1, 3), np.uint8), gray=False, alpha_rows=None, extras=Extras())
    assert zlib.decompress((packer := deflater_for(output)()).compress(b"abc") + packer.flush()) == b"abc"


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("make", [photograph, drawing])
def test_a_tiff_is_at_most_a_tenth_larger_than_opencvs(make: Any, depth: int) -> None:
    pixels, stream = make(depth), io.BytesIO()
    output = OutputImage(pixels, gray=False, alpha_rows=None, extras=Extras())
    write_image(stream, output, ImageFormat.TIFF, 95, "varestorer")
    deflated = [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE]
    theirs = cv2.imencode(".tif", pixels[..., ::-1], deflated)[1]
    assert np.array_equal(tifffile.imread(io.BytesIO(stream.getvalue())), pixels)
    assert len(stream.getvalue()) <= 1.1 * len(theirs)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_drawing_is_left_to_zlib_and_a_photograph_is_not(depth: int) -> None:
    for make, zlibs in ((drawing, True), (photograph, False)):
        pixels = make(depth)
        packer = deflater_for(OutputImage(pixels, gray=False, alpha_rows=None, extras=Extras()))()
        data = pixels.tobytes()
        packed = packer.compress(data) + packer.flush()
        assert zlib.decompress(packed) == data
        assert (packed == zlib.compress(data, 4)) is zlibs
