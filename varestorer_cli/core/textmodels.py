"""Where the text encoder and the captioner are found: a folder that was named, or one below the weights root."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.errors import MissingDependencyError


@dataclass(frozen=True)
class Kind:
    """A kind of network that lives in a folder of its own.

    Attributes:
        name: for messages.
        types: of model, as config.json names them.
        example: a published one.
        option: that names its folder.
    """

    name: str
    types: tuple[str, ...]
    example: str
    option: str


TEXT_ENCODER = Kind(
    "T5 text encoder", ("t5", "mt5", "umt5"), "google/flan-t5-xl for the released model", "--text-encoder"
)
CAPTIONER = Kind("BLIP captioner", ("blip",), "such as Salesforce/blip-image-captioning-large", "--captioner")


def find_folder(kind: Kind, root: Path, width: int | None = None) -> Path | None:
    """The first folder of that kind below the weights root.

    Args:
        kind: what is looked for.
        root: weights root.
        width: of a text encoder's features, None takes any.
    """
    for config in sorted(root.glob("*/config.json")):
        with suppress(OSError, ValueError, AttributeError):
            settings = json.loads(config.read_bytes())
            if settings.get("model_type") in kind.types and width in (None, settings.get("d_model")):
                return config.parent
    return None


def need_folder(
    kind: Kind, given: str | os.PathLike[str] | None, root: Path, asked_by: str, width: int | None = None
) -> Path:
    """The folder that was named, else the one below the weights root.

    Raises:
        MissingDependencyError: there is none.
    """
    if given is not None:
        return Path(given)
    found = find_folder(kind, root, width)
    if found is None:
        wide = f" with features of width {width}" if width is not None else ""
        raise MissingDependencyError(
            f"{asked_by} needs a {kind.name}{wide}, and there is none below {root}; put its folder there (config.json, "
            f"weights, tokenizer; {kind.example}), or name it with {kind.option} DIR"
        )
    return found
