"""The texts of a run: captions found or made, and the features of every text, all before the restorer is loaded."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import InputError, MissingDependencyError, UsageError
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.options import Captioning, RestoreOptions
from varestorer_cli.core.signals import StopFlag
from varestorer_cli.core.text.cache import TextCache, cache_folder
from varestorer_cli.core.text.captions import CaptionsFile, Texts, captions_of, clean, named
from varestorer_cli.core.text.transformers_backend import (
    DEFAULT_PROMPT,
    LONGEST_TEXT,
    captioner,
    features_of,
    folder_fingerprint,
)
from varestorer_cli.core.weights.model_file import StoredText, read_metadata, read_text
from varestorer_cli.core.weights.root import choose_model, weights_root
from varestorer_cli.core.weights.textmodels import CAPTIONER, TEXT_ENCODER, need_folder


@dataclass(frozen=True)
class Prepared:
    """What the engine needs to know of the texts.

    Attributes:
        texts: text of every picture.
        rows: features (n, T) of every text that is not the null condition.
        files: text files that were read as captions.
        summary: for the first lines of a run.
        warning: what the user should know of the model's own text, "" for nothing.
    """

    texts: Texts = field(default_factory=Texts)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    summary: str = ""
    warning: str = ""


def of_model(stored: StoredText | None, *, takes_text: bool) -> Prepared:
    """The model's own text for every picture, or its learned null condition."""
    if stored is None:
        warning = (
            "the model was trained with texts and brings no default text, so it works without one; store it with "
            "varestorer weights text, or give --prompt"
        )
        return Prepared(warning=warning if takes_text else "")
    return Prepared(Texts(default=stored.prompt, stored=stored.prompt), {stored.prompt: stored.rows})


def prepare_texts(
    jobs: Sequence[Job],
    options: RestoreOptions,
    captions_file: Path,
    console: Console,
    *,
    device: str = "cpu",
    stop: StopFlag | None = None,
) -> Prepared:
    """Find or make a text for every picture, and the features of every text.

    Captions of ``--captions`` come first, then those of the captioner, then ``--prompt``, then the model's default.
    Networks are loaded only for what is not known yet, one after the other, and are gone when this returns.

    Args:
        jobs: the pictures.
        options: as given by the user; only ``text`` and ``model`` matter.
        captions_file: where the captioner's captions go.
        console: for warnings and progress.
        device: torch device for the networks.
        stop: set from outside to stop.

    Raises:
        UsageError: the model takes no text, or the captions cannot be read.
        MissingDependencyError: the encoder, the captioner or transformers is missing.
        CheckpointError: one of them is damaged or of another kind.
        InterruptedRunError: told to stop.
    """
    text, stop = options.text, stop or StopFlag()
    width, stored = _model_text(options, device)
    found = captions_of(jobs, text, console)
    captions = dict(found.by_key)
    if text.captioning == Captioning.AUTO:
        bare = [job for job in jobs if job.key not in captions]
        captions |= _described(bare, options, captions_file, console, device, stop)
    default = clean(text.prompt) if text.prompt is not None else stored.prompt if stored else DEFAULT_PROMPT
    bare_names = [job.input for job in jobs if job.key not in captions]
    if bare_names and (text.captions is not None or text.captioning == Captioning.AUTO):
        console.warn(
            f"{len(bare_names)} of {len(jobs)} pictures have no caption and use {default!r}: {named(bare_names)}"
        )
    wanted = dict.fromkeys([*captions.values(), *([default] if bare_names or not jobs else [])])
    rows = {stored.prompt: stored.rows} if stored and stored.prompt in wanted else {}
    missing = [prompt for prompt in wanted if prompt not in rows]
    encoder, encoded = ("", 0)
    if missing:
        encoder, encoded = _add_features(rows, missing, options, width, stored, console, device, stop)
    summary = (
        f"text: {len(jobs) - len(bare_names)} of {len(jobs)} pictures with a caption, {len(bare_names)} with "
        f"{default!r}; distinct texts: {len(wanted)}, encoded now: {encoded}"
    )
    texts = Texts(captions, default, encoder, stored.prompt if stored else None)
    return Prepared(texts, rows, frozenset(found.files), summary)


