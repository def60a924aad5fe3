"""Image quality metrics: our own PSNR and SSIM, and every other metric through pyiqa.

Our own (``psnr_y``, ``ssim_y``, ``psnr_rgb``, ``ssim_rgb``, ``ssim_yiq``) need numpy and OpenCV only, carry no
licence condition and equal pyiqa's to 1e-4, so that a table of ours stands beside the published ones. Everything
else is asked of pyiqa (extra ``score``) and imported only when named. No other module imports pyiqa.

Images are arrays (H, W, 3): uint8, RGB. Published protocols score 8-bit files.
"""

import contextlib
import difflib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import varestorer_cli
from varestorer_cli.core.errors import MissingDependencyError, UsageError

Image8 = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]
Notify = Callable[[str], None]

# pyiqa adds this to the mean squared error of images in [0, 1]. Published tables carry it, so ours does: it
# takes 1e-4 dB off at 34 dB, 4e-4 dB at 40 dB, and bounds every finite score by 80 dB.
PSNR_EPSILON = 1e-8
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03

# ITU-R BT.601, studio swing: Y = 16 + (65.481 R + 128.553 G + 24.966 B) for R, G, B in [0, 1].
LUMA_OFFSET = 16.0
LUMA_WEIGHTS = (65.481, 128.553, 24.966)
# Y of YIQ, full swing: 0.299 R + 0.587 G + 0.114 B. pyiqa's metric called just "ssim" uses it.
YIQ_WEIGHTS = (0.299, 0.587, 0.114)

INSTALL_PYIQA = "pip install 'varestorer[score]'"
LICENCE_NOTICE = (
    "pyiqa {version} is under the PolyForm Noncommercial License 1.0.0, parts of it under the S-Lab License "
    "1.0 (non-commercial): it may not be used commercially. "
    "psnr_y, ssim_y, psnr_rgb, ssim_rgb and ssim_yiq are varestorer's own and free of it."
)

# Files that pyiqa 0.1.16 reads for a metric, below torch's hub folder; HF: marks the Hugging Face cache.
PYIQA_FILES: dict[str, tuple[str, ...]] = {
    "niqe": ("pyiqa/niqe_modelparameters.mat",),
    "brisque": ("pyiqa/brisque_svm_weights.pth",),
    "ilniqe": ("pyiqa/ILNIQE_templateModel.mat",),
    "nrqm": ("pyiqa/NRQM_model.mat",),
    "pi": ("pyiqa/NRQM_model.mat", "pyiqa/niqe_modelparameters.mat"),
    "lpips": ("checkpoints/alexnet-owt-7be5be79.pth", "pyiqa/LPIPS_v0.1_alex-df73285e.pth"),
    "lpips-vgg": ("checkpoints/vgg16-397923af.pth", "pyiqa/LPIPS_v0.1_vgg-a78928a0.pth"),
    "dists": ("checkpoints/vgg16-397923af.pth", "pyiqa/DISTS_weights-f5e65c96.pth"),
    "musiq": ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
    "maniqa": ("HF:timm vit_base_patch8_224", "pyiqa/ckpt_koniq10k.pt"),
    "maniqa-pipal": ("HF:timm vit_base_patch8_224", "pyiqa/MANIQA_PIPAL-ae6d356b.pth"),
    "maniqa-kadid": ("HF:timm vit_base_patch8_224", "pyiqa/ckpt_kadid10k.pt"),
    "clipiqa": ("clip/RN50.pt",),
    "clipiqa+": ("clip/RN50.pt", "pyiqa/CLIP-IQA+_learned_prompts-603f3273.pth"),
    "topiq_nr": ("HF:timm resnet50", "pyiqa/cfanet_nr_koniq_res50-9a73138b.pth"),
    "topiq_fr": ("HF:timm resnet50", "pyiqa/cfanet_fr_kadid_res50-2c4cc61d.pth"),
    "liqe": ("pyiqa/liqe_koniq.pt",),
    "pieapp": ("pyiqa/PieAPPv0.1-0937b014.pth",),
    "hyperiqa": ("pyiqa/HyperIQA-resnet50-koniq10k-c96c41b1.pth",),
}


@dataclass(frozen=True)
class Metric:
    """One metric, ready to call.

    Attributes:
        name: what the user types and what heads the column of a file, e.g. ``psnr_y``.
        label: what heads the column of a table, e.g. ``PSNR-Y``.
        needs_reference: True for a full-reference metric (FR), False for a no-reference one (NR).
        lower_better: whether a lower score is the better one.
        library: who computed it, with version.
        compute: ``compute(restored_HW3, reference_HW3 or None) -> float``; raises ValueError with a reason.
    """

    name: str
    label: str
    needs_reference: bool
    lower_better: bool
    library: str
    compute: Callable[[Image8, Image8 | None], float]


