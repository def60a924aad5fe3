"""What a model that takes a text is told about the pictures: a part of :class:`core.options.RestoreOptions`.

Imports nothing beyond the standard library, so that ``--help`` stays quick.
"""

from dataclasses import dataclass
from enum import StrEnum

from varestorer_cli.core.errors import UsageError


class Captioning(StrEnum):
    """Who describes pictures that have no caption."""

    NONE = "none"
    AUTO = "auto"


@dataclass(frozen=True)
class TextOptions:
    """What a model that takes a text is told about the pictures.

    Attributes:
        prompt: text of all pictures without a caption; None is the model's default.
        captions: CSV file, folder of text files, or ``beside``; see :func:`core.captions.find_captions`.
        captioning: who describes the pictures that have no caption.
        encoder: folder of the text encoder; None looks below the weights root.
        captioner: folder of the captioner; None looks below the weights root.
        captions_file: table the captioner writes; None is ``captions.csv`` in the output folder.
    """

    prompt: str | None = None
    captions: str | None = None
    captioning: Captioning = Captioning.NONE
    encoder: str | None = None
    captioner: str | None = None
    captions_file: str | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("--prompt is empty; leave it out for the model's default, or describe the pictures")
        for flag, value in (("--captioner", self.captioner), ("--captions-file", self.captions_file)):
            if value is not None and self.captioning == Captioning.NONE:
                raise UsageError(f"{flag} {value}: no captions are made without --caption auto; add it")

    @property
    def asked_by(self) -> str:
        """The option that asks for a text, "" where none does."""
        if self.prompt is not None:
            return "--prompt"
        if self.captions is not None:
            return "--captions"
        return "--caption auto" if self.captioning == Captioning.AUTO else ""
