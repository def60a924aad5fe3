"""Convert published weights into model files.

A published file is recognised by its keys, checked name by name and shape by shape against the network it describes,
and written into a model file tensor by tensor: inputs are mapped, a tensor is in memory only while it is converted.
Adapters are folded into their layers in float32, and only then rounded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.install.default_text import complete, encode_with_installed
from varestorer_cli.core.install.inventory import check_file
from varestorer_cli.core.install.network_folder import CONFIG, Network, check_folder, read_network, write_network
from varestorer_cli.core.text.transformers_backend import stored_text
from varestorer_cli.core.weights.catalog import (
    AUTOENCODER_FILE,
    PRERESTORER_FILE,
    STUDENT_FILE,
    TEACHER_FILE,
    PublishedFile,
)
from varestorer_cli.core.weights.configs import config_to_dict
from varestorer_cli.core.weights.file_hash import file_sha256, remembered_sha256
from varestorer_cli.core.weights.model_metadata import bundle_metadata, read_header, read_metadata
from varestorer_cli.core.weights.root import (
    PublishedSource,
    Record,
    installed_file,
    installed_names,
    network_folders,
    require_outside_package,
    require_writable_name,
)
from varestorer_cli.core.weights.stored_text import StoredText, read_text, require_text_fits, with_text
from varestorer_cli.core.weights.tensor_io import (
    DATA_HASH,
    TensorSource,
    all_finite,
    mapped_tensors,
    read_state,
    write_tensors,
)
from varestorer_models.autoencoder import AutoencoderConfig
from varestorer_models.convert import Released, recognise, released_tensors
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.lora import merged_weight
from varestorer_models.quantizer import QuantizerConfig
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.tokenizer import TokenizerConfig
from varestorer_models.transformer import TransformerConfig

_PUBLISHED: Mapping[str, PublishedFile] = {
    "student": STUDENT_FILE,
    "teacher": TEACHER_FILE,
    "tokenizer": AUTOENCODER_FILE,
    "prerestorer": PRERESTORER_FILE,
}


@dataclass(frozen=True)
class Part:
    """One checked network, ready to be written to a model file.

    Attributes:
        kind: ``student``, ``teacher``, ``tokenizer`` or ``prerestorer``.
        header: class and configuration, in the form of a model file's metadata.
        tensors: its tensors by name, without the component's prefix.
        source: the published file.
    """

    kind: str
    header: dict[str, Any]
    tensors: dict[str, TensorSource]
    source: PublishedSource

    @property
    def component(self) -> str:
        """Name of the component in a model file."""
        return "transformer" if self.kind in ("student", "teacher") else self.kind


@dataclass(frozen=True)
class Imported:
    """A model file that was written."""

    name: str
    path: Path
    parts: tuple[Part, ...]


def read_published(
    path: Path, source: PublishedSource | None = None, *, matrices: torch.dtype = torch.bfloat16
) -> Part:
    """Recognise a published file and check it against the network it describes.

    Args:
        path: ``.pth``, ``.ckpt`` or ``.safetensors``.
        source: its source, where known; the hash in it is taken as checked.
        matrices: dtype of the transformer blocks' matrices in the model file; all else is float32.

    Raises:
        MissingDependencyError: there is no such file.
        CheckpointError: damaged, foreign, or anything but the tensors of one network.
    """
    state = read_state(path)
    try:
        component = recognise(state)
        released = released_tensors(component, state)
        _require_own_bytes(path, released)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    kind, header, tensors = _converted(path, released, matrices)
    if source is None:
        licence = _PUBLISHED[kind].licence
        source = PublishedSource(path.name, file_sha256(path), path.stat().st_size, licence=licence)
    return Part(kind, header, tensors, source)


def _require_own_bytes(path: Path, released: Released) -> None:
    """Refuse shapes that claim more than the file holds: views can repeat a few bytes as often as they like."""
    claimed, size = sum(tensor.nbytes for tensor in released.tensors.values()), path.stat().st_size
    if claimed > size:
        raise CheckpointError(f"{path}: its tensors claim {claimed} bytes, the file has {size}; it was tampered with")


def _converted(
    path: Path, released: Released, matrices: torch.dtype
) -> tuple[str, dict[str, Any], dict[str, TensorSource]]:
    """Kind, header and tensors of a :class:`Part`."""
    if isinstance(released.config, TransformerConfig):
        adapted = released.config.adapter_rank > 0
        config = replace(released.config, adapter_rank=0)
        tensors = {
            key: _tensor(path, released, key, matrices)
            for key in released.tensors
            if not key.endswith((".adapter_down", ".adapter_up"))
        }
        return "student" if adapted else "teacher", _header("Transformer", config), tensors
    tensors = {key: _tensor(path, released, key, torch.float32) for key in released.tensors}
    if isinstance(released.config, AutoencoderConfig):
        quantizer = QuantizerConfig(bits=released.config.latent_channels)
        tokenizer = TokenizerConfig(released.config, quantizer, ScaleSchedule.infinity("0.25M"))
        return "tokenizer", _header("ImageTokenizer", tokenizer), {f"autoencoder.{k}": v for k, v in tensors.items()}
    return "prerestorer", _header("SwinIR", released.config), tensors


def _header(kind: str, config: Any) -> dict[str, Any]:
    return {"class": kind, "config": config_to_dict(config)}


def _tensor(path: Path, released: Released, key: str, matrices: torch.dtype) -> TensorSource:
    """A tensor of the model file: merged where it has an adapter, the blocks' matrices in their own type."""
    tensor = released.tensors[key]
    matrix = key.startswith("blocks.") and tensor.ndim == 2 and key.endswith(".weight")
    dtype = matrices if matrix else torch.float32
    return TensorSource(dtype, tuple(tensor.shape), partial(_read, path, released, key, dtype))