def luma(image: Image8) -> Plane:
    """Y of YCbCr (ITU-R BT.601, studio swing), not rounded.

    Args:
        image: uint8 RGB, (H, W, 3).

    Returns:
        float64 plane, 16 (black) to 235 (white).
    """
    weights = np.asarray(LUMA_WEIGHTS) / 255.0
    return LUMA_OFFSET + image.astype(np.float64) @ weights


def luma_yiq(image: Image8) -> Plane:
    """Y of YIQ, not rounded.

    Args:
        image: uint8 RGB, (H, W, 3).

    Returns:
        float64 plane, 0 to 255.
    """
    plane: Plane = image.astype(np.float64) @ np.asarray(YIQ_WEIGHTS)
    return plane


def psnr(restored: npt.NDArray[Any], reference: npt.NDArray[Any], *, epsilon: float = PSNR_EPSILON) -> float:
    """Peak signal-to-noise ratio in dB: -10 log10(mean squared error / 255^2 + epsilon).

    Args:
        restored: planes or images in 0..255, any real type.
        reference: the same shape.
        epsilon: added to the error; the default is pyiqa's, 0 gives the textbook value.

    Returns:
        Decibels; infinity where the two are identical (pyiqa says 80 there).

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(restored, reference)
    difference = restored.astype(np.float64) - reference.astype(np.float64)
    error = float(np.mean(np.square(difference))) / 255.0**2
    return math.inf if error == 0 else -10.0 * math.log10(error + epsilon)


def ssim(restored: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Structural similarity (Wang et al. 2004, equation 13) as published tables compute it.

    Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, no down-sampling, only windows that lie wholly
    inside the image; the contrast-structure term is cut at 0 (as pyiqa does), channels are averaged.

    Args:
        restored: (H, W) or (H, W, C) in 0..255; rounded to integers first, as the MATLAB original does.
        reference: the same shape.

    Returns:
        0 to 1, 1 for identical images.

    Raises:
        ValueError: the shapes differ or a side is under 11 pixels.
    """
    _same_shape(restored, reference)
    height, width = restored.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        needed = f"{SSIM_WINDOW}x{SSIM_WINDOW}"
        raise ValueError(f"SSIM needs at least {needed} pixels, the image has {width}x{height}")
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    x, y = np.rint(restored).astype(np.float64), np.rint(reference).astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    structure = np.maximum((2 * covariance + c2) / (variance_x + variance_y + c2), 0)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * structure))


def _window_mean(plane: Plane) -> Plane:
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    kernel = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    kernel /= kernel.sum()
    filtered = cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    edge = SSIM_WINDOW // 2  # what is left after the cut never saw the border
    return np.asarray(filtered, np.float64)[edge:-edge, edge:-edge]


