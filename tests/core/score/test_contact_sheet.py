"""Contact sheets show every image once, in its place."""

from pathlib import Path

import numpy as np
import pytest
from conftest import save
from PIL import Image

from varestorer_cli.core.errors import InputError, OutputError
from varestorer_cli.core.score.contact_sheet import contact_sheet


def flat(folder: Path, name: str, color: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Path:
    path = folder / name
    Image.new("RGB", size, color).save(path)
    return path


def test_every_image_has_its_place(tmp_path: Path) -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]
    paths = [flat(tmp_path, f"{i}.png", color) for i, color in enumerate(colors)]
    target = tmp_path / "sheet.png"
    contact_sheet([paths[:2], paths[2:]], ["ours", "reference"], target, cell=32)
    sheet = np.asarray(Image.open(target))
    for index, color in enumerate(colors):
        y, x = 22 + (index // 2) * 36 + 16, 4 + (index % 2) * 36 + 16
        assert tuple(sheet[y, x]) == color


def test_rows_can_stand_side_by_side(tmp_path: Path) -> None:
    rows = [[flat(tmp_path, f"{i}.png", (i * 40, 0, 0))] for i in range(4)]
    target = tmp_path / "sheet.png"
    contact_sheet(rows, ["ours"], target, cell=16, per_line=2)
    assert Image.open(target).size == (2 * 20 + 4, 2 * 20 + 26)


def test_window_shows_the_same_part_of_images_of_different_size(tmp_path: Path) -> None:
    large = np.zeros((64, 64, 3), np.uint8)
    large[:32, 32:] = 255
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(large[::4, ::4]).save(tmp_path / "small.png")
    target = tmp_path / "sheet.png"
    row = [tmp_path / "small.png", tmp_path / "large.png"]
    contact_sheet([row], ["input", "reference"], target, cell=32, window=(0.75, 0.25, 0.5))
    sheet = np.asarray(Image.open(target))
    assert sheet[22:54, 4:36].min() == 255 and sheet[22:54, 40:72].min() == 255


def test_failures_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: cannot be read"):
        contact_sheet([[tmp_path / "text.png"]], ["ours"], tmp_path / "sheet.png")
    image = flat(tmp_path, "a.png", (1, 2, 3))
    with pytest.raises(OutputError, match=r"choose a \.jpg or \.png name"):
        contact_sheet([[image]], ["ours"], tmp_path / "sheet.nothing")


def test_images_are_shown_as_they_are_scored(tmp_path: Path) -> None:
    """Upright, and 16 bit reduced to 8: Pillow alone would clip them to white."""
    save(tmp_path / "deep.png", np.full((32, 32), 100 * 257, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 3
    half = np.zeros((32, 32, 3), np.uint8)
    half[16:] = 200
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    target = tmp_path / "sheet.png"
    contact_sheet([[tmp_path / "deep.png", tmp_path / "turned.png"]], ["a", "b"], target, cell=32)
    sheet = np.asarray(Image.open(target))
    assert (sheet[22:54, 4:36] == 100).all()
    assert (sheet[22:38, 40:72] == 200).all() and (sheet[38:54, 40:72] == 0).all()
