"""Text encoder and captioner from local folders; the only module that imports transformers.

No internet access. A model is loaded inside one function call; when the call returns, its memory is free for the
restorer.

The encoder follows the released script (T5 encoder, at most 512 tokens, end token kept, padding dropped) with two
differences that change only rounding: prompts run one by one without padding, so that the features of a prompt do not
depend on the other prompts, and in float32 instead of half precision.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, OutOfMemoryError, VarestorerError
from varestorer_cli.core.extras import install_command
from varestorer_cli.core.image.image_data import Samples
from varestorer_cli.core.weights.catalog import CAPTIONER, TEXT_ENCODER, Kind
from varestorer_cli.core.weights.stored_text import StoredText

DEFAULT_PROMPT = "a sharp, detailed, high quality photograph"
"""Text whose features are stored with released weights, for images without a caption."""
LONGEST_TEXT = 512
"""Maximal number of tokens of a prompt; the rest is cut off, as in the released script."""

_CAPTION_TOKENS = 20
_WEIGHTS = ("*.safetensors", "*.bin")
_TEXTS = ("*.json", "*.model", "vocab.txt", "merges.txt")
_WHOLE_BELOW = 1 << 25
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 that identifies a model folder: small files whole, of large files the size and 64 samples.

    Raises:
        MissingDependencyError: the folder holds no model.
    """
    digest = hashlib.sha256()
    try:
        files = sorted({path for pattern in (*_WEIGHTS, *_TEXTS) for path in folder.glob(pattern)})
        if not any(path.match(pattern) for path in files for pattern in _WEIGHTS):
            raise MissingDependencyError(
                f"{folder}: holds no model; config.json, weights (*.safetensors or *.bin) and the tokenizer's files "
                "are needed there"
            )
        for path in files:
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
            with path.open("rb") as stream:
                if size < _WHOLE_BELOW:
                    digest.update(stream.read())
                    continue
                for number in range(_SAMPLES):
                    stream.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                    digest.update(stream.read(_SAMPLE_BYTES))
    except OSError as error:
        raise MissingDependencyError(f"{folder}: cannot be read ({error.strerror}); check the folder") from error
    return digest.hexdigest()


def features_of(
    folder: Path,
    prompts: Sequence[str],
    *,
    width: int | None = None,
    device: str = "cpu",
    on_cut: Callable[[str, int], None] = lambda prompt, tokens: None,
    on_prompt: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Tensor]]:
    """Encode prompts in order, yielding (prompt, features (n, T)), float32 on the CPU.

    n is the prompt's number of tokens with the end token, without padding. The model is in memory until the iterator
    ends or is closed.

    Args:
        folder: configuration, weights and tokenizer of a T5 model; its decoder is not read.
        prompts: distinct texts.
        width: T that the transformer expects, None for any.
        device: torch device; the CPU is used if its memory is too small.
        on_cut: called with each prompt that is longer than 512 tokens, and its number of tokens.
        on_prompt: called before each prompt; may raise to stop.

    Raises:
        MissingDependencyError: transformers or the folder is missing.
        CheckpointError: the folder is damaged, holds another kind of model, or one of another width.
    """
    done = 0
    try:
        for row in _encode(folder, prompts, width, device, on_cut, on_prompt):
            yield row
            done += 1
        return
    except torch.cuda.OutOfMemoryError:
        pass  # outside the except block its traceback no longer keeps the tensors alive
    torch.cuda.empty_cache()
    yield from _encode(folder, prompts[done:], width, "cpu", on_cut, on_prompt)


def stored_text(folder: Path, prompt: str = DEFAULT_PROMPT) -> StoredText:
    """Features of a default text, to be stored in the file of a model that takes one.

    Args:
        folder: folder of the text encoder that the model was trained with.
        prompt: the text.

    Raises:
        MissingDependencyError: transformers or the folder is missing.
        CheckpointError: the folder is damaged or holds another kind of model.
    """
    return StoredText(prompt, dict(features_of(folder, [prompt]))[prompt], folder_fingerprint(folder))


