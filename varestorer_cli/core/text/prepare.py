"""Texts of a run: find or make captions, and encode every text, before the restorer is loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from varestorer_cli.core.choices import Captioning
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import InputError, MissingDependencyError, UsageError
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import named
from varestorer_cli.core.signals import StopFlag
from varestorer_cli.core.text.cache import TextCache, text_cache_folder
from varestorer_cli.core.text.captions import CaptionsFile, Texts, captions_of, clean
from varestorer_cli.core.text.transformers_backend import (
    DEFAULT_PROMPT,
    LONGEST_TEXT,
    captioner,
    features_of,
    folder_fingerprint,
)
from varestorer_cli.core.weights.catalog import CAPTIONER, TEXT_ENCODER
from varestorer_cli.core.weights.model_metadata import read_metadata
from varestorer_cli.core.weights.root import choose_model, need_folder, weights_root
from varestorer_cli.core.weights.stored_text import StoredText, read_text, text_width


@dataclass(frozen=True)
class RunTexts:
    """Texts of a run and their features.

    Attributes:
        texts: text of every image.
        rows: features (n, T) of every text, without the null condition.
        files: text files that were read as captions.
        summary: line for the start of a run.
        warning: warning about the model's default text, "" for none.
    """

    texts: Texts = field(default_factory=Texts)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    summary: str = ""
    warning: str = ""


def model_text(stored: StoredText | None, *, takes_text: bool) -> RunTexts:
    """The model's default text for every image, or its learned null condition."""
    if stored is None:
        warning = (
            "the model was trained with texts and brings no default text, so it works without one; store it with "
            "varestorer weights text, or give --prompt"
        )
        return RunTexts(warning=warning if takes_text else "")
    return RunTexts(Texts(default=stored.prompt, stored=stored.prompt), {stored.prompt: stored.rows})


def prepare_texts(
    jobs: Sequence[Job],
    options: RestoreOptions,
    captions_file: Path,
    console: Console,
    *,
    device: str = "cpu",
    stop: StopFlag | None = None,
) -> RunTexts:
    """Find or make a text for every image, and encode the texts.

    Captions of ``--captions`` come first, then those of the captioner, then ``--prompt``, then the model's default.
    Networks are loaded only for what is missing, one after the other, and are freed before this returns.

    Args:
        jobs: the images.
        options: options of the run, of which ``text``, ``model``, ``weights`` and ``transfer`` are used.
        captions_file: file for the captioner's captions.
        console: for warnings and progress.
        device: torch device for the networks.
        stop: flag that interrupts the run.

    Raises:
        UsageError: the model takes no text, or the captions cannot be read.
        MissingDependencyError: the encoder, the captioner or transformers is missing.
        CheckpointError: one of them is damaged or of another kind.
        InterruptedRunError: ``stop`` was set.
    """
    text, stop = options.text, stop or StopFlag()
    width, stored = _text_of_model(options, device)
    found = captions_of(jobs, text, console)
    captions = dict(found.by_key)
    if text.captioning == Captioning.AUTO:
        bare = [job for job in jobs if job.key not in captions]
        captions |= _described(bare, options, captions_file, console, device, stop)
    default = clean(text.prompt) if text.prompt is not None else stored.prompt if stored else DEFAULT_PROMPT
    bare_names = [job.input for job in jobs if job.key not in captions]
    if bare_names and (text.captions is not None or text.captioning == Captioning.AUTO):
        console.warn(
            f"{len(bare_names)} of {len(jobs)} images have no caption and use {default!r}: {named(bare_names, 5)}"
        )
    wanted = dict.fromkeys([*captions.values(), *([default] if bare_names or not jobs else [])])
    rows = {stored.prompt: stored.rows} if stored and stored.prompt in wanted else {}
    missing = [prompt for prompt in wanted if prompt not in rows]
    encoder, encoded = ("", 0)
    if missing:
        encoder, encoded = _add_features(rows, missing, options, width, stored, console, device, stop)
    summary = (
        f"text: {len(jobs) - len(bare_names)} of {len(jobs)} images with a caption, {len(bare_names)} with "
        f"{default!r}; distinct texts: {len(wanted)}, encoded now: {encoded}"
    )
    texts = Texts(captions, default, encoder, stored.prompt if stored else None)
    return RunTexts(texts, rows, frozenset(found.files), summary)


def _text_of_model(options: RestoreOptions, device: str) -> tuple[int, StoredText | None]:
    """Width T of the text features that the model takes, and its default text.

    Raises:
        UsageError: it takes none.
    """
    model = choose_model(options.model, options.weights, device)
    stored, width = read_text(model.path), text_width(model.path, read_metadata(model.path))
    if stored is not None:
        width = stored.rows.shape[1]
    if width is None:
        raise UsageError(
            f"{options.text.asked_by}: the model {model.name} takes no text, it was trained without captions; leave "
            "the option out, or choose a model with a text encoder (--model 2b)"
        )
    return width, stored


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
    console.start(len(jobs), "describing the images")
    try:
        with captioner(folder, device=device) as describe:
            for number, job in enumerate(jobs):
                _check(stop)
                try:
                    decoded = decode(read_bytes(job.input), options.transfer, options.layer).model_input()
                except InputError:
                    continue  # fails again when it is restored, and is reported then
                if caption := clean(describe(decoded)):
                    captions[job.key] = caption
                    file.add(job.key, caption)
                console.update(number + 1, "describing the images")
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
    """Add features from the cache, and encode all other prompts.

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
    cache = TextCache(encoder, text_cache_folder())
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
        raise stop.error("stopped before the first image; run the same command again")
