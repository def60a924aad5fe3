"""What a page holds, without a browser: names, order, sizes, links, crops, and the same bytes for the same rows."""

import base64
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from conftest import Ran, photo, save
from page_reader import decoded, read
from PIL import Image

from varestorer_cli.core.image.image_data import DecodedImage
from varestorer_cli.core.image.reader import decode
from varestorer_cli.core.image.resample import Resampler
from varestorer_cli.core.report import crops as report_images
from varestorer_cli.core.report import page as report_page
from varestorer_cli.core.report.charts import histogram, scatter
from varestorer_cli.core.report.crops import cut_crops
from varestorer_cli.core.report.html import link_to, visible
from varestorer_cli.core.report.rows import DONE, FAILED, IGNORED, SKIPPED, Row
from varestorer_cli.core.restore import page as restore_page
from varestorer_cli.core.restore.page import write_restore_page

Cli = Callable[..., Ran]
ODD = "<img src=x onerror=alert(1)> \"q\" 'a' &amp; 100% #1 ü フォト.png"


def row(name: str, consistency: float | None = 30.0, status: str = DONE, **more: Any) -> Row:
    if status != FAILED:
        more = {"output_sha256": "ab", "width": 8, "height": 6, "out_width": 32, "out_height": 24, **more}
    return Row(input=f"in/{name}", output=name, status=status, consistency_psnr=consistency, host="h", **more)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def decoded_all(*names: str) -> None:
    for seed, name in enumerate(names):
        save(Path("in") / name, photo(6, 8, seed=seed))
        save(Path("out") / name, photo(24, 32, seed=seed))


def written(*rows: Row, target: str = "page.html") -> Path:
    write_restore_page(rows, Path("out"), Path(target))
    return Path(target)


# --- names and links -------------------------------------------------------------------------------------------------


def test_odd_names_become_text(tmp_path: Path) -> None:
    decoded_all(ODD)
    bad = "</script><script>x()</script>"
    page = written(row(ODD, warnings=bad), row(bad, None, FAILED, reason=bad))
    text, reader = page.read_text(encoding="utf-8"), read(page)
    assert ODD in reader.cells and bad in reader.cells
    assert bad not in text and "<img src=x" not in text
    assert len(reader.of("script")) == 1 and not any(name.startswith("on") for _, a in reader.tags for name in a)
    link = next(a["href"] for a in reader.of("a") if "out/" in a["href"])
    assert Path(tmp_path, unquote(link)).samefile(tmp_path / "out" / ODD)


def test_what_nobody_could_see_is_spelt_out() -> None:
    assert visible("a\nb\u202egpj.exe\udcff\x7f") == "a\\x0ab\\u202egpj.exe\\udcff\\x7f"


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("a b.png", "./a%20b.png"),
        ("100%#?.png", "./100%25%23%3F.png"),
        ("javascript:x.png", "./javascript%3Ax.png"),
        ("ü.png", "./%C3%BC.png"),
        (os.fsdecode(b"\xff.png"), "./%FF.png"),
        ("../up/a.png", "../up/a.png"),
    ],
)
def test_links_are_relative_and_escaped(name: str, link: str) -> None:
    assert link_to(Path("pages") / name, Path("pages")) == link


def test_a_name_that_is_no_text_does_not_cost_the_page() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    page = written(row(name))
    assert "caf\\udce9.png" in page.read_text(encoding="utf-8") and "caf%E9.png" in page.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere() -> None:
    decoded_all("a.png")
    page = written(row("a.png"))
    text, reader = page.read_text(encoding="utf-8"), read(page)
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in reader.of("img"))
    policy = next(a["content"] for a in reader.of("meta") if "http-equiv" in a)
    for tag in ("script", "style"):
        body = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


# --- rows ------------------------------------------------------------------------------------------------------------


