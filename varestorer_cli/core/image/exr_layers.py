"""Layers of an OpenEXR file: which of its parts and channels are the image that is restored.

A file has parts (one by default), a part has channels with names such as ``R``, ``ViewLayer.Combined.R`` or
``diffuse.red``. Channels of one part with the same prefix are a layer: RGB, luminance with chroma (Y, RY, BY),
luminance alone (Y), or a single channel of data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.phrases import named

_COLOR_NAMES = {"red": "r", "green": "g", "blue": "b", "alpha": "a"}  # as Nuke spells them
# Names that renderers and compositing programs give to the finished image.
_FINISHED = frozenset({"combined", "beauty", "rgba", "rgb", "color", "colour", "composite", "main", "default"})
_DEPTH = frozenset({"z", "zback", "depth", "id"})


@dataclass(frozen=True)
class Part:
    """One part of a file: its name, "" where it has none, and the names of its channels in order."""

    name: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Channels that form one image.

    Attributes:
        part: index of its part.
        name: prefix of its channels without the last dot; "" for the part's own channels.
        part_name: name of its part.
        color: indices of R, G, B; of Y, RY, BY; or of one channel.
        chroma: whether ``color`` is luminance and chroma.
        alpha: index of its alpha channel, None without one.
        data: whether it is one channel that is neither luminance nor the file's only channel.
        channel: name of its one channel without the prefix, "" where it has more.
    """

    part: int
    name: str
    part_name: str
    color: tuple[int, ...]
    chroma: bool
    alpha: int | None
    data: bool
    channel: str = ""

    @property
    def label(self) -> str:
        """What ``--layer`` takes: the layer's name, after that of its part where the part is not called the same."""
        if not self.name or self.name == self.part_name:
            return self.part_name or self.channel or "RGB"
        return f"{self.part_name}:{self.name}" if self.part_name else self.name

    def answers_to(self, wanted: str) -> bool:
        """Whether a name given by the user means this layer: its label, its name or the end of it, or its part."""
        names = {self.label, self.name, self.name.rpartition(".")[2]}
        if not self.name:
            names.add(self.part_name)
        return wanted.casefold() in {name.casefold() for name in names if name}


def layers_of(parts: Sequence[Part]) -> list[Layer]:
    """All layers of a file, in the order of its parts and channels."""
    single = sum(len(part.channels) for part in parts) == 1
    found = []
    for number, part in enumerate(parts):
        groups: dict[str, dict[str, int]] = {}
        for index, channel in enumerate(part.channels):
            prefix, _, last = channel.rpartition(".")
            role = _COLOR_NAMES.get(last.lower(), last.lower())
            groups.setdefault(prefix, {}).setdefault(role, index)
        for prefix, roles in groups.items():
            alpha = roles.get("a")
            color: tuple[str, ...]
            luma = "y" in roles and "x" not in roles  # X, Y, Z are a vector
            if {"r", "g", "b"} <= roles.keys():
                color, chroma, data = ("r", "g", "b"), False, False
            elif luma and {"ry", "by"} <= roles.keys():
                color, chroma, data = ("y", "ry", "by"), True, False
            elif luma:
                color, chroma, data = ("y",), False, False
            elif len(others := roles.keys() - {"a"} or roles.keys()) == 1:
                (role,) = others
                color, chroma, data = (role,), False, role in _DEPTH or not single
                alpha = alpha if role != "a" else None
            else:
                continue
            places = tuple(roles[role] for role in color)
            channel = part.channels[places[0]].rpartition(".")[2] if len(places) == 1 else ""
            found.append(Layer(number, prefix, part.name, places, chroma, alpha, data, channel))
    return found


def choose_layer(parts: Sequence[Part], wanted: str | None = None) -> Layer:
    """The layer to restore.

    Without a name it is colour before data: the channels without a prefix, then a layer or part with a name that
    programs give to the finished image, then the first.

    Raises:
        InputError: no layer has that name, or none is an image; the text names those that are there.
    """
    layers = layers_of(parts)
    if wanted is not None:
        for layer in layers:
            if layer.answers_to(wanted):
                return layer
        there = named([layer.label for layer in layers]) or "none"
        raise InputError(f"no layer or part is called {wanted!r} (--layer); there are: {there}")
    images = [layer for layer in layers if not layer.data]
    if not images:
        channels = named([channel for part in parts for channel in part.channels])
        hint = f"; name one with --layer to restore it as gray: {named([la.label for la in layers])}" if layers else ""
        raise InputError(f"none of its layers is colour or luminance (channels: {channels}){hint}")
    return min(images, key=lambda layer: _rank(layer, len(parts)))


def _rank(layer: Layer, parts: int) -> int:
    """Order of preference, 0 first."""
    finished = bool(_FINISHED & set(_words(layer.name or layer.part_name)))
    if not layer.name and (parts == 1 or not layer.part_name or finished):
        return 0
    if finished:
        return 1
    return 2 if not layer.name else 3


def _words(name: str) -> list[str]:
    """Parts of a name such as ``ViewLayer.Combined`` or ``rgba_main``, in lower case."""
    return "".join(c if c.isalnum() else " " for c in name.lower()).split()
