"""Check folders of text encoders and captioners (in the layout of transformers) and write them to a weights root.

Of a T5 model only the encoder is kept. All weights go into one ``model.safetensors`` whose metadata has their hash,
licence and sources; tensors are mapped and written one by one. ``config.json`` is written last: a folder that has one
is complete.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, OutputError
from varestorer_cli.core.weights.catalog import CAPTIONER, FOLDERS, TEXT_ENCODER, Kind
from varestorer_cli.core.weights.file_hash import file_sha256
from varestorer_cli.core.weights.root import PublishedSource, Record
from varestorer_cli.core.weights.tensor_io import (
    DATA_HASH,
    STORED_TYPES,
    TensorSource,
    all_finite,
    hash_data,
    read_state,
    write_tensors,
)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_STORED = ((WEIGHTS, INDEX), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
_COPIED = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.txt",
)
_PARTS = {"text_decoder.": "decoder", "vision_model.": "image half"}  # of a captioner


@dataclass(frozen=True)
class Network:
    """A checked text encoder or captioner, ready to be written to a weights root.

    Attributes:
        kind: which of the two.
        folder: folder it was read from.
        files: configuration and tokenizer, copied as they are.
        tensors: its tensors by name.
        metadata: metadata for its weights file, with hash, licence and sources.
    """

    kind: Kind
    folder: Path
    files: Mapping[str, Path]
    tensors: Mapping[str, TensorSource]
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of its folder below the weights root."""
        return self.kind.folder


def read_network(
    folder: Path, files: Mapping[str, Path] | None = None, sources: Mapping[str, PublishedSource] | None = None
) -> Network:
    """Recognise a network's folder and check it; its tensors are not read yet.

    Args:
        folder: folder of a T5 model or a BLIP captioner.
        files: its files by name; by default all in the folder.
        sources: known sources of the files by name.

    Raises:
        MissingDependencyError: a file is not there.
        CheckpointError: damaged, foreign, or not all the tensors of such a network.
    """
    if files is None:
        files = {path.name: path for path in folder.glob("*") if path.is_file()}
    if CONFIG not in files:
        raise MissingDependencyError(f"{folder}: no {CONFIG}; a text encoder or a captioner is a folder that has one")
    config = read_json(files[CONFIG])
    kind = next((kind for kind in (TEXT_ENCODER, CAPTIONER) if config.get("model_type") in kind.types), None)
    if kind is None:
        raise CheckpointError(
            f"{files[CONFIG]}: holds a model of type {config.get('model_type')!r}; a {TEXT_ENCODER.name} or a "
            f"{CAPTIONER.name} is needed"
        )
    for group in FOLDERS[kind.folder].needs:
        if not any(name in files for name in group):
            raise MissingDependencyError(f"{folder}: a {kind.name} needs {' or '.join(group)} too; fetch it")
    names, shards = _shards(folder, files, config)
    try:
        tensors = _checked(kind, config, names, shards)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    kept = {name: _checked_tensor(path, stored, tensor) for name, (path, stored, tensor) in tensors.items()}
    copied = {name: files[name] for name in (*_COPIED, CONFIG) if name in files}
    return Network(kind, folder, copied, kept, _metadata(shards, sources or {}))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it does not, or cannot be read.
    """
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); it is cut off or damaged: fetch it again") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: holds a {type(stored).__name__}, not an object; it is damaged: fetch it again")
    return stored


def needed_shards(index: Path, config: Mapping[str, Any]) -> dict[str, list[str]]:
    """File name -> names of the tensors in it that the network needs.

    Args:
        index: the index of a model in several files.
        config: its configuration.

    Raises:
        CheckpointError: the index makes no sense.
    """
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index}: has no 'weight_map'; it is damaged: fetch it again")
    shards: dict[str, list[str]] = {}
    for name, file in found.items():
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or file.startswith("."):
            raise CheckpointError(f"{index}: {name!r} is said to be in {file!r}, which is no file beside it")
        if _is_needed(name, config):
            shards.setdefault(file, []).append(name)
    return shards


def _is_needed(name: str, config: Mapping[str, Any]) -> bool:
    """True for a tensor that is used: of a T5 model the encoder's alone, of other networks all."""
    return config.get("model_type") not in TEXT_ENCODER.types or not name.startswith(("decoder.", "lm_head."))