def test_the_least_consistent_comes_first_and_what_was_not_measured_last() -> None:
    rows = [row("b.png", 31.0), row("a.png", 31.0), row("z.png", 9.5), row("x.png", None, FAILED, reason="cut off")]
    found = re.findall(r'<tr id="row-\d+"[^>]*><th scope="row"><bdi>(.*?)<', written(*rows).read_text())
    assert found == ["z.png", "a.png", "b.png", "x.png"]


def test_the_order_of_the_rows_does_not_matter_and_the_same_rows_give_the_same_bytes() -> None:
    decoded_all("a.png", "b.png")
    rows = [row("a.png", 31.0), row("b.png", 30.0), row("c.png", None, FAILED, reason="x"), row("d.png", 31.0)]
    first = written(*rows).read_bytes()
    assert written(*reversed(rows)).read_bytes() == first
    assert written(*rows, target="other.html").read_bytes() == first


def test_totals_failures_and_losses_come_from_the_rows() -> None:
    rows = [
        row("a.png", 30.0, seconds=1.5, warnings="depth: 16 bit becomes 8; icc: dropped"),
        row("b.png", 40.0, SKIPPED, reason="up to date", seconds=2.0, warnings="depth: 16 bit becomes 8"),
        row("c.png", None, FAILED, reason="the file is empty (0 bytes)"),
        row("d.png", None, SKIPPED, output_sha256="", reason="the output exists and was not made by varestorer"),
        Row(input="in/notes.txt", status=IGNORED, reason="not an image"),
    ]
    text = written(*rows).read_text(encoding="utf-8")
    for value, label in (
        ("2", "restored"),
        ("1", "failed"),
        ("1", "kept as they were"),
        ("35.00 dB", "mean consistency"),
    ):
        assert f"<b>{value}</b><span>{label}</span>" in text
    assert "2 images restored: 1 by the last run, 1 before it and still up to date. 1 other file ignored." in text
    assert "1 image failed" in text and "<li><bdi>in/c.png</bdi><span>the file is empty (0 bytes)</span></li>" in text
    assert "depth: 16 bit becomes 8 (2 images)" in text and "icc: dropped (1 image)" in text
    assert "1 existing file kept" in text and "not an image (1)" in text
    assert not re.search(r"\bnan\b", text, re.I)


def test_images_unlike_the_rest_are_named() -> None:
    rows = [row(f"{n}.png", 30.0 + n / 10) for n in range(9)]
    assert "Unlike the rest" not in written(*rows).read_text()
    text = written(*rows, row("odd.png", 12.0)).read_text()
    assert "Unlike the rest of the folder" in text and "12.0 dB against its input, the median is 30.4" in text


def test_other_models_and_settings_are_told_apart() -> None:
    one = row("a.png", model_sha256="a" * 64, settings_sha256="1" * 64)
    other = row("b.png", model_sha256="a" * 64, settings_sha256="2" * 64)
    assert "different models or settings" in written(one, other).read_text()
    other.settings_sha256 = one.settings_sha256
    assert "different models or settings" not in written(one, other).read_text()


def test_numbers_of_columns_that_this_page_does_not_know_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ">Seconds<" not in written(row("a.png")).read_text()
    assert ">Seconds<" in written(row("a.png", seconds=0.0)).read_text()
    monkeypatch.setattr(restore_page, "_NUMBERS", restore_page._NUMBERS[:1])
    assert ">Seconds<" in written(row("a.png", seconds=1.0)).read_text()


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_only_some_images_are_embedded_and_the_page_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded_all("a.png", "b.png", "c.png")
    rows = [row("a.png", 33.0), row("b.png", 31.0), row("c.png", 32.0)]
    monkeypatch.setattr(report_images, "MOST_CARDS", 2)
    page = written(*rows)
    assert [a["aria-label"] for a in read(page).of("div", role="slider")] == [
        "before and after of b.png",
        "before and after of c.png",
    ]
    assert "Embedded: 2 of 3 images, the least consistent first (at most 2, 24 MB)" in page.read_text()
    assert len(read(page).of("button", type="button") and re.findall('class="whole"', page.read_text())) == 2 + 3
    monkeypatch.setattr(report_images, "MOST_BYTES", 1)
    assert len(read(written(*rows)).of("div", role="slider")) == 1


