"""Degradation recipes: what kinds of damage are drawn, how often and how strong.

A recipe is one frozen ``DegradationConfig`` whose fields carry the names that people know from their YAML
files (Real-ESRGAN ``options/``, ``params_realesrgan.yml``, DiffBIR). There are four named ones.
"""

import importlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from varestorer_cli.core.errors import MissingDependencyError, UsageError

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
_ORDERS = ("random", "sinc_resize_jpeg")

# Keys of the known files that say something about the data set, not about the damage.
_IGNORED = {"scale", "gt_size", "out_size", "use_hflip", "use_rot", "crop_type", "queue_size"}
# Keys that ask for something this pipeline does not do; fine as long as they are switched off.
_ONLY_OFF = {"color_jitter_prob", "gray_prob"}
# Sections of the known files that hold recipe keys one level down.
_SECTIONS = {"degradation", "kernel_info"}


@dataclass(frozen=True)
class DegradationConfig:
    """One degradation recipe; the defaults are Real-ESRGAN's ``x4plus`` training ranges.

    Names ending in 2 belong to the second stage. Ranges are (low, high) of a uniform draw; noise is in 8-bit
    levels, sigmas in pixels, cut-offs as a fraction of the Nyquist frequency, ``resize_prob`` is (up, down,
    keep). The last group holds what the known files cannot say.
    """

    blur_kernel_size: int = 21
    kernel_list: tuple[str, ...] = KERNELS
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    betag_range: tuple[float, float] = (0.5, 4.0)
    betap_range: tuple[float, float] = (1.0, 2.0)
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_scale_range: tuple[float, float] = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: tuple[float, float] = (30.0, 95.0)

    second_blur_prob: float = 0.8
    blur_kernel_size2: int = 21
    kernel_list2: tuple[str, ...] = KERNELS
    kernel_prob2: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob2: float = 0.1
    blur_sigma2: tuple[float, float] = (0.2, 1.5)
    betag_range2: tuple[float, float] = (0.5, 4.0)
    betap_range2: tuple[float, float] = (1.0, 2.0)
    resize_prob2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    resize_range2: tuple[float, float] = (0.3, 1.2)
    gaussian_noise_prob2: float = 0.5
    noise_range2: tuple[float, float] = (1.0, 25.0)
    poisson_scale_range2: tuple[float, float] = (0.05, 2.5)
    gray_noise_prob2: float = 0.4
    jpeg_range2: tuple[float, float] = (30.0, 95.0)
    final_sinc_prob: float = 0.8
    no_degradation_prob: float = 0.0

    downsample_range: tuple[float, float] | None = None  # single stage: reduce by a factor from this range
    antialias: bool = False  # bilinear and bicubic reductions average over the pixels they drop
    sinc_window: bool = False  # separable Hann-windowed sinc (rings less) instead of the circular one
    sinc_cutoff: tuple[float, float] = (0.2, 1.0)
    final_sinc_cutoff: tuple[float, float] = (1 / 3, 1.0)
    final_kernel_size: int | None = None  # None: drawn like the other kernel sizes
    final_order: Literal["random", "sinc_resize_jpeg"] = "random"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if "_prob" in field.name:
                parts = value if isinstance(value, tuple) else (value,)
                if any(not 0 <= part <= 1 for part in parts):
                    raise UsageError(f"{field.name} is {value}: a probability lies between 0 and 1.")
            elif isinstance(value, tuple) and isinstance(value[0], float | int):
                if len(value) != 2 or value[0] > value[1] or value[0] < 0:
                    raise UsageError(f"{field.name} is {value}: give (low, high) with 0 <= low <= high.")
            elif "kernel_size" in field.name and value is not None and (value < 7 or value % 2 == 0):
                raise UsageError(f"{field.name} is {value}: a kernel size is odd and at least 7.")
        for end in ("", "2"):
            names, odds = getattr(self, f"kernel_list{end}"), getattr(self, f"kernel_prob{end}")
            unknown = [name for name in names if name not in KERNELS]
            if unknown:
                raise UsageError(f"kernel_list{end} has {unknown[0]!r}; known kernels: {', '.join(KERNELS)}.")
            if len(names) != len(odds) or sum(odds) <= 0:
                raise UsageError(
                    f"kernel_list{end} has {len(names)} names and kernel_prob{end} {len(odds)} numbers with "
                    f"sum {sum(odds)}: give one probability per name, not all zero."
                )
        for name in ("resize_prob", "resize_prob2"):
            if len(getattr(self, name)) != 3 or sum(getattr(self, name)) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}: give three numbers (up, down, keep).")
        for name in ("blur_sigma", "blur_sigma2", "resize_range", "resize_range2", "downsample_range"):
            if (getattr(self, name) or (1,))[0] <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}: its low end must be above 0.")
        for name in ("jpeg_range", "jpeg_range2"):
            if getattr(self, name)[1] > 100:
                raise UsageError(f"{name} is {getattr(self, name)}: JPEG quality ends at 100.")
        if self.final_order not in _ORDERS:
            raise UsageError(f"final_order is {self.final_order!r}: give one of {', '.join(_ORDERS)}.")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "DegradationConfig":
        """Build a recipe from the keys of a known YAML file; keys left out keep Real-ESRGAN's values.

        Recipe keys may lie at the top or in a ``degradation`` or ``kernel_info`` section. A mapping with a
        ``downsample_range`` describes the single-stage pipeline; what it leaves out is as in ``RELEASED``.

        Args:
            mapping: Parsed file; lists where the fields hold tuples.

        Returns:
            The checked recipe.

        Raises:
            UsageError: A key is unknown, asks for something unsupported, or has an impossible value.
        """
        flat: dict[str, Any] = {}
        for key, value in mapping.items():
            flat.update(value if key in _SECTIONS and isinstance(value, Mapping) else {key: value})
        known = {field.name: field for field in fields(cls)}
        chosen: dict[str, Any] = {}
        for key, value in flat.items():
            if key in known:
                chosen[key] = _as_field(key, value, known[key].default)
            elif key in _ONLY_OFF and value:
                raise UsageError(f"The recipe sets {key} to {value}; that is not supported here, set it to 0.")
            elif key not in _IGNORED | _ONLY_OFF:
                raise UsageError(f"Unknown key {key!r} in the degradation recipe; known: {', '.join(known)}.")
        base = REALESRGAN if chosen.get("downsample_range") is None else RELEASED
        return replace(base, **chosen)


