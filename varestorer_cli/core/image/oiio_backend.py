"""OpenEXR and DPX files through OpenImageIO (extra ``vfx``).

The model knows images for displays, 0 to 1. A scene-linear file goes there and back by the sRGB curve
(IEC 61966-2-1). Where its largest channel is above 1 the pixel is divided by it, and the result is multiplied by the
same gain, resampled: highlights keep their level and their hue. An encoded file (video, film log) goes to the model
as it is. OpenEXR stores colour multiplied by alpha; it is divided by it when read and multiplied again when written.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from varestorer_cli.core.choices import ImageFormat, Transfer
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.extras import install_command, is_installed
from varestorer_cli.core.image.exr_layers import Layer, Part, choose_layer
from varestorer_cli.core.image.image_data import DecodedImage, Extras, Loss, OutputImage, Scene, bleed
from varestorer_cli.core.image.resample import to_float
from varestorer_cli.core.phrases import count, named

Floats = npt.NDArray[np.float32]

KINDS = {"OpenEXR": ".exr", "DPX": ".dpx"}  # by content: suffix
_CHECKED_ROWS = 256
_FULL = "is the folder of temporary files (TMPDIR) full?"
_DPX_NAME, _DPX_TIME = 36, 136
_DPX_BITS = frozenset({8, 10, 12, 16, 32, 64})
_BITS = "oiio:BitsPerSample"
_DPX_ROOM = 100  # bytes of the field for the program's name, its end included (SMPTE 268M)
# Said anew by the writer, or of the file and not of the image.
_NOT_COPIED = frozenset(
    {"oiio:subimages", "oiio:ConstantColor", "oiio:AverageColor", "oiio:SHA-1", "Software", "Orientation"}
    | {"name", "oiio:subimagename", "view", "multiView", "openexr:chunkCount"}
)
_REC_709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)


def to_display(linear: npt.NDArray[Any]) -> Floats:
    """The sRGB curve: linear light in [0, 1] to display values in [0, 1]."""
    x = linear.astype(np.float32, copy=False)
    out: Floats = np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 1e-9) ** np.float32(1 / 2.4) - 0.055)
    return out.astype(np.float32, copy=False)


def to_linear(display: npt.NDArray[Any]) -> Floats:
    """The inverse of :func:`to_display`."""
    x = display.astype(np.float32, copy=False)
    out: Floats = np.where(x <= 0.04045, x / 12.92, ((np.maximum(x, 0) + 0.055) / 1.055) ** np.float32(2.4))
    return out.astype(np.float32, copy=False)


# --- reading ---------------------------------------------------------------------------------------------------------


def probe(path: Path, layer: str | None = None) -> tuple[int, int]:
    """(width, height) of the data window of the part that is restored, from the header.

    Raises:
        InputError: OpenImageIO is missing, cannot read the file, or there is no such layer.
    """
    source = _open(path)
    try:
        spec = _specs(source)[_chosen(source, layer).part]
        return int(spec.width), int(spec.height)
    finally:
        source.close()


def read(
    data: bytes, kind: str, transfer: Transfer, layer: str | None, check_size: Callable[[int, int], None]
) -> DecodedImage:
    """Decode a file.

    Args:
        data: the file.
        kind: ``OpenEXR`` or ``DPX``.
        transfer: what its values mean; ``auto`` takes OpenEXR for linear, DPX for encoded unless it says linear.
        layer: name of a layer or part of an OpenEXR file; None chooses, see :func:`exr_layers.choose_layer`.
        check_size: called with (width, height) before pixels are decoded.

    Raises:
        InputError: damaged, without an image in it, or whatever ``check_size`` raises.
    """
    losses: list[Loss] = []
    with tempfile.TemporaryDirectory() as folder:
        source = _open(_stored(data, kind, folder))
        try:
            specs = _specs(source)
            chosen = _chosen(source, layer if kind == "OpenEXR" else None)
            spec = specs[chosen.part]
            check_size(int(spec.width), int(spec.height))
            pixels = _read_channels(source, spec, chosen, kind)
        finally:
            source.close()
    losses += _left_out(specs, chosen)
    color = pixels[..., : len(chosen.color)]
    if chosen.chroma:
        color = _from_chroma(color, spec.getattribute("chromaticities"))
    color = _finite(color, losses)
    alpha: Floats | None = None
    if chosen.alpha is not None:
        alpha = _finite(pixels[..., -1], losses).clip(0, 1)
        color = _straight(color, alpha, losses)
    attributes = tuple((a.name, a.type, a.value) for a in spec.extra_attribs if a.name not in _NOT_COPIED)
    linear = transfer == Transfer.LINEAR or (
        transfer == Transfer.AUTO
        and (kind == "OpenEXR" or str(spec.get_string_attribute("dpx:Transfer")).lower() == "linear")
    )
    gain: Floats | None = None
    if linear:
        largest = color.max(axis=2)
        if largest.max() > 1:
            gain = np.maximum(largest, 1)
            color = color / gain[..., None]
            if alpha is not None:
                gain = bleed(gain[..., None], alpha)[..., 0]
        color = to_display(color)
    elif color.max() > 1:
        losses.append(Loss("range", "values above 1 of an encoded image are clipped"))
        color = color.clip(0, 1)
    format = str(spec.channelformats[chosen.color[0]] if spec.channelformats else spec.format)
    scene = Scene(
        linear=linear,
        bits=int(spec.get_int_attribute(_BITS, 0)) or (32 if format == "float" else 16),
        floating=format not in ("uint8", "uint16", "uint32", "uint"),
        gain=gain,
        origin=(spec.x, spec.y),
        size=(spec.width, spec.height),
        display=(spec.full_x, spec.full_y, spec.full_width, spec.full_height),
        attributes=attributes,
    )
    return DecodedImage(np.ascontiguousarray(color), alpha, kind, Extras(scene=scene), losses)


def _specs(source: Any) -> list[Any]:
    """Headers of all parts."""
    specs: list[Any] = []
    while source.seek_subimage(len(specs), 0):
        specs.append(source.spec())
    return specs


def _chosen(source: Any, layer: str | None) -> Layer:
    specs = _specs(source)
    flat = [spec for spec in specs if not spec.deep]
    if not flat:
        raise InputError("deep pixels are not supported; flatten the image first")
    parts = [
        Part(spec.get_string_attribute("oiio:subimagename"), () if spec.deep else tuple(spec.channelnames))
        for spec in specs
    ]
    return choose_layer(parts, layer)


def _read_channels(source: Any, spec: Any, layer: Layer, kind: str) -> Floats:
    """(H, W, C) the layer's colour, and its alpha behind it; no other channel is decoded."""
    import OpenImageIO as oiio  # noqa: N813  (its own short name)

    wanted = [*layer.color, *(() if layer.alpha is None else (layer.alpha,))]
    out = np.empty((spec.height, spec.width, len(wanted)), np.float32)
    first, last = min(wanted), max(wanted) + 1
    runs = [(first, last)] if last - first <= 2 * len(wanted) else [(index, index + 1) for index in wanted]
    for begin, end in runs:
        read = source.read_image(layer.part, 0, begin, end, oiio.FLOAT)
        if read is None:
            reason = source.geterror() or "no reason given"
            stored, bits = spec.get_string_attribute("dpx:ImageDescriptor"), spec.get_int_attribute(_BITS, 0)
            if kind == "DPX" and (stored.startswith("Cb") or bits not in _DPX_BITS):
                raise InputError(f"a DPX file of {bits}-bit {stored}, which is not read; convert it to RGB first")
            raise InputError(f"the {kind} data is damaged or cut off ({reason})")
        pixels = np.asarray(read, np.float32).reshape(spec.height, spec.width, end - begin)
        for place, index in enumerate(wanted):
            if begin <= index < end:
                out[..., place] = pixels[..., index - begin]
    return out


