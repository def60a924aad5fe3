import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from varestorer_cli.core import runtime
from varestorer_cli.core.choices import Precision
from varestorer_cli.core.errors import MissingDependencyError, UsageError


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def with_gpu(monkeypatch: pytest.MonkeyPatch, count: int = 1, capability: int = 8) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))


def test_the_cpu_says_why() -> None:
    chosen = runtime.choose("auto", Precision.FP32, 1)
    assert chosen.device == "cpu"
    assert chosen.describe().startswith(f"cpu (torch {torch.__version__} ")
    assert chosen.describe().endswith("fp32 (asked for), 1 thread")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused_with_advice(device: str) -> None:
    with pytest.raises(MissingDependencyError, match=f"--device {device}: .*use --device cpu"):
        runtime.choose(device, Precision.AUTO, 1)


def test_unknown_devices_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="--device tpu: possible are auto, cpu, cuda"):
        runtime.choose("tpu", Precision.AUTO, 1)


@pytest.mark.parametrize(("capability", "precision"), [(9, "bf16"), (8, "bf16"), (7, "fp16")])
def test_gpu_and_its_native_precision(monkeypatch: pytest.MonkeyPatch, capability: int, precision: str) -> None:
    with_gpu(monkeypatch, capability=capability)
    chosen = runtime.choose("auto", Precision.AUTO, 1)
    assert (chosen.device, chosen.why, chosen.precision) == ("cuda", "GPU 0", precision)


def test_a_gpu_number_beyond_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, count=2)
    assert runtime.choose("cuda:1", Precision.AUTO, 1).why == "GPU 1"
    with pytest.raises(MissingDependencyError, match="2 GPUs are visible, the last one is cuda:1"):
        runtime.choose("cuda:2", Precision.AUTO, 1)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "fp32")])
def test_cpu_precision_follows_its_instructions(monkeypatch: pytest.MonkeyPatch, has: bool, precision: str) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has)
    assert runtime.choose("cpu", Precision.AUTO, 1).precision == precision


@pytest.mark.parametrize(("has", "why"), [(True, "asked for"), (False, "asked for; emulated")])
def test_bf16_asked_for_on_a_cpu_says_whether_it_is_emulated(
    monkeypatch: pytest.MonkeyPatch, has: bool, why: str
) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has)
    chosen = runtime.choose("cpu", Precision.BF16, 1)
    assert (chosen.precision, chosen.precision_why) == ("bf16", why)
    assert ("six times slower than fp32" in chosen.warning) is not has
    assert "fp32 (--compat released)" in runtime.choose("cpu", Precision.FP32, 1, "--compat released").describe()


def test_half_precision_on_the_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="--precision fp16"):
        runtime.choose("cpu", Precision.FP16, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("flags\t\t: fpu avx512_bf16 sse", True), ("flags : fpu avx2", False), ("flags: amx_bf16", True)],
)
def test_cpu_flags(monkeypatch: pytest.MonkeyPatch, text: str, expected: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: f"processor: 0\n{text}\n")
    assert runtime.cpu_has_bf16() is expected


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert runtime.default_threads() == runtime.usable_cpus()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert runtime.default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert runtime.default_threads() == 2


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 1), ("max 100000", 8), ("50000 100000", 1)])
def test_the_control_groups_quota_counts(monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: quota)
    assert runtime.usable_cpus() == expected


def test_peak_memory_is_positive() -> None:
    peak = runtime.peak_megabytes("cpu")
    assert peak is not None and peak > 10


@pytest.mark.skipif(platform.system() != "Linux", reason="mallopt is the GNU C library's")
def test_memory_below_the_limit_is_kept() -> None:
    program = """
import resource
from varestorer_cli.core.runtime import keep_freed_memory
if KEEP:
    keep_freed_memory(32 << 20)
for size in (4 << 20, 12 << 20, 24 << 20) * 8:
    bytearray(b"x") * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
    faults = [
        int(subprocess.run([sys.executable, "-c", f"KEEP = {keep}\n{program}"], capture_output=True, check=True).stdout)
        for keep in (False, True)
    ]
    # blocks of 4 to 24 MiB, 320 MiB in all: every page of them is new, or only the largest block's
    assert faults[1] < faults[0] - 5_000, faults