def _as_field(key: str, value: Any, default: Any) -> Any:
    """``value`` as the type that the field's default has; the file formats know lists, the fields tuples."""
    if isinstance(default, tuple) or key == "downsample_range":
        if value is None and key == "downsample_range":
            return None
        if not isinstance(value, list | tuple) or not value:
            raise UsageError(f"{key} is {value!r}: give a list.")
        wanted = str if isinstance(default, tuple) and isinstance(default[0], str) else int | float
        if any(not isinstance(part, wanted) for part in value):
            raise UsageError(f"{key} is {value!r}: its entries have the wrong type.")
        return tuple(value) if wanted is str else tuple(float(part) for part in value)
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if (default is None and isinstance(value, int)) or type(value) is type(default):
        return value
    raise UsageError(f"{key} is {value!r}: expected {type(default).__name__}.")


REALESRGAN = DegradationConfig()

# About two thirds of Real-ESRGAN's ranges, with antialiased resizing: what a compressed photograph from a
# phone or a web page looks like, rather than the worst case.
MODERATE = DegradationConfig(
    kernel_list=KERNELS[:4],
    kernel_prob=(0.50, 0.28, 0.11, 0.11),
    blur_sigma=(0.4, 2.2),
    betag_range=(0.6, 2.0),
    resize_prob=(0.13, 0.87, 0.0),
    resize_range=(0.35, 1.1),
    noise_range=(1.0, 16.0),
    poisson_scale_range=(0.05, 1.8),
    jpeg_range=(50.0, 95.0),
    second_blur_prob=0.7,
    kernel_list2=KERNELS[:4],
    kernel_prob2=(0.50, 0.28, 0.11, 0.11),
    blur_sigma2=(0.2, 1.1),
    betag_range2=(0.6, 2.0),
    resize_prob2=(0.67, 0.33, 0.0),
    resize_range2=(0.7, 1.61),
    noise_range2=(1.0, 11.0),
    poisson_scale_range2=(0.05, 1.2),
    jpeg_range2=(55.0, 95.0),
    final_sinc_prob=0.5,
    antialias=True,
    sinc_window=True,
    sinc_cutoff=(1 / 3, 0.8),
    final_sinc_cutoff=(0.55, 0.95),
    final_kernel_size=11,
    final_order="sinc_resize_jpeg",
)

