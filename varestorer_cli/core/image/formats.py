"""File types: which suffixes are looked for, what a file's first bytes say, what can be written."""

from dataclasses import dataclass
from pathlib import PurePath

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.extras import install_command, is_installed
from varestorer_cli.core.phrases import and_list

HEAD_BYTES = 32


@dataclass(frozen=True)
class FormatRead:
    """An image format that is read.

    Attributes:
        name: as messages say it.
        suffixes: of its files, with the format that is written under them; None is read only and becomes PNG.
        extra: that its reading needs; "" for none.
    """

    name: str
    suffixes: dict[str, ImageFormat | None]
    extra: str = ""

    def is_installed(self) -> bool:
        """Whether its files can be read here."""
        return not self.extra or is_installed(self.extra)


def _read_only(*suffixes: str) -> dict[str, ImageFormat | None]:
    return dict.fromkeys(suffixes)


_RAW = "camera raw"
_RAW_SUFFIXES = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw")
FORMATS_READ = (
    FormatRead("PNG", {".png": ImageFormat.PNG}),
    FormatRead("JPEG", dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ImageFormat.JPEG)),
    FormatRead("WebP", {".webp": ImageFormat.WEBP}),
    FormatRead("TIFF", {".tif": ImageFormat.TIFF, ".tiff": ImageFormat.TIFF}),
    FormatRead("BMP", {".bmp": ImageFormat.BMP}),
    FormatRead("OpenEXR", {".exr": ImageFormat.EXR}, "vfx"),
    FormatRead("DPX", {".dpx": ImageFormat.DPX}, "vfx"),
    FormatRead("GIF", _read_only(".gif")),
    FormatRead("AVIF", _read_only(".avif")),
    # Without the extra each one fails by name with what to do.
    FormatRead("HEIC/HEIF", _read_only(".heic", ".heif", ".hif"), "heif"),
    FormatRead("JPEG XL", _read_only(".jxl"), "jxl"),
    # Inputs with the extra, left out of folders without it.
    FormatRead(_RAW, _read_only(*_RAW_SUFFIXES), "raw"),
)
# Suffix -> format written under it; a format of None is read only, and its outputs become PNG.
SUFFIXES = {suffix: own for one in FORMATS_READ if one.name != _RAW for suffix, own in one.suffixes.items()}
RAW_SUFFIXES = frozenset(_RAW_SUFFIXES)
# Image types a user may name as OUTPUT and that cannot be written.
UNWRITABLE = frozenset({".gif", ".heic", ".heif", ".jp2", ".jxl", ".dng", ".psd", ".mp4", ".mov", ".pdf"})


_VIDEO = "a video by its content; extract its frames first: ffmpeg -i IN frame_%05d.png"


def _not_read(what: str, name: str, command: str = "") -> str:
    """That an image is of a kind that is not read, and the command (ImageMagick's by default) that converts it."""
    return f"{what}, which is not read; convert it first: {command or f'convert {name} OUT.png'}"


