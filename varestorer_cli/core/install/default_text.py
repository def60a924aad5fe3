"""The default text's features beside a model's weights, so that plain ``restore`` needs no text encoder."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.install.inventory import check_file
from varestorer_cli.core.text.transformers_backend import DEFAULT_PROMPT, folder_fingerprint, stored_text
from varestorer_cli.core.weights.model_file import StoredText, file_sha256, read_metadata, read_text, write_text
from varestorer_cli.core.weights.root import Record, choose_model, installed_file, installed_names
from varestorer_cli.core.weights.textmodels import TEXT_ENCODER, find_folder, need_folder


@dataclass(frozen=True)
class Taker:
    """A model that takes a text.

    Attributes:
        name: of the model.
        path: its file.
        width: of text features.
    """

    name: str
    path: Path
    width: int


def store(models: Sequence[str], root: Path, *, encoder: Path | None, say: Callable[[str], None]) -> None:
    """Store the default text in model files; their tensors are copied from file to file, one by one.

    Args:
        models: names or files; all models of the root that take a text by default.
        root: weights root.
        encoder: folder of the text encoder, None looks below the root.
        say: gets one sentence a model.

    Raises:
        UsageError: a model takes no text.
        MissingDependencyError: a model, the encoder or transformers is not there.
        CheckpointError: a model file or the encoder is damaged, or they do not fit.
        OutputError: a model file cannot be written.
    """
    chosen = [_named(model, root) for model in models] or _takers(root)
    if not chosen:
        raise MissingDependencyError(
            f"no model that takes a text is installed in {root}; varestorer weights pull 2b, or name a model file"
        )
    texts: dict[Path, StoredText] = {}
    for taker in chosen:
        folder = need_folder(TEXT_ENCODER, encoder, root, "weights text", taker.width)
        before = read_text(taker.path)
        if before and (before.prompt, before.encoder) == (DEFAULT_PROMPT, folder_fingerprint(folder)):
            say(f"{taker.name}: has {DEFAULT_PROMPT!r} by this text encoder already")
            continue
        if folder not in texts:
            say(f"{folder}: encoding {DEFAULT_PROMPT!r}")
            texts[folder] = stored_text(folder)
        _put(taker, texts[folder], root, say)


def complete(
    root: Path, *, say: Callable[[str], None], warn: Callable[[str], None], skip: Collection[str] = ()
) -> None:
    """Store the default text in every installed model that lacks it and whose text encoder is below the root.

    Args:
        root: weights root.
        say: gets one sentence a model.
        warn: told why not, where only the package transformers is missing.
        skip: models to leave alone.

    Raises:
        CheckpointError: a model file or the encoder is damaged.
        OutputError: a model file cannot be written.
    """
    for taker in _takers(root):
        if taker.name not in skip and read_text(taker.path) is None:
            text = made_below(root, taker.width, say=say, warn=warn)
            if text is not None:
                _put(taker, text, root, say)


def made_below(root: Path, width: int, *, say: Callable[[str], None], warn: Callable[[str], None]) -> StoredText | None:
    """Features of the default text by the encoder below the weights root; None where there is none of that width.

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


def _takers(root: Path) -> list[Taker]:
    found = []
    for name in installed_names(root):
        try:
            taker = _taker(name, installed_file(name, root))
        except (CheckpointError, MissingDependencyError):
            continue  # some other file; weights list says what is wrong with it
        if taker is not None:
            found.append(taker)
    return found


def _taker(name: str, path: Path) -> Taker | None:
    metadata = read_metadata(path)
    try:
        if not json.loads(metadata.get("restorer", "{}")).get("takes_text", False):
            return None
        width = json.loads(metadata["components"])["transformer"]["config"]["text_width"]
        return Taker(name, path, int(width))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be understood ({error}); fetch it again") from error


def _named(model: str, root: Path) -> Taker:
    choice = choose_model(model, root)
    taker = _taker(choice.name, choice.path)
    if taker is None:
        raise UsageError(f"{model}: the model takes no text, it was trained without captions")
    return taker


def _put(taker: Taker, text: StoredText, root: Path, say: Callable[[str], None]) -> None:
    """Write the features; a damaged file is not made whole by a new hash."""
    record = Record.read(root)
    installed = taker.path == installed_file(taker.name, root)
    problem = check_file(taker.path, record.models.get(taker.name, "") if installed else "")
    if problem:
        raise CheckpointError(f"{taker.path}: {problem}")
    write_text(taker.path, text)
    if installed:
        replace(record, models={**record.models, taker.name: file_sha256(taker.path)}).write(root)
    say(f"{taker.name}: {text.prompt!r} is stored in {taker.path}; restore needs no text encoder for it")
