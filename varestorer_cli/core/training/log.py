"""What a run leaves to look at: a CSV of losses, TensorBoard events, picture grids, lines on stderr."""

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

LEAST_USED, LEAST_ENTROPY = 0.1, 0.01
"""Share of a scale's bits that take both values, and mean entropy of one in nats, below which a run is warned of."""
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
        first_step, steps: where the run begins and ends.
        unit: what is counted per second beside steps ("tiles").
        quiet: no progress bar.
        writing: whether this process writes at all; of several, one does.
    """

    def __init__(
        self, folder: Path, first_step: int, steps: int, unit: str, quiet: bool, *, writing: bool = True
    ) -> None:
        self.writing = writing
        quiet = quiet or not writing
        self.folder = folder
        self.unit = unit
        self._csv_path = folder / "log.csv"
        self._columns: dict[str, list[str]] = {}
        self._events = _event_writer(folder) if writing else None
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            disable=True if quiet else None,  # None: on a terminal only
            file=sys.stderr,
            dynamic_ncols=True,
        )
        self._lines = not quiet and not sys.stderr.isatty()
        self._since = (time.monotonic(), first_step)
        self.steps = steps
        self._warned: set[tuple[str, str]] = set()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()

    def scalars(self, step: int, values: dict[str, float], batch: int) -> None:
        """Log losses: CSV, events, progress text with rate and remaining time."""
        now = time.monotonic()
        seconds, first = self._since
        rate = (step - first) / max(now - seconds, 1e-9)
        self._since = (now, step)
        self._append("train", step, {**values, f"{self.unit}_per_second": rate * batch})
        text = " ".join(f"{k} {v:.4f}" for k, v in values.items() if "/" not in k)  # those of each scale are for curves
        self._warn_of_collapse(step, values)
        self._bar.set_postfix_str(text, refresh=False)
        if self._lines:
            left = (self.steps - step) / max(rate, 1e-9)
            sys.stderr.write(
                f"step {step}/{self.steps}  {text}  {rate * batch:.2f} {self.unit}/s  {left / 60:.1f} min left\n"
            )
            sys.stderr.flush()

    def _warn_of_collapse(self, step: int, values: Mapping[str, float]) -> None:
        """Say, once of each scale, that its bits no longer depend on the picture, or are all certain."""
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
                self._bar.write(f"warning: step {step}: {what} in scale {scales}; {_TRY}", sys.stderr)

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Log validation figures."""
        self._append("validation", step, values)
        text = "  ".join(f"{k} {v:.4f}" for k, v in values.items())
        if self._lines:
            sys.stderr.write(f"step {step}  validation: {text}\n")
            sys.stderr.flush()
        elif self.writing:
            self._bar.write(f"step {step}  validation: {text}", file=sys.stderr)

    def pictures(self, step: int, columns: list[Tensor]) -> None:
        """Write a grid: one column per kind (input, result, reference), one row per picture.

        Args:
            step: names the file ``samples/step_000000.png``.
            columns: (B, 3, H, W) in [0, 1], all of one size.
        """
        if not self.writing:
            return
        rows = torch.cat([torch.cat(list(c), dim=1) for c in columns], dim=2)
        image = (rows.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        target = self.folder / "samples" / f"step_{step:06d}.png"
        target.parent.mkdir(exist_ok=True)
        ok, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
        if ok:
            target.write_bytes(data.tobytes())
        if self._events is not None:
            self._events.add_image("samples", image, step, dataformats="HWC")

    def _append(self, kind: str, step: int, values: dict[str, float]) -> None:
        if not self.writing:
            return
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
        new = not self._csv_path.exists()
        with self._csv_path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(["kind", "step", "name", "value"])
            for name, value in values.items():
                writer.writerow([kind, step, name, f"{value:.9g}"])


def _event_writer(folder: Path) -> Any:
    """TensorBoard writer, or None where the extra ``train`` is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