MILD = replace(
    MODERATE,
    sinc_prob=0.0,
    blur_sigma=(0.2, 1.0),
    resize_range=(0.5, 1.0),
    noise_range=(0.0, 4.0),
    poisson_scale_range=(0.0, 0.4),
    jpeg_range=(85.0, 98.0),
    second_blur_prob=0.2,
    sinc_prob2=0.0,
    blur_sigma2=(0.2, 0.6),
    resize_range2=(1.0, 1.61),
    noise_range2=(0.0, 3.0),
    poisson_scale_range2=(0.0, 0.3),
    jpeg_range2=(85.0, 98.0),
    final_sinc_prob=0.2,
)

RELEASED = DegradationConfig(
    blur_kernel_size=41,
    kernel_list=("iso", "aniso"),
    kernel_prob=(0.5, 0.5),
    sinc_prob=0.0,
    blur_sigma=(0.1, 12.0),
    downsample_range=(1.0, 12.0),
    gaussian_noise_prob=1.0,
    noise_range=(0.0, 15.0),
    gray_noise_prob=0.0,
    jpeg_range=(30.0, 100.0),
)

RECIPES: Mapping[str, DegradationConfig] = {
    "realesrgan": REALESRGAN,
    "moderate": MODERATE,
    "mild": MILD,
    "released": RELEASED,
}


def load_recipe(source: str) -> DegradationConfig:
    """A recipe by name, or from a TOML, JSON or YAML file with the known keys.

    Args:
        source: One of ``RECIPES``, or a path ending in .toml, .json, .yml or .yaml.

    Returns:
        The checked recipe.

    Raises:
        UsageError: No such recipe or file, or the file does not hold a recipe.
        MissingDependencyError: A YAML file, and PyYAML is not installed.
    """
    if source in RECIPES:
        return RECIPES[source]
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"No degradation recipe {source!r}: give {', '.join(RECIPES)}, or a file that exists.")
    try:
        text = path.read_text(encoding="utf-8")
        parsed = _parse(path, text)
    except (ValueError, OSError) as error:
        raise UsageError(f"Cannot read the degradation recipe {path}: {error}.") from error
    if not isinstance(parsed, Mapping):
        raise UsageError(f"The degradation recipe {path} holds no keys; give a table of key = value.")
    return DegradationConfig.from_mapping(parsed)


def _parse(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix == ".json":
        return json.loads(text)
    if suffix in {".yml", ".yaml"}:
        try:
            yaml = importlib.import_module("yaml")  # optional, and without type stubs
        except ImportError as error:
            raise MissingDependencyError(
                f"Cannot read {path}: YAML needs PyYAML, which is not installed. Run 'pip install pyyaml', "
                "or write the same keys as TOML or JSON."
            ) from error
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"unknown suffix {path.suffix!r}, expected .toml, .json, .yml or .yaml")