def _left_out(specs: list[Any], layer: Layer) -> list[Loss]:
    """What of a file is not the layer that is restored."""
    losses = []
    if len(specs) > 1:
        name = f"part {layer.part_name!r}" if layer.part_name else f"part {layer.part + 1}"
        losses.append(Loss("frames", f"only {name} of {len(specs)} parts is restored"))
    rest = [
        name
        for index, name in enumerate(specs[layer.part].channelnames)
        if index not in layer.color and index != layer.alpha
    ]
    if rest:
        of = f" beside layer {layer.name!r}" if layer.name else ""
        are = "is" if len(rest) == 1 else "are"
        losses.append(Loss("channels", f"{count(len(rest), 'more channel')}{of} {are} dropped ({named(rest)})"))
    return losses


def _from_chroma(pixels: Floats, chromaticities: Any) -> Floats:
    """RGB of luminance and chroma: Y, RY = (R - Y) / Y, BY = (B - Y) / Y (OpenEXR technical introduction).

    Args:
        pixels: (H, W, 3) Y, RY, BY.
        chromaticities: x and y of red, green, blue and white; None means those of Rec. 709.
    """
    x_y = np.array(chromaticities or _REC_709, np.float64).reshape(4, 2)
    xyz = np.column_stack([x_y[:, 0] / x_y[:, 1], np.ones(4), (1 - x_y.sum(axis=1)) / x_y[:, 1]])
    weights = np.linalg.solve(xyz[:3].T, xyz[3]).astype(np.float32)  # luminance of each primary in white
    luma = pixels[..., 0]
    red, blue = (pixels[..., 1] + 1) * luma, (pixels[..., 2] + 1) * luma
    green = (luma - weights[0] * red - weights[2] * blue) / weights[1]
    out: Floats = np.stack([red, green, blue], axis=2)
    # Rounding of half floats: a primary that is not there comes out as a small negative number.
    out[(out < 0) & (out > -2e-3 * luma[..., None])] = 0
    return out


