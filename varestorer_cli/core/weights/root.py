"""Where model files live, which published files they are made from, and what a model's name means.

All installed models lie in one folder, the weights root: ``--weights DIR``, else the environment variable
``VARESTORER_WEIGHTS``, else a folder of the user's. A model is one file there, ``NAME.safetensors``; the record
``weights.json`` beside it holds the hashes of that file and of the published files it was made from.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError

ENVIRONMENT = "VARESTORER_WEIGHTS"
RECORD = "weights.json"
BUNDLED_MODELS = {"compact": Path(__file__).resolve().parents[2] / "data" / "compact.safetensors"}
# What a tile of 512 pixels needs on a GPU beside the weights, in bytes: the decoder's maps are the largest.
_WORKING_MEMORY = 1_700_000_000


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it.

    No copy of these files was at hand when this table was written: where a hash or a commit is not known, the first
    pull records what it found, and every later one compares.

    Attributes:
        repository: on the hub.
        path: inside the repository.
        licence: of the weights, as far as their authors state one.
        about: what it holds, with its size.
        revision: commit, "" where none is known.
        sha256: "" where not known.
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
        """Name in the record."""
        return f"{self.repository}/{self.path}"


STUDENT_FILE = Published(
    "EvanEternal/VARestorer",
    "weights/varestorer.pth",
    "MIT (its code's; the weights name none)",
    "one-step transformer with adapters, 2,231.8 M values",
)
TEACHER_FILE = Published(
    "FoundationVision/Infinity",
    "infinity_2b_reg.pth",
    "MIT",
    "Infinity-2B, the multi-step teacher, 2,204.6 M values",
)
AUTOENCODER_FILE = Published(
    "FoundationVision/Infinity", "infinity_vae_d32reg.pth", "MIT", "autoencoder with 32 bits a code, 110.1 M values"
)
PRERESTORER_FILE = Published(
    "lxq007/DiffBIR", "general_swinir_v1.ckpt", "Apache-2.0", "SwinIR pre-restorer, 15.8 M values"
)


@dataclass(frozen=True)
class ReleasedModel:
    """A model made from published files.

    Attributes:
        files: what it is made from.
        about: what it is for.
    """

    files: tuple[Published, ...]
    about: str


RELEASED: Mapping[str, ReleasedModel] = {
    "2b": ReleasedModel((STUDENT_FILE, AUTOENCODER_FILE, PRERESTORER_FILE), "the published restorer"),
    "teacher": ReleasedModel((TEACHER_FILE, AUTOENCODER_FILE), "the published teacher, for distill --teacher teacher"),
}
# Parts imported alone wait under these names for the rest of a model.
PARTS: Mapping[str, str] = {
    "tokenizer": "the autoencoder alone, for train teacher --tokenizer tokenizer",
    "prerestorer": "the pre-restorer alone, for distill --prerestorer prerestorer",
}


def weights_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of installed models; it need not exist.

    Args:
        given: the option, where it was given; else the environment decides.
    """
    chosen = os.fspath(given) if given is not None else os.environ.get(ENVIRONMENT, "")
    if chosen:
        return Path(chosen).expanduser()
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  (unlike Path.home it never raises)
    if platform.system() == "Windows":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "varestorer" / "weights"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "varestorer" / "weights"


def installed_file(name: str, root: Path) -> Path:
    """Where a model of that name is or would be."""
    return BUNDLED_MODELS.get(name, root / f"{name}.safetensors")


def installed_names(root: Path) -> list[str]:
    """Names of the models in the root, the known ones first."""
    try:
        found = {path.stem for path in root.glob("*.safetensors") if path.is_file() and not path.name.startswith(".")}
    except OSError:
        return []
    known = [name for name in (*RELEASED, *PARTS) if name in found]
    return known + sorted(found - set(known))


