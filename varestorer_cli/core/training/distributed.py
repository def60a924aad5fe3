"""Several processes that train one model: ranks, decisions of all, means over all of them.

``torchrun`` starts the processes and tells each its place by environment variables; without them a run is one process
and nothing here does anything. Every process holds the same step; a step's batch is divided among them in order, and
whatever is drawn for it depends on the step and the place in the whole batch. So 1, 2 or 3 processes follow the same
curve up to rounding, and any number of them goes on where another number stopped.
"""

import functools
import gc
import os
import re
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from varestorer_cli.core.errors import ExitCode, InterruptedRunError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_PATIENCE = timedelta(hours=12)
"""How long processes wait for one that prepares data; a dead one is noticed at once."""
_MEETING = timedelta(minutes=30)
"""How long processes wait for all others to start."""


class LostProcessError(InterruptedRunError):
    """Another process of the run is gone."""

    def __init__(self, error: BaseException) -> None:
        cause = str(error).strip().splitlines()
        super().__init__(
            f"another process of this run ended ({cause[0][:160] if cause else type(error).__name__}); start all of "
            "them again with --resume (torchrun --max-restarts does so by itself)",
            ExitCode.TERMINATED,
        )


@dataclass(frozen=True)
class World:
    """This process among all of the run.

    Attributes:
        rank: its number, from 0; number 0 writes logs, images and models.
        size: number of processes.
        local_rank: its number on this machine, which is its GPU's.
        restarts: how often torchrun has started the processes anew.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Logical or of each flag over all processes; all get the same answer."""
        if self.size == 1:
            return flags
        votes = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes.tolist())

    def mean(self, values: Mapping[str, float], share: float) -> dict[str, float]:
        """Means over the whole batch.

        Args:
            values: means over this process's part; the same names everywhere.
            share: that part's share of the batch.
        """
        if self.size == 1:
            return dict(values)
        weighted = torch.tensor([value * share for value in values.values()], dtype=torch.float64)
        dist.all_reduce(weighted)
        return dict(zip(values, weighted.tolist(), strict=True))

    def in_turn(self, work: Callable[[], Any]) -> Any:
        """Let number 0 do some work first, then the first process of each other machine, then the rest.

        What one has made on a disk, the later ones find there, whether or not machines share the disk.
        """
        if self.size == 1:
            return work()
        turn = 0 if self.rank == 0 else 1 if self.local_rank == 0 else 2
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        result = None
        for number in range(3):
            if turn == number:
                result = work()
            dist.barrier(patient)
        dist.destroy_process_group(patient)
        return result

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))


def read_world(environment: Mapping[str, str] | None = None) -> World:
    """The place that torchrun gave this process; alone where it gave none."""
    known = os.environ if environment is None else environment
    if int(known.get("WORLD_SIZE", "1")) < 2:
        return World(restarts=int(known.get("TORCHELASTIC_RESTART_COUNT", "0")))
    return World(
        int(known["RANK"]),
        int(known["WORLD_SIZE"]),
        int(known.get("LOCAL_RANK", "0")),
        int(known.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Connect the processes for the length of the block.

    Raises:
        LostProcessError: another process ended meanwhile.
    """
    if world.size == 1:
        yield
        return
    # here, not above: some builds of torch have no torch.distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # tensors on the CPU (votes, means for the log) travel by gloo, gradients on GPUs by nccl
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        common = next(rendezvous("env://", world.rank, world.size, timeout=_MEETING))[0]
        store = PrefixStore(meeting(common, world), common)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
        with warnings.catch_warnings():
            # which weights are used depends on the loss terms; that all are is no reason to warn
            warnings.filterwarnings("ignore", message="find_unused_parameters=True")
            # the argument in its place is not in every PyTorch that is allowed
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            yield
    except BaseException as error:
        _forget_variables(error)
        # RuntimeError is the base of all errors of torch.distributed
        if isinstance(error, RuntimeError) and (
            isinstance(error, dist.DistError) or re.search(r"gloo|nccl|closed by peer|reset by peer", str(error), re.I)
        ):
            raise LostProcessError(error) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        # The group's threads end with its last reference, which cycles of the trained module hold. Threads that outlive
        # the interpreter may abort the process (signal 6) when they free tensors.
        _forget_divided_tensors()
        gc.collect()


def _forget_variables(error: BaseException | None) -> None:
    """Drop what finished functions behind an error hold: the trained module, which holds the group."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _forget_divided_tensors() -> None:
    """Empty PyTorch's caches of layouts of divided tensors, which hold the group after ``--parallel fsdp``."""
    if "torch.distributed.tensor" not in sys.modules:
        return
    from torch.distributed.tensor import _redistribute, debug

    # private, and not in every PyTorch that is allowed
    for name in ("", "python_", "fast_path_"):
        getattr(debug, f"_clear_{name}sharding_prop_cache", lambda: None)()
    getattr(_redistribute, "clear_redistribute_planner_cache", lambda: None)()
    for cached in gc.get_objects():
        # the type itself: asking some of PyTorch's old names for their class warns
        if type(cached) is functools._lru_cache_wrapper and str(cached.__module__).startswith("torch.distributed"):
            cached.cache_clear()


def meeting(store: "Store", world: World, patience: timedelta = _MEETING) -> str:
    """A name that all processes of this start agree on, and that no earlier start had.

    torchrun keeps one store for all its starts: without a name of their own, processes that were started again would
    read the addresses of dead ones there, and wait for them. The count of restarts is no such name, as each machine
    counts its own.

    Args:
        store: that all processes share, also with those of earlier starts.
        world: who this process is.
        patience: how long to wait for the others.

    Raises:
        DistStoreError: the others did not come.
    """
    own = uuid.uuid4().hex
    if not world.main:
        # the store may hold a word of this rank from an earlier start: number 0 answers any word, old ones too
        store.set(f"hello/{world.rank}", own)
        store.wait([f"welcome/{own}"], patience)
        name = str(store.get(f"welcome/{own}").decode())
        store.set(f"here/{name}/{world.rank}", "")
        return name
    missing = set(range(1, world.size))
    answered: set[str] = set()
    deadline = time.monotonic() + patience.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"processes {sorted(missing)} did not start within {patience}")
        for rank in sorted(missing):
            if store.check([f"hello/{rank}"]) and (word := store.get(f"hello/{rank}").decode()) not in answered:
                store.set(f"welcome/{word}", own)
                answered.add(word)
            if store.check([f"here/{own}/{rank}"]):
                missing.remove(rank)
        time.sleep(0.02)
    return own


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes, differentiable: every process's loss depends on every process's input."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def batch_mean(mean: Tensor, count: int) -> Tensor:
    """A mean over this process's samples -> over those of all processes; for statistics inside a loss.

    Most loss terms are means over samples, for which averaged gradients are enough. A term that is another function
    of a batch statistic (an entropy, a ratio) needs that statistic of the whole batch.

    Args:
        mean: over ``count`` samples, any shape; gradients flow back to every process.
        count: samples behind it here.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    sums = torch.cat([(mean * count).flatten(), mean.new_full((1,), count)])
    total: Tensor = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
    return (total[:-1] / total[-1]).view_as(mean)


def replicate(module: nn.Module, world: World) -> nn.Module:
    """The module with gradients averaged over all processes (DistributedDataParallel); alone, the module itself."""
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
    )


def unsynchronised(module: nn.Module) -> AbstractContextManager[None]:
    """Within it gradients of a replicated module only add up in each process; a later pass averages them."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        without: AbstractContextManager[None] = module.no_sync()
        return without
    return nullcontext()