def _open(path: Path) -> Any:
    if not is_installed("vfx"):
        raise InputError(
            f"{path.suffix[1:].upper()} images are read by OpenImageIO, which is missing; {install_command('vfx')}"
        )
    import OpenImageIO as oiio  # noqa: N813

    source = oiio.ImageInput.open(str(path))
    if source is None:
        reason = oiio.geterror() or "no reason given"
        if "ubsampled" in reason:
            raise InputError("its channels are subsampled (luminance and chroma); convert it to RGB first")
        raise InputError(f"the header is damaged ({reason})")
    return source


def _stored(data: bytes, kind: str, folder: str) -> Path:
    """OpenImageIO reads named files only, and tells formats by their suffixes."""
    path = Path(folder) / f"image{KINDS[kind]}"
    path.write_bytes(data)
    return path


def _straight(color: Floats, alpha: Floats, losses: list[Loss]) -> Floats:
    """Colour that is not multiplied by alpha; 0 where nothing covers."""
    bare = (alpha <= 0) & (color.max(axis=2) > 0)
    if bare.any():
        losses.append(Loss("emission", f"{int(bare.sum())} pixels of light without cover (alpha 0) become black"))
    out: Floats = np.where(alpha[..., None] > 0, color / np.maximum(alpha, 1e-6)[..., None], np.float32(0))
    return out


def _finite(values: Floats, losses: list[Loss]) -> Floats:
    """Values that are numbers and not negative; what was changed is said once."""
    known = {loss.name for loss in losses}
    bad = ~np.isfinite(values)
    if bad.any():
        if "nan" not in known:
            losses.append(Loss("nan", f"{int(bad.sum())} values that are no numbers, or infinite, become 0"))
        values = np.where(bad, np.float32(0), values)
    negative = int((values < 0).sum())
    if negative:
        if "negative" not in known:
            losses.append(Loss("negative", f"{negative} negative values become 0"))
        values = np.maximum(values, 0)
    return values


# --- writing ---------------------------------------------------------------------------------------------------------


def _check_written(path: Path, height: int) -> None:
    """Read a file back: OpenImageIO does not tell that the last write was short.

    Raises:
        InputError: the file is cut off.
    """
    import OpenImageIO as oiio  # noqa: N813

    source = oiio.ImageInput.open(str(path))
    try:
        if source is None:
            raise InputError(f"the result cannot be encoded: its file is cut off ({oiio.geterror()}); {_FULL}")
        top = source.spec().y
        for row in range(0, height, _CHECKED_ROWS):
            if source.read_scanlines(0, 0, top + row, top + min(height, row + _CHECKED_ROWS), 0, 0, 1) is None:
                raise InputError(f"the result cannot be encoded: its file is cut off ({source.geterror()}); {_FULL}")
    finally:
        if source is not None:
            source.close()


