"""The training loop: steps, optimiser, averaging, checkpoints, logs. It knows no stage."""

import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import CheckpointError, ExitCode, InterruptedRunError, UsageError, VarestorerError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.training.checkpoint import KEPT, LEARNING_RATE, RunState
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.distributed import World, replicate, unsynchronised
from varestorer_cli.core.training.ema import WeightAverage
from varestorer_cli.core.training.fsdp import DamagedError, average_whole_gradients, whole
from varestorer_cli.core.training.log import LEARNING_RATE_FIGURE, RunLog
from varestorer_cli.core.training.presets import Recipe
from varestorer_cli.core.training.run_folder import BEST_MODEL, Best, checkpoints, read_best, remove, write_best
from varestorer_cli.core.training.stages import Task
from varestorer_cli.core.training.validation import is_lower_better, scores

Export = Callable[[int, Mapping[str, float], str | None], None]


class DivergedError(VarestorerError):
    """The loss is no longer finite; the same command again would end in the same place."""

    exit_code = ExitCode.SOME_FAILED


class Batches(Protocol):
    """A pure function from step to batch."""

    def batch(self, step: int) -> PairBatch:
        """The batch of that step."""


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs.

    Attributes:
        folder: of the run.
        seed: of the noise drawn in the losses.
        precision: dtype of autocast, None for float32.
        device: where it runs.
        log_every, sample_every: steps.
        checkpoint_minutes: time between checkpoints.
        stop_after: minutes until a pause, None for no limit.
        console: shows messages and progress.
        accumulate: parts in which each process computes its share of a batch, to save memory.
        world: this process's place among those of the run.
        divided: the transformers' weights are divided among the processes.
        metrics: that score the validation images, see ``validation.validation_metrics``.
        keep: checkpoints that stay, the newest ones.
        best: validation figure by which one more checkpoint stays, the best one; None for none.
    """

    folder: Path
    seed: int
    precision: torch.dtype | None
    device: torch.device
    log_every: int
    sample_every: int
    checkpoint_minutes: float
    stop_after: float | None
    console: Console
    accumulate: int = 1
    world: World = field(default_factory=World)
    divided: bool = False
    metrics: tuple[Metric, ...] = ()
    keep: int = KEPT
    best: str | None = None


class _Losses(nn.Module):
    """The weighted loss and its terms as one module, so that gradients can be averaged over processes.

    Args:
        task: computes the terms.
        weights: of the terms; those without one are only logged.
        autocast: context of the arithmetic asked for.
    """

    def __init__(self, task: Task, weights: Mapping[str, float], autocast: Callable[[], torch.autocast]) -> None:
        super().__init__()
        self.trained = task.trained
        self._task, self._weights, self._autocast = task, weights, autocast

    def forward(self, batch: PairBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss with gradient, and every term without."""
        with self._autocast():
            terms = self._task.terms(batch, generator)
        weighted = [terms[name] * weight for name, weight in self._weights.items() if weight and name in terms]
        total = torch.stack([term.float() for term in weighted]).sum()
        return total, {"loss": total.detach(), **{name: term.detach() for name, term in terms.items()}}


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine to zero at the last step."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Trainer:
    """Runs one task from its first or last step to the end.

    Args:
        task: networks and losses.
        recipe: optimiser settings and loss weights.
        batches: training images by step.
        validation: held-out images.
        options: how to run.
        identity: what a checkpoint must share with this run to be resumed.
        export: writes a model file; called with the averaged weights in place, the step, the figures of validation
            and the file's name, None for the run's own.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        batches: Batches,
        validation: list[PairBatch],
        options: LoopOptions,
        identity: dict[str, Any],
        export: Export,
    ) -> None:
        self.task, self.recipe, self.batches, self.validation = task, recipe, batches, validation
        self.options, self.identity, self.export = options, identity, export
        groups = task.parameter_groups()
        self.groups = [str(group.pop("name", number)) for number, group in enumerate(groups)]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=options.device.type == "cuda",
        )
        self.average = WeightAverage(task.trained, recipe.ema)
        losses = _Losses(task, recipe.losses, self._autocast)
        self.losses = losses if options.divided else replicate(losses, options.world)
        self.state = RunState(task.trained, self.optimizer, self.average, identity, options.divided, options.keep)
        self.step = 0
        self._stop = threading.Event()
        self._signal = signal.SIGTERM

    def run(self) -> int:
        """Train to the end, or to the pause asked for.

        Returns:
            Steps done so far; fewer than the recipe's where ``stop_after`` ended the run.

        Raises:
            InterruptedRunError: SIGTERM or SIGINT; a checkpoint was written first.
            DivergedError: the loss is not finite.
        """
        options, world = self.options, self.options.world
        started = saved = time.monotonic()
        minutes = options.stop_after
        console = options.console
        log = RunLog(options.folder, self.step, self.recipe.steps, self.task.unit, console, writing=world.main)
        with log, self._signals(), self._prefetched() as stream:
            if self.step % options.sample_every == 0 and self.step < self.recipe.steps:
                self._validate(log)  # of a resumed run: those of its first step were taken out of the log
            while self.step < self.recipe.steps:
                self._train_step(next(stream), log)
                now = time.monotonic()
                stop, paused, due = world.agree(
                    self._stop.is_set(),
                    minutes is not None and now - started > minutes * 60,
                    now - saved > options.checkpoint_minutes * 60,
                )
                if stop or paused or due:
                    self.state.save(options.folder, self.step, world)
                    saved = now
                if stop:
                    raise InterruptedRunError(
                        f"told to stop at step {self.step} of {self.recipe.steps}; a checkpoint was written, "
                        "the same command with --resume goes on",
                        ExitCode.TERMINATED if self._signal == signal.SIGTERM else ExitCode.INTERRUPTED,
                    )
                if paused:
                    break
                if self.step % options.sample_every == 0 and self.step < self.recipe.steps:
                    self._validate(log)
            figures = self._validate(log)
            self.state.save(options.folder, self.step, world)
            with self.average.applied():
                self.export(self.step, figures, None)
        world.wait()
        return self.step

    def resume(self) -> None:
        """Take over the newest checkpoint that can be read; without one, the run begins at step 0.

        Raises:
            CheckpointError: of a run with other settings, or none can be read.
        """
        found = checkpoints(self.options.folder)
        for number, checkpoint in enumerate(found):
            try:
                self.step, changed = self.state.load(checkpoint)
            except DamagedError as error:
                if number + 1 == len(found):
                    raise CheckpointError(f"{error}; there is no other, start a new run") from error
                self._warn(f"{error}; the run goes on from the one before, {found[number + 1].name}")
                continue
            if self.options.world.main:
                for damaged in found[:number]:
                    remove(damaged)
            if LEARNING_RATE in changed:
                self._warn(
                    f"from step {self.step} on with learning rate {self.recipe.learning_rate:g} "
                    f"(was {changed[LEARNING_RATE]:g})"
                )
            return

    def _warn(self, text: str) -> None:
        if self.options.world.main:
            self.options.console.warn(text)

    def _train_step(self, batch: PairBatch, log: RunLog) -> None:
        factor = learning_rate_factor(self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * group["scale"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._gradients(batch)
        # each group by itself: a discriminator's large gradient must not shrink the generator's
        norms = [
            whole(torch.nn.utils.clip_grad_norm_(group["params"], self.recipe.clip))
            for group in self.optimizer.param_groups
        ]
        norm = torch.stack(norms).norm()
        if not bool(torch.isfinite(norm)):
            raise DivergedError(
                f"the loss or its gradient is not finite at step {self.step} (terms: "
                f"{', '.join(f'{k} {float(v):.4g}' for k, v in terms.items())}); resume with a lower --lr"
            )
        self.optimizer.step()
        self.average.update()
        self.step += 1
        log.advance()
        if self.step % self.options.log_every == 0 or self.step in (1, self.recipe.steps):
            share = len(batch) / (batch.whole or len(batch))
            values = self.options.world.mean({name: float(value) for name, value in terms.items()}, share)
            values |= {LEARNING_RATE_FIGURE: self.recipe.learning_rate * factor, "gradient_norm": float(norm)}
            if len(norms) > 1:
                values |= {f"gradient_norm/{n}": float(v) for n, v in zip(self.groups, norms, strict=True)}
            log.scalars(self.step, values, self.recipe.batch)

    def _gradients(self, batch: PairBatch) -> dict[str, Tensor]:
        """Gradients of the mean over the whole batch; returns the terms' means over this process's share of it."""
        world, parts = self.options.world, batch.parts(self.options.accumulate)
        means: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            generator = torch.Generator().manual_seed((self.options.seed << 32) + self.step)
            with nullcontext() if last else unsynchronised(self.losses):
                total, terms = self.losses(part, generator)
                # processes are averaged with equal weight, whatever their shares
                weight = world.size * len(part) / (batch.whole or len(batch))
                (total if weight == 1 else total * weight).backward()
            for name, term in terms.items():
                portion = term if len(parts) == 1 else term * (len(part) / len(batch))
                means[name] = means[name] + portion if name in means else portion
        if self.options.divided:
            average_whole_gradients(self.task.trained.parameters(), world)
        return means

    def _autocast(self) -> torch.autocast:
        dtype = self.options.precision
        return torch.autocast(self.options.device.type, dtype or torch.bfloat16, enabled=dtype is not None)

    @torch.no_grad()
    def _validate(self, log: RunLog) -> dict[str, float]:
        sums: dict[str, float] = {}
        images: list[list[Tensor]] = []
        count = 0
        was_training = self.task.trained.training
        self.task.trained.eval()
        with self.average.applied(), self._autocast():
            for batch in self.validation:
                figures, columns = self.task.validate(batch)
                count += len(batch.hq)
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0.0) + value * len(batch.hq)
                images.append([c.float().cpu() for c in columns])
                if self.options.world.main:
                    for name, value in scores(self.options.metrics, *images[-1][-2:]).items():
                        sums[name] = sums.get(name, 0.0) + value
        self.task.trained.train(was_training)
        means = {name: value / count for name, value in sums.items()}
        if count:
            log.validation(self.step, means)
            log.images(self.step, [torch.cat(column)[:6] for column in zip(*images, strict=True)])
        if self.options.best is not None and self._regular:
            self._keep_if_best(self.options.best, means)
        return means

    @property
    def _regular(self) -> bool:
        """Whether the validation of this step is one of an uninterrupted run: pauses add others."""
        return self.step % self.options.sample_every == 0 or self.step == self.recipe.steps

    def _keep_if_best(self, metric: str, figures: Mapping[str, float]) -> None:
        """Write checkpoint and model file where the figure is better than at all validations before."""
        options, world, better = self.options, self.options.world, False
        if world.main:
            before = read_best(options.folder)
            if metric not in figures:
                known = f"known are {', '.join(figures)}" if figures else "there are no held-out photographs"
                raise UsageError(f"--best {metric}: no figure of the validation of this stage; {known}")
            lower, value = is_lower_better(metric, options.metrics), figures[metric]
            if before is None or before.metric != metric:
                better = math.isfinite(value)
            else:
                better = value < before.value if lower else value > before.value
        if not world.agree(better)[0]:
            return
        self.state.save(options.folder, self.step, world)
        with self.average.applied():
            self.export(self.step, figures, BEST_MODEL)
        if world.main:
            write_best(options.folder, Best(metric, figures[metric], self.step))
            options.console.info(f"step {self.step}  best {metric} so far: {figures[metric]:.4f}, in {BEST_MODEL}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ask for a checkpoint at SIGTERM and SIGINT; a second signal acts at once.

        Not among several processes: those who start them send the signal again and again.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: object) -> None:
            self._signal = signal.Signals(number)
            self._stop.set()
            if self.options.world.size == 1:
                signal.signal(number, previous[signal.Signals(number)])

        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in previous:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def _prefetched(self) -> Iterator[Iterator[PairBatch]]:
        """Batches in order, two ahead, read by a thread so that the loader never limits."""
        ready: queue.Queue[PairBatch | BaseException] = queue.Queue(maxsize=2)
        closed = threading.Event()

        def put(item: PairBatch | BaseException) -> None:
            while not closed.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return
                except queue.Full:
                    continue

        def read() -> None:
            try:
                for step in range(self.step, self.recipe.steps):
                    if closed.is_set():
                        return
                    put(self.batches.batch(step))
            except Exception as error:
                put(error)

        def stream() -> Iterator[PairBatch]:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item

        thread = threading.Thread(target=read, name="batches", daemon=True)
        thread.start()
        try:
            yield stream()
        finally:
            closed.set()
            thread.join()
