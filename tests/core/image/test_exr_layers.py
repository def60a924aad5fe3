"""Which layer of an OpenEXR file is restored; files made with OpenImageIO, subsampled ones by hand."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, photo, rows

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image import oiio_backend
from varestorer_cli.core.image.exr_layers import Layer, Part, choose_layer
from varestorer_cli.core.image.reader import decode, probe
from varestorer_cli.core.options import RestoreOptions

oiio = pytest.importorskip("OpenImageIO")
Cli = Callable[..., Ran]


@pytest.mark.parametrize(
    ("parts", "wanted", "part", "name"),
    [
        (["R G B A Z"], None, 0, ""),
        (["Z a.R a.G a.B R G B"], None, 0, ""),
        (["V.Combined.R V.Combined.G V.Combined.B V.Depth.Z"], None, 0, "V.Combined"),
        (["diffuse.red diffuse.green diffuse.blue rgba.red rgba.green rgba.blue rgba.alpha"], None, 0, "rgba"),
        (["N.X N.Y N.Z Y"], None, 0, ""),
        (["N.X N.Y N.Z albedo.R albedo.G albedo.B"], None, 0, "albedo"),
        (["depth:Z", "beauty:R G B"], None, 1, ""),
        (["normals:R G B", "beauty:R G B A"], None, 1, ""),
        (["left:R G B", "right:R G B"], None, 0, ""),
        (["V"], None, 0, ""),
        (["depth:Z", "beauty:R G B"], "depth", 0, ""),
        (["R G B spec.R spec.G spec.B"], "spec", 0, "spec"),
        (["V.Combined.R V.Combined.G V.Combined.B V.Depth.Z"], "depth", 0, "V.Depth"),
        (["a:x.R x.G x.B", "b:x.R x.G x.B"], "b:x", 1, "x"),
    ],
)  # fmt: skip
def test_the_colour_layer_is_chosen(parts: list[str], wanted: str | None, part: int, name: str) -> None:
    found = choose_layer([described(text) for text in parts], wanted)
    assert (found.part, found.name) == (part, name)


def described(text: str) -> Part:
    name, _, channels = text.rpartition(":")
    return Part(name, tuple(channels.split()))


def test_colour_and_alpha_are_those_of_one_layer() -> None:
    found = choose_layer([described("A B G R mask.A spec.B spec.G spec.R")], None)
    assert (found.color, found.alpha) == ((3, 2, 1), 0)
    found = choose_layer([described("A B G R mask.A spec.B spec.G spec.R")], "spec")
    assert (found.color, found.alpha) == ((7, 6, 5), None)


def test_no_image_and_unknown_names_say_what_is_there() -> None:
    with pytest.raises(InputError, match=r"none of its layers is colour.*Z.*--layer.*depth"):
        choose_layer([described("depth:Z")])
    with pytest.raises(InputError, match=r"'beauty' \(--layer\); there are: RGB, spec"):
        choose_layer([described("R G B spec.R spec.G spec.B")], "beauty")
    assert isinstance(choose_layer([described("depth:Z")], "depth"), Layer)


@pytest.mark.parametrize("channels", ["Z", "A Z", "ID"])
def test_advice_names_the_only_channel_and_works(channels: str) -> None:
    name = channels.split()[-1]
    with pytest.raises(InputError, match=rf"to restore it as gray: {name}$"):
        choose_layer([described(channels)])
    found = choose_layer([described(channels)], name)
    assert (found.color, found.alpha) == ((len(channels.split()) - 1,), 0 if "A " in channels else None)


def store(path: Path, parts: dict[str, tuple[list[str], Any]]) -> Path:
    """A file of parts: name -> (channel names, pixels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    specs = []
    for name, (names, pixels) in parts.items():
        spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], "float")
        spec.channelnames = names
        spec.full_width, spec.full_height = 64, 64  # of all parts alike
        if name:
            spec.attribute("oiio:subimagename", name)
        specs.append(spec)
    out = oiio.ImageOutput.create(str(path))
    assert out.open(str(path), specs) if len(specs) > 1 else out.open(str(path), specs[0]), out.geterror()
    for index, (_, pixels) in enumerate(parts.values()):
        if index:
            assert out.open(str(path), specs[index], "AppendSubimage"), out.geterror()
        assert out.write_image(np.ascontiguousarray(pixels, np.float32)), out.geterror()
    out.close()
    return path


def linear(height: int = 10, width: int = 14) -> Any:
    return oiio_backend.to_linear(photo(height, width) / 255).astype(np.float32)