# --- the record ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file that a model was made from.

    Attributes:
        file: its name.
        sha256: of its bytes.
        size: in bytes.
        repository: on the hub, "" for a file given by hand.
        revision: commit, "" where not known.
        licence: of the weights.
    """

    file: str
    sha256: str
    size: int
    repository: str = ""
    revision: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Record:
    """What the record knows.

    Attributes:
        published: files seen on the hub, by repository and path.
        models: hash of each installed model's file, by its name.
        folders: hashes of the files of each text encoder or captioner, by its folder's name and theirs.
    """

    published: dict[str, Source]
    models: dict[str, str]
    folders: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> "Record":
        """The root's record; empty where there is none.

        Raises:
            CheckpointError: it is there and makes no sense.
        """
        path = root / RECORD
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {str(key): Source(**value) for key, value in stored["published"].items()},
                {str(key): str(value) for key, value in stored["models"].items()},
                {
                    str(name): {str(key): str(value) for key, value in files.items()}
                    for name, files in stored.get("folders", {}).items()
                },
            )
        except FileNotFoundError:
            return cls({}, {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: cannot be understood ({error}); move it away and import or pull the weights again"
            ) from error

    def write(self, root: Path) -> None:
        """Store it, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        stored: dict[str, Any] = {
            "published": {key: asdict(source) for key, source in sorted(self.published.items())},
            "models": dict(sorted(self.models.items())),
            "folders": {name: dict(sorted(files.items())) for name, files in sorted(self.folders.items())},
        }
        with atomic_file(root / RECORD) as stream:
            stream.write((json.dumps(stored, indent=1) + "\n").encode())


# --- names -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A model that was chosen.

    Attributes:
        name: for reports.
        path: its file.
        why: reason, where the program chose.
    """

    name: str
    path: Path
    why: str = ""


def choose_model(model: str, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> Choice:
    """Which file a model's name means.

    Args:
        model: ``auto``, a name, a file, or the folder of a training run. ``auto`` is the published restorer where it
            is installed and the GPU can hold it, else the bundled model.
        weights: weights root, where given.
        device: what the model is to run on.

    Raises:
        MissingDependencyError: there is no such file.
    """
    root = weights_root(weights)
    if model == "auto":
        return _automatic(root, device)
    path = Path(model)
    if path.is_dir():
        path = path / "model.safetensors"
    if path.is_file() and model not in BUNDLED_MODELS:
        return Choice(path.parent.name if path.name == "model.safetensors" else path.stem, path)
    named = installed_file(model, root)
    if named.is_file() and (model in BUNDLED_MODELS or model in installed_names(root)):
        return Choice(model, named)
    if model in BUNDLED_MODELS:
        raise MissingDependencyError(f"model {model!r}: no file {named}; reinstall varestorer")
    if model in RELEASED or model in PARTS:
        pull = f"weights pull {model}, or varestorer " if model in RELEASED else ""
        raise MissingDependencyError(
            f"model {model!r} is not installed: no file {named}; run varestorer {pull}weights import FILES, "
            f"or name the folder that has it with --weights or {ENVIRONMENT}"
        )
    known = ", ".join((*BUNDLED_MODELS, *RELEASED))
    raise MissingDependencyError(
        f"model {model!r}: no file {path}; give one of {known}, a model file, or the folder of a training run"
    )


def _automatic(root: Path, device: str) -> Choice:
    """The best installed model that the device can run at a bearable speed."""
    student = installed_file("2b", root)
    compact = "compact", installed_file("compact", root)
    if not student.is_file():
        return Choice(*compact, "the 2b weights are not installed")
    if not device.startswith("cuda"):
        return Choice(*compact, f"2b is slow on {device}, --model 2b takes it all the same")
    import torch

    free = torch.cuda.mem_get_info(torch.device(device))[0]
    needed = student.stat().st_size + _WORKING_MEMORY
    if free < needed:
        return Choice(*compact, f"2b needs {needed / 1e9:.1f} GB on the GPU, {free / 1e9:.1f} GB are free")
    return Choice("2b", student, "installed, and the GPU can hold it")