def _model_text(options: RestoreOptions, device: str) -> tuple[int, StoredText | None]:
    """Width of the text features that the model takes, and its default text.

    Raises:
        UsageError: it takes none.
    """
    model = choose_model(options.model, options.weights, device)
    metadata = read_metadata(model.path)
    stored = read_text(model.path)
    settings = json.loads(metadata.get("restorer", "{}"))
    if stored is None and not settings.get("takes_text", False):
        raise UsageError(
            f"{options.text.asked_by}: the model {model.name} takes no text, it was trained without captions; leave "
            "the option out, or choose a model with a text encoder (--model 2b)"
        )
    return int(json.loads(metadata["components"])["transformer"]["config"]["text_width"]), stored


def _described(
    jobs: Sequence[Job], options: RestoreOptions, path: Path, console: Console, device: str, stop: StopFlag
) -> dict[str, str]:
    """Captions by the captioner; those already in its file are kept, whoever wrote them."""
    file = CaptionsFile(path)
    captions = {job.key: caption for job in jobs if (caption := file.of(job)) is not None}
    jobs = [job for job in jobs if job.key not in captions]
    if not jobs:
        return captions
    folder = need_folder(CAPTIONER, options.text.captioner, weights_root(options.weights), "--caption auto")
    console.start(len(jobs), "describing the pictures")
    try:
        with captioner(folder, device=device) as describe:
            for number, job in enumerate(jobs):
                _check(stop)
                try:
                    picture = decode(read_bytes(job.input), options.transfer).model_input()
                except InputError:
                    continue  # fails again when it is restored, and is reported then
                if caption := clean(describe(picture)):
                    captions[job.key] = caption
                    file.add(job.key, caption)
                console.update(number + 1, "describing the pictures")
    finally:
        console.finish()
    console.info(f"captions: {path} (edit it and give it back with --captions, or run again as it is)")
    return captions


def _add_features(
    rows: dict[str, Tensor],
    prompts: Sequence[str],
    options: RestoreOptions,
    width: int,
    stored: StoredText | None,
    console: Console,
    device: str,
    stop: StopFlag,
) -> tuple[str, int]:
    """Add features from the cache, and of all other prompts from the encoder.

    Returns:
        fingerprint of the encoder, number of prompts it encoded.
    """
    text, folder, shortage = options.text, None, None
    try:
        folder = need_folder(TEXT_ENCODER, text.encoder, weights_root(options.weights), text.asked_by, width)
        encoder = folder_fingerprint(folder)
    except MissingDependencyError as error:
        shortage = error
        if text.encoder is not None or stored is None or not stored.encoder:
            raise
        encoder = stored.encoder  # what it made earlier may be in the cache
    cache = TextCache(encoder, cache_folder())
    for prompt in prompts:
        features = cache.read(prompt)
        if features is not None and features.shape[1] == width:
            rows[prompt] = features
    left = [prompt for prompt in prompts if prompt not in rows]
    if not left:
        return encoder, 0
    if folder is None:
        assert shortage is not None
        raise shortage
    made = features_of(
        folder, left, width=width, device=device, on_cut=_tell_cut(console), on_prompt=lambda: _check(stop)
    )
    for prompt, features in made:
        rows[prompt] = features
        cache.write(prompt, features)
    if cache.problem:
        console.warn(f"text features are not kept for the next run ({cache.problem}); set XDG_CACHE_HOME to keep them")
    return encoder, len(left)


def _tell_cut(console: Console) -> Callable[[str, int], None]:
    def tell(prompt: str, tokens: int) -> None:
        console.warn(f"a text of {tokens} tokens is cut to {LONGEST_TEXT}: {prompt[:60]!r} ...")

    return tell


def _check(stop: StopFlag) -> None:
    if stop.requested():
        raise stop.error("stopped before the first picture; run the same command again")
