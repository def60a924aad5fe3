"""Text conditions in training: features made beforehand, one file per photograph; dropped with some probability.

The features are what the model's text encoder makes of a caption, without padding. With some probability an image's
text is replaced by the learned null condition of the same length, in training only, so that the model also works
without text (Infinity and the released student: 0.1).
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.training.data.crop_cache import CropCache, PairBatch
from varestorer_cli.core.weights.stored_text import StoredText
from varestorer_models.condition import Condition, TextFeatures
from varestorer_models.transformer import Transformer

Texts = list[Tensor | None]
"""Features (n, T) of each image, None = no text."""
DEFAULT_FILE = ".default.safetensors"
"""Features of the default text, which the trained model takes with it; no photograph's name begins with a dot."""


class TextFolder:
    """Features of the photographs of a crop cache.

    The photograph ``sea/wave.jpg`` has the file ``sea/wave.jpg.safetensors`` or ``sea/wave.safetensors`` in the folder
    with one tensor (n, T); one without a file has no text.

    Attributes:
        default: text for images that nobody describes, which the trained model takes with it; None where the folder
            has none.

    Args:
        folder: of the files.
        cache: whose photographs are meant.
        width: T that the model takes.

    Raises:
        InputError: no photograph has a file, or one is damaged or holds something else; found before the first step.
    """

    def __init__(self, folder: Path, cache: CropCache, width: int) -> None:
        self._files: dict[int, Path] = {}
        self.photographs = self.with_text = 0
        for source in cache.sources:
            file = _file(folder, source["name"])
            self.photographs += 1
            if file is not None:
                _check(file, width)
                self.with_text += 1
                self._files |= dict.fromkeys(range(source["first"], source["first"] + source["crops"]), file)
        if not self.with_text:
            if not folder.is_dir():
                raise InputError(f"--texts {folder}: there is no such folder; varestorer texts makes one")
            raise InputError(
                f"{folder} has text features for none of the {self.photographs} photographs; files are named after "
                f"them, for example {cache.sources[0]['name'] if cache.sources else 'photo.jpg'}.safetensors; "
                "varestorer texts makes them"
            )
        self.default = _read_default(folder / DEFAULT_FILE, width)

    def of(self, batch: PairBatch) -> Texts:
        """Features of each image of a batch.

        Raises:
            InputError: a file is damaged or holds something else.
        """
        return [_read(self._files[row]) if row in self._files else None for row in batch.indices.tolist()]


def feature_file(folder: Path, name: str) -> Path:
    """File of a photograph's features; below the folder whatever the name, which may come out of a tar file."""
    parts = ("__" if part == ".." else part for part in PurePosixPath(name).parts if part.strip("/"))
    return folder.joinpath(*parts).with_name(f"{PurePosixPath(name).name}.safetensors")


def _file(folder: Path, name: str) -> Path | None:
    whole = feature_file(folder, name)
    bare = whole.with_suffix("").with_suffix(".safetensors")
    return whole if whole.is_file() else bare if bare.is_file() else None


def _read_default(file: Path, width: int) -> StoredText | None:
    if not file.is_file():
        return None
    _check(file, width)
    rows = _read(file)
    with safe_open(file, framework="pt") as reader:
        metadata = reader.metadata() or {}
    if not metadata.get("prompt"):
        return None
    return StoredText(metadata["prompt"], rows, metadata.get("encoder", ""))


def _check(file: Path, width: int) -> None:
    """Refuse a file by its header."""
    try:
        with safe_open(file, framework="pt") as reader:
            shapes = [tuple(reader.get_slice(key).get_shape()) for key in reader.keys()]  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: the text features cannot be read ({error}); make them again") from error
    if len(shapes) != 1 or len(shapes[0]) != 2 or not shapes[0][0]:
        found = ", ".join(map(str, shapes)) or "none"
        raise InputError(f"{file}: one tensor of features (n, T) is expected, found {found}; make them again")
    if shapes[0][1] != width:
        raise InputError(
            f"{file}: the text features are {shapes[0][1]} wide, the model takes {width}; make them with its text "
            "encoder"
        )


def _read(file: Path) -> Tensor:
    try:
        with safe_open(file, framework="pt") as reader:
            (features,) = (reader.get_tensor(key) for key in reader.keys())  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: the text features cannot be read ({error}); make them again") from error
    return torch.as_tensor(features).float()


def dropped(texts: Texts, batch: PairBatch, probability: float, generator: torch.Generator) -> list[bool]:
    """Which images' texts to drop; numbers are drawn only where there is a probability."""
    if not probability:
        return [False] * len(texts)
    draws = batch.drawn(lambda whole: torch.rand(whole, generator=generator))
    return [bool(draw < probability) for draw in draws]


def condition_on(transformer: Transformer, texts: Sequence[Tensor | None], drop: Sequence[bool]) -> Condition:
    """The condition of each image: its text, or the learned null condition.

    Raises:
        ValueError: features of another width than the transformer's.
    """
    if all(text is None or gone for text, gone in zip(texts, drop, strict=True)) or not texts:
        return transformer.encode_condition(None, len(texts))
    most, width = transformer.config.null_tokens, transformer.config.text_width
    wrong = next((text.shape[1] for text in texts if text is not None and text.shape[1] != width), None)
    if wrong is not None:
        raise ValueError(f"the text features are {wrong} wide, the model takes {width}")
    lengths = tuple(most if text is None else min(len(text), most) for text in texts)
    null = transformer.null_features(lengths)
    device = null.rows.device
    rows = [
        nothing if text is None or gone else text[:most].to(device)
        for text, gone, nothing in zip(texts, drop, torch.split(null.rows, list(lengths)), strict=True)
    ]
    return transformer.encode_condition(TextFeatures(torch.cat(rows), lengths), len(texts))
