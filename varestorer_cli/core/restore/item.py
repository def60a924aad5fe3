"""What travels through the stages of a batch (one image), what its images share, and what bounds their memory."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from varestorer_cli.core.atomic import MOST_IN_MEMORY
from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.console import Console
from varestorer_cli.core.image.image_data import DecodedImage
from varestorer_cli.core.inputs.plan import Job, RestorePlan
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.report.rows import FAILED, IGNORED, Row
from varestorer_cli.core.report.summary import BatchReport
from varestorer_cli.core.restore import fingerprint
from varestorer_cli.core.text.captions import Texts


def name_of(path: Path, folder: Path) -> str:
    """How an output is named in the report: relative to the output folder, where it lies below it."""
    with suppress(ValueError):
        return path.relative_to(folder).as_posix()
    return str(path)


def pixel_memory(pixels: int, output_pixels: int, format: ImageFormat) -> int:
    """Bytes that the 8-bit pixels of one image take at most, from decoding to encoding; docs/formats.md has the table.

    Args:
        pixels: of the input.
        output_pixels: of the output.
        format: of the output.
    """
    decoded = 7 * pixels  # Pillow's 4 bytes per pixel, and our 3
    encoder = {
        ImageFormat.JPEG: min(4 * output_pixels, MOST_IN_MEMORY),
        ImageFormat.BMP: 4 * output_pixels,
        ImageFormat.WEBP: 11 * output_pixels,
    }
    return decoded + min(3 * output_pixels, MOST_IN_MEMORY) + encoder.get(format, 0)


@dataclass(frozen=True)
class BatchContext:
    """What a run has in common for all images.

    Attributes:
        model: name of the model.
        model_sha256: of its file.
        device: torch device string, for the report.
        peak_mb: largest memory use since it was asked last, or None.
        encoders: threads that encode.
        texts: text of every image, for models that take one.
    """

    model: str
    model_sha256: str
    device: str = "cpu"
    peak_mb: Callable[[], float | None] = lambda: None
    encoders: int = 1
    texts: Texts = field(default_factory=Texts)


@dataclass(frozen=True)
class Reporting:
    """Where the rows and messages of a run go.

    Attributes:
        file: the open CSV report; rows go there as images are finished.
        console: for warnings, failures and progress.
        on_row: called with each row.
        report: filled while the run goes on, so that a caller has it when the run raises.
    """

    file: ReportFile
    console: Console
    on_row: Callable[[Row], None] | None = None
    report: BatchReport = field(default_factory=BatchReport)

    def add(self, row: Row, retry_as: str = "", *, kept: bool = False) -> None:
        """Book a finished row everywhere; arguments as of :meth:`BatchReport.record`."""
        self.report.record(row, retry_as=retry_as, kept=kept)
        self.file.add(row)
        if self.on_row is not None:
            self.on_row(row)

    def add_skipped(self, plan: RestorePlan) -> None:
        """Book what the plan leaves out: ignored paths, and unreadable ones as failures."""
        for skipped in plan.ignored:
            self.add(Row(input=skipped.path, status=IGNORED, reason=skipped.reason))
        for skipped in plan.unreadable:
            self.add(Row(input=skipped.path, status=FAILED, reason=skipped.reason))
            self.console.error(f"{skipped.path}: {skipped.reason}")


@dataclass
class RestoreItem:
    """One image on its way: ``size`` is (width, height) of its output, ``sizes`` those of all pages."""

    job: Job
    row: Row
    format: ImageFormat
    identity: fingerprint.Identity | None = None
    image: DecodedImage | None = None
    size: tuple[int, int] = (0, 0)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pixels: int = 0
    error: BaseException | None = None
    kept: bool = False
    warnings: list[str] = field(default_factory=list)


class PixelBudget:
    """Pixels that may be decoded and not yet written.

    Images must take their share in the order in which they are worked on (one thread decodes, in order), then no
    one waits for a later one. An image larger than the budget passes alone.

    Args:
        limit: pixels.
        cancelled: asked while waiting.
    """

    def __init__(self, limit: int, cancelled: Callable[[], bool]) -> None:
        self._limit = limit
        self._cancelled = cancelled
        self._used = 0
        self._closed = False
        self._waiting = 0
        self._change = threading.Condition()

    def take(self, pixels: int) -> int:
        """Wait for room and take it.

        Returns:
            What is to be given back.
        """
        with self._change:
            self._waiting += 1
            while self._used and self._used + pixels > self._limit and not (self._closed or self._cancelled()):
                self._change.wait(0.2)
            self._waiting -= 1
            self._used += pixels
        return pixels

    def give(self, pixels: int) -> None:
        """Give back what was taken."""
        with self._change:
            self._used -= pixels
            self._change.notify_all()

    def is_short(self) -> bool:
        """Whether someone waits for room."""
        with self._change:
            return self._waiting > 0

    def close(self) -> None:
        """Let everyone through: the run is over."""
        with self._change:
            self._closed = True
            self._change.notify_all()