def _same_shape(restored: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
    if restored.shape != reference.shape:
        raise ValueError(f"shapes differ: restored {restored.shape}, reference {reference.shape}")


def _on(
    convert: Callable[[Image8], npt.NDArray[Any]], measure: Callable[[Any, Any], float]
) -> Callable[[Image8, Image8 | None], float]:
    return lambda restored, reference: measure(convert(restored), convert(_given(reference)))


def _rgb(image: Image8) -> Image8:
    return image


def _given(reference: Image8 | None) -> Image8:
    if reference is None:
        raise ValueError("this metric compares with a reference and got none")
    return reference


_OUR_COMPUTE: dict[str, tuple[str, Callable[[Image8, Image8 | None], float]]] = {
    "psnr_y": ("PSNR-Y", _on(luma, psnr)),
    "ssim_y": ("SSIM-Y", _on(luma, ssim)),
    "psnr_rgb": ("PSNR-RGB", _on(_rgb, psnr)),
    "ssim_rgb": ("SSIM-RGB", _on(_rgb, ssim)),
    "ssim_yiq": ("SSIM-YIQ", _on(luma_yiq, ssim)),
}
OUR_METRICS = tuple(_OUR_COMPUTE)
OUR_LIBRARY = f"varestorer {varestorer_cli.__version__} (numpy {np.__version__}, OpenCV {cv2.__version__})"


def load_metrics(names: Sequence[str], *, device: str = "cpu", notify: Notify = lambda text: None) -> list[Metric]:
    """Make the named metrics ready to call, pyiqa's only where one is named.

    Args:
        names: metric names in the order of the columns; repeats count once.
        device: where pyiqa computes: ``auto`` (a GPU if there is one), ``cpu``, ``cuda:0``.
        notify: gets pyiqa's licence (once) and what pyiqa is about to download, one sentence each.

    Raises:
        UsageError: no such metric, or one that scores whole folders.
        MissingDependencyError: pyiqa, a package or a weight file it needs is not there.
    """
    unique = list(dict.fromkeys(names))
    foreign = [name for name in unique if name not in _OUR_COMPUTE]
    pyiqa = _import_pyiqa(foreign) if foreign else None
    if pyiqa is not None:
        _refuse_unknown(foreign, pyiqa.list_models())
        notify(LICENCE_NOTICE.format(version=_version("pyiqa")))
    return [_ours(name) if name in _OUR_COMPUTE else _from_pyiqa(pyiqa, name, device, notify) for name in unique]


def _ours(name: str) -> Metric:
    label, compute = _OUR_COMPUTE[name]
    return Metric(name, label, needs_reference=True, lower_better=False, library=OUR_LIBRARY, compute=compute)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"


def _import_pyiqa(names: Sequence[str]) -> Any:
    """Import pyiqa, its chatter sent to stderr: stdout belongs to the table."""
    asked = ", ".join(names)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import pyiqa
    except ModuleNotFoundError as error:
        if error.name == "pyiqa":
            raise MissingDependencyError(
                f"The package pyiqa is not installed, and it alone computes: {asked}.{_hint(names)} "
                f"Install it with: {INSTALL_PYIQA} (non-commercial licence), "
                f"or ask only for {', '.join(OUR_METRICS)}, which need no package."
            ) from error
        raise MissingDependencyError(
            f"pyiqa is installed but not its package {error.name}, so it cannot be imported. {_cure(error.name)}"
        ) from error
    except Exception as error:  # e.g. RuntimeError where torchvision does not fit torch
        raise MissingDependencyError(
            f"pyiqa is installed but cannot be imported ({type(error).__name__}: {_first_line(error)}). "
            f"Install torch and torchvision from the same index, then {INSTALL_PYIQA}."
        ) from error
    return pyiqa


def _cure(package: str | None) -> str:
    if package == "pkg_resources":
        return "It left setuptools with version 81; run: pip install 'setuptools<81'"
    return f"Run: pip install {(package or 'pyiqa').partition('.')[0]}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else "no message"


def _hint(names: Sequence[str], known: Sequence[str] = OUR_METRICS) -> str:
    found = {name: difflib.get_close_matches(name, known, 1, 0.7) for name in names}
    guesses = [f"{close[0]} (for {name})" for name, close in found.items() if close]
    return f" Did you mean {', '.join(guesses)}?" if guesses else ""


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"No metric is called {', '.join(unknown)}.{_hint(unknown, [*OUR_METRICS, *known])} "
            f"Known are {', '.join(OUR_METRICS)} and the {len(known)} of pyiqa {_version('pyiqa')} "
            f"(pyiqa --list_models names them)."
        )
    whole = [name for name in names if "fid" in name or name == "inception_score"]
    if whole:
        raise UsageError(
            f"{', '.join(whole)} compares whole folders, not pairs of images: score has no column for it. "
            f"Run pyiqa's own command on the two folders instead: pyiqa {whole[0]} -t RESTORED -r REFERENCE"
        )


def _from_pyiqa(pyiqa: Any, name: str, device: str, notify: Notify) -> Metric:
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    hub = Path(torch.hub.get_dir())
    needed = PYIQA_FILES.get(name, ())
    missing = [hub / file for file in needed if not file.startswith("HF:") and not (hub / file).is_file()]
    if missing:
        notify(f"{name}: pyiqa will try to download {', '.join(path.name for path in missing)} into {hub}.")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            metric = pyiqa.create_metric(name, device=device)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"pyiqa cannot make the metric {name}: its package {error.name} is missing. {_cure(error.name)}"
        ) from error
    except Exception as error:
        raise MissingDependencyError(_no_weights(name, error, needed, missing, hub)) from error

    def compute(restored: Image8, reference: Image8 | None) -> float:
        needs_reference = metric.metric_mode == "FR"
        inputs = [restored, _given(reference)] if needs_reference else [restored]
        tensors = [torch.from_numpy(x.astype(np.float32) / 255).permute(2, 0, 1)[None] for x in inputs]
        # Some metrics draw crops at random: the same image shall score the same in any run and order.
        with torch.random.fork_rng(), torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            torch.manual_seed(0)
            return float(metric(*tensors))

    return Metric(
        name=name,
        label=name.upper(),
        needs_reference=metric.metric_mode == "FR",
        lower_better=bool(metric.lower_better),
        # Learned metrics differ between CPU and GPU in the last digits, so the table says which it was.
        library=f"pyiqa {_version('pyiqa')} on {device}",
        compute=compute,
    )


def _no_weights(name: str, error: Exception, needed: Sequence[str], missing: Sequence[Path], hub: Path) -> str:
    """What failed, which files the metric wants and where they go."""
    hugging_face = [file.removeprefix("HF:") for file in needed if file.startswith("HF:")]
    files = [str(hub / file) for file in needed if not file.startswith("HF:")]
    if missing:
        what = f"these files are missing: {', '.join(map(str, missing))}"
    elif files:
        what = f"one of its files may be damaged: {', '.join(files)}"
    else:
        what = f"its files are looked for below {hub}"
    if hugging_face:
        what += f", and {', '.join(hugging_face)} is needed in the Hugging Face cache (HF_HOME)"
    return (
        f"pyiqa cannot make the metric {name} ({type(error).__name__}: {_first_line(error)}); {what}. "
        f"With network pyiqa fetches them itself; without, copy them there (TORCH_HOME moves the folder), "
        f"or leave {name} out."
    )
