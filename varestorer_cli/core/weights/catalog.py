"""Models by name: those that come with the package, and the published ones with their place on the hub and licence.

Tables only; what is installed on this machine is the business of :mod:`varestorer_cli.core.weights.root`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BundledModel:
    """A model whose file comes with the package.

    Attributes:
        file: file name in ``varestorer_cli/data``.
        about: its purpose, in one line.
    """

    file: str
    about: str


BUNDLED: Mapping[str, BundledModel] = {
    "fine": BundledModel("fine.safetensors", "comes with the program; first stage alone, no tokens: 23 blocks"),
    "compact": BundledModel(
        "compact.safetensors", "comes with the program; first stage alone, no tokens: 5 blocks, fast"
    ),
    "mini": BundledModel(
        "mini.safetensors",
        "comes with the program; the whole method at small size, to study, not to look at",
    ),
}
"""Bundled models by name; ``auto`` takes the first. Names, files and descriptions are nowhere else."""
DEFAULT_BUNDLED = next(iter(BUNDLED))


@dataclass(frozen=True)
class PublishedFile:
    """A file as its authors publish it.

    Where hash or commit are unknown, the first pull records what it found, and later ones compare with that.

    Attributes:
        repository: repository on the hub.
        path: path inside the repository.
        licence: licence of the weights, as far as their authors state one.
        about: contents and size.
        revision: commit, "" if unknown.
        sha256: SHA-256 of its bytes, "" if unknown.
    """

    repository: str
    path: str
    licence: str
    about: str
    revision: str = ""
    sha256: str = ""

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rpartition("/")[2]

    @property
    def key(self) -> str:
        """Its key in the record."""
        return f"{self.repository}/{self.path}"


STUDENT_FILE = PublishedFile(
    "EvanEternal/VARestorer",
    "weights/varestorer.pth",
    "MIT (its code's; the weights name none)",
    "one-step transformer with adapters, 2,231.8 M values",
)
TEACHER_FILE = PublishedFile(
    "FoundationVision/Infinity",
    "infinity_2b_reg.pth",
    "MIT",
    "Infinity-2B, the multi-step teacher, 2,204.6 M values",
)
AUTOENCODER_FILE = PublishedFile(
    "FoundationVision/Infinity", "infinity_vae_d32reg.pth", "MIT", "autoencoder with 32 bits per code, 110.1 M values"
)
PRERESTORER_FILE = PublishedFile(
    "lxq007/DiffBIR", "general_swinir_v1.ckpt", "Apache-2.0", "SwinIR pre-restorer, 15.8 M values"
)


@dataclass(frozen=True)
class ReleasedModel:
    """A model made from published files.

    Attributes:
        files: published files it is made from.
        about: its purpose.
    """

    files: tuple[PublishedFile, ...]
    about: str


RELEASED: Mapping[str, ReleasedModel] = {
    "2b": ReleasedModel((STUDENT_FILE, AUTOENCODER_FILE, PRERESTORER_FILE), "the published restorer"),
    "teacher": ReleasedModel((TEACHER_FILE, AUTOENCODER_FILE), "the published teacher, for distill --teacher teacher"),
}
# Names of parts that were imported without the rest of a model.
PARTS: Mapping[str, str] = {
    "tokenizer": "the autoencoder alone, for train teacher --tokenizer tokenizer",
    "prerestorer": "the pre-restorer alone, for distill --prerestorer prerestorer",
}


@dataclass(frozen=True)
class Kind:
    """A kind of network that is installed as a folder.

    Attributes:
        name: its name in messages.
        types: values of ``model_type`` in config.json.
        folder: name of its folder below the weights root, and for ``weights pull``.
        example: a published network of this kind.
        option: command-line option that takes such a folder.
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
    """A network published as a repository in the layout of transformers.

    Attributes:
        kind: kind of network.
        repository: repository on the hub.
        revision: commit.
        licence: licence of the weights.
        about: purpose, and the size of the download.
        needs: groups of files beside weights and config.json; at least one of each group must exist.
        also: further files, taken if they exist.
    """

    kind: Kind
    repository: str
    revision: str
    licence: str
    about: str
    needs: tuple[tuple[str, ...], ...]
    also: tuple[str, ...] = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")

    def file(self, name: str) -> PublishedFile:
        """One file of the repository."""
        return PublishedFile(self.repository, name, self.licence, "", self.revision)


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
