"""Values that options choose from, and formats that can be written."""

from enum import StrEnum


class Precision(StrEnum):
    """Arithmetic of the model; ``auto`` takes the fastest the device computes natively."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Compile(StrEnum):
    """Whether the model is compiled; ``auto``: models with tokens on a CUDA device."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class EngineName(StrEnum):
    """What computes the network: PyTorch, or OpenVINO for models of the first stage alone on a CPU."""

    TORCH = "torch"
    OPENVINO = "openvino"


class ColorFix(StrEnum):
    """Where the colours of the result come from; ``auto`` is the model's own setting."""

    AUTO = "auto"
    WAVELET = "wavelet"
    ADAIN = "adain"
    NONE = "none"


class Sampling(StrEnum):
    """The way from predicted bits to codes; ``auto`` is the model's own setting."""

    AUTO = "auto"
    ARGMAX = "argmax"
    SAMPLE = "sample"
    EXPECTED = "expected"
    CONSISTENT = "consistent"


class Steps(StrEnum):
    """Passes of the transformer: one, or one for each scale; ``auto`` is the model's own way."""

    AUTO = "auto"
    ONE = "one"
    ALL = "all"


class Existing(StrEnum):
    """What happens to an output that exists already."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    ERROR = "error"


class Missing(StrEnum):
    """How a frame that was asked for and does not exist is treated."""

    ERROR = "error"
    SKIP = "skip"
    FAIL = "fail"


class Compat(StrEnum):
    """How images are handled: this project's way, or the released script's tiled or squashing one, faults included."""

    NONE = "none"
    RELEASED = "released"
    RELEASED_SQUARE = "released-square"


class Progress(StrEnum):
    """How progress is shown on stderr; ``auto`` is a bar on a terminal and lines elsewhere.

    ``deadline``, ``openjd`` and ``tractor`` are the lines that these render managers look for.
    """

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    DEADLINE = "deadline"
    OPENJD = "openjd"
    TRACTOR = "tractor"
    NONE = "none"


class Transfer(StrEnum):
    """What the values of OpenEXR and DPX files mean; ``auto``: OpenEXR linear light, DPX what it says, else encoded."""

    AUTO = "auto"
    LINEAR = "linear"
    ENCODED = "encoded"


class Large(StrEnum):
    """What happens to an image that is large already, see ``only_below``."""

    SKIP = "skip"
    COPY = "copy"


class Captioning(StrEnum):
    """Whether a captioner describes images that have no caption."""

    NONE = "none"
    AUTO = "auto"


class ImageFormat(StrEnum):
    """Formats that can be written; the value is the suffix given to outputs."""

    PNG = "png"
    JPEG = "jpg"
    WEBP = "webp"
    TIFF = "tif"
    BMP = "bmp"
    EXR = "exr"
    DPX = "dpx"

    @classmethod
    def _missing_(cls, value: object) -> "ImageFormat | None":
        """Other spellings: ``jpeg``, ``tiff``, capitals, a dot in front."""
        name = str(value).lower().lstrip(".")
        return next((one for one in cls if one.value == {"jpeg": "jpg", "tiff": "tif"}.get(name, name)), None)


LOSSY = frozenset({ImageFormat.JPEG, ImageFormat.WEBP})  # their bytes depend on --quality
