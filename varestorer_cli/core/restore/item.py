"""What a batch of pictures has in common, and one picture on its way through it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from varestorer_cli.core.image.image_data import DecodedImage
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.options import ImageFormat
from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.restore import fingerprint as provenance
from varestorer_cli.core.text.captions import Texts


def name_of(path: Path, folder: Path) -> str:
    """How an output is named in the report: relative to the output folder, where it lies below it."""
    with suppress(ValueError):
        return path.relative_to(folder).as_posix()
    return str(path)


@dataclass(frozen=True)
class Setup:
    """What a run has in common for all pictures.

    Attributes:
        model: name of the model.
        model_sha256: of its file.
        device: torch device string, for the report.
        peak_mb: largest memory use since it was asked last, or None.
        encoders: threads that encode.
        texts: text of every picture, for models that take one.
    """

    model: str
    model_sha256: str
    device: str = "cpu"
    peak_mb: Callable[[], float | None] = lambda: None
    encoders: int = 1
    texts: Texts = field(default_factory=Texts)


@dataclass
class Item:
    """One picture on its way."""

    job: Job
    row: Row
    format: ImageFormat
    identity: provenance.Identity | None = None
    picture: DecodedImage | None = None
    size: tuple[int, int] = (0, 0)
    pixels: int = 0
    error: BaseException | None = None
    kept: bool = False
    warnings: list[str] = field(default_factory=list)