def _read(path: Path, released: Released, key: str, dtype: torch.dtype) -> Tensor:
    stem = key.removesuffix(".weight")
    adapter = [name for name in (f"{stem}.adapter_down", f"{stem}.adapter_up") if name in released.tensors]
    for name in (key, *adapter):
        if not all_finite(released.tensors[name]):
            raise CheckpointError(
                f"{path}: {released.names[name]!r} holds NaN or infinity; the file is damaged: fetch it again"
            )
    value = released.tensors[key].float()
    if adapter:
        down, up = (released.tensors[name] for name in adapter)
        value = merged_weight(value, down, up)
    value = value.to(dtype)
    if not all_finite(value):
        raise CheckpointError(f"{path}: {released.names[key]!r} leaves the range of {dtype}; import it in float32")
    return value


# --- models out of parts ---------------------------------------------------------------------------------------------


def import_files(
    paths: Sequence[Path],
    root: Path,
    *,
    matrices: torch.dtype = torch.bfloat16,
    sources: Mapping[Path, PublishedSource] | None = None,
    encoder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Imported]:
    """Make model files of published files in the weights root.

    A transformer with adapters becomes ``2b`` with a tokenizer and a pre-restorer, one without becomes ``teacher``
    with a tokenizer; what a model lacks is taken from installed ones. A tokenizer or a pre-restorer that comes without
    a transformer is installed by itself. A model file of ours (of a bundle) is checked and copied, and so is the
    folder of a text encoder or captioner. The default text is stored in models that lack it, where an encoder is there.

    Args:
        paths: published files, model files, folders of text encoders or captioners, or folders with any of the latter.
        root: weights root; made where it does not exist.
        matrices: dtype of the transformer blocks' matrices.
        sources: known sources of the files.
        encoder: folder of the text encoder; features of the default prompt are then stored in ``2b``. Without it those
            of the file that is replaced are kept, else made by the encoder below the root, where there is one.
        say: called with one sentence per step.
        warn: called with what could not be done, although the import succeeded.

    Raises:
        MissingDependencyError: a file, or a part that a model needs, is not there.
        CheckpointError: a file is damaged or foreign, or two parts do not fit.
        OutputError: the root cannot be written.
        UsageError: a model file has the name of a bundled model, or the root lies inside the package.
    """
    require_outside_package(root)
    ready, raw, folders = _sorted(paths)
    for path in ready:
        require_writable_name(path.stem, root)
    networks = [_checked_network(folder) for folder in folders]
    parts: dict[str, Part] = {}
    for path in raw:
        part = read_published(path, (sources or {}).get(path), matrices=matrices)
        if part.kind in parts:
            raise CheckpointError(f"{path}: a second {part.kind}, beside {parts[part.kind].source.file}; give one")
        parts[part.kind] = part
        say(f"{path.name}: {part.kind}, {_count(part) / 1e6:.1f} M values")
    models = [(name, _assembled(name, own, parts, root)) for name, own in _MODELS.items() if own in parts]
    if not models:
        models = [(kind, (part,)) for kind, part in parts.items()]
    text = stored_text(encoder) if encoder is not None and "2b" in dict(models) else None
    made = [Imported(network.name, write_network(network, root, say), ()) for network in networks]
    made += [_copied(path, root, say) for path in ready]
    for name, chosen in models:
        path = require_writable_name(name, root)
        _write(path, chosen, text if text and name == "2b" else _text_of(name, path, chosen, root, say, warn))
        made.append(Imported(name, path, chosen))
        _remember(name, path, root)
        say(f"{name}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if networks or ready:
        complete(root, say=say, warn=warn, skip=[name for name, _ in models])
    return made


_MODELS = {"2b": "student", "teacher": "teacher"}
_NEEDS = {"2b": ("prerestorer", "tokenizer"), "teacher": ("tokenizer",)}


def _sorted(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """(model files, published files, folders of networks), other folders replaced by what is in them."""
    ready: list[Path] = []
    raw: list[Path] = []
    folders: list[Path] = []
    for path in paths:
        if (path / CONFIG).is_file():
            folders.append(path)
        elif path.is_dir():
            found, networks = sorted(path.glob("*.safetensors")), network_folders(path)
            if not found and not networks:
                raise MissingDependencyError(
                    f"{path}: no model files (*.safetensors) and no text encoder or captioner ({CONFIG}) in this folder"
                )
            ready += found
            folders += networks
        elif _is_model_file(path):
            ready.append(path)
        else:
            raw.append(path)
    return ready, raw, folders


def _checked_network(folder: Path) -> Network:
    """A network to be copied; one that this program wrote must have the hashes it had then."""
    network = read_network(folder)
    hashes = Record.read(folder.parent).folders.get(folder.name, {})
    problem = check_folder(folder, hashes) if hashes or DATA_HASH in network.metadata else ""
    if problem:
        raise CheckpointError(f"{folder}: {problem}")
    return network


def _is_model_file(path: Path) -> bool:
    try:
        read_metadata(path)
    except (CheckpointError, MissingDependencyError):
        return False
    return True


def _count(part: Part) -> int:
    return sum(torch.Size(tensor.shape).numel() for tensor in part.tensors.values())


def _assembled(name: str, own: str, parts: Mapping[str, Part], root: Path) -> tuple[Part, ...]:
    """Parts of a model: the given ones, and installed ones for those not given."""
    chosen = [parts.get(kind) or _installed_part(kind, name, root) for kind in _NEEDS[name]]
    chosen.append(parts[own])
    transformer, tokenizer = chosen[-1].header["config"], chosen[-2].header["config"]
    if transformer["bits"] != tokenizer["autoencoder"]["latent_channels"]:
        raise CheckpointError(
            f"{chosen[-1].source.file} predicts {transformer['bits']} bits per code, {chosen[-2].source.file} has "
            f"{tokenizer['autoencoder']['latent_channels']}; they do not belong together"
        )
    return tuple(chosen)


def _installed_part(kind: str, model: str, root: Path) -> Part:
    for name in installed_names(root):
        path = installed_file(name, root)
        header = read_header(path, read_metadata(path))
        if kind in header:
            _require_whole(path, root)
            prefix = f"{kind}."
            tensors = {key.removeprefix(prefix): tensor for key, tensor in mapped_tensors(path, prefix).items()}
            return Part(kind, header[kind], tensors, _source_of(path, kind))
    published = _PUBLISHED[kind]
    raise MissingDependencyError(
        f"model {model} needs a {kind} too, and none is installed in {root}: give {published.name} "
        f"({published.repository} on the hub) in the same command"
    )


def _source_of(path: Path, kind: str) -> PublishedSource:
    try:
        stored = json.loads(json.loads(read_metadata(path)["notes"])["sources"])
        return PublishedSource(**stored[kind])
    except (KeyError, ValueError, TypeError):
        return PublishedSource(path.name, "", path.stat().st_size)


def _write(path: Path, parts: Sequence[Part], text: StoredText | None) -> None:
    header = {part.component: part.header for part in parts}
    sources = {part.component: asdict(part.source) for part in parts}
    licences = dict.fromkeys(part.source.licence for part in parts if part.source.licence)
    notes = {"licence": "; ".join(licences), "sources": json.dumps(sources)}
    student = any(part.kind == "student" for part in parts)
    restorer = RestorerConfig(takes_text=True) if student else None  # the released settings
    tensors = {f"{part.component}.{key}": tensor for part in parts for key, tensor in part.tensors.items()}
    require_text_fits(path, text, header)
    try:
        write_tensors(path, *with_text(tensors, bundle_metadata(header, restorer, notes), text))
    except ValueError as error:
        raise CheckpointError(f"{path}: not written: {error}") from error


def _text_of(
    name: str,
    path: Path,
    parts: Sequence[Part],
    root: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> StoredText | None:
    """The default text's features: of the file that is being replaced, where they fit, else made here if possible."""
    if name != "2b":
        return None
    width = int(parts[-1].header["config"]["text_width"])
    with suppress(CheckpointError, MissingDependencyError):
        text = read_text(path)
        if text is not None and text.rows.shape[1] == width:
            return text
    return encode_with_installed(root, width, say=say, warn=warn)


def _require_whole(path: Path, root: Path) -> None:
    """Nothing of a damaged file may get a new hash.

    Raises:
        CheckpointError: it has not the hash that is recorded, there or in its metadata.
    """
    problem = check_file(path, Record.read(root).models.get(path.stem, ""))
    if problem:
        raise CheckpointError(f"{path}: {problem}")


def _remember(name: str, path: Path, root: Path) -> None:
    record = Record.read(root)
    replace(record, models={**record.models, name: remembered_sha256(path)}).write(root)


def _copied(path: Path, root: Path, say: Callable[[str], None]) -> Imported:
    """Check a model file and put a copy into the root."""
    name, target = path.stem, require_writable_name(path.stem, root)
    _require_whole(path, path.parent)
    if not (target.exists() and target.samefile(path)):
        write_tensors(target, mapped_tensors(path), read_metadata(path))
    _remember(name, target, root)
    say(f"{name}: {target} ({target.stat().st_size / 1e6:.1f} MB), copied")
    return Imported(name, target, ())