def test_many_rows_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_page, "MOST_ROWS", 3)
    monkeypatch.setattr(report_page, "MOST_FAILURES", 2)
    rows = [row(f"{n}.png", 20.0 + n) for n in range(4)] + [
        row(f"f{n}.png", None, FAILED, reason="x") for n in range(3)
    ]
    text = written(*rows).read_text()
    assert text.count('<tr id="row-') == 3
    assert "The 3 rows that come first in the order are on this page, of 7" in text
    assert "3 images failed" in text and "and 1 more, all in the table's file" in text


# --- crops -----------------------------------------------------------------------------------------------------------


def smooth(height: int, width: int, **kind: Any) -> Any:
    """An image that JPEG keeps nearly as it is."""
    return cv2.GaussianBlur(photo(height, width, **kind), (0, 0), 4)


def off(image: dict[str, str], wanted: Any) -> float:
    """Mean difference of an embedded image in 8-bit steps."""
    return float(np.abs(decoded(image["src"]).astype(int) - wanted).mean())


def test_before_is_the_input_enlarged_to_lie_under_the_result() -> None:
    small, large = smooth(60, 80), smooth(240, 320)
    save(Path("in/a.png"), small)
    save(Path("out/a.png"), large)
    before, after = read(written(row("a.png"))).of("img")
    assert (before["data-label"], after["data-label"]) == ("before", "after")
    assert off(before, Resampler((60, 80), (240, 320)).window(small, 0, 0, 240, 320).clip(0, 1) * 255) < 1
    assert off(after, large) < 1
    assert {image["width"] + "x" + image["height"] for image in (before, after)} == {"320x240"}


@pytest.mark.parametrize("looked_at", [16_000_000, 20_000])
def test_the_crop_is_where_most_changed(looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_images, "_LOOKED_AT", looked_at)
    pixels = smooth(300, 400)
    changed = pixels.copy()
    changed[180:230, 250:330] = 255 - changed[180:230, 250:330]
    save(Path("a.png"), pixels)
    save(Path("b.png"), changed)
    paths = [Path("a.png"), Path("b.png")]
    crops = cut_crops(paths, base=1, compared=(0, 1), most=(120, 90))
    assert crops is not None
    left, top, width, height = crops.window
    assert (width, height) == (120, 90) and crops.whole == (400, 300)
    assert left <= 250 and left + width >= 330 and top <= 180 and top + height >= 230
    assert off({"src": crops.images[0]}, pixels[top : top + height, left : left + width]) < 1
    same = cut_crops([Path("a.png")] * 2, base=1, compared=(0, 1), most=(120, 90))
    assert same is not None and same.window[2:] == (120, 90)
    assert np.abs(np.subtract(same.window[:2], (140, 105))).max() <= 3, "the middle where nothing changed"


