"""Metrics computed by pyiqa (extra ``score``, non-commercial licence). No other module imports pyiqa.

What is needed before pyiqa is imported (kind, direction, files) stands in ``KNOWN`` for the metrics that published
tables have, so that scores kept from an earlier run need no import, which takes seconds. pyiqa is imported, and a
model made, at the first image that has to be computed.
"""

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from varestorer_cli.core.errors import MissingDependencyError, UsageError
from varestorer_cli.core.extras import install_command
from varestorer_cli.core.metrics.base import Image8, Metric, Notify, hub_folder, resolve_device
from varestorer_cli.core.metrics.psnr_ssim import OUR_METRICS

LICENCE_NOTICE = (
    "pyiqa {version} is under the PolyForm Noncommercial License 1.0.0, parts of it under the S-Lab License "
    "1.0 (non-commercial): it may not be used commercially. "
    "psnr_y, ssim_y, psnr_rgb, ssim_rgb and ssim_yiq are varestorer's own and free of it."
)
BATCH = 8  # images of one size per call, where the metric treats each image of a batch by itself


@dataclass(frozen=True)
class Facts:
    """What is known of a metric without importing pyiqa; values of pyiqa 0.1.16.

    Attributes:
        reference: it compares with a reference (FR).
        lower: a lower score is the better one.
        files: read below torch's hub folder; ``HF:`` marks the Hugging Face cache.
        batched: a batch gives each image the score it has alone.
        whole_set: it compares two folders.
    """

    reference: bool
    lower: bool = False
    files: tuple[str, ...] = ()
    batched: bool = False
    whole_set: bool = False


