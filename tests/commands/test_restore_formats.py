"""Every mode and format through ``varestorer restore``: what is kept, what is named as lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, load, photo, rows, save, tree
from PIL import Image, ImageCms

from varestorer_cli.core.image import exif
from varestorer_cli.core.image.reader import decode

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


MODES = ["L", "LA", "P", "1", "RGB", "RGBA", "CMYK", "I;16", "RGB16"]
FORMATS = ["png", "tif", "jpg", "webp"]
HOLDS = {
    "png": {"L", "LA", "P", "1", "RGB", "RGBA", "I;16", "RGB16"},
    "tif": {"L", "LA", "P", "1", "RGB", "RGBA", "I;16", "RGB16", "CMYK"},
    "jpg": {"L", "RGB", "CMYK"},
    "webp": {"RGB", "RGBA"},
}


def sample(mode: str, format: str) -> Path:
    """A file of this mode and format with a profile, EXIF and orientation 6."""
    path = Path(f"in/{mode.replace(';', '')}.{format}")
    path.parent.mkdir(exist_ok=True)
    if mode in ("I;16", "RGB16"):
        pixels = photo(10, 14, 1 if mode == "I;16" else 3, depth=16)
        return save(path, pixels[..., 0] if mode == "I;16" else pixels)
    rgb = Image.fromarray(photo(10, 14))
    if mode == "P":
        image = rgb.quantize(40)
    elif mode in ("LA", "RGBA"):
        image = rgb.convert(mode)
        image.putalpha(Image.fromarray(photo(10, 14, 1, seed=2)[..., 0]))
    else:
        image = rgb.convert(mode)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    settings: dict[str, Any] = {"exif": exif}
    if mode in ("RGB", "RGBA", "P"):
        settings["icc_profile"] = SRGB
    image.save(path, **settings)
    return path


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize(("mode", "source"), [(m, f) for f in FORMATS for m in MODES if m in HOLDS[f]])
def test_every_mode_and_format(cli: Cli, mode: str, source: str, target: str) -> None:
    sample(mode, source)
    ran = cli("restore", "in", "out", "--scale", "2", "--format", target)
    assert ran.code == 0, ran.err
    (output,) = Path("out").glob(f"*.{target}")
    opened = decode(output.read_bytes())
    (row,) = rows(Path("out/metrics.csv"))
    names = {warning.partition(":")[0] for warning in row["warnings"].split("; ")} - {""}
    deep, clear, gray = mode in ("I;16", "RGB16"), mode in ("LA", "RGBA"), mode in ("L", "LA", "1", "I;16")
    # Upright: the stored 14x10 was held sideways, save for the files without EXIF.
    assert (opened.width, opened.height) == ((28, 20) if deep else (20, 28))
    expected = {
        "depth": deep and target in ("jpg", "webp"),
        "alpha": clear and target == "jpg",
        "palette": mode == "P",
        "bilevel": mode == "1",
        "cmyk": mode == "CMYK",
    }
    assert names == {name for name, lost in expected.items() if lost}
    assert opened.depth == (16 if deep and target in ("png", "tif") else 8)
    assert (opened.alpha is not None) == (clear and target != "jpg")
    if target != "webp":
        assert opened.gray == gray
    if mode in ("RGB", "RGBA", "P"):
        assert opened.extras.icc == SRGB
    if not deep:
        assert opened.extras.exif is not None
        assert opened.extras.exif.text(0x010F) == "Camera"
        assert opened.extras.exif.short(0x0112) in (None, 1)
    strict = cli("restore", "in", "strict", "--scale", "2", "--format", target, "--strict")
    assert strict.code == (1 if names - {"palette", "bilevel"} else 0)
    assert bool(tree(Path("strict")).keys() - {"failed.txt"}) == (strict.code == 0)


def test_no_dark_fringe_around_transparency(cli: Cli) -> None:
    disc = np.zeros((40, 40, 4), np.uint8)
    y, x = np.mgrid[:40, :40]
    disc[(y - 20) ** 2 + (x - 20) ** 2 < 150] = (220, 20, 20, 255)
    save(Path("in/disc.png"), disc)
    assert cli("restore", "in", "out").code == 0
    result = load(Path("out/disc.png"))
    visible = result[result[..., 3] > 0]
    assert np.abs(visible[:, :3].astype(int) - (220, 20, 20)).max() <= 2
    assert {0, 255} <= set(np.unique(result[..., 3]))


def test_the_first_of_several_frames_is_said(cli: Cli) -> None:
    Path("in").mkdir()
    frames = [Image.fromarray(photo(8, 8, seed=i)) for i in range(3)]
    frames[0].save("in/a.gif", save_all=True, append_images=frames[1:])
    ran = cli("restore", "in", "out")
    assert ran.code == 0
    assert "warning: in/a.gif: only the first of 3 frames is restored" in ran.err
    assert load(Path("out/a.png")).shape == (32, 32, 3)


def test_a_maker_note_that_cannot_stay_makes_a_image_fail_with_strict(cli: Cli) -> None:
    Path("in").mkdir()
    note = exif.ExifTag(7, 40, b"maker" + bytes(35))
    block = exif.build(exif.Exif(photo={exif.MAKER_NOTE: note}, note_offset=26))
    Image.fromarray(photo(8, 8)).save("in/a.jpg", exif=b"Exif\0\0" + block)
    said = "the camera's maker note moves; not all may be readable"
    ran = cli("restore", "in", "out")
    assert (ran.code, f"warning: in/a.jpg: {said}" in ran.err) == (0, True)
    strict = cli("restore", "in", "strict", "--strict")
    assert strict.code == 1 and f"error: in/a.jpg: {said} (--strict)" in strict.err
    assert sorted(tree(Path("strict"))) == ["failed.txt"]


def test_decoders_do_not_talk_over_us(cli: Cli) -> None:
    Path("in").mkdir()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    Image.fromarray(photo(8, 8)).save("in/a.jpg", exif=exif)
    ran = cli("restore", "in", "out", "-q")
    assert (ran.code, ran.err) == (0, "warning: in/a.jpg: the EXIF block is damaged and was dropped\n")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_strip_leaves_what_decides_the_look(cli: Cli, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    exif.get_ifd(0x8825)[1] = "N"
    Path("in").mkdir()
    xmp = b"<x:xmpmeta>secret</x:xmpmeta>"
    Image.fromarray(photo(8, 12)).save(f"in/a.{suffix}", exif=exif, icc_profile=SRGB, dpi=(300, 300), xmp=xmp)
    assert cli("restore", "in", "out", "--strip").code == 0
    data = Path(f"out/a.{suffix}").read_bytes()
    extras = decode(data).extras
    assert b"secret" not in data and b"Camera" not in data and extras.xmp == b""
    assert extras.exif is None or (extras.exif.gps, set(extras.exif.main) - {0x0131}) == ({}, set())
    assert extras.icc == SRGB
    assert load(Path(f"out/a.{suffix}")).shape == (48, 32, 3)
    assert "1 already up to date" in cli("restore", "in", "out", "--strip").err


def test_colours_under_full_transparency_can_be_kept(cli: Cli) -> None:
    """Textures hold data there; the fake model enlarges what it is given."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., :3] = (200, 40, 90)
    pixels[:, 8:] = (10, 220, 30, 255)
    save(Path("a.png"), pixels)
    assert cli("restore", "a.png", "filled.png").code == 0
    assert cli("restore", "a.png", "kept.png", "--keep-hidden").code == 0
    filled, kept = np.asarray(Image.open("filled.png")), np.asarray(Image.open("kept.png"))
    assert (filled[..., 3] == kept[..., 3]).all()
    assert np.abs(kept[32, 4, :3].astype(int) - (200, 40, 90)).max() < 12
    assert np.abs(filled[32, 4, :3].astype(int) - (10, 220, 30)).max() < 12
