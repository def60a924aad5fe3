"""Camera raw files: developed by LibRaw at 16 bits, never their thumbnail; a sentence where rawpy is missing."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Ran, load, rows, save

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import raw_backend
from varestorer_cli.core.image.reader import decode, probe

Cli = Callable[..., Ran]
HEIGHT, WIDTH = 96, 128


def dng(orientation: int = 1) -> bytes:
    """A red and a blue half behind a Bayer filter; a white thumbnail is the first page, as cameras write it."""
    scene = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
    scene[:, : WIDTH // 2] = (40000, 4000, 4000)
    scene[:, WIDTH // 2 :] = (4000, 4000, 40000)
    mosaic = scene[..., 1].copy()
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = scene[0::2, 0::2, 0], scene[1::2, 1::2, 2]
    matrix = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    main: list[Any] = [
        (271, 2, 9, "CamMaker", True),
        (274, 3, 1, orientation, True),
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),
        (50708, 2, 7, "Camera", True),
        (50721, 10, 9, tuple(number for value in matrix for number in (value, 1)), True),
        (50728, 5, 3, (1, 1, 1, 1, 1, 1), True),
        (50778, 3, 1, 21, True),
    ]
    below: list[Any] = [
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, bytes([0, 1, 1, 2]), True),
        (50717, 4, 1, 65535, True),
    ]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        thumbnail = np.full((12, 16, 3), 255, np.uint8)
        file.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1, extratags=main, metadata=None)
        file.write(mosaic, photometric=32803, subfiletype=0, extratags=below, metadata=None)
    return stream.getvalue()


@pytest.mark.parametrize(("orientation", "red"), [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_the_raw_data_are_developed_upright_and_not_the_thumbnail(orientation: int, red: str, tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    image = decode(dng(orientation))
    assert (image.source, image.depth, image.gray, image.alpha) == ("camera raw", 16, False, None)
    size = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    assert (image.width, image.height) == size
    parts = {
        "left": image.color[:, : WIDTH // 4],
        "right": image.color[:, -WIDTH // 4 :],
        "top": image.color[: HEIGHT // 4],
        "bottom": image.color[-HEIGHT // 4 :],
    }
    means = {name: part.reshape(-1, 3).mean(0) for name, part in parts.items()}
    assert max(parts, key=lambda name: means[name][0] - means[name][2]) == red
    assert image.color.mean() < 40000  # the thumbnail is white
    assert image.extras.exif is not None and image.extras.exif.text(271) == "CamMaker"
    assert [(loss.name, loss.strict) for loss in image.losses] == [("raw", False), ("makernote", False)]
    (tmp_path / "a.dng").write_bytes(dng(orientation))
    assert probe(tmp_path / "a.dng") == size


def test_what_libraw_does_not_read_is_said() -> None:
    pytest.importorskip("rawpy")
    for data in (b"FUJIFILMCCD-RAW 0201" + bytes(500), dng()[:900]):
        with pytest.raises(InputError):
            decode(data)


def test_a_folder_of_raw_files(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.dng").write_bytes(dng())
    assert cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "1").code == 0
    assert load(tmp_path / "out/a.png").dtype == np.uint16
    (row,) = rows(tmp_path / "out/metrics.csv")
    assert (row["width"], row["depth"], row["warnings"].partition(":")[0]) == (str(WIDTH), "16", "raw")


def test_without_the_extra(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.setattr(raw_backend, "is_installed", lambda extra: False)
    save(tmp_path / "in/b.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in/a.dng").write_bytes(dng())
    (tmp_path / "in/c.raf").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(500))
    ran = cli("restore", tmp_path / "in", tmp_path / "out")
    assert ran.code == 0 and "a.dng: a camera raw file, which needs the extra raw (package rawpy)" in ran.err
    for name, kind in (("a.dng", "DNG"), ("c.raf", "Fujifilm RAF")):
        ran = cli("restore", tmp_path / "in" / name, tmp_path / "one.png")
        assert ran.code == 1
        assert f"a camera raw file by its content ({kind}), which needs the extra raw: install rawpy" in ran.err