def _shards(
    folder: Path, files: Mapping[str, Path], config: Mapping[str, Any]
) -> tuple[set[str] | None, dict[str, Path]]:
    """Names of the needed tensors, where an index tells them, and the files that hold them."""
    for whole, index in _STORED:
        if whole in files:
            return None, {whole: files[whole]}
        if index in files:
            shards = needed_shards(files[index], config)
            lacking = [shard for shard in shards if shard not in files]
            if lacking:
                raise MissingDependencyError(f"{folder}: {lacking[0]} of {index} is not there; fetch it")
            return {name for names in shards.values() for name in names}, {shard: files[shard] for shard in shards}
    raise MissingDependencyError(f"{folder}: no weights ({WEIGHTS}, or shards with {INDEX}); fetch them")


def _checked(
    kind: Kind, config: Mapping[str, Any], names: set[str] | None, shards: Mapping[str, Path]
) -> dict[str, tuple[Path, str, Tensor]]:
    """Tensors to keep by their name: file, name in it, mapped tensor.

    Raises:
        ValueError: some are missing, unexpected or of another shape.
    """
    found: dict[str, tuple[Path, str, Tensor]] = {}
    for path in shards.values():
        state = {name: tensor for name, tensor in read_state(path).items() if _is_needed(name, config)}
        claimed = 0
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{name!r} in {path.name} is a {type(tensor).__name__}, not a tensor")
            if tensor.dtype not in STORED_TYPES:
                raise ValueError(f"{name!r} in {path.name} is {tensor.dtype}, a type that is not known here")
            if name in found:
                raise ValueError(f"{name!r} is in {found[name][0].name} and in {path.name}")
            found[name] = path, name, tensor
            claimed += tensor.nbytes
        if claimed > path.stat().st_size:
            raise ValueError(
                f"the tensors of {path.name} claim {claimed} bytes, more than it has; it was tampered with"
            )
    lacking = sorted((names or set()) - found.keys())
    if lacking:
        raise ValueError(f"{lacking[0]!r} is in the index and in no file ({len(lacking)} tensors in all)")
    if kind == CAPTIONER:
        foreign = [name for name in found if not name.startswith(tuple(_PARTS))]
        if foreign:
            raise ValueError(f"unexpected tensor {foreign[0]!r} ({len(foreign)} in all)")
        for prefix, what in _PARTS.items():
            if not any(name.startswith(prefix) for name in found):
                raise ValueError(f"has no tensor {prefix}*, its {what} is missing")
        return found
    copy = found.pop("encoder.embed_tokens.weight", None)  # older files have the table under two names
    if copy is not None:
        found.setdefault("shared.weight", copy)
    _require_shapes(found, encoder_shapes(config))
    return found


def _require_shapes(found: Mapping[str, tuple[Path, str, Tensor]], expected: Mapping[str, tuple[int, ...]]) -> None:
    unexpected = [name for name in found if name not in expected]
    if unexpected:
        raise ValueError(f"unexpected tensor {unexpected[0]!r} ({len(unexpected)} in all)")
    for name, shape in expected.items():
        if name not in found:
            lacking = len(expected.keys() - found.keys())
            raise ValueError(f"{name!r} is missing ({lacking} tensors in all)")
        tensor = found[name][2]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name!r} is {tuple(tensor.shape)}, its configuration says {shape}")


def encoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a T5 encoder's tensors.

    Args:
        config: parsed config.json.

    Raises:
        ValueError: a number is missing in it.
    """

    def number(name: str, default: int = 0, most: int = 1 << 24) -> int:
        value = config.get(name, default)
        if type(value) is not int or not 0 < value <= most:
            raise ValueError(f"{CONFIG} says {value!r} for {name!r}, a size is needed")
        return value

    width, hidden, heads = number("d_model"), number("d_ff"), number("num_heads")
    inner, buckets = heads * number("d_kv"), number("relative_attention_num_buckets", 32)
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated-")
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (number("vocab_size"), width)}
    for block in range(number("num_layers", most=1024)):
        attention, feed = f"encoder.block.{block}.layer.0", f"encoder.block.{block}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{name}.weight": (inner, width) for name in "qkv"}
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        if block == 0:
            shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (buckets, heads)
        for name in ("wi_0", "wi_1") if gated else ("wi",):
            shapes[f"{feed}.DenseReluDense.{name}.weight"] = (hidden, width)
        shapes[f"{feed}.DenseReluDense.wo.weight"] = (width, hidden)
        shapes |= {f"{layer}.layer_norm.weight": (width,) for layer in (attention, feed)}
    return shapes | {"encoder.final_layer_norm.weight": (width,)}


def _checked_tensor(path: Path, stored: str, tensor: Tensor) -> TensorSource:
    return TensorSource(tensor.dtype, tuple(tensor.shape), partial(_finite, path, stored, tensor))


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not all_finite(tensor):
        raise CheckpointError(f"{path}: {name!r} holds NaN or infinity; the file is damaged: fetch it again")
    return tensor


def _metadata(shards: Mapping[str, Path], sources: Mapping[str, PublishedSource]) -> dict[str, str]:
    """Licence and sources of the weights; a file that this program wrote holds them itself."""
    if set(shards) == {WEIGHTS} and not sources:
        with safe_open(shards[WEIGHTS], framework="pt") as reader:
            stored = dict(reader.metadata() or {})
        if "sources" in stored:
            return stored
    known = {
        name: sources.get(name) or PublishedSource(name, file_sha256(path), path.stat().st_size)
        for name, path in shards.items()
    }
    licences = dict.fromkeys(source.licence for source in known.values() if source.licence)
    return {
        "format": "pt",  # transformers asks for it
        "licence": "; ".join(licences),
        "sources": json.dumps({name: asdict(source) for name, source in known.items()}),
    }


def write_network(network: Network, root: Path, say: Callable[[str], None]) -> Path:
    """Write a network to a weights root, and its hashes to the record.

    Returns:
        its folder there.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
        OutputError: the root cannot be written.
    """
    target = root / network.name
    if not (target.exists() and target.samefile(network.folder)):
        try:
            (target / CONFIG).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
        write_tensors(target / WEIGHTS, network.tensors, network.metadata)
        for name, path in network.files.items():
            with atomic_file(target / name) as stream:
                stream.write(path.read_bytes())
    hashes = {name: file_sha256(target / name) for name in (WEIGHTS, *network.files)}
    record = Record.read(root)
    replace(record, folders={**record.folders, network.name: hashes}).write(root)
    size = (target / WEIGHTS).stat().st_size
    say(f"{network.name}: {target}, {network.kind.name} ({size / 1e6:.1f} MB)")
    return target


# --- checking --------------------------------------------------------------------------------------------------------


def folder_size(folder: Path) -> int:
    """Size of a folder's files in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def folder_notes(folder: Path) -> dict[str, str]:
    """Metadata of the weights file in a network's folder; empty where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as reader:
            return dict(reader.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); it is damaged: fetch it again") from error


def check_folder(folder: Path, hashes: Mapping[str, str]) -> str:
    """Problem of a network's folder, "" if there is none.

    Args:
        folder: the network's folder.
        hashes: recorded SHA-256 of its files by name. Without them the hash in the weights' own metadata is compared;
            a folder without either is checked for the right tensors.
    """
    try:
        for name in (CONFIG, *hashes):
            if not (folder / name).is_file():
                return f"{name} is not there; pull or import it again"
        for name, expected in hashes.items():
            digest = file_sha256(folder / name)
            if digest != expected:
                return f"{name} has the hash {digest}, {expected} was recorded; it was replaced or changed"
        if hashes:
            return ""
        network = read_network(folder)
        expected = network.metadata.get(DATA_HASH, "")
        if expected:
            with (folder / WEIGHTS).open("rb") as stream:
                if hash_data(stream)[1] != expected:
                    return f"the tensors of {WEIGHTS} do not have the hash in its metadata; it is damaged"
        _read_all(network.tensors.values())
    except (CheckpointError, MissingDependencyError) as error:
        return str(error).removeprefix(f"{folder}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return ""


def _read_all(tensors: Iterable[TensorSource]) -> None:
    for tensor in tensors:
        tensor.read()