def _encode(
    folder: Path,
    prompts: Sequence[str],
    width: int | None,
    device: str,
    on_cut: Callable[[str, int], None],
    on_prompt: Callable[[], None],
) -> Iterator[tuple[str, Tensor]]:
    with _offline(TEXT_ENCODER, folder) as transformers:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        _check_type(folder, config, TEXT_ENCODER)
        if width is not None and config.d_model != width:
            raise CheckpointError(
                f"{folder}: its features are {config.d_model} wide, the model expects {width}; use the text encoder "
                "that the model was trained with"
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = _whole(folder, transformers.T5EncoderModel, config).to(device)
        for prompt in prompts:
            on_prompt()
            yield prompt, _features(folder, tokenizer, encoder, prompt, on_cut)


def _features(folder: Path, tokenizer: Any, encoder: Any, prompt: str, on_cut: Callable[[str, int], None]) -> Tensor:
    tokens = tokenizer(text=[prompt], return_tensors="pt")
    length = int(tokens.input_ids.shape[1])
    if length > LONGEST_TEXT:
        on_cut(prompt, length)
        tokens = tokenizer(text=[prompt], max_length=LONGEST_TEXT, truncation=True, return_tensors="pt")
    kept = tokens.attention_mask[0].bool()
    ids, mask = tokens.input_ids[:, kept], tokens.attention_mask[:, kept]
    if not ids.numel():
        raise CheckpointError(f"{folder}: its tokenizer makes no token of {prompt[:60]!r}; fetch the folder again")
    with torch.inference_mode():
        hidden = encoder(input_ids=ids.to(encoder.device), attention_mask=mask.to(encoder.device)).last_hidden_state
    rows: Tensor = hidden[0].float().cpu().clone()
    if not bool(torch.isfinite(rows).all()):
        raise CheckpointError(
            f"{folder}: the features of {prompt[:60]!r} are not finite; the weights are damaged, fetch them again"
        )
    return rows


@contextmanager
def captioner(folder: Path, *, device: str = "cpu") -> Iterator[Callable[[Samples], str]]:
    """Load BLIP as a function from an image, (H, W, 3) RGB in uint8, uint16 or float32, to a caption (greedy decoding).

    Its memory is free once the function is deleted.

    Args:
        folder: configuration, weights, tokenizer and image processor of a BLIP captioning model.
        device: torch device.

    Raises:
        MissingDependencyError: transformers or the folder is missing.
        CheckpointError: the folder is damaged or holds another kind of model.
    """
    with _offline(CAPTIONER, folder) as transformers:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        _check_type(folder, config, CAPTIONER)
        processor = transformers.BlipProcessor.from_pretrained(folder, local_files_only=True)
        model = _whole(folder, transformers.BlipForConditionalGeneration, config).to(device)

    def describe(decoded: Samples) -> str:
        samples = _8_bit(decoded)
        with _offline(CAPTIONER, folder), torch.inference_mode():
            inputs = processor(images=Image.fromarray(samples), return_tensors="pt").to(device)
            tokens = model.generate(**inputs, max_new_tokens=_CAPTION_TOKENS)
            return str(processor.decode(tokens[0], skip_special_tokens=True))

    yield describe


def _8_bit(decoded: Samples) -> Samples:
    if decoded.dtype == np.uint16:
        decoded = decoded >> 8
    elif decoded.dtype != np.uint8:
        decoded = np.nan_to_num(decoded).clip(0, 1) * 255 + 0.5
    return np.ascontiguousarray(decoded, np.uint8)


def _check_type(folder: Path, config: Any, kind: Kind) -> None:
    if config.model_type not in kind.types:
        raise CheckpointError(f"{folder}: holds a model of type {config.model_type!r}, a {kind.name} is needed")


def _whole(folder: Path, model_class: Any, config: Any) -> Any:
    """Load a network with all its weights, in float32.

    Raises:
        CheckpointError: weights are missing or have another shape.
    """
    model, found = model_class.from_pretrained(
        folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    lacking = [str(name) for kind in ("missing_keys", "mismatched_keys") for name in found[kind]]
    if lacking:
        raise CheckpointError(
            f"{folder}: {lacking[0]!r} is missing or has another shape ({len(lacking)} tensors in all); "
            "fetch the folder again"
        )
    return model.eval().requires_grad_(False)


@contextmanager
def _offline(kind: Kind, folder: Path) -> Iterator[Any]:
    """Import transformers without network, messages and progress bars, and translate its errors.

    Raises:
        MissingDependencyError: transformers or the folder is missing.
        CheckpointError: the folder cannot be used.
        OutOfMemoryError: the network does not fit.
    """
    if not (folder / "config.json").is_file():
        raise MissingDependencyError(f"{folder}: a {kind.name} is not there (no config.json); check the folder")
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(_OFFLINE)
    try:
        try:
            import transformers
        except ImportError as error:
            raise MissingDependencyError(
                f"a {kind.name} needs transformers, which cannot be imported ({error}); {install_command('text')}"
            ) from error
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield transformers
        finally:
            transformers.logging.set_verbosity(verbosity)
            transformers.logging.enable_progress_bar()
    except (VarestorerError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            raise OutOfMemoryError(f"{folder}: the {kind.name} does not fit in memory ({text})") from error
        raise CheckpointError(
            f"{folder}: cannot be used as a {kind.name} ({type(error).__name__}: {text}); fetch the folder again"
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
