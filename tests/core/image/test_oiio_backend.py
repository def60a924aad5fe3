"""OpenEXR and DPX, with OpenImageIO itself as the independent reader."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, photo, rows, save, tree

from varestorer_cli.core.choices import Transfer
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import oiio_backend
from varestorer_cli.core.image.reader import decode, probe

oiio = pytest.importorskip("OpenImageIO")
Cli = Callable[..., Ran]


def plate(height: int = 12, width: int = 18, channels: int = 3) -> Any:
    """Linear light with a highlight of 6.0 and a dark part."""
    pixels = oiio_backend.to_linear(photo(height, width, channels) / 255).astype(np.float32)
    pixels[2:5, 3:8, :3] = (6.0, 3.0, 1.5)
    return pixels


def store(path: Path, pixels: Any, kind: str = "half", names: list[str] | None = None, **attributes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, channels = pixels.shape
    spec = oiio.ImageSpec(width, height, channels, kind)
    spec.channelnames = names or ["R", "G", "B", "A"][:channels]
    for name, value in attributes.items():
        if name in ("x", "y", "full_x", "full_y", "full_width", "full_height"):
            setattr(spec, name, value)
        else:
            spec.attribute(name.replace("__", ":"), value)
    out = oiio.ImageOutput.create(str(path))
    assert out.open(str(path), spec), out.geterror()
    assert out.write_image(np.ascontiguousarray(pixels, np.float32)), out.geterror()
    out.close()
    return path


def stored(path: Path) -> tuple[Any, Any]:
    source = oiio.ImageInput.open(str(path))
    assert source, oiio.geterror()
    spec = source.spec()
    pixels = source.read_image(oiio.FLOAT)
    source.close()
    return np.asarray(pixels), spec


def test_the_curve_is_srgb_and_inverts() -> None:
    x = np.linspace(0, 1, 1001, dtype=np.float32)
    np.testing.assert_allclose(oiio_backend.to_linear(oiio_backend.to_display(x)), x, atol=2e-6)
    mid_gray = float(oiio_backend.to_display(np.float32([0.18]))[0])  # IEC 61966-2-1
    assert mid_gray == pytest.approx(0.4614, abs=1e-3)


def test_light_above_one_survives_by_ratio(cli: Cli, tmp_path: Path) -> None:
    store(tmp_path / "in/a.exr", plate(), compression="piz", Copyright="studio")
    ran = cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "1")
    assert ran.code == 0, ran.err
    pixels, spec = stored(tmp_path / "out/a.exr")
    np.testing.assert_allclose(pixels, plate(), rtol=3e-3, atol=1e-4)
    assert str(spec.format) == "half" and spec.get_string_attribute("compression") == "piz"
    assert spec.get_string_attribute("Copyright") == "studio"
    assert spec.get_string_attribute("Software").startswith("varestorer ")
    (row,) = rows(tmp_path / "out/metrics.csv")
    assert (row["depth"], row["transfer"], row["warnings"]) == ("16", "linear to sRGB and back", "")
    assert "1 already up to date" in cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "1").err


def test_enlarging_keeps_level_and_hue_of_highlights(cli: Cli, tmp_path: Path) -> None:
    store(tmp_path / "in/a.exr", plate(), "float")
    assert cli("restore", tmp_path / "in", tmp_path / "out").code == 0
    pixels, spec = stored(tmp_path / "out/a.exr")
    assert pixels.shape == (48, 72, 3) and str(spec.format) == "float"
    np.testing.assert_allclose(pixels[14, 22], (6, 3, 1.5), rtol=0.1)
    assert np.isfinite(pixels).all() and pixels.min() >= 0


def test_windows_are_scaled(cli: Cli, tmp_path: Path) -> None:
    window = {"x": 4, "y": -2, "full_x": 0, "full_y": 0, "full_width": 30, "full_height": 20}
    path = store(tmp_path / "in/a.exr", plate(), **window)
    assert probe(path) == (18, 12)
    assert cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "2").code == 0
    _, spec = stored(tmp_path / "out/a.exr")
    assert (spec.x, spec.y, spec.width, spec.height) == (8, -4, 36, 24)
    assert (spec.full_x, spec.full_y, spec.full_width, spec.full_height) == (0, 0, 60, 40)


def test_alpha_has_no_fringe_and_stays_multiplied_in(cli: Cli, tmp_path: Path) -> None:
    """A red disc over nothing: nowhere in the result is the unmultiplied colour darker than the disc."""
    y, x = np.mgrid[:24, :24]
    disc = ((y - 12) ** 2 + (x - 12) ** 2 < 64).astype(np.float32)[..., None]
    store(tmp_path / "in/a.exr", np.concatenate([disc * [4, 0.02, 0.02], disc], axis=2))
    assert cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "2").code == 0
    pixels, spec = stored(tmp_path / "out/a.exr")
    assert list(spec.channelnames) == ["R", "G", "B", "A"]
    seen = pixels[..., 3] > 0.02
    np.testing.assert_allclose(pixels[seen][:, 0] / pixels[seen][:, 3], 4, rtol=0.02)
    assert 0.02 < pixels[..., 3][seen].min() < 0.2  # an edge, not a step
    assert pixels[0, 0].tolist() == [0, 0, 0, 0]
    assert cli("restore", tmp_path / "in", tmp_path / "png", "--format", "png").code == 0
    opened = decode((tmp_path / "png/a.png").read_bytes())
    assert opened.depth == 16 and opened.alpha is not None and opened.color[opened.alpha > 0][:, 0].min() == 65535


def test_light_without_cover_is_said(tmp_path: Path) -> None:
    pixels = np.zeros((6, 6, 4), np.float32)
    pixels[2, 2, :3] = 1
    opened = decode(store(tmp_path / "a.exr", pixels).read_bytes())
    assert [loss.name for loss in opened.losses] == ["emission"]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_dpx_goes_through_as_encoded(cli: Cli, tmp_path: Path, bits: int) -> None:
    pixels = (photo(12, 18) / 255).astype(np.float32)
    kind = "uint8" if bits == 8 else "uint16"
    store(tmp_path / "in/a.dpx", pixels, kind, oiio__BitsPerSample=bits, FrameRate=24.0)
    ran = cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "1")
    assert ran.code == 0, ran.err
    again, spec = stored(tmp_path / "out/a.dpx")
    np.testing.assert_allclose(again, stored(tmp_path / "in/a.dpx")[0], atol=0.6 / (2**bits - 1))
    assert spec.get_int_attribute("oiio:BitsPerSample", 8) == bits
    (row,) = rows(tmp_path / "out/metrics.csv")
    assert (row["depth"], row["transfer"]) == (str(bits), "as encoded")


@pytest.mark.parametrize("suffix", ["exr", "dpx"])
def test_a_file_without_its_report_is_known(cli: Cli, tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "in/a.png", photo(8, 9))
    words = ("restore", tmp_path / "in", tmp_path / "out", "--format", suffix)
    assert cli(*words).code == 0
    (tmp_path / "out/metrics.csv").unlink()
    assert "1 already up to date" in cli(*words).err


def test_what_is_lost_is_named_and_strict_refuses_it(cli: Cli, tmp_path: Path) -> None:
    odd = np.concatenate([plate(), np.ones((12, 18, 2), np.float32)], axis=2)
    odd[0, 0, 0], odd[0, 1, 1] = np.nan, -0.5
    store(tmp_path / "in/a.exr", odd, names=["R", "G", "B", "Z", "id"], Copyright="studio")
    assert cli("restore", tmp_path / "in", tmp_path / "out").code == 0
    (row,) = rows(tmp_path / "out/metrics.csv")
    said = [part.split(":")[0] for part in row["warnings"].split("; ")]
    assert said == ["channels", "nan", "negative"]
    assert cli("restore", tmp_path / "in", tmp_path / "strict", "--strict").code == 1
    assert set(tree(tmp_path / "strict")) == {"failed.txt"}
    assert cli("restore", tmp_path / "in", tmp_path / "tif", "--format", "tif").code == 0
    (row,) = rows(tmp_path / "tif/metrics.csv")
    said = [part.split(":")[0] for part in row["warnings"].split("; ")]
    assert said == ["channels", "nan", "negative", "depth", "range", "attributes"]
    assert decode((tmp_path / "tif/a.tif").read_bytes()).depth == 16


def test_other_images_become_exr(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", photo(12, 18, depth=16))
    assert cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "1", "--format", "exr").code == 0
    pixels, _ = stored(tmp_path / "out/a.exr")
    np.testing.assert_allclose(oiio_backend.to_display(pixels), photo(12, 18, depth=16) / 65535, atol=1e-3)


def test_transfer_can_be_told(tmp_path: Path) -> None:
    data = store(tmp_path / "a.exr", np.full((4, 4, 3), 0.18, np.float32)).read_bytes()
    assert decode(data).color.mean() == pytest.approx(0.4614, abs=1e-3)
    assert decode(data, Transfer.ENCODED).color.mean() == pytest.approx(0.18, abs=1e-3)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("suffix", ["exr", "dpx"])
def test_cut_off_files_are_refused(tmp_path: Path, suffix: str, part: float) -> None:
    data = store(tmp_path / f"a.{suffix}", plate(40, 60), "half" if suffix == "exr" else "uint16").read_bytes()
    with pytest.raises(InputError):
        decode(data[: int(len(data) * part)])


def test_without_the_extra(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path / "in/a.exr", plate())
    save(tmp_path / "mixed/b.png", photo(8, 8))
    store(tmp_path / "mixed/a.exr", plate())
    monkeypatch.setattr(oiio_backend, "is_installed", lambda extra: False)
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    alone = cli("restore", tmp_path / "in", tmp_path / "out")
    assert alone.code == 3 and "pip install 'OpenImageIO" in alone.err
    mixed = cli("restore", tmp_path / "mixed", tmp_path / "out")
    assert mixed.code == 1 and "a.exr: EXR images are read by OpenImageIO, which is missing" in mixed.err
    assert (tmp_path / "out/b.png").is_file()


@pytest.mark.parametrize(("descriptor", "bits", "said"), [(102, 8, "8-bit CbYCr"), (50, 1, "1-bit RGB")])
def test_dpx_files_that_are_not_read_are_named_and_not_called_damaged(
    descriptor: int, bits: int, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.dpx"
    spec = oiio.ImageSpec(8, 6, 3, "uint8")
    target = oiio.ImageOutput.create(str(path))
    assert target.open(str(path), spec) and target.write_image(np.zeros((6, 8, 3), np.uint8)) and target.close()
    data = bytearray(path.read_bytes())
    data[800], data[803] = descriptor, bits  # SMPTE 268M, image element 1
    with pytest.raises(InputError, match=said):
        decode(bytes(data))
