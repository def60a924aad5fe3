"""Optional packages: what each extra of ``pyproject.toml`` brings, whether it is here, and how to install it."""

import re
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Extra:
    """An extra that some command can use.

    Attributes:
        modules: what it brings, as Python imports it.
        purpose: what works only with it.
    """

    modules: tuple[str, ...]
    purpose: str


EXTRAS = {
    "hub": Extra(("huggingface_hub",), "weights pull"),
    "score": Extra(("pyiqa", "scipy"), "the learned metrics of score"),
    "text": Extra(("transformers",), "--prompt, --captions and --caption of restore"),
    "vfx": Extra(("OpenImageIO",), "OpenEXR and DPX files"),
    "heif": Extra(("pillow_heif",), "HEIC and HEIF images"),
    "raw": Extra(("rawpy",), "camera raw files"),
    "jxl": Extra(("pillow_jxl",), "JPEG XL images"),
    "openvino": Extra(("openvino",), "--engine openvino of restore"),
    "train": Extra(("tensorboard",), "event logs of train and distill"),
}


def missing_modules(extra: str) -> list[str]:
    """Modules of an extra that are not installed; nothing is imported."""
    return [module for module in EXTRAS[extra].modules if find_spec(module) is None]


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra are installed."""
    return not missing_modules(extra)


def install_command(extra: str) -> str:
    """Command that installs the packages of an extra, however varestorer itself was installed.

    It names the packages and not ``varestorer[extra]``: varestorer itself may come from a clone or a file.

    Args:
        extra: name of an extra in ``pyproject.toml``.
    """
    from importlib import metadata  # here, not above: --help needs none of it

    try:
        requirements = metadata.requires("varestorer") or []
    except metadata.PackageNotFoundError:
        requirements = []
    marked = [line.partition(";") for line in requirements]
    needed = [package.strip() for package, _, mark in marked if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", mark)]
    if not needed:
        return f"pip install '.[{extra}]' in the folder of varestorer's source"
    return "pip install " + " ".join(f"'{package}'" if re.search("[<>=!~]", package) else package for package in needed)