_JP2 = "a JPEG 2000 image, which is not read; convert it first: opj_decompress -i IN.jp2 -o OUT.png"
# Camera raw files that are not told from others by TIFF tags.
_RAW_STARTS = (
    (b"II*\0\x10\0\0\0CR", "Canon CR2"),
    (b"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (b"IIRO", "Olympus ORF"),
    (b"IIRS", "Olympus ORF"),
    (b"MMOR", "Olympus ORF"),
    (b"IIU\0", "Panasonic RW2"),
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
# What a file that is not read begins with, and the sentence that says so.
_FOREIGN = (
    (b"%PDF-", "a PDF document; extract its pages first: pdftoppm -r 300 -png IN.pdf page"),
    (b"\0\0\0\x0cjP  ", _JP2),
    (b"\xffO\xffQ", _JP2),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"8BPS", _not_read("a Photoshop document", "'IN.psd[0]'")),  # whose first image is all layers together
    (b"\0\0\1\0", _not_read("a Windows icon", "'IN.ico[0]'")),
    (b"qoif", _not_read("a QOI image", "IN.qoi")),
    (b"II\xbc", _not_read("a JPEG XR image", "IN.jxr", "JxrDecApp -i IN.jxr -o OUT.tif")),
    (b"#?R", _not_read("a Radiance HDR image", "IN.hdr", "oiiotool IN.hdr -o OUT.exr")),
    (b"SIMPLE  =", _not_read("a FITS image", "IN.fits")),
    (b"gimp xcf", _not_read("a GIMP document", "IN.xcf", "File > Export As in GIMP")),
    (b"<svg", _not_read("an SVG drawing", "IN.svg")),
    *((b"P%d\n" % number, _not_read("a PNM image", "IN.pnm")) for number in range(1, 8)),
    *((start, _not_read("a PFM image", "IN.pfm", "oiiotool IN.pfm -o OUT.exr")) for start in (b"PF\n", b"Pf\n")),
    *((start, _not_read("an SGI image", "IN.sgi")) for start in (b"\1\xda\0", b"\1\xda\1")),
)


def said_to_be_read() -> str:
    """Which formats are read here, and what the others need: for messages about a lack of images."""
    text = f"{and_list([one.name for one in FORMATS_READ if one.is_installed()])} files are read"
    missing: dict[str, list[str]] = {}
    for one in FORMATS_READ:
        if not one.is_installed():
            missing.setdefault(one.extra, []).append(one.name)
    return text + "".join(f"; for {and_list(names)}: {install_command(extra)}" for extra, names in missing.items())


def raw_kind(head: bytes) -> str | None:
    """Kind of a camera raw file that its first bytes tell from all others, else None."""
    if head[4:12] == b"ftypcrx ":
        return "Canon CR3"
    return next((kind for start, kind in _RAW_STARTS if head.startswith(start)), None)


def camera_raw(kind: str) -> str:
    """Why a camera raw file is not read, and what to do."""
    return (
        f"a camera raw file by its content ({kind}), which needs the extra raw: install rawpy in this environment, or "
        "make a 16-bit TIFF of it first, for example with darktable-cli IN OUT.tif"
    )


def sniff(head: bytes) -> str | None:
    """Name of the image format that a file's first bytes announce, else None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if raw_kind(head) is not None:
        return "camera raw"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:2] == b"BM":
        return "BMP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[4:8] == b"ftyp" and (head[8:12] in (b"avif", b"avis") or b"avif" in head[16:]):
        return "AVIF"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIF"
    if head.startswith((b"\xff\n", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    if head.startswith(b"\x76\x2f\x31\x01"):
        return "OpenEXR"
    if head[:4] in (b"SDPX", b"XPDS"):
        return "DPX"
    return None


def describe_unknown(head: bytes) -> str:
    """What a file that is no readable image seems to be, for its failure reason."""
    if not head:
        return "the file is empty (0 bytes)"
    for start, said in _FOREIGN:
        if head.startswith(start):
            return said
    if head[4:8] == b"ftyp":
        return _VIDEO
    if not head.strip(b"\0"):
        return "the file starts with zero bytes only: it was never written completely"
    if head[:4] == b"\x00\x05\x16\x07":
        return "an AppleDouble file (macOS metadata), not an image"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        return "text, not an image"
    return f"not an image by its content (first bytes {head[:8].hex(' ')})"


def output_name(name: str, chosen: ImageFormat | None) -> str:
    """Name of the output for an input's name: the suffix is kept where it can be written and is not overridden."""
    path = PurePath(name)
    suffix = path.suffix.lower()
    own = SUFFIXES.get(suffix)
    if own is not None and chosen in (None, own):
        return name
    stem = name[: len(name) - len(path.suffix)] if suffix in SUFFIXES.keys() | RAW_SUFFIXES else name
    return f"{stem}.{(chosen or ImageFormat.PNG).value}"


def output_format(name: str) -> ImageFormat | None:
    """Format written under a file name, None where its suffix is not one of ours."""
    return SUFFIXES.get(PurePath(name).suffix.lower())
