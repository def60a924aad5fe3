"""Released weights -> our names and configuration: state dict in, checked tensors out. No file is opened.

The names come from the tables of ``varestorer_models.released_keys``; what names do not tell, shapes do, and the
configuration is inferred from both. Loading is strict: the released loader of the autoencoder silently leaves
at random what a file lacks; here every missing, unknown or misshapen tensor is a ``ValueError`` that quotes the
first one and counts them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from varestorer_models.autoencoder import Autoencoder, AutoencoderConfig
from varestorer_models.meta_init import on_meta_device
from varestorer_models.released_keys import (
    KeyTable,
    autoencoder_table,
    flatten_chunk,
    prerestorer_table,
    released_name,
    stored_chunk_size,
    transformer_table,
)
from varestorer_models.swinir import SwinIR, SwinIRConfig
from varestorer_models.transformer import Transformer, TransformerConfig

Component = Literal["prerestorer", "autoencoder", "transformer"]
Config = SwinIRConfig | AutoencoderConfig | TransformerConfig

COMPONENTS: tuple[Component, ...] = ("prerestorer", "autoencoder", "transformer")
"""The networks of the released restorer that hold weights of their own."""

# A key of each component that no other has, by its beginning.
_MARKS: dict[str, Component] = {
    "cfg_uncond": "transformer",
    "encoder.conv_in.": "autoencoder",
    "layers.0.residual_group.": "prerestorer",
}

# Keys under which released files and training checkpoints keep the state dict proper.
_WRAPPERS = ("state_dict", "vae")
_DATA_PARALLEL_PREFIX = "module."


@dataclass(frozen=True)
class Released:
    """The tensors of one released file, checked against the network they describe.

    Attributes:
        config: of that network.
        tensors: by our name, as they are in the file: not copied, not converted.
        names: the file's name of each.
    """

    config: Config
    tensors: dict[str, Tensor]
    names: dict[str, str]


def released_tensors(component: Component, state_dict: Mapping[str, Any], **config: Any) -> Released:
    """The tensors of a released state dict under our names, with the configuration they describe.

    Nothing is copied: mapped tensors of files larger than memory stay on the disk.

    Args:
        component: which network the weights are of.
        state_dict: tensors by released name, of any floating type; may be wrapped as ``{"state_dict": ...}``
            or ``{"vae": ...}`` and prefixed ``module.``. Buffers that are recomputed here are ignored.
        **config: fields of the component's config that names and shapes cannot tell; their defaults are the
            released values. They may also override an inferred field, and then the tensors must fit it.

    Raises:
        ValueError: unknown component or config field, a missing, unknown, duplicate or misshapen tensor, or
            shapes that describe no valid network.
    """
    tensors = _ReleasedTensors(component, state_dict)
    inferred = _infer(tensors, config)
    _require_fit(tensors, inferred)
    return Released(inferred, {key: value.detach() for key, value in tensors.values.items()}, tensors.names)


def recognise(state_dict: Mapping[str, Any]) -> Component:
    """Name of the component that a released state dict belongs to, found by its keys.

    Raises:
        ValueError: the keys fit no component; quotes the first one.
    """
    state = _unwrap(state_dict)
    for mark, component in _MARKS.items():
        if any(key.startswith(mark) for key in state):
            return component
    first = f", first {next(iter(state))!r}," if state else ""
    raise ValueError(f"none of the {len(state)} keys{first} are known from a released {', '.join(COMPONENTS)}")


class _ReleasedTensors:
    """The tensors of one released file under our names, with the file's own names for messages.

    Raises:
        ValueError: a key that no table row knows, two keys of one parameter, or a value that is no tensor of
            floating type.
    """

    def __init__(self, component: Component, state_dict: Mapping[str, Any]) -> None:
        _class_of(component)  # refuses what is no component before anything is read
        self.component: Component = component
        self.values: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}
        state = _unwrap(state_dict)
        self._chunk = stored_chunk_size(state) if component == "transformer" else None
        self._tables = _tables(component, adapters=any(".lora_down." in key for key in state))
        unknown = []
        for released, value in state.items():
            flat = flatten_chunk(released, self._chunk)
            if any(table.is_buffer(flat) for table in self._tables):
                continue
            key = next((name for table in self._tables if (name := table.ours(flat)) is not None), None)
            if key is None:
                unknown.append(released)
                continue
            if key in self.values:
                raise ValueError(f"{self.names[key]!r} and {released!r} are the same parameter; keep one of them")
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{released!r} must be a floating-point tensor, but is {kind}")
            self.values[key], self.names[key] = value, released
        if unknown:
            raise ValueError(
                f"{len(unknown)} unknown key(s) for the released {component}, first {unknown[0]!r}; "
                "is the file of another component or another project?"
            )

    def name(self, key: str) -> str:
        """The file's name of our parameter, or the name it should have there."""
        return self.names.get(key) or released_name(key, self._tables[0], self._chunk) or key

    def shape(self, key: str, rank: int) -> tuple[int, ...]:
        """Shape of a parameter that inference depends on."""
        if key not in self.values:
            raise ValueError(f"missing key {self.name(key)!r} in the released {self.component}; the file is incomplete")
        shape = tuple(self.values[key].shape)
        if len(shape) != rank or 0 in shape:
            raise ValueError(f"{self.name(key)!r} has shape {shape}, expected {rank} axes, none of them empty")
        return shape

    def count(self, prefix: str) -> int:
        """Number of members of a list, given our name of the list; they must be numbered without a gap."""
        start = prefix + "."
        found = {int(key[len(start) :].split(".")[0]) for key in self.values if key.startswith(start)}
        gap = next((i for i in range(len(found)) if i not in found), None)
        if gap is not None or not found:
            raise ValueError(
                f"missing keys {start}{gap or 0}.* in the released {self.component}, though the highest "
                f"number is {max(found, default='absent')}; the file is incomplete"
            )
        return len(found)


