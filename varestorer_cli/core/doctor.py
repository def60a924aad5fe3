"""The checks of ``doctor``: each has a state, what was found, and what to do."""

import importlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec

from varestorer_cli.core.extras import EXTRAS, install_command, missing_modules
from varestorer_cli.version import __version__

OK, NOTE, MISSING = "ok", "note", "missing"

_PACKAGES = ("torch", "numpy", "Pillow", "opencv-python-headless", "tifffile", "safetensors", "typer", "rich")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        level: ``ok``, ``note`` (works, could be better) or ``missing`` (``restore`` does not work).
        found: what is there.
        advice: what to do, "" for nothing.
    """

    name: str
    level: str
    found: str
    advice: str = ""


def diagnose(weights: str | os.PathLike[str] | None = None) -> list[Check]:
    """Run every check; a check that breaks is a finding itself.

    Args:
        weights: folder of installed models; None asks the environment.
    """

    def _weights_root() -> Iterator[Check]:
        return _weights(weights)

    checks: list[Check] = []
    for part in (_versions, _torch, _threads, _weights_root, _codecs, _extras):
        checks += _guarded(part)
    return checks


def _guarded(part: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(part())
    except Exception as error:
        name = part.__name__.strip("_")
        return [
            Check(
                name,
                MISSING,
                f"the check failed: {error}",
                "install varestorer again, see docs/install.md",
            )
        ]


def _versions() -> Iterator[Check]:
    yield Check("varestorer", OK, f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            if package == "opencv-python-headless" and find_spec("cv2") is not None:
                yield Check(
                    "opencv",
                    NOTE,
                    "cv2 comes from another wheel",
                    "pip install opencv-python-headless instead",
                )
            else:
                yield Check(package, MISSING, "not installed", f"pip install {package}")
    yield Check("packages", OK, ", ".join(found))
    owners = [name for name in ("opencv-python", "opencv-contrib-python") if _installed(name)]
    if owners and _installed("opencv-python-headless"):
        yield Check("opencv", NOTE, f"{owners[0]} owns the same files", f"pip uninstall {owners[0]}")


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _torch() -> Iterator[Check]:
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        yield Check("torch", MISSING, f"cannot be imported ({error})", "pip install torch")
        return
    from varestorer_cli.core import runtime

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Check(f"cuda:{number}", OK, f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    else:
        found, _, advice = runtime.no_cuda_reason().partition("; ")
        yield Check("cuda", NOTE, found, f"images are restored on the CPU; for a GPU: {advice}")
    if torch.backends.mps.is_available():
        yield Check("mps", OK, "Apple GPU")
    bf16 = "bf16 in hardware" if runtime.cpu_has_bf16() else "no bf16 in hardware, fp32 is used"
    yield Check("cpu", OK, f"{platform.processor() or platform.machine()}, {bf16}")


def _threads() -> Iterator[Check]:
    from varestorer_cli.core.runtime import default_threads, usable_cpus

    threads, usable = default_threads(), usable_cpus()
    advice = f"OMP_NUM_THREADS or the scheduler says so; --threads {usable} uses all" if threads < usable else ""
    yield Check("threads", OK if threads <= usable else NOTE, f"{threads} of {usable} usable CPUs", advice)


def _weights(weights: str | os.PathLike[str] | None) -> Iterator[Check]:
    from varestorer_cli.core.install.inventory import list_models
    from varestorer_cli.core.weights.catalog import FOLDERS, RELEASED
    from varestorer_cli.core.weights.file_hash import file_sha256
    from varestorer_cli.core.weights.root import BUNDLED_MODELS, ENVIRONMENT, weights_root

    root = weights_root(weights)
    source = "--weights" if weights else ENVIRONMENT if os.environ.get(ENVIRONMENT) else f"{ENVIRONMENT} is not set"
    yield Check("weights root", OK, f"{root} ({source}){'' if root.is_dir() else ', not there'}")
    for model in list_models(root):
        network = model.name in FOLDERS if model.path is None else model.path.is_dir()
        name = f"{'network' if network else 'model'} {model.name}"
        if model.path is None:
            if model.name in BUNDLED_MODELS:
                advice = "reinstall varestorer, or give a model file with --model"
                yield Check(name, MISSING, f"no file {BUNDLED_MODELS[model.name]}", advice)
            elif model.name in RELEASED or model.name in FOLDERS:
                yield Check(name, NOTE, f"not installed: {model.about}", f"varestorer weights pull {model.name}")
            continue
        found = f"{model.path} ({model.size / 1e6:.1f} MB"
        if model.name in BUNDLED_MODELS:
            yield Check(name, OK, f"{found}, sha256 {file_sha256(model.path)})")
        elif model.problem:
            yield Check(name, NOTE, f"{found}): {model.problem}", "varestorer weights import or pull it again")
        else:
            yield Check(name, OK, f"{found}, licence {model.licence})")


def _codecs() -> Iterator[Check]:
    from PIL import features

    lacking = [name for name in ("jpg", "webp", "zlib", "libtiff") if not features.check(name)]
    if lacking:
        yield Check("codecs", NOTE, f"Pillow lacks {', '.join(lacking)}", "pip install --force-reinstall pillow")
    else:
        yield Check("codecs", OK, "PNG, JPEG, WebP, TIFF, BMP; 16 bit in PNG and TIFF; GIF and AVIF are read")
    if not features.check("littlecms2"):
        yield Check("colour", NOTE, "Pillow lacks LittleCMS: CMYK is converted without its profile")


def _extras() -> Iterator[Check]:
    for extra, about in EXTRAS.items():
        if lacking := missing_modules(extra):
            found = f"{', '.join(lacking)} not installed"
            yield Check(f"extra {extra}", NOTE, found, f"for {about.purpose}: {install_command(extra)}")
        else:
            yield Check(f"extra {extra}", OK, "installed")


def render(checks: list[Check]) -> str:
    """The checks as lines for people."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.level:7}  {check.name:{width}}  {check.found}")
        if check.advice:
            lines.append(f"{'':7}  {'':{width}}  -> {check.advice}")
    broken = [check.name for check in checks if check.level == MISSING]
    lines.append(f"not usable yet: {', '.join(broken)}" if broken else "restore works on this machine")
    return "\n".join(lines)


def render_json(checks: list[Check]) -> str:
    """The checks as a JSON list."""
    return json.dumps([asdict(check) for check in checks], indent=1)
