"""Names of outputs: ``--name '{stem}_x4.{ext}'``, and frame patterns as OUTPUT."""

import string
from dataclasses import dataclass
from pathlib import PurePosixPath

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.formats import output_name
from varestorer_cli.core.options import ImageFormat, RestoreOptions

_FIELDS = ("stem", "ext", "model", "size", "seed")


@dataclass(frozen=True)
class NameTemplate:
    """A file name with places for what is known before work starts.

    ``{stem}`` and ``{ext}`` are the output's usual name without and with its suffix, ``{model}`` the model as it was
    named, ``{size}`` the size rule (``x4``, ``long2048``), ``{seed}`` the seed. A slash makes folders below the
    mirrored one. A template that does not end with ``.{ext}`` gets the suffix.

    Attributes:
        text: the template.
        model, size, seed: values of the run.
    """

    text: str
    model: str = "auto"
    size: str = "x4"
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise UsageError(f"--name {self.text}: {error}; write {{{{ for a brace") from error
        for _, name, spec, conversion in parts:
            if name is not None and (name not in _FIELDS or spec or conversion):
                known = ", ".join(f"{{{field}}}" for field in _FIELDS)
                raise UsageError(f"--name {self.text}: {{{name}}} is not known; possible are {known}")
        path = PurePosixPath(self.text)
        if not self.text.strip("./") or path.is_absolute() or ".." in path.parts or "\0" in self.text:
            raise UsageError(f"--name {self.text}: a name below the output folder is needed, for example {{stem}}_x4")

    @classmethod
    def of(cls, text: str, options: RestoreOptions) -> "NameTemplate":
        """The template with the values of a run."""
        model = PurePosixPath(options.model.replace("\\", "/")).stem or "model"
        return cls(text, model, options.sizing.label(), options.seed)

    def apply(self, name: str) -> str:
        """New name for an output's usual name."""
        path = PurePosixPath(name)
        ext = path.suffix.lstrip(".")
        values = {"stem": path.stem, "ext": ext, "model": self.model, "size": self.size, "seed": self.seed}
        new = self.text.format(**values)
        return new if self.text.endswith(".{ext}") else f"{new}.{ext}"


def renamed(key: str, format: ImageFormat | None, template: NameTemplate | None) -> str:
    """Relative path of an output for the relative path of an input."""
    path = PurePosixPath(key)
    name = output_name(path.name, format)
    return str(path.with_name(name) if template is None else path.parent / template.apply(name))
