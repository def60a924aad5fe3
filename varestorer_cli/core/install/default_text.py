"""Store the features of the default text in model files, so that plain ``restore`` needs no text encoder."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.install.inventory import check_file
from varestorer_cli.core.text.transformers_backend import DEFAULT_PROMPT, folder_fingerprint, stored_text
from varestorer_cli.core.weights.catalog import TEXT_ENCODER
from varestorer_cli.core.weights.file_hash import remembered_sha256
from varestorer_cli.core.weights.model_metadata import read_metadata
from varestorer_cli.core.weights.root import (
    Record,
    choose_model,
    find_folder,
    installed_file,
    installed_names,
    need_folder,
    require_outside_package,
)
from varestorer_cli.core.weights.stored_text import StoredText, read_text, text_width, write_text


@dataclass(frozen=True)
class TextModel:
    """An installed model that takes a text.

    Attributes:
        name: the model's name.
        path: its file.
        width: T of its text features (n, T).
    """

    name: str
    path: Path
    width: int


def store(models: Sequence[str], root: Path, *, encoder: Path | None, say: Callable[[str], None]) -> None:
    """Store the default text in model files; tensors are copied one by one from the old file to the new.

    Args:
        models: names or files; all models of the root that take a text by default.
        root: weights root.
        encoder: folder of the text encoder, None looks below the root.
        say: called with one sentence per model.

    Raises:
        UsageError: a model takes no text.
        MissingDependencyError: a model, the encoder or transformers is not there.
        CheckpointError: a model file or the encoder is damaged, or they do not fit.
        OutputError: a model file cannot be written.
    """
    chosen = [_named(model, root) for model in models] or _text_models(root)
    if not chosen:
        raise MissingDependencyError(
            f"no model that takes a text is installed in {root}; varestorer weights pull 2b, or name a model file"
        )
    texts: dict[Path, StoredText] = {}
    for model in chosen:
        folder = need_folder(TEXT_ENCODER, encoder, root, "weights text", model.width)
        before = read_text(model.path)
        if before and (before.prompt, before.encoder) == (DEFAULT_PROMPT, folder_fingerprint(folder)):
            say(f"{model.name}: has {DEFAULT_PROMPT!r} by this text encoder already")
            continue
        if folder not in texts:
            say(f"{folder}: encoding {DEFAULT_PROMPT!r}")
            texts[folder] = stored_text(folder)
        _store(model, texts[folder], root, say)


def complete(
    root: Path, *, say: Callable[[str], None], warn: Callable[[str], None], skip: Collection[str] = ()
) -> None:
    """Store the default text in every installed model that lacks it and whose text encoder is below the root.

    Args:
        root: weights root.
        say: called with one sentence per model.
        warn: called with the reason where only the package transformers is missing.
        skip: models to leave alone.

    Raises:
        CheckpointError: a model file or the encoder is damaged.
        OutputError: a model file cannot be written.
    """
    for model in _text_models(root):
        if model.name not in skip and read_text(model.path) is None:
            text = encode_with_installed(root, model.width, say=say, warn=warn)
            if text is not None:
                _store(model, text, root, say)


def encode_with_installed(
    root: Path, width: int, *, say: Callable[[str], None], warn: Callable[[str], None]
) -> StoredText | None:
    """Features (n, width) of the default text by an encoder below the weights root, None without one of that width.

    Raises:
        CheckpointError: the encoder is damaged.
    """
    folder = find_folder(TEXT_ENCODER, root, width)
    if folder is None:
        return None
    say(f"{folder}: encoding {DEFAULT_PROMPT!r}")
    try:
        return stored_text(folder)
    except MissingDependencyError as error:
        warn(f"the default text is not stored in the model: {error}, then varestorer weights text")
        return None


def _text_models(root: Path) -> list[TextModel]:
    found = []
    for name in installed_names(root):
        try:
            model = _text_model(name, installed_file(name, root))
        except (CheckpointError, MissingDependencyError):
            continue  # another kind of file; weights list states its problem
        if model is not None:
            found.append(model)
    return found


def _text_model(name: str, path: Path) -> TextModel | None:
    width = text_width(path, read_metadata(path))
    return None if width is None else TextModel(name, path, width)


def _named(model: str, root: Path) -> TextModel:
    choice = choose_model(model, root)
    found = _text_model(choice.name, choice.path)
    if found is None:
        raise UsageError(f"{model}: the model takes no text, it was trained without captions")
    return found


def _store(model: TextModel, text: StoredText, root: Path, say: Callable[[str], None]) -> None:
    """Write the features; refuse a damaged file, which would otherwise get a new, valid hash, and a bundled one."""
    require_outside_package(model.path)
    record = Record.read(root)
    installed = model.path == installed_file(model.name, root)
    problem = check_file(model.path, record.models.get(model.name, "") if installed else "")
    if problem:
        raise CheckpointError(f"{model.path}: {problem}")
    write_text(model.path, text)
    if installed:
        replace(record, models={**record.models, model.name: remembered_sha256(model.path)}).write(root)
    say(f"{model.name}: {text.prompt!r} is stored in {model.path}; restore needs no text encoder for it")
