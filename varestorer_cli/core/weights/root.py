"""The folder of installed models: where it is, its record of hashes, and which file a model's name means.

All installed models lie in one folder, the weights root: ``--weights DIR``, else the environment variable
``VARESTORER_WEIGHTS``, else a folder of the user. A model is one file there, ``NAME.safetensors``; the record
``weights.json`` beside it holds the hashes of that file and of the published files it was made from.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.folders import data_folder
from varestorer_cli.core.phrases import reason_of, visible
from varestorer_cli.core.weights.catalog import (
    BUNDLED,
    CAPTIONER,
    DEFAULT_BUNDLED,
    FOLDERS,
    PARTS,
    RELEASED,
    TEXT_ENCODER,
    Kind,
)

ENVIRONMENT = "VARESTORER_WEIGHTS"
RECORD = "weights.json"
PACKAGE = Path(__file__).resolve().parents[2]
BUNDLED_MODELS = {name: PACKAGE / "data" / model.file for name, model in BUNDLED.items()}
"""Files of the bundled models by name."""
# Memory in bytes that a tile of 512 pixels needs on a GPU beside the weights; the decoder's maps are the largest.
_WORKING_MEMORY = 1_700_000_000


def weights_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Folder of installed models; it need not exist.

    Args:
        given: value of ``--weights``; None takes the environment variable, else the user's data folder.
    """
    chosen = os.fspath(given) if given is not None else os.environ.get(ENVIRONMENT, "")
    if chosen:
        return Path(chosen).expanduser()
    return data_folder() / "weights"


def installed_file(name: str, root: Path) -> Path:
    """Path of the model with this name, installed or not; bundled names are those of the package's own files."""
    return BUNDLED_MODELS.get(name, root / f"{name}.safetensors")


def installed_names(root: Path) -> list[str]:
    """Names of the models in the root, those of the catalogue first; bundled names never mean a file there."""
    try:
        found = {path.stem for path in root.glob("*.safetensors") if path.is_file() and not path.name.startswith(".")}
    except OSError:
        return []
    found -= BUNDLED_MODELS.keys()
    known = [name for name in (*RELEASED, *PARTS) if name in found]
    return known + sorted(found - set(known))


def require_writable_name(name: str, root: Path) -> Path:
    """Path for a model to be installed under a name.

    Raises:
        UsageError: the name is that of a bundled model, in whatever case, or none that ``--model`` can be given, or the
            root lies inside the package.
    """
    if name.casefold() == "auto" or name.startswith("-") or visible(name) != name:
        raise UsageError(f"{visible(name)!r} cannot be the name of a model; nothing was written. Rename the file")
    if name.casefold() in BUNDLED_MODELS:  # some file systems do not tell cases apart
        raise UsageError(
            f"{name!r} is the name of a bundled model and stays reserved for it; nothing was written. Rename the file, "
            "or give its path to --model"
        )
    require_outside_package(root)
    return root / f"{name}.safetensors"


def require_outside_package(path: Path) -> None:
    """Check that a path to be written does not lie inside the installed package.

    Raises:
        UsageError: it does.
    """
    if path.resolve().is_relative_to(PACKAGE):
        raise UsageError(
            f"{path}: lies inside the installed program, where nothing is written; choose another folder, such as "
            f"--weights DIR"
        )


