"""``restore --pages``: the first, one or all pages of a TIFF file, held against tifffile."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Ran, photo, rows

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.image import exif
from varestorer_cli.core.image.image_data import Extras, OutputImage
from varestorer_cli.core.image.reader import decode, probe
from varestorer_cli.core.image.writer import write_image
from varestorer_cli.core.options import RestoreOptions

Cli = Callable[..., Ran]
PAGES = (photo(12, 16), photo(20, 10, 1, 16, seed=1)[..., 0], photo(9, 9, 4, seed=2))
SIZES = [(page.shape[1], page.shape[0]) for page in PAGES]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    with tifffile.TiffWriter("in/scan.tif") as file:
        file.write(PAGES[0], photometric="rgb", description="one", metadata=None)
        file.write(PAGES[0][::4, ::4], photometric="rgb", subfiletype=1, metadata=None)  # its thumbnail
        file.write(PAGES[1], photometric="minisblack", description="two", metadata=None)
        file.write(PAGES[2], photometric="rgb", extrasamples=["unassalpha"], metadata=None)


def stored(data: bytes) -> list[Any]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return [page.asarray() for page in file.pages]


def test_all_pages_go_into_one_file(cli: Cli) -> None:
    ran = cli("restore", "in", "out", "--scale", "2", "--pages", "all", "--strict")
    assert ran.code == 0 and "warning" not in ran.err, ran.err
    found = stored(Path("out/scan.tif").read_bytes())
    assert [page.shape for page in found] == [(24, 32, 3), (40, 20), (18, 18, 4)]
    assert [page.dtype for page in found] == [np.uint8, np.uint16, np.uint8]
    for page, size, number in zip(found, SIZES, (1, 2, 3), strict=True):
        assert cli("restore", "in", f"out{number}", "--scale", "2", "--pages", str(number), "--strict").code == 0
        (one,) = stored(Path(f"out{number}/scan.tif").read_bytes())
        np.testing.assert_array_equal(one, page)
        assert probe("in/scan.tif", pages=str(number)) == size
    with tifffile.TiffFile("out/scan.tif") as file:
        assert [page.description for page in file.pages] == ["one", "two", ""]
        assert all("fingerprint" in page.software for page in file.pages)
    assert "1 already up to date" in cli("restore", "in", "out", "--scale", "2", "--pages", "all").err
    (row,) = rows(Path("out/metrics.csv"))
    assert (row["width"], row["height"]) == ("16", "12")


def test_the_first_page_is_the_default_and_the_others_are_named(cli: Cli) -> None:
    ran = cli("restore", "in", "out", "--scale", "1")
    assert "only the first of 3 pages is restored" in ran.err
    assert len(stored(Path("out/scan.tif").read_bytes())) == 1
    hashes = [
        RestoreOptions(pages=pages).settings_sha256(overlap=1, sampling="", format=ImageFormat.TIFF)
        for pages in ("first", "all", "1")
    ]
    assert hashes[0] == RestoreOptions().settings_sha256(overlap=1, sampling="", format=ImageFormat.TIFF)
    assert len(set(hashes)) == 3


def test_what_cannot_be_is_said(cli: Cli) -> None:
    ran = cli("restore", "in/scan.tif", "x.png", "--pages", "all")
    assert ran.code == 1 and "its 3 pages can be written to TIFF only; add --format tif" in ran.err
    ran = cli("restore", "in/scan.tif", "x.png", "--pages", "4")
    assert ran.code == 1 and "page 4 is asked for, and the file has 3 pages" in ran.err
    ran = cli("restore", "in", "out", "--pages", "0")
    assert ran.code == 2 and "--pages 0: first, all, or the number of a page from 1 is possible" in ran.err
    assert "would fail: page 4 is asked for" in cli("restore", "in", "out", "--pages", "4", "--dry-run").out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("where", [(True, True, True), (False, True, False), (False, False, True)])
def test_exif_of_every_page_is_kept(order: str, where: tuple[bool, ...]) -> None:
    outputs = []
    for number, has in enumerate(where):
        tags = {0x829A: exif.ExifTag(3, 1, (7 + number).to_bytes(2, "little" if order == "<" else "big"))}
        tree = exif.Exif(order, {0x010F: exif.ExifTag(2, 4, b"Cam\0")}, photo=tags) if has else None
        outputs.append(OutputImage(photo(8, 9 + number), False, None, Extras(exif=tree)))
    whole = OutputImage(outputs[0].color, False, None, outputs[0].extras, more=tuple(outputs[1:]))
    stream = io.BytesIO()
    write_image(stream, whole, ImageFormat.TIFF, 90, "varestorer test")
    image = decode(stream.getvalue(), pages="all")
    assert [page.width for page in image.pages] == [9, 10, 11]
    for number, (page, has) in enumerate(zip(image.pages, where, strict=True)):
        tree = page.extras.exif
        assert tree is not None and tree.text(exif.SOFTWARE) == "varestorer test"
        assert (0x829A in tree.photo) == has
        assert not has or int.from_bytes(tree.photo[0x829A].value, "little" if order == "<" else "big") == 7 + number
    assert len(stored(stream.getvalue())) == 3