def test_a_depth_part_before_the_colour_is_passed_over(cli: Cli, tmp_path: Path) -> None:
    card = linear()
    depth = np.full((20, 28, 1), 50, np.float32)
    path = store(tmp_path / "in/a.exr", {"depth": (["Z"], depth), "beauty": (["R", "G", "B"], card)})
    assert probe(path) == (14, 10) and probe(path, "depth") == (28, 20)
    found = decode(path.read_bytes())
    np.testing.assert_allclose(oiio_backend.to_linear(found.color), card, atol=1e-5)
    assert [loss.text for loss in found.losses] == ["only part 'beauty' of 2 parts is restored"]
    assert decode(path.read_bytes(), layer="depth").color.shape == (20, 28, 1)
    assert cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "2").code == 0
    assert rows(tmp_path / "out/metrics.csv")[0]["out_width"] == "28"
    ran = cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "2", "--layer", "depth")
    assert ran.code == 0, ran.err
    assert rows(tmp_path / "out/metrics.csv")[-1]["out_width"] == "56"
    ran = cli("restore", tmp_path / "in", tmp_path / "out", "--layer", "specular")
    assert ran.code == 1 and "there are: depth, beauty" in ran.err


def test_layers_of_one_part(tmp_path: Path) -> None:
    card, other = linear(), linear()[::-1]
    ones = np.ones((10, 14, 1), np.float32)
    names = [f"V.Combined.{c}" for c in "RGBA"] + ["V.Depth.Z"] + [f"V.Diff.{c}" for c in "RGB"]
    path = store(tmp_path / "a.exr", {"": (names, np.dstack([card, ones, 9 * ones, other]))})
    found = decode(path.read_bytes())
    np.testing.assert_allclose(oiio_backend.to_linear(found.color), card, atol=1e-5)
    assert found.alpha is not None and [loss.name for loss in found.losses] == ["channels"]
    assert "4 more channels beside layer 'V.Combined' are dropped (V.Depth.Z, " in found.losses[0].text
    found = decode(path.read_bytes(), layer="Diff")
    np.testing.assert_allclose(oiio_backend.to_linear(found.color), other, atol=1e-5)
    assert found.alpha is None


def test_luminance_and_chroma_are_decoded(tmp_path: Path) -> None:
    card = linear()
    luma = card @ np.float32([0.2126, 0.7152, 0.0722])
    stored = np.dstack([luma, card[..., 0] / luma - 1, card[..., 2] / luma - 1])
    path = store(tmp_path / "a.exr", {"": (["Y", "RY", "BY"], stored)})
    found = decode(path.read_bytes())
    np.testing.assert_allclose(oiio_backend.to_linear(found.color), card, atol=1e-3)
    assert found.losses == []


def test_subsampled_chroma_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"subsampled .*convert it to RGB"):
        decode(subsampled())


def subsampled() -> bytes:
    """A 4x4 uncompressed scanline file of half floats whose chroma has half the columns and rows (OpenEXR layout)."""

    def attribute(name: str, kind: str, body: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(body)) + body

    channels = b""
    for name, step in (("BY", 2), ("RY", 2), ("Y", 1)):
        channels += name.encode() + b"\0" + struct.pack("<IBxxxII", 1, 0, step, step)
    box = struct.pack("<4i", 0, 0, 3, 3)
    header = b"\x76\x2f\x31\x01\x02\0\0\0" + b"".join(
        [
            attribute("channels", "chlist", channels + b"\0"),
            attribute("compression", "compression", b"\0"),
            attribute("dataWindow", "box2i", box),
            attribute("displayWindow", "box2i", box),
            attribute("lineOrder", "lineOrder", b"\0"),
            attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
            attribute("screenWindowCenter", "v2f", bytes(8)),
            attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
        ]
    )
    lines = [struct.pack("<iI", y, size) + bytes(size) for y, size in ((0, 16), (1, 8), (2, 16), (3, 8))]
    table, place = b"", len(header) + 1 + 8 * len(lines)
    for line in lines:
        table += struct.pack("<Q", place)
        place += len(line)
    return header + b"\0" + table + b"".join(lines)


def test_a_single_bright_pixel_gets_no_satellites(cli: Cli, tmp_path: Path) -> None:
    card = np.full((24, 24, 3), 0.2, np.float32)
    card[12, 12] = 60000
    store(tmp_path / "in/a.exr", {"": (["R", "G", "B"], card)})
    assert cli("restore", tmp_path / "in", tmp_path / "out", "--scale", "4").code == 0
    source = oiio.ImageInput.open(str(tmp_path / "out/a.exr"))
    out = np.asarray(source.read_image(oiio.FLOAT))
    y, x = np.mgrid[:96, :96]
    beside = np.maximum(abs(y - 49.5), abs(x - 49.5)) > 6
    assert out[48:52, 48:52].max() > 30000
    assert out[beside].max() < 1


def test_the_layer_is_part_of_the_settings_only_where_given() -> None:
    plain = {"overlap": 0, "sampling": "argmax"}
    from varestorer_cli.core.choices import ImageFormat

    default = RestoreOptions().settings_sha256(**plain, format=ImageFormat.EXR)  # type: ignore[arg-type]
    other = RestoreOptions(layer="spec").settings_sha256(**plain, format=ImageFormat.EXR)  # type: ignore[arg-type]
    assert default != other
