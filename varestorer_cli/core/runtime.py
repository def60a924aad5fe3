"""Device, arithmetic and threads: chosen once per run, with the reason in words. Imports torch only when asked."""

import contextlib
import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from varestorer_cli.core.choices import Precision
from varestorer_cli.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    import torch

# mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_EMULATED = (
    "--precision bf16: this CPU has no bf16 arithmetic (avx512_bf16 or amx_bf16); it is emulated, about six times "
    "slower than fp32 and without saving memory; leave --precision out, or keep it only to see what bf16 does to an "
    "image"
)
# The largest threshold that the C library takes.
KEPT_WHILE_RESTORING = 32 << 20


@dataclass(frozen=True)
class Runtime:
    """What a run computes on.

    Attributes:
        device: torch device string.
        why: reason for the device.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        precision_why: reason for the precision.
        threads: CPU threads.
        warning: what the user should know about the choice, "" if nothing.
    """

    device: str
    why: str
    precision: str
    precision_why: str
    threads: int
    warning: str = ""

    def describe(self) -> str:
        """One sentence for the first line of a run."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{self.device} ({self.why}), {self.precision} ({self.precision_why}), {threads}"


def choose(device: str, precision: Precision, threads: int | None, precision_why: str = "asked for") -> Runtime:
    """Choose device, precision and threads, and set torch's threads.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: wanted arithmetic.
        threads: CPU threads, None asks the environment.
        precision_why: who wants this precision.

    Raises:
        UsageError: the device's name is unknown, or the precision does not exist there.
        MissingDependencyError: the device is not there; says what torch was found and what to do.
    """
    import torch

    name, why = _device(torch.__version__, device)
    count = threads or default_threads()
    torch.set_num_threads(count)
    if precision is Precision.AUTO:
        return Runtime(name, why, *_native_precision(name), count)
    if name == "cpu" and precision is Precision.FP16:
        raise UsageError("--precision fp16: CPUs compute it slowly and badly; use bf16 or fp32")
    if name == "cpu" and precision is Precision.BF16 and not cpu_has_bf16():
        return Runtime(name, why, "bf16", f"{precision_why}; emulated", count, _EMULATED)
    return Runtime(name, why, precision.value, precision_why, count)


def _device(version: str, request: str) -> tuple[str, str]:
    import torch

    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", request) is None:
        raise UsageError(f"--device {request}: possible are auto, cpu, cuda, cuda:N and mps")
    mps = bool(torch.backends.mps.is_available())
    if request == "cpu":
        return "cpu", "asked for"
    if request == "mps" or (request == "auto" and mps):
        if not mps:
            raise MissingDependencyError(f"--device mps: torch {version} finds no Apple GPU here; use --device cpu")
        return "mps", "asked for" if request == "mps" else "Apple GPU"
    if torch.cuda.is_available():
        number = int(request.partition(":")[2] or 0)
        count = torch.cuda.device_count()
        if number >= count:
            raise MissingDependencyError(
                f"--device {request}: {count} GPU{'s are' if count != 1 else ' is'} visible, the last one is "
                f"cuda:{count - 1}; check CUDA_VISIBLE_DEVICES"
            )
        return (request if ":" in request else "cuda"), str(torch.cuda.get_device_name(number))
    reason = no_cuda_reason()
    if request.startswith("cuda"):
        raise MissingDependencyError(f"--device {request}: {reason}; or use --device cpu")
    return "cpu", reason.partition(";")[0]


def several(text: str) -> tuple[str, ...]:
    """Devices for ``--gpus``: ``all`` that are visible, the first N, or a list of numbers.

    A list may also hold whole device names (``cpu,cpu``), so that the machinery can be tried without GPUs.

    Raises:
        UsageError: none of these.
        MissingDependencyError: there are not so many.
    """
    import torch

    names = [name.strip() for name in text.split(",") if name.strip()]
    if "," in text and names and all(re.fullmatch(r"\d+|cpu|mps|cuda(:\d+)?", name) for name in names):
        return tuple(f"cuda:{int(name)}" if name.isdigit() else name for name in names)
    if text != "all" and not (text.isdigit() and int(text) > 0):
        raise UsageError(f"--gpus {text}: expected all, a number of GPUs (2), or a list (0,1)")
    count = torch.cuda.device_count()
    if count == 0:
        raise MissingDependencyError(f"--gpus {text}: {no_cuda_reason()}; or leave --gpus out")
    if text != "all" and int(text) > count:
        raise MissingDependencyError(f"--gpus {text}: {count} are visible; check CUDA_VISIBLE_DEVICES")
    return tuple(f"cuda:{number}" for number in range(count if text == "all" else int(text)))


def no_cuda_reason() -> str:
    """Why CUDA cannot be used, and after a semicolon what to do."""
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install a CUDA build "
            "(pytorch.org, Get Started, says how)"
        )
    return (
        f"torch {torch.__version__} finds no GPU; check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES="
        f"{os.environ.get('CUDA_VISIBLE_DEVICES', '(not set)')}"
    )


def _native_precision(device: str) -> tuple[str, str]:
    """The fastest arithmetic that the device has, and why."""
    import torch

    if device.startswith("cuda"):
        if torch.cuda.get_device_capability(torch.device(device))[0] >= 8:
            return "bf16", "native on this GPU"
        return "fp16", "this GPU has no native bf16"
    if device == "cpu" and cpu_has_bf16():
        return "bf16", "native on this CPU"
    return "fp32", "no native bf16 here"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware; without that it is slower than fp32."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        if found is not None:
            flags = set(found[1].split())
            return bool(flags & {"avx512_bf16", "amx_bf16"}) or ("bf16" in flags and platform.machine() == "aarch64")
    return False


def default_threads() -> int:
    """Threads from the environment: OMP_NUM_THREADS, the scheduler's share, else what this process may use."""
    for variable in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "CUE_THREADS"):
        value = os.environ.get(variable, "").partition(",")[0]
        if value.isdigit() and int(value) > 0:
            return int(value)
    return usable_cpus()


def usable_cpus() -> int:
    """CPUs of this process: affinity, and the quota of its control group."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return max(1, count)


def peak_megabytes(device: str) -> float | None:
    """Largest memory so far in MB: of the GPU (since the last call), else of the process; None where unknown."""
    if device.startswith("cuda"):
        import torch

        peak = torch.cuda.max_memory_allocated(torch.device(device))
        torch.cuda.reset_peak_memory_stats(torch.device(device))
        return float(peak / 1e6)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak * 1024 / 1e6


def autocast_type(precision: str) -> "torch.dtype | None":
    """Type for torch.autocast, None for fp32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def keep_freed_memory(largest: int | None = None) -> None:
    """Make the C library keep freed memory for the next allocation; without glibc nothing happens.

    The same tensors are taken and freed again and again; by default each large one is a fresh mapping whose pages
    the kernel must clear: a tenth to a fifth of a small model's training step, a fortieth of its restoring.

    Args:
        largest: bytes; larger blocks are given back all the same, so that one huge image does not stay. None keeps
            everything.
    """
    if largest is None:
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    else:
        settings = ((_M_MMAP_THRESHOLD, largest), (_M_TRIM_THRESHOLD, 8 * largest), (_M_TOP_PAD, 2**20))
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in settings:
            mallopt(parameter, value)
