"""Log of a training run: a CSV file of all figures, TensorBoard events, grids of sample images, lines on stderr."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.console import Console
from varestorer_cli.core.errors import OutputError
from varestorer_cli.core.training.run_folder import LOG

LEARNING_RATE_FIGURE = "learning_rate"
_HEADER = ["kind", "step", "name", "value"]
LEAST_USED, LEAST_ENTROPY = 0.1, 0.01
"""Share of a scale's bits that take both values, and mean entropy of one in nats, below which a run is warned of."""
OVER_NOISE, LEAST_OVER_NOISE = "psnr_over_noise", 1.0
"""Validation figure of a student, and the dB below which its codes count as idle."""
_COLLAPSE = {
    "used": (LEAST_USED, f"fewer than {LEAST_USED:.0%} of the bits take both values"),
    "entropy": (LEAST_ENTROPY, f"the bits' mean entropy is below {LEAST_ENTROPY} nats"),
}
_TRY = (
    "the model may be collapsing: look at samples/; where they agree, start anew with a lower --lr or larger --batch, "
    "a tokenizer with a larger --loss entropy=W, a student with a larger --loss kl=W"
)


class RunLog:
    """Writers of one run; a context manager.

    Args:
        folder: the run's folder.
        first_step, steps: where the run begins and ends. What an earlier start logged of later steps, which are done
            again, is taken out.
        unit: what is counted per second beside steps ("tiles").
        console: shows messages and progress.
        writing: whether this process writes at all; of several, one does.
    """

    def __init__(
        self, folder: Path, first_step: int, steps: int, unit: str, console: Console, *, writing: bool = True
    ) -> None:
        self.writing = writing
        self.console = console
        self.folder = folder
        self.unit = unit
        self._csv_path = folder / LOG
        self._events = None
        if writing:
            last = self._rewind(first_step)
            console.start(steps, done=first_step, unit="step")
            self._events = _event_writer(folder, first_step, last)
        self._done = first_step
        self._since = (time.monotonic(), first_step)
        self.steps = steps
        self._idle = False
        self._warned: set[tuple[str, str]] = set()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writing:
            self.console.finish()
        if self._events is not None:
            self._events.close()

    def advance(self) -> None:
        """Count one step."""
        self._done += 1
        if self.writing:
            self.console.update(self._done)

    def scalars(self, step: int, values: dict[str, float], batch: int) -> None:
        """Log losses, learning rate and gradient norms: CSV, events, a line with rate and remaining time."""
        now = time.monotonic()
        seconds, first = self._since
        rate = (step - first) / max(now - seconds, 1e-9)
        self._since = (now, step)
        self._append("train", step, {**values, f"{self.unit}_per_second": rate * batch})
        self._warn_of_collapse(step, values)
        if self.writing:
            left = (self.steps - step) / max(rate, 1e-9)
            self.console.info(
                f"step {step}/{self.steps}  {_line(values)}  {rate * batch:.2f} {self.unit}/s  {left / 60:.1f} min left"
            )

    def _warn_of_collapse(self, step: int, values: Mapping[str, float]) -> None:
        """Warn, once per scale, that its bits no longer depend on the image, or are all certain."""
        for kind, (least, what) in _COLLAPSE.items():
            low = {
                scale: value
                for name, value in values.items()
                for found, _, scale in [name.partition("/")]
                if found == kind and scale and value < least and (kind, scale) not in self._warned
            }
            self._warned |= {(kind, scale) for scale in low}
            if low and self.writing:
                scales = ", ".join(f"{scale} ({value:.2g})" for scale, value in low.items())
                self.console.warn(f"step {step}: {what} in scale {scales}; {_TRY}")

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Log validation figures; warn, once, where random codes cost a student next to nothing."""
        self._append("validation", step, values)
        gain = values.get(OVER_NOISE)
        if step and gain is not None and gain < LEAST_OVER_NOISE and not self._idle and self.writing:
            self._idle = True
            self.console.warn(
                f"step {step}: random codes in place of the predicted ones cost the result {gain:.2f} dB: "
                "the decoder hardly depends on the codes, so that the transformer does nothing; start anew with a "
                "decoder that is trained less (--decoder), or use the pre-restorer alone"
            )
        if self.writing:
            self.console.info(f"step {step}  validation: {_line(values, '  ')}")

    def images(self, step: int, columns: list[Tensor]) -> None:
        """Write a grid: one column per kind (input, result, reference), one row per image.

        Args:
            step: names the file ``samples/step_000000.png``.
            columns: (B, 3, H, W) in [0, 1], all of one size.
        """
        if not self.writing:
            return
        rows = torch.cat([torch.cat(list(c), dim=1) for c in columns], dim=2)
        image = (rows.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        target = self.folder / "samples" / f"step_{step:06d}.png"
        ok, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
        if ok:
            with atomic_file(target) as stream:
                stream.write(data.tobytes())
        if self._events is not None:
            self._events.add_image("samples", image, step, dataformats="HWC")

    def _append(self, kind: str, step: int, values: dict[str, float]) -> None:
        if not self.writing:
            return
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
        new = not self._csv_path.exists()
        try:
            with self._csv_path.open("a", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                if new:
                    writer.writerow(_HEADER)
                for name, value in values.items():
                    writer.writerow([kind, step, name, f"{value:.9g}"])
        except OSError as error:
            raise OutputError(
                f"{self._csv_path}: cannot be written ({error.strerror or error}); free space, then --resume"
            ) from error

    def _rewind(self, first_step: int) -> dict[str, float]:
        """Take rows of steps that are done again out of the CSV file, and a last row that was cut off.

        Returns:
            What stays of the step before: its training values; its validation is done again.
        """
        if not self._csv_path.exists():
            return {}
        with self._csv_path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if len(row) == len(_HEADER) and row[1].isdigit()]
        kept = [row for row in rows if int(row[1]) < first_step or (row[0] == "train" and int(row[1]) == first_step)]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([_HEADER, *kept])
        with atomic_file(self._csv_path) as stream:
            stream.write(text.getvalue().encode())
        return {name: float(value) for _, step, name, value in kept if int(step) == first_step}


def _line(values: Mapping[str, float], separator: str = " ") -> str:
    """Figures as text, without those of single scales and groups, which are for curves."""
    shown = {name: value for name, value in values.items() if "/" not in name}
    return separator.join(f"{k} {v:.3g}" if k == LEARNING_RATE_FIGURE else f"{k} {v:.4f}" for k, v in shown.items())


def _event_writer(folder: Path, first_step: int, last: Mapping[str, float]) -> Any:
    """TensorBoard writer, or None where the extra ``train`` is not installed.

    It tells readers to drop what earlier starts wrote of ``first_step`` and later, and writes the values ``last`` of
    that step again: readers drop by step alone, and its validation must not stand twice.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer = SummaryWriter(str(folder), purge_step=first_step)
    for name, value in last.items():
        writer.add_scalar(f"train/{name}", value, first_step)
    return writer