def write(stream: BinaryIO, output: OutputImage, format: ImageFormat, software: str) -> None:
    """Write an image, strip by strip, with its attributes, its windows scaled to the new size.

    Raises:
        InputError: OpenImageIO is missing or fails.
    """
    if not is_installed("vfx"):
        raise InputError(
            f"{format.value.upper()} images are written by OpenImageIO, which is missing; {install_command('vfx')}"
        )
    import OpenImageIO as oiio  # noqa: N813

    exr = format == ImageFormat.EXR
    if not exr:
        output = replace(output, alpha_rows=None)
    scene = output.extras.scene or Scene(linear=exr, bits=16 if exr else 10, floating=exr)
    kind = (oiio.FLOAT if scene.bits == 32 else oiio.HALF) if exr else (oiio.UINT8 if scene.bits == 8 else oiio.UINT16)
    spec = oiio.ImageSpec(output.width, output.height, output.channels, kind)
    spec.channelnames = (["Y"] if output.gray else ["R", "G", "B"]) + (["A"] if output.alpha_rows else [])
    for name, type_, value in scene.attributes:
        spec.attribute(name, type_, value)
    if not exr:
        spec.attribute("oiio:BitsPerSample", scene.bits if not scene.floating else 10)
    spec.attribute("Software", software if exr else _shortened(software))
    if exr:
        _scale_windows(spec, output, scene)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image.{format.value}"
        target = oiio.ImageOutput.create(str(path))
        if target is None or not target.open(str(path), spec):
            raise InputError(f"the result cannot be encoded ({oiio.geterror() or (target and target.geterror())})")
        top = 0
        for strip in output.strips():
            rows = _scene_rows(strip, output, scene, top)
            if not target.write_scanlines(spec.y + top, spec.y + top + len(rows), 0, rows):
                raise InputError(f"the result cannot be encoded ({target.geterror()})")
            top += len(rows)
        if not target.close():
            raise InputError(f"the result cannot be encoded ({target.geterror()})")
        _check_written(path, output.height)
        with path.open("rb") as written:
            shutil.copyfileobj(written, stream, 1 << 20)
    if not exr:  # its header has the temporary file's path, and the time where the input gave none (SMPTE 268M)
        dated = any(name == "DateTime" for name, _, _ in scene.attributes)
        for place, size in ((_DPX_NAME, 100), *(() if dated else ((_DPX_TIME, 24),))):
            stream.seek(place)
            stream.write(bytes(size))
        stream.seek(0, 2)


def _shortened(software: str) -> str:
    """Program and fingerprint alone: DPX has room for 99 characters, and cuts off the rest."""
    parts = software.split("; ")
    return software if len(software) < _DPX_ROOM else f"{parts[0]}; {parts[-1]}"


def _scale_windows(spec: Any, output: OutputImage, scene: Scene) -> None:
    if not scene.size[0]:
        return
    x, y = output.width / scene.size[0], output.height / scene.size[1]
    spec.x, spec.y = round(scene.origin[0] * x), round(scene.origin[1] * y)
    left, top, width, height = scene.display
    spec.full_x, spec.full_y = round(left * x), round(top * y)
    spec.full_width, spec.full_height = max(1, round(width * x)), max(1, round(height * y))


def _scene_rows(strip: npt.NDArray[Any], output: OutputImage, scene: Scene, top: int) -> Floats:
    rows = to_float(strip)
    if not scene.linear:
        return np.ascontiguousarray(rows.clip(0, 1))
    colors = 1 if output.gray else 3
    color = to_linear(rows[..., :colors].clip(0, 1))
    if output.gain_rows is not None:
        color = color * np.maximum(output.gain_rows(top, top + len(rows)), 1)[..., None]
    alpha = rows[..., colors:].clip(0, 1)
    if alpha.shape[2]:
        color = color * alpha
    return np.ascontiguousarray(np.concatenate([color, alpha], axis=2), np.float32)


def read_software(path: Path) -> str:
    """The Software attribute of a file, "" where it has none or cannot be read."""
    try:
        source = _open(path)
        return str(source.spec().get_string_attribute("Software"))
    except Exception:  # whatever is wrong with it: nothing can be read
        return ""
