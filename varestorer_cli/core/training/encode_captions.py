"""``varestorer texts``: captions of training photographs and their features, one file per photograph."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from varestorer_cli.core.choices import Precision
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.phrases import reason_of
from varestorer_cli.core.runtime import choose
from varestorer_cli.core.text.cache import TextCache, read_features, text_cache_folder, write_features
from varestorer_cli.core.text.captions import BESIDE, LARGEST_SIDECAR, FoundCaptions, clean, find_captions
from varestorer_cli.core.text.transformers_backend import DEFAULT_PROMPT, LONGEST_TEXT, features_of, folder_fingerprint
from varestorer_cli.core.training.data import tar_shards
from varestorer_cli.core.training.data.crop_builder import named_photos
from varestorer_cli.core.training.text_features import DEFAULT_FILE, feature_file
from varestorer_cli.core.training.tool_options import TextsOptions
from varestorer_cli.core.weights.catalog import TEXT_ENCODER
from varestorer_cli.core.weights.root import need_folder, weights_root

_KEYS = ("caption", "text")


def make_features(options: TextsOptions) -> int:
    """Write the features of every photograph's text, and of the default text; those that are there already are kept.

    Returns:
        Photographs that have a caption of their own.

    Raises:
        InputError: no photographs.
        UsageError: the captions cannot be read.
        MissingDependencyError: the encoder or transformers is missing.
        CheckpointError: the encoder is damaged or of another kind.
        OutputError: ``out`` cannot be written.
    """
    console = Console(quiet=options.quiet)
    photos = named_photos(options.data)
    found = photo_captions(photos, options.captions)
    found.report(console, "photograph")
    folder = need_folder(TEXT_ENCODER, options.encoder, weights_root(options.weights), "texts")
    encoder = folder_fingerprint(folder)
    default = clean(options.prompt or "") or DEFAULT_PROMPT
    targets = {options.out / DEFAULT_FILE: default}
    targets |= {feature_file(options.out, name): found.by_key.get(name, default) for name in photos}
    files: dict[str, list[Path]] = {}
    for file, text in targets.items():
        if read_features(file, encoder, text) is None:
            files.setdefault(text, []).append(file)
    device = choose(options.device, Precision.AUTO, options.threads).device
    encoded = _write(files, folder, encoder, device, console)
    own = sum(name in found.by_key for name in photos)
    console.info(
        f"{len(photos)} photographs: {own} with a caption, {len(photos) - own} with {default!r}; "
        f"{encoded} texts encoded now; train with --texts {options.out}"
    )
    return own


def photo_captions(photos: Mapping[str, Path], source: str | None) -> FoundCaptions:
    """Captions of photographs.

    Args:
        photos: path by name, see ``crop_builder.named_photos``; photographs in tar shards too.
        source: what goes first, see ``captions.find_captions``; None = only what lies beside the photographs:
            ``photo.txt``, or ``photo.json`` with the key ``caption`` (or ``text``), as in WebDataset shards.

    Raises:
        UsageError: ``source`` is not there, or no table of captions.
    """
    found = FoundCaptions("files beside the photographs")
    if source not in (None, BESIDE):
        found = find_captions(str(source), [Job(str(path), name, path, name) for name, path in photos.items()])
    for name, path in photos.items():
        if name not in found.by_key:
            caption, problem = _beside(path)
            if caption:
                found.by_key[name] = caption
            if problem:
                found.problems.append(problem)
    return found


def _beside(path: Path) -> tuple[str, str]:
    """Caption beside a photograph and what is wrong with its file, each "" for nothing."""
    for suffix in (".txt", ".json"):
        file = path.with_suffix(suffix)
        size = tar_shards.file_bytes(file)
        if size < 0:
            continue
        if size > LARGEST_SIDECAR:
            return "", f"{file}: above {LARGEST_SIDECAR} bytes, that is no caption"
        try:
            with tar_shards.open_file(file) as stream:
                text = stream.read().decode("utf-8-sig", "replace")
            caption = clean(text if suffix == ".txt" else _of_json(text))
        except (OSError, ValueError, RecursionError, InputError) as error:
            return "", f"{file}: cannot be read as a caption ({reason_of(error)})"
        if caption:
            return caption, ""
    return "", ""


def _of_json(text: str) -> str:
    content = json.loads(text)
    if isinstance(content, dict):
        content = next((content[key] for key in _KEYS if isinstance(content.get(key), str)), "")
    return content if isinstance(content, str) else ""


def _write(files: Mapping[str, list[Path]], folder: Path, encoder: str, device: str, console: Console) -> int:
    """Write each text's features into its files.

    Returns:
        Texts that had to be encoded.
    """
    cache = TextCache(encoder, text_cache_folder())
    missing: list[str] = []
    done = 0
    total = sum(map(len, files.values()))
    console.start(total, unit="file")

    def write(text: str, rows: Tensor) -> None:
        nonlocal done
        for file in files[text]:
            write_features(file, encoder, text, rows)
            done += 1
            console.update(done)

    try:
        for text in files:
            rows = cache.read(text)
            if rows is None:
                missing.append(text)
            else:
                write(text, rows)
        if missing:
            for text, rows in features_of(folder, missing, device=device, on_cut=_tell_cut(console)):
                write(text, rows)
    finally:
        console.finish()
    return len(missing)


def _tell_cut(console: Console) -> Callable[[str, int], None]:
    def tell(text: str, tokens: int) -> None:
        console.warn(f"a caption of {tokens} tokens is cut to {LONGEST_TEXT}: {text[:60]!r} ...")

    return tell