def test_depth_alpha_gray_floats_and_orientation(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = smooth(24, 32, depth=16)
    save(Path("in/a.png"), photo(6, 8, channels=1)[..., 0])
    save(Path("out/a.png"), np.dstack([deep, np.full((24, 32), 65535, np.uint16)]))
    assert off(read(written(row("a.png"))).of("img")[1], deep / 257) < 1
    clear = smooth(24, 32)
    save(Path("out/a.png"), np.dstack([clear, np.zeros((24, 32), np.uint8)]))
    assert off(read(written(row("a.png"))).of("img")[1], 200) < 1
    bright = smooth(24, 32, seed=3).astype(np.float32) / 255
    monkeypatch.setattr(report_images, "decode", lambda data: DecodedImage(bright, None, "EXR"))
    assert off(read(written(row("a.png"))).of("img")[1], bright * 255) < 1
    monkeypatch.setattr(report_images, "decode", decode)
    turned = Image.fromarray(photo(6, 8))
    exif = Image.Exif()
    exif[274] = 6
    turned.save("in/b.jpg", exif=exif, quality=100)
    save(Path("out/b.jpg"), photo(32, 24))
    shapes = {decoded(image["src"]).shape for image in read(written(row("b.jpg"))).of("img")}
    assert shapes == {(32, 24, 3)}


def test_a_profile_is_applied_to_what_is_embedded() -> None:
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    flat = np.full((24, 32, 3), (180, 90, 60), np.uint8)
    Path("in").mkdir()
    Path("out").mkdir()
    Image.fromarray(flat[::4, ::4]).save("in/a.png", icc_profile=lab)
    Image.fromarray(flat).save("out/a.png", icc_profile=lab)
    for image in read(written(row("a.png"))).of("img"):
        assert np.abs(decoded(image["src"]).astype(int) - flat).max() <= 3


def test_missing_and_broken_files_are_linked_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("out/a.png"), photo(24, 32))
    Path("out/b.png").write_bytes(b"no image")
    page = written(row("a.png"), row("b.png"), row("c.png"))
    assert [image["data-label"] for image in read(page).of("img")] == ["after"]
    assert "a.png: the file cannot be read" in page.read_text()
    monkeypatch.setattr(report_images, "LARGEST", 100)
    assert not read(written(row("a.png"))).of("img")


# --- thumbnails ------------------------------------------------------------------------------------------------------


def test_every_image_has_a_thumbnail_where_not_all_have_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded_all("a.png", "b.png", "c.png")
    save(Path("in/f.png"), smooth(600, 480))
    rows = [row("a.png", 30.0), row("b.png", 31.0), row("c.png", 32.0), row("f.png", None, FAILED, reason="x")]
    monkeypatch.setattr(report_images, "MOST_CARDS", 1)
    found = [a for _, a in read(written(*rows)).tags if "data-image" in a]
    assert [a["title"] for a in found] == ["a.png", "b.png", "c.png", "f.png"]
    assert [a["data-row"] for a in found] == [f"row-{n}" for n in range(4)]
    assert decoded(found[3]["data-image"]).shape == (180, 144, 3), "the failed one's input, fitted into 240x180"
    assert np.abs(decoded(found[0]["data-image"]).astype(int) - photo(24, 32, seed=0)).mean() < 12
    monkeypatch.setattr(report_images, "MOST_THUMBNAILS", 2)
    assert len([a for _, a in read(written(*rows)).tags if "data-image" in a]) == 2
    monkeypatch.setattr(report_images, "MOST_CARDS", 60)
    assert "thumbnails" not in re.sub(
        r"<style>.*</style>|<script>.*</script>", "", written(*rows).read_text(), flags=re.S
    )


# --- charts ----------------------------------------------------------------------------------------------------------


def test_a_histogram_counts_every_finite_value() -> None:
    values = [float(v) for v in np.random.default_rng(0).normal(30, 2, 500)] + [float("inf")]
    chart = histogram(values, "PSNR <dB>", "right is better")
    assert sum(int(count) for count in re.findall(r": (\d+)</title></rect>", chart)) == 500
    assert "PSNR &lt;dB&gt;" in chart and "right is better; 1 infinite not shown" in chart
    assert histogram([float("inf")], "x") == ""
    for one in ([3.0], [0.0, 0.0], [1e-9, 2e-9], [-5.0, 1e6]):
        assert "nan" not in histogram(one, "x")


def test_a_scatter_plot_has_a_dot_for_every_image() -> None:
    points = [(float(n), n / 7, f'p"{n}', f"#row-{n}") for n in range(20)] + [(float("inf"), 1.0, "i", "")]
    chart = scatter(points, "PSNR", "SSIM")
    assert chart.count("<circle") == 20 and 'href="#row-19"' in chart and "p&quot;3: 3, 0.4286" in chart
    places = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert all(40 <= float(x) <= 350 and 8 <= float(y) <= 192 for x, y in places)
    assert [float(x) for x, _ in places] == sorted(float(x) for x, _ in places)
    assert scatter(points[:1], "a", "b") == ""
