"""Parts of a run (``--shard``): array-job index and size from the environment (Slurm, PBS, SGE, LSF, AWS Batch ...).

Sources: the manuals of Slurm (job arrays), Grid Engine (qsub -t), PBS and Torque (qsub -J, -t), LSF (bsub -J "x[1-n]"),
AWS Batch (array jobs), Kubernetes (indexed jobs), Google Cloud Run and Batch, and OpenCue's Dispatcher.java.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from varestorer_cli.core.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``; counting starts at 0, as array job indices do."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UsageError(
                f"--shard {self.index}/{self.count}: shards count from 0, so {self.count} shards are "
                f"0/{self.count} to {max(self.count - 1, 0)}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``I/N``.

        Raises:
            UsageError: not two integers, or outside 0 <= I < N.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None:
            raise UsageError(f"--shard {text}: expected I/N with 0 <= I < N, for example 0/16")
        return cls(int(found[1]), int(found[2]))

    def holds(self, key: str) -> bool:
        """Whether the image with this relative path belongs to this part; adding files never moves others."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class ArrayVariables:
    """Names of the variables that say which task of an array this is; an empty name is one the system lacks.

    Attributes:
        system: its name, for messages.
        index, first, last, count, step: names of variables.
        base: number of the first task where the system does not tell it.
    """

    system: str
    index: str
    first: str = ""
    last: str = ""
    count: str = ""
    step: str = ""
    base: int = 0


SYSTEMS = (
    ArrayVariables(
        "Slurm",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_MAX",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_STEP",
    ),
    ArrayVariables("Grid Engine", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", step="SGE_TASK_STEPSIZE", base=1),
    ArrayVariables("LSF", "LSB_JOBINDEX", last="LSB_JOBINDEX_END", step="LSB_JOBINDEX_STEP", base=1),
    ArrayVariables("PBS", "PBS_ARRAY_INDEX"),
    ArrayVariables("Torque", "PBS_ARRAYID"),
    ArrayVariables("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", count="AWS_BATCH_JOB_ARRAY_SIZE"),
    ArrayVariables("Google Batch", "BATCH_TASK_INDEX", count="BATCH_TASK_COUNT"),
    ArrayVariables("Cloud Run", "CLOUD_RUN_TASK_INDEX", count="CLOUD_RUN_TASK_COUNT"),
    ArrayVariables("Kubernetes", "JOB_COMPLETION_INDEX"),
)


def parse_shard(text: str, environment: Mapping[str, str] | None = None) -> Shard:
    """Read ``I/N``, ``auto`` (both from the array job's variables) or ``auto/N`` (the index from there).

    Args:
        text: what was given.
        environment: variables, the process's by default.

    Raises:
        UsageError: not one of these, no array job, or its tasks are not numbered without gaps.
    """
    found = re.fullmatch(r"auto(?:/(\d+))?", text.strip())
    if found is None:
        return Shard.parse(text)
    return _from_array(os.environ if environment is None else environment, int(found[1]) if found[1] else None)


def _from_array(environment: Mapping[str, str], wanted: int | None) -> Shard:
    for system in SYSTEMS:
        index = _number(environment, system.index)
        # LSF sets the index of jobs outside arrays to 0, Grid Engine to "undefined".
        if index is None or (system.system == "LSF" and index == 0):
            continue
        first, last = _number(environment, system.first), _number(environment, system.last)
        count, step = _number(environment, system.count), _number(environment, system.step) or 1
        start = first if first is not None else system.base
        if wanted is not None:
            # Part of an array may have been submitted again, so its first number says nothing: count from the base.
            return _shard(system, index - system.base, wanted, index)
        size = (last - start) // step + 1 if last is not None else count
        if size is None:
            raise UsageError(
                f"--shard auto: {system.system} does not say how many tasks the array has; give the number, for "
                "example --shard auto/16"
            )
        if count is not None and count != size:
            raise UsageError(
                f"--shard auto: the array has {count} tasks with numbers {start} to {last} in steps of {step}, which "
                f"would be {size}; number the array 0-{count - 1}, or give I/N"
            )
        return _shard(system, (index - start) // step, size, index)
    known = ", ".join(system.index for system in SYSTEMS)
    raise UsageError(f"--shard auto: this is no array job (none of {known} is set); give I/N, for example --shard 0/16")


def _shard(system: ArrayVariables, position: int, count: int, index: int) -> Shard:
    if not 0 <= position < count:
        raise UsageError(
            f"--shard: {system.index}={index} is none of {count} tasks numbered from {system.base}; number the array "
            f"{system.base}-{count - 1 + system.base}, or give I/N"
        )
    return Shard(position, count)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "") if name else ""
    return int(value) if value.isdigit() else None
