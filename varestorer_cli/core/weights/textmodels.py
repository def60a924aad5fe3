"""Text encoder and captioner: where they are published, and where they are found on this machine."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.weights.root import Published


@dataclass(frozen=True)
class Kind:
    """A kind of network that lives in a folder of its own.

    Attributes:
        name: for messages.
        types: of model, as config.json names them.
        folder: below the weights root, where ``weights pull`` puts it; also its name there.
        example: a published one.
        option: that names its folder.
    """

    name: str
    types: tuple[str, ...]
    folder: str
    example: str
    option: str


TEXT_ENCODER = Kind(
    "T5 text encoder", ("t5", "mt5"), "text", "google/flan-t5-xl for the released model", "--text-encoder"
)
CAPTIONER = Kind(
    "BLIP captioner", ("blip",), "captioner", "such as Salesforce/blip-image-captioning-large", "--captioner"
)


@dataclass(frozen=True)
class PublishedFolder:
    """A network as its authors publish it: a repository in the layout of transformers.

    Attributes:
        kind: what it is.
        repository: on the hub.
        revision: commit.
        licence: of the weights.
        about: what it is for, with the size to fetch.
        needs: files beside weights and config.json; of each group at least one must be there, all that are are taken.
        also: files that are taken where they are.
    """

    kind: Kind
    repository: str
    revision: str
    licence: str
    about: str
    needs: tuple[tuple[str, ...], ...]
    also: tuple[str, ...] = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")

    def file(self, name: str) -> Published:
        """A file of it."""
        return Published(self.repository, name, self.licence, "", self.revision)


FOLDERS: Mapping[str, PublishedFolder] = {
    "text": PublishedFolder(
        TEXT_ENCODER,
        "google/flan-t5-xl",
        "7d6315df2c2fb742f0f5b556879d730926ca9001",
        "Apache-2.0",
        "Flan-T5-XL, the text encoder of 2b and teacher: default text, --prompt, --captions; 9.5 GB to fetch",
        (("tokenizer.json", "spiece.model"),),
    ),
    "captioner": PublishedFolder(
        CAPTIONER,
        "Salesforce/blip-image-captioning-large",
        "353689b859fcf0523410b1806dace5fb46ecdf41",
        "BSD-3-Clause",
        "BLIP, for --caption auto; 1.9 GB to fetch",
        (("tokenizer.json", "vocab.txt"), ("preprocessor_config.json", "processor_config.json")),
    ),
}
"""Networks that ``weights pull`` fetches, by their folder's name."""


def kind_of(folder: Path) -> Kind | None:
    """What a folder's config.json says it is; None for anything else."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "config.json").read_bytes()).get("model_type")
        return next((kind for kind in (TEXT_ENCODER, CAPTIONER) if found in kind.types), None)
    return None


def network_folders(root: Path) -> list[Path]:
    """Folders of text encoders and captioners below a folder, those that can be pulled first."""
    found = [config.parent for config in sorted(root.glob("*/config.json")) if kind_of(config.parent)]
    order = {name: number for number, name in enumerate(FOLDERS)}
    return sorted(found, key=lambda folder: (order.get(folder.name, len(order)), folder.name))


def find_folder(kind: Kind, root: Path, width: int | None = None) -> Path | None:
    """The first folder of that kind below the weights root.

    Args:
        kind: what is looked for.
        root: weights root.
        width: of a text encoder's features, None takes any.
    """
    for folder in network_folders(root):
        with suppress(OSError, ValueError):
            settings = json.loads((folder / "config.json").read_bytes())
            if settings.get("model_type") in kind.types and width in (None, settings.get("d_model")):
                return folder
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
            f"{asked_by} needs a {kind.name}{wide}, and there is none below {root}; run varestorer weights pull "
            f"{kind.folder}, put its folder there (config.json, weights, tokenizer; {kind.example}), or name it with "
            f"{kind.option} DIR"
        )
    return found
