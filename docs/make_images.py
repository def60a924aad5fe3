r"""Make the images of README and docs again, from a folder of degraded photographs and one of their originals.

    varestorer restore lq/ up/fine
    varestorer restore lq/ up/compact --model compact
    python docs/make_images.py gallery lq/ hq/ --state x4plus=up/x4plus --state fine=up/fine \
        --state compact=up/compact
    python docs/make_images.py report

``gallery`` writes one strip per photograph, ``docs/images/NAME.jpg``, and ``docs/images/first.jpg`` for README.
Crops are at 100 %: one pixel of the photograph is one of the image; the input is enlarged by bicubic. ``report``
restores the bundled samples and takes an image of the page in headless Chromium (packages selenium, chromium,
chromium-driver): ``docs/report.jpg``.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parent
SIDE, GAP, HEAD = 256, 4, 22
QUALITY = 88
# Left and top of the crop: what a reader would look at first, faces and text that come out wrong included.
GALLERY = {
    "raccoon": (150, 80),
    "honey_bee": (100, 60),
    "bridge_night": (130, 100),
    "citrus": (170, 60),
    "office_building": (60, 130),
    "jetty": (150, 180),
    "astronaut": (120, 0),
    "parking_sign": (190, 20),
}
FIRST = ("raccoon", "honey_bee")


def strip(columns: dict[str, Image.Image], place: tuple[int, int], *, heads: bool) -> Image.Image:
    """The same window of several states side by side, each with its name above it."""
    top = HEAD if heads else 0
    sheet = Image.new("RGB", (len(columns) * (SIDE + GAP) - GAP, SIDE + top), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for number, (name, image) in enumerate(columns.items()):
        left = number * (SIDE + GAP)
        sheet.paste(image.crop((*place, place[0] + SIDE, place[1] + SIDE)), (left, top))
        if heads:
            draw.text((left + 2, 1), name, "black", font=font)
    return sheet


def states(name: str, degraded: Path, originals: Path, restored: dict[str, Path]) -> dict[str, Image.Image]:
    """All states of one photograph at the size of its original."""
    original = Image.open(originals / f"{name}.png").convert("RGB")
    source = Image.open(degraded / f"{name}.png").convert("RGB")
    found = {"input": source.resize(original.size, Image.Resampling.BICUBIC)}
    for state, folder in restored.items():
        found[state] = Image.open(folder / f"{name}.png").convert("RGB")
        if found[state].size != original.size:
            raise SystemExit(f"{folder / name}.png has {found[state].size} pixels, the original {original.size}")
    return {**found, "original": original}


def gallery(degraded: Path, originals: Path, restored: dict[str, Path]) -> None:
    """Write the strips."""
    folder = DOCS / "images"
    folder.mkdir(exist_ok=True)
    rows = []
    for name, place in GALLERY.items():
        columns = states(name, degraded, originals, restored)
        strip(columns, place, heads=True).save(folder / f"{name}.jpg", quality=QUALITY, subsampling=0, optimize=True)
        if name in FIRST:
            shown = {key: image for key, image in columns.items() if key != "compact"}
            rows.append(strip(shown, place, heads=not rows))
    first = Image.new("RGB", (rows[0].width, sum(row.height for row in rows) + GAP), "white")
    first.paste(rows[0], (0, 0))
    first.paste(rows[1], (0, rows[0].height + GAP))
    first.save(folder / "first.jpg", quality=QUALITY, subsampling=0, optimize=True)


def report(width: int = 1020, height: int = 900) -> None:
    """Restore the bundled sample photographs and a file that is cut off; take an image of the page."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(DOCS.parent / "varestorer_cli" / "data" / "samples", folder / "scans")
        (folder / "scans" / "cut_off.png").write_bytes((folder / "scans" / "citrus.png").read_bytes()[:5000])
        command = ["restore", "scans", "restored", "--report", "page.html", "-q"]
        subprocess.run([sys.executable, "-m", "varestorer_cli", *command], cwd=folder, check=False)
        options = webdriver.ChromeOptions()
        for word in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
            options.add_argument(word)
        driver = webdriver.Chrome(options=options)
        try:
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
            driver.get((folder / "page.html").as_uri())
            shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        finally:
            driver.quit()
    shot.save(DOCS / "report.jpg", quality=QUALITY, optimize=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("gallery")
    task.add_argument("degraded", type=Path)
    task.add_argument("originals", type=Path)
    task.add_argument("--state", action="append", default=[], metavar="NAME=FOLDER")
    tasks.add_parser("report")
    words = parser.parse_args()
    if words.task == "report":
        report()
    else:
        pairs = (word.partition("=") for word in words.state)
        gallery(words.degraded, words.originals, {name: Path(folder) for name, _, folder in pairs})


if __name__ == "__main__":
    main()
