"""List the models, text encoders and captioners of a weights root, and check them against their hashes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.install.network_folder import check_folder, folder_notes, folder_size
from varestorer_cli.core.weights.catalog import BUNDLED, FOLDERS, PARTS, RELEASED
from varestorer_cli.core.weights.model_file import load_bundle
from varestorer_cli.core.weights.model_metadata import read_metadata
from varestorer_cli.core.weights.root import (
    BUNDLED_MODELS,
    Record,
    installed_file,
    installed_names,
    kind_of,
    network_folders,
)
from varestorer_cli.core.weights.tensor_io import DATA_HASH, hash_data


@dataclass(frozen=True)
class Installed:
    """A model, text encoder or captioner with its facts.

    Attributes:
        name: the value for ``--model``, or the name of the network's folder.
        path: its file or folder, None where it is not installed.
        size: in bytes.
        licence: licence of the weights.
        about: short description.
        sources: published files it was made from, with hash and commit where known.
        problem: why its file cannot be used, "" for no known problem.
    """

    name: str
    path: Path | None
    size: int
    licence: str
    about: str
    sources: tuple[str, ...] = ()
    problem: str = ""

    def values(self) -> dict[str, object]:
        """Fields as JSON-ready values."""
        return asdict(self) | {"path": str(self.path) if self.path else None}


def list_models(root: Path) -> list[Installed]:
    """Bundled models, models and networks that can be pulled, and all others in the root."""
    names = dict.fromkeys((*BUNDLED_MODELS, *RELEASED, *installed_names(root)))
    folders = dict.fromkeys((*FOLDERS, *(folder.name for folder in network_folders(root))))
    return [_described(name, root) for name in names] + [_network(name, root / name) for name in folders]


def _described(name: str, root: Path) -> Installed:
    released = RELEASED.get(name)
    about = released.about if released else BUNDLED[name].about if name in BUNDLED else PARTS.get(name, "")
    path = installed_file(name, root)
    if not path.is_file():
        files = released.files if released else ()
        licence = "; ".join(dict.fromkeys(file.licence for file in files))
        return Installed(name, None, 0, licence, about, tuple(f"{f.key}: {f.about}" for f in files))
    size = path.stat().st_size
    try:
        notes = json.loads(read_metadata(path).get("notes", "{}"))
        sources = json.loads(notes.get("sources", "{}")).values()
        lines = tuple(_source_line(source) for source in sources)
        return Installed(name, path, size, notes.get("licence") or "not stated", about, lines)
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Installed(name, path, size, "", about, problem=str(error))


def _network(name: str, folder: Path) -> Installed:
    published, kind = FOLDERS.get(name), kind_of(folder)
    about = published.about if published else kind.name if kind else ""
    if kind is None:
        assert published is not None
        return Installed(name, None, 0, published.licence, about, (f"{published.repository}: {published.kind.name}",))
    size = folder_size(folder)
    try:
        notes = folder_notes(folder)
        lines = tuple(_source_line(source) for source in json.loads(notes.get("sources", "{}")).values())
        return Installed(name, folder, size, notes.get("licence") or "not stated", about, lines)
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Installed(name, folder, size, "", about, problem=str(error))


def _source_line(source: dict[str, str]) -> str:
    where = f"{source['repository']} at {source['revision'][:12]}, " if source["repository"] else ""
    return f"{where}{source['file']}, sha256 {source['sha256'] or 'not known'}"


def verify_models(root: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Check installed models against every known hash.

    Args:
        root: weights root.
        names: names of models and networks; empty for all installed ones.

    Returns:
        (name, problem or "") per model.

    Raises:
        MissingDependencyError: a named one is not installed.
        CheckpointError: the record is damaged.
    """
    record = Record.read(root)
    models = list(dict.fromkeys((*BUNDLED_MODELS, *installed_names(root), *record.models)))
    folders = list(dict.fromkeys((*(folder.name for folder in network_folders(root)), *record.folders)))
    unknown = [name for name in names if name not in models and name not in folders]
    if unknown:
        there = ", ".join((*models, *folders))
        raise MissingDependencyError(f"{unknown[0]!r} is not installed in {root}; there are {there}")
    return [
        (name, check_file(installed_file(name, root), "" if name in BUNDLED_MODELS else record.models.get(name, "")))
        for name in models
        if name in (names or models)
    ] + [
        (name, check_folder(root / name, record.folders.get(name, {})))
        for name in folders
        if name in (names or folders)
    ]


def check_file(path: Path, sha256: str = "") -> str:
    """Problem of a model file, "" if there is none.

    Its bytes are compared with the hash in its own metadata and with the recorded one; a file without either is
    loaded, which checks every name, shape and value.
    """
    try:
        metadata = read_metadata(path)
        with path.open("rb") as stream:
            whole, data = hash_data(stream)
        expected = metadata.get(DATA_HASH)
        if expected is None and not sha256:
            load_bundle(path)
            return ""
        if expected is not None and data != expected:
            return f"its tensors have the hash {data}, its metadata says {expected}; it is damaged: fetch it again"
        if sha256 and whole != sha256:
            return f"it has the hash {whole}, {sha256} was recorded; it was replaced or changed: fetch it again"
    except (CheckpointError, MissingDependencyError) as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return ""


def render(root: Path, models: list[Installed]) -> str:
    """The models as text for the terminal."""
    width = max(len(model.name) for model in models)
    lines = [f"weights root: {root}{'' if root.is_dir() else ' (not there)'}"]
    for model in models:
        state = f"{model.size / 1e6:,.1f} MB" if model.path else "not installed"
        about = f", {model.about}" if model.about else ""
        lines.append(f"{model.name:{width}}  {state}{about}; licence: {model.licence}")
        if model.path is None and model.name in (*RELEASED, *FOLDERS):
            lines.append(f"{'':{width}}  varestorer weights pull {model.name}, from:")
        lines += [f"{'':{width}}    {source}" for source in model.sources]
        if model.problem:
            lines.append(f"{'':{width}}  PROBLEM: {model.problem}")
    return "\n".join(lines)


def render_json(root: Path, models: list[Installed]) -> str:
    """The models as JSON."""
    return json.dumps({"root": str(root), "models": [model.values() for model in models]}, indent=1)