# --- the record ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedSource:
    """A published file that a model was made from.

    Attributes:
        file: its name.
        sha256: SHA-256 of its bytes, hexadecimal.
        size: in bytes.
        repository: its repository on the hub, "" for a file given by hand.
        revision: commit, "" if unknown.
        licence: licence of the weights.
    """

    file: str
    sha256: str
    size: int
    repository: str = ""
    revision: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Record:
    """Contents of ``weights.json``: hashes of published files, models and network folders.

    Attributes:
        published: files seen on the hub, by repository and path.
        models: hash of each installed model's file, by its name.
        folders: hashes of the files of each text encoder or captioner, by folder name and file name.
    """

    published: dict[str, PublishedSource]
    models: dict[str, str]
    folders: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> "Record":
        """Read the root's record; empty if there is none.

        Raises:
            UsageError: the root is a file.
            CheckpointError: the record exists and cannot be parsed.
        """
        path = root / RECORD
        if root.is_file():
            raise UsageError(f"{root}: is a file, and the folder of installed models is needed; name a folder")
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {str(key): PublishedSource(**value) for key, value in stored["published"].items()},
                {str(key): str(value) for key, value in stored["models"].items()},
                {
                    str(name): {str(key): str(value) for key, value in files.items()}
                    for name, files in stored.get("folders", {}).items()
                },
            )
        except (FileNotFoundError, NotADirectoryError):  # such as below /dev/null, which stands for no models
            return cls({}, {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: cannot be understood ({reason_of(error)}); move it away and import or pull the weights again"
            ) from error

    def write(self, root: Path) -> None:
        """Write the record atomically.

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
    """A chosen model.

    Attributes:
        name: its name in reports.
        path: its file.
        why: reason of an automatic choice, else "".
    """

    name: str
    path: Path
    why: str = ""


def choose_model(model: str, weights: str | os.PathLike[str] | None = None, device: str = "cpu") -> Choice:
    """Model file that a value of ``--model`` stands for.

    Args:
        model: ``auto``, a name, a file, or the folder of a training run. ``auto`` is the published restorer where it
            is installed and the GPU can hold it, else the bundled model.
        weights: weights root, None for the default one.
        device: torch device string the model is to run on.

    Raises:
        MissingDependencyError: there is no such file.
    """
    root = weights_root(weights)
    if model == "auto":
        return _automatic(root, device)
    path = Path(model)
    try:
        if path.is_dir():
            path = path / "model.safetensors"
        if path.is_file() and model not in BUNDLED_MODELS:
            return Choice(path.parent.name if path.name == "model.safetensors" else path.stem, path)
    except (OSError, ValueError) as error:  # a name that is too long, or with a zero byte
        shown = model if len(model) <= 60 else f"{model[:60]}..."
        reason = getattr(error, "strerror", None) or error
        raise MissingDependencyError(f"model {shown!r}: cannot be looked for ({reason}); check --model") from None
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
    """The best installed model that the device runs at an acceptable speed."""
    student = installed_file("2b", root)
    bundled = DEFAULT_BUNDLED, installed_file(DEFAULT_BUNDLED, root)
    if not student.is_file():
        return Choice(*bundled, "the 2b weights are not installed")
    if not device.startswith("cuda"):
        return Choice(*bundled, f"2b is slow on {device}, --model 2b takes it all the same")
    import torch

    free = torch.cuda.mem_get_info(torch.device(device))[0]
    needed = student.stat().st_size + _WORKING_MEMORY
    if free < needed:
        return Choice(*bundled, f"2b needs {needed / 1e9:.1f} GB on the GPU, {free / 1e9:.1f} GB are free")
    return Choice("2b", student, "installed, and the GPU can hold it")


# --- folders of text encoders and captioners -------------------------------------------------------------------------


def kind_of(folder: Path) -> Kind | None:
    """Kind of network in a folder according to its config.json; None for any other folder."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "config.json").read_bytes()).get("model_type")
        return next((kind for kind in (TEXT_ENCODER, CAPTIONER) if found in kind.types), None)
    return None


def network_folders(root: Path) -> list[Path]:
    """Folders of text encoders and captioners below a folder, those of the catalogue first."""
    found = [config.parent for config in sorted(root.glob("*/config.json")) if kind_of(config.parent)]
    order = {name: number for number, name in enumerate(FOLDERS)}
    return sorted(found, key=lambda folder: (order.get(folder.name, len(order)), folder.name))


def find_folder(kind: Kind, root: Path, width: int | None = None) -> Path | None:
    """First folder below the weights root that holds a network of that kind.

    Args:
        kind: kind of network.
        root: weights root.
        width: required width of a text encoder's features, None for any.
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
    """The given folder, else the first of that kind below the weights root.

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