_VIT = "HF:timm vit_base_patch8_224"
KNOWN: dict[str, Facts] = {
    "lpips": Facts(
        True, True, ("checkpoints/alexnet-owt-7be5be79.pth", "pyiqa/LPIPS_v0.1_alex-df73285e.pth"), batched=True
    ),
    "lpips-vgg": Facts(
        True, True, ("checkpoints/vgg16-397923af.pth", "pyiqa/LPIPS_v0.1_vgg-a78928a0.pth"), batched=True
    ),
    "dists": Facts(True, True, ("checkpoints/vgg16-397923af.pth", "pyiqa/DISTS_weights-f5e65c96.pth"), batched=True),
    "pieapp": Facts(True, True, ("pyiqa/PieAPPv0.1-0937b014.pth",)),
    "topiq_fr": Facts(True, False, ("HF:timm resnet50", "pyiqa/cfanet_fr_kadid_res50-2c4cc61d.pth")),
    "ms_ssim": Facts(True, batched=True),
    "cw_ssim": Facts(True),
    "fsim": Facts(True),
    "gmsd": Facts(True, True, batched=True),
    "vif": Facts(True, batched=True),
    "vsi": Facts(True),
    "nlpd": Facts(True, True),
    "mad": Facts(True, True),
    "niqe": Facts(False, True, ("pyiqa/niqe_modelparameters.mat",)),
    "brisque": Facts(False, True, ("pyiqa/brisque_svm_weights.pth",)),
    "ilniqe": Facts(False, True, ("pyiqa/ILNIQE_templateModel.mat",)),
    "nrqm": Facts(False, False, ("pyiqa/NRQM_model.mat",)),
    "pi": Facts(False, True, ("pyiqa/NRQM_model.mat", "pyiqa/niqe_modelparameters.mat")),
    "piqe": Facts(False, True),
    "musiq": Facts(False, False, ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",), batched=True),
    "maniqa": Facts(False, False, (_VIT, "pyiqa/ckpt_koniq10k.pt"), batched=True),
    "maniqa-pipal": Facts(False, False, (_VIT, "pyiqa/MANIQA_PIPAL-ae6d356b.pth"), batched=True),
    "maniqa-kadid": Facts(False, False, (_VIT, "pyiqa/ckpt_kadid10k.pt"), batched=True),
    "clipiqa": Facts(False, False, ("clip/RN50.pt",), batched=True),
    "clipiqa+": Facts(False, False, ("clip/RN50.pt", "pyiqa/CLIP-IQA+_learned_prompts-603f3273.pth"), batched=True),
    "topiq_nr": Facts(False, False, ("HF:timm resnet50", "pyiqa/cfanet_nr_koniq_res50-9a73138b.pth")),
    "liqe": Facts(False, False, ("pyiqa/liqe_koniq.pt",)),
    "qalign": Facts(False, False, ("HF:q-future/one-align",)),
    "hyperiqa": Facts(False, False, ("pyiqa/HyperIQA-resnet50-koniq10k-c96c41b1.pth",)),
    "fid": Facts(True, True, ("pyiqa/pt_inception-2015-12-05-6726825d.pth",), whole_set=True),
}


def load(names: Sequence[str], device: str, notify: Notify) -> list[Metric]:
    """Make metrics of pyiqa; those of ``KNOWN`` without importing it.

    Args:
        names: of metrics.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda:0``.
        notify: gets the licence once, and what pyiqa is about to download.

    Raises:
        UsageError: no such metric, or one of whole folders other than fid.
        MissingDependencyError: pyiqa or a package that it needs is not there.
    """
    if any(name not in KNOWN for name in names):
        _refuse_unknown(names, _import_pyiqa(names).list_models())
    elif not _installed():
        _import_pyiqa(names)  # fails, and says how to install it
    notify(LICENCE_NOTICE.format(version=_version("pyiqa")))
    return [_Pyiqa(name, device, notify).metric() for name in names]


@dataclass(frozen=True)
class _Pyiqa:
    """One metric, its model made when first needed."""

    name: str
    device: str
    notify: Notify

    def metric(self) -> Metric:
        """The metric as the rest of the program sees it."""
        facts = KNOWN.get(self.name)
        if facts is None:
            model = self._model
            facts = Facts(model.metric_mode == "FR", bool(model.lower_better))
        return Metric(
            name=self.name,
            label=self.name.upper(),
            needs_reference=facts.reference,
            lower_better=facts.lower,
            # Learned metrics differ between CPU and GPU in the last digits, so the table says which it was.
            library=f"pyiqa {_version('pyiqa')} on {self._place}",
            measure=self._measure,
            batch=BATCH if facts.batched else 1,
            whole_set=facts.whole_set,
            measure_set=self._measure_set if facts.whole_set else None,
            prepare=lambda: self._model,
            version=lambda: weights_version(facts.files),
        )

    @cached_property
    def _place(self) -> str:
        return resolve_device(self.device)

    @cached_property
    def _model(self) -> Any:
        pyiqa = _import_pyiqa([self.name])
        hub = hub_folder()
        needed = KNOWN[self.name].files if self.name in KNOWN else ()
        missing = [hub / file for file in needed if not file.startswith("HF:") and not (hub / file).is_file()]
        if missing:
            names = ", ".join(path.name for path in missing)
            self.notify(f"{self.name}: pyiqa will try to download {names} into {hub}.")
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return pyiqa.create_metric(self.name, device=self._place)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"pyiqa cannot make the metric {self.name}: its package {error.name} is missing. {_cure(error.name)}"
            ) from error
        except Exception as error:
            raise MissingDependencyError(_no_weights(self.name, error, needed, missing, hub)) from error

    def _measure(self, restored: Sequence[Image8], references: Sequence[Image8 | None]) -> list[float]:
        import torch

        sides = [restored]
        if self._model.metric_mode == "FR":
            given = [image for image in references if image is not None]
            if len(given) != len(restored):
                raise ValueError("this metric compares with a reference and got none")
            sides.append(given)
        tensors = [
            torch.from_numpy(np.stack(images).astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()
            for images in sides
        ]
        # Some metrics draw crops at random: the same image shall score the same in any run and order.
        with torch.random.fork_rng(), torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            torch.manual_seed(0)
            scores = torch.as_tensor(self._model(*tensors)).reshape(-1)
        if len(scores) != len(restored):
            raise ValueError(f"{len(scores)} scores came back for {len(restored)} images")
        return [float(score) for score in scores]

    def _measure_set(self, restored: Path, reference: Path) -> float:
        with contextlib.redirect_stdout(sys.stderr):
            return float(self._model(str(restored), str(reference), num_workers=0, verbose=False))


def weights_version(files: Sequence[str]) -> str:
    """Size and time of the weight files that are there: other weights give other scores."""
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            about = (hub_folder() / file).stat()
            found.append(f"{file} {about.st_size} {about.st_mtime_ns}")
    return ", ".join(found)


def _installed() -> bool:
    try:
        return importlib.util.find_spec("pyiqa") is not None
    except (ImportError, ValueError, RuntimeError):
        return False


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"


def _import_pyiqa(names: Sequence[str]) -> Any:
    """Import pyiqa, what it prints sent to stderr: stdout belongs to the table."""
    asked = ", ".join(names)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import pyiqa
    except ModuleNotFoundError as error:
        if error.name == "pyiqa":
            raise MissingDependencyError(
                f"The package pyiqa is not installed, and it alone computes: {asked}.{_hint(names)} "
                f"Install it with: {install_command('score')} (non-commercial licence), "
                f"or ask only for {', '.join(OUR_METRICS)}, which need no package."
            ) from error
        raise MissingDependencyError(
            f"pyiqa is installed but not its package {error.name}, so it cannot be imported. {_cure(error.name)}"
        ) from error
    except Exception as error:  # e.g. RuntimeError where torchvision does not fit torch
        raise MissingDependencyError(
            f"pyiqa is installed but cannot be imported ({type(error).__name__}: {_first_line(error)}). "
            f"Install torch and torchvision from the same index, then {install_command('score')}."
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
    whole = [name for name in names if ("fid" in name and name != "fid") or name == "inception_score"]
    if whole:
        raise UsageError(
            f"{', '.join(whole)} compares whole folders, not pairs of images: score has a column for fid only. "
            f"Run pyiqa's own command on the two folders instead: pyiqa {whole[0]} -t RESTORED -r REFERENCE"
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