def _class_of(component: Component) -> type[SwinIR | Autoencoder | Transformer]:
    classes = {"prerestorer": SwinIR, "autoencoder": Autoencoder, "transformer": Transformer}
    if component not in classes:
        raise ValueError(f"there is no released component {component!r}; known are {', '.join(COMPONENTS)}")
    return classes[component]


def _tables(component: Component, *, adapters: bool) -> list[KeyTable]:
    """Tables of a component, the one to write with first."""
    if component == "prerestorer":
        return [prerestorer_table()]
    if component == "autoencoder":
        return [autoencoder_table(wrapped=True), autoencoder_table(wrapped=False)]
    return [transformer_table(adapters=adapters)]


def _infer(tensors: _ReleasedTensors, overrides: Mapping[str, Any]) -> Config:
    config_class = _CONFIGS[tensors.component]
    known = [field.name for field in fields(config_class)]
    strange = [name for name in overrides if name not in known]
    if strange:
        raise ValueError(f"{config_class.__name__} has no field {strange[0]!r}; it has {', '.join(known)}")
    inferred = _INFERENCES[tensors.component](tensors)
    try:
        return config_class(**(inferred | dict(overrides)))
    except ValueError as error:
        raise _invalid(tensors.component, error) from error


def _infer_prerestorer(tensors: _ReleasedTensors) -> dict[str, Any]:
    width, channels, _, _ = tensors.shape("conv_first.1.weight", 4)
    groups = range(tensors.count("layers"))
    blocks = [f"layers.{i}.residual_group.blocks" for i in groups]
    tables = [tensors.shape(f"{stack}.0.attn.relative_position_bias_table", 2) for stack in blocks]
    hidden, _ = tensors.shape(f"{blocks[0]}.0.mlp.fc1.weight", 2)
    return {
        "width": width,
        "depths": tuple(tensors.count(stack) for stack in blocks),
        "heads": tuple(heads for _, heads in tables),
        # a table has one row per relative position, (2 window - 1)^2
        "window": (math.isqrt(tables[0][0]) + 1) // 2,
        "mlp_ratio": hidden / width,
        "unshuffle": math.isqrt(channels // 3),
        "feature_width": tensors.shape("conv_last.weight", 4)[1],
    }


def _infer_autoencoder(tensors: _ReleasedTensors) -> dict[str, Any]:
    width, channels, _, _ = tensors.shape("encoder.conv_in.weight", 4)
    levels = range(tensors.count("encoder.down"))
    widths = [tensors.shape(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in levels]
    uneven = [level_width for level_width in widths if level_width % width]
    if uneven:
        raise ValueError(
            f"a level of the released autoencoder is {uneven[0]} wide, no multiple of the first width {width}"
        )
    upsamplers = [tensors.shape(f"decoder.up.{i}.upsample.conv.weight", 4) for i in levels[1:]]
    return {
        "latent_channels": tensors.shape("encoder.conv_out.weight", 4)[0],
        "width": width,
        "multipliers": tuple(level_width // width for level_width in widths),
        "encoder_blocks": tuple(tensors.count(f"encoder.down.{i}.block") for i in levels),
        "decoder_blocks": tuple(tensors.count(f"decoder.up.{i}.block") for i in levels),
        "unshuffle": math.isqrt(channels // 3),
        "norm": "group" if any(".norm" in key for key in tensors.values) else "none",
        "narrow_upsample": any(shape[0] != shape[1] for shape in upsamplers),
    }


def _infer_transformer(tensors: _ReleasedTensors) -> dict[str, Any]:
    width, bits = tensors.shape("token_embedding.weight", 2)
    outputs, _ = tensors.shape("head.weight", 2)
    attention = "blocks.0.self_attention"
    adapted = any(key.endswith(".adapter_down") for key in tensors.values)
    null_tokens, text_width = tensors.shape("null_text", 2)
    return {
        "width": width,
        "depth": tensors.count("blocks"),
        "heads": tensors.shape(f"{attention}.log_scale", 4)[1],
        "bits": bits,
        "text_width": text_width,
        "text_heads": tensors.shape("text_pool.query", 3)[1],
        "null_tokens": null_tokens,
        "levels": tensors.shape("level_embedding.weight", 2)[0],
        "mlp_hidden": tensors.shape("blocks.0.feed_forward.fc1.weight", 2)[0],
        "adapter_rank": tensors.shape(f"{attention}.qkv.adapter_down", 2)[0] if adapted else 0,
        # released code forgets this bias where adapters are, and the weights were trained without it
        "cross_value_bias": not adapted,
        "head": "bits" if outputs == 2 * bits else "latent",
    }


_CONFIGS: dict[Component, type[SwinIRConfig | AutoencoderConfig | TransformerConfig]] = {
    "prerestorer": SwinIRConfig,
    "autoencoder": AutoencoderConfig,
    "transformer": TransformerConfig,
}
_INFERENCES: dict[Component, Callable[[_ReleasedTensors], dict[str, Any]]] = {
    "prerestorer": _infer_prerestorer,
    "autoencoder": _infer_autoencoder,
    "transformer": _infer_transformer,
}


def _blank(component: Component, config: Config) -> nn.Module:
    make = _class_of(component)
    try:
        return on_meta_device(lambda: make(config))  # type: ignore[arg-type]  # the config is of the component's class
    except ValueError as error:
        raise _invalid(component, error) from error


def _require_fit(tensors: _ReleasedTensors, config: Config) -> None:
    """Check every name and shape against a module without memory."""
    module = _blank(tensors.component, config)
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    missing = [key for key in expected if key not in tensors.values]
    unknown = [key for key in tensors.values if key not in expected]
    misshapen = [key for key in expected if key in tensors.values and tensors.values[key].shape != expected[key]]
    if missing:
        raise ValueError(
            f"{len(missing)} missing key(s) in the released {tensors.component}, "
            f"first {tensors.name(missing[0])!r}; the file is incomplete"
        )
    if unknown:
        raise ValueError(
            f"{len(unknown)} unknown key(s) in the released {tensors.component}, "
            f"first {tensors.name(unknown[0])!r}; the other keys describe a network without it: {config}"
        )
    if misshapen:
        key = misshapen[0]
        raise ValueError(
            f"{len(misshapen)} tensor(s) of the released {tensors.component} do not fit the rest, first "
            f"{tensors.name(key)!r} of shape {tuple(tensors.values[key].shape)} instead of {expected[key]}"
        )


def _invalid(component: Component, error: ValueError) -> ValueError:
    return ValueError(f"the shapes of this released {component} describe no valid network: {error}")


def _unwrap(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict proper, without wrappers and without the prefix of data-parallel training."""
    state = state_dict
    for _ in _WRAPPERS:
        state = next((state[name] for name in _WRAPPERS if isinstance(state.get(name), Mapping)), state)
    strange = [key for key in state if not isinstance(key, str)]
    if strange:
        raise ValueError(f"a state dict maps names to tensors, but one key is {strange[0]!r}; is it one?")
    if state and all(key.startswith(_DATA_PARALLEL_PREFIX) for key in state):
        state = {key.removeprefix(_DATA_PARALLEL_PREFIX): value for key, value in state.items()}
    return state
