"""Pages as a reader meets them: opened from the disk in a browser, with pointer and keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser
from conftest import Ran, photo, save

from varestorer_cli.app import run
from varestorer_cli.core.report import crops
from varestorer_cli.core.report.rows import DONE, FAILED, SKIPPED, Row
from varestorer_cli.core.restore.page import write_restore_page

pytestmark = pytest.mark.browser

ODD = "<img src=x onerror=alert(1)> \"q\" 'a' &amp; 100% #1 ü フォト.png"
RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 160, 30)
Cli = Callable[..., Ran]
Patch = pytest.MonkeyPatch


def plain(color: tuple[int, int, int], height: int, width: int) -> Any:
    return np.broadcast_to(np.array(color, np.uint8), (height, width, 3)).copy()


def row(name: str, consistency: float | None, status: str = DONE, **more: Any) -> Row:
    made = status == DONE or more.get("output_sha256", "")
    more = (
        {"output_sha256": "ab", "width": 80, "height": 60, "out_width": 320, "out_height": 240, **more}
        if made
        else more
    )
    return Row(input=f"in/{name}", output=name, status=status, consistency_psnr=consistency, **more)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Three restored images, red before and blue after, and one that failed."""
    monkeypatch.chdir(tmp_path)
    for name in (ODD, "b.png", "sub/c.png"):
        save(Path("in") / name, plain(RED, 60, 80))
        save(Path("out") / name, plain(BLUE, 240, 320))
    rows = [
        row("b.png", 31.0, seconds=2.5),
        row(ODD, 28.5, seconds=10.0, warnings="depth: <b>16</b> bit becomes 8"),
        row("sub/c.png", 40.0, SKIPPED, reason="up to date", output_sha256="cd", seconds=1.0),
        row("bad.png", None, FAILED, reason="the file is <cut> off"),
    ]
    write_restore_page(rows, Path("out"), Path("pages/page #1.html"))
    return (tmp_path / "pages/page #1.html").resolve()


def share(image: Any, color: tuple[int, int, int]) -> float:
    """Part of a line near the lower edge, away from handle and labels, that has a colour."""
    line = image[int(image.shape[0] * 0.85)].astype(int)
    return float((np.abs(line - color).max(axis=1) < 40).mean())


def loaded(browser: Browser) -> Any:
    """Sizes of the viewer's images once all are there."""
    sizes = "i => [i.complete, i.naturalWidth, i.naturalHeight]"
    text = f"return [...document.querySelectorAll('#viewer img')].map({sizes})"
    found = browser.script(text)
    return found if found and all(one[0] for one in found) else None


def names(browser: Browser, selector: str) -> list[str]:
    return [text.strip() for text in browser.texts(selector)]


def test_a_slider_is_dragged(browser: Browser, page: Path) -> None:
    browser.open(page)
    box = browser.one(".card .cmp")
    first = browser.pixels(box)
    assert first.shape[:2] == (240, 320), "100 %: one pixel of the image is one of the page"
    assert share(first, RED) == pytest.approx(0.5, abs=0.02) and share(first, BLUE) == pytest.approx(0.5, abs=0.02)
    handle = browser.one(".card .handle")
    browser.drag(handle, 96)
    moved = browser.pixels(box)
    assert share(moved, RED) == pytest.approx(0.8, abs=0.02) and share(moved, BLUE) == pytest.approx(0.2, abs=0.02)
    assert handle.get_attribute("aria-valuenow") == "80"
    assert handle.get_attribute("aria-valuetext") == "80 % before, 20 % after"
    browser.drag(handle, -400)
    assert share(browser.pixels(box), RED) == 0, "left of the image the slider stays at its edge"
    assert share(browser.pixels(browser.all(".card .cmp")[1]), RED) == pytest.approx(0.5, abs=0.02), "one slider alone"
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()], "nothing is loaded beside the page"


def test_a_slider_obeys_keys(browser: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    handle, box = browser.one(".card .handle"), browser.one(".card .cmp")
    handle.send_keys(Keys.END)
    assert share(browser.pixels(box), RED) > 0.98
    handle.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert handle.get_attribute("aria-valuenow") == "96"
    handle.send_keys(Keys.PAGE_DOWN)
    assert handle.get_attribute("aria-valuenow") == "76"
    handle.send_keys(Keys.HOME)
    assert share(browser.pixels(box), BLUE) > 0.98
    assert handle.get_attribute("role") == "slider" and "before and after of" in handle.get_attribute("aria-label")


def test_odd_names_are_text_and_their_links_lead_to_the_files(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert names(browser, ".card h3") == [ODD, "b.png", "sub/c.png"]
    assert browser.one(".failures li").text == "in/bad.png\nthe file is <cut> off"
    assert "depth: <b>16</b> bit becomes 8" in browser.one(".card .note").text
    browser.one(".card button.whole").click()
    loaded = (
        "return [...document.querySelectorAll('#viewer img')].map(i => [i.complete, i.naturalWidth, i.naturalHeight])"
    )
    sizes = browser.wait(lambda: (found := browser.script(loaded)) and all(one[0] for one in found) and found)
    assert sizes == [[True, 80, 60], [True, 320, 240]]
    box = browser.one("#viewer .cmp")
    assert share(browser.pixels(box), RED) == pytest.approx(0.5, abs=0.02)
    browser.drag(browser.one("#viewer .handle"), -80)
    assert share(browser.pixels(box), RED) == pytest.approx(0.25, abs=0.02)
    browser.one("#viewer-close").click()
    assert not browser.one("#viewer").is_displayed()
    assert browser.complaints() == []
    assert len(browser.requests()) == 3, "the page and the two files asked for"


def test_a_column_sorts_rows_and_cards(browser: Browser, page: Path) -> None:
    browser.open(page)
    rows = "#rows tbody th"
    assert names(browser, rows) == [ODD, "b.png", "sub/c.png", "bad.png"], "the least consistent first, unmeasured last"
    head = next(one for one in browser.all("#rows th") if one.text.startswith("Seconds"))
    button = head.find_element("css selector", "button")
    button.click()
    assert names(browser, rows) == [ODD, "b.png", "sub/c.png", "bad.png"], "10 is more than 2.5: numbers, not letters"
    assert head.get_attribute("aria-sort") == "descending"
    button.click()
    assert names(browser, rows) == ["sub/c.png", "b.png", ODD, "bad.png"]
    assert names(browser, ".card h3") == ["sub/c.png", "b.png", ODD]
    assert head.get_attribute("aria-sort") == "ascending"
    browser.one("#turn").click()
    assert names(browser, ".card h3") == [ODD, "b.png", "sub/c.png"]
    choice = browser.one("#order")
    assert browser.script("return arguments[0].selectedOptions[0].textContent", choice) == "Seconds"
    browser.one("#search").send_keys("SUB/")
    assert [one.text for one in browser.all(".card h3") if one.is_displayed()] == ["sub/c.png"]
    assert browser.one("#shown").text == "1 of 4 rows"
    assert browser.complaints() == []


def test_phone_and_dark(browser: Browser, page: Path) -> None:
    browser.open(page)
    light = browser.script("return getComputedStyle(document.body).backgroundColor")
    browser.prefer("dark")
    assert browser.script("return getComputedStyle(document.body).backgroundColor") != light
    browser.phone()
    browser.open(page)
    assert browser.script("return document.documentElement.scrollWidth <= window.innerWidth")
    box = browser.one(".card .cmp")
    width, height = box.size["width"], box.size["height"]
    assert width <= 390 and height == 240
    browser.pixels(box)
    place = browser.script("const r = arguments[0].getBoundingClientRect(); return [r.left, r.top]", box)
    start = (place[0] + width / 2, place[1] + 60)
    browser.touch(start, (start[0] + width / 4, start[1]))
    assert share(browser.pixels(box), RED) == pytest.approx(0.75, abs=0.03)
    assert browser.complaints() == []


def test_two_thousand_images(browser: Browser, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("in/a.png"), photo(20, 30))
    save(Path("out/a.png"), photo(80, 120))
    rows = [row(f"{number}.png", 20 + number % 997 / 40, seconds=float(number)) for number in range(2000)]
    rows += [row("a.png", 12.0, seconds=0.5)]
    write_restore_page(rows, Path("out"), Path("page.html"))
    browser.open(tmp_path / "page.html")
    assert len(browser.all(".card")) == 1 and len(browser.texts("#rows tbody tr")) == 2001
    next(one for one in browser.all("#rows th button") if one.text.startswith("Seconds")).click()
    assert names(browser, "#rows tbody th")[:3] == ["1999.png", "1998.png", "1997.png"]
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def run_of_300(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 300 images, 9 of them with cards; the first three differ in colour."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(crops, "MOST_CARDS", 9)
        for place, color in enumerate((RED, BLUE, GREEN)):
            save(Path(f"in/{place:03}.png"), plain(color, 60, 80))
            save(Path(f"out/{place:03}.png"), plain(color, 600, 800))
        for number in range(3, 300):
            Path(f"in/{number:03}.png").symlink_to("002.png")
            Path(f"out/{number:03}.png").symlink_to("002.png" if number < 9 else "../in/002.png")
        rows = [row(f"{n:03}.png", 20 + n / 10, seconds=float(n)) for n in range(300)]
        write_restore_page(rows, Path("out"), Path("p.html"))
    return folder / "p.html"


@pytest.fixture(scope="module")
def scores_of_300(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 300 scored pairs, 9 of them with cards; the first three, the worst, differ in colour."""
    folder = tmp_path_factory.mktemp("scores")
    colors = (RED, BLUE, GREEN, *[GREEN] * 297)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(crops, "MOST_CARDS", 9)
        for number, (red, green, blue) in enumerate(colors):
            off = 50 - number if number < 3 else 45 - number // 8
            save(Path(f"out/{number:03}.png"), plain((red, green, blue), 120, 160))
            save(Path(f"gt/{number:03}.png"), plain((red, green, blue + off), 120, 160))
        words = ["score", "out", "-r", "gt", "--metrics", "psnr_y", "--cache", "none", "--report", "p.html", "-q"]
        assert run(words) == 0
    return folder / "p.html"


@pytest.fixture(params=["run_of_300", "scores_of_300"], ids=["restore", "score"])
def page_of_300(request: pytest.FixtureRequest) -> Path:
    """The page of restore, then that of score."""
    page: Path = request.getfixturevalue(request.param)
    return page


def test_every_image_of_300_is_a_thumbnail_that_loads_when_seen(browser: Browser, page_of_300: Path) -> None:
    browser.open(page_of_300)
    assert len(browser.all(".card")) == 9 and len(browser.all(".thumb")) == 300
    assert browser.one("#thumbnails h2").text == "All 300 images as thumbnails"
    assert len(browser.all(".thumb img")) == 0, "nothing is decoded before it is seen"
    thumbs = browser.all(".thumb")
    browser.script("arguments[0].scrollIntoView()", thumbs[0])
    browser.wait(lambda: len(browser.all(".thumb img")) >= 3)
    assert len(browser.all(".thumb img")) < 300
    for thumb, color in zip(thumbs, (RED, BLUE, GREEN), strict=False):
        assert (
            np.abs(browser.pixels(thumb.find_element("css selector", ".image"))[50, 70].astype(int) - color).max() < 12
        )
    browser.script("arguments[0].scrollIntoView()", thumbs[-1])
    browser.wait(lambda: thumbs[-1].find_elements("css selector", "img"))
    browser.one("#search").send_keys("299")
    assert browser.script("return arguments[0].filter(t => t.offsetParent !== null).length", thumbs) == 1
    assert browser.complaints() == [] and browser.requests() == [page_of_300.as_uri()], "one file, nothing beside it"


def test_arrow_keys_turn_the_pages_of_the_viewer(browser: Browser, run_of_300: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> str:
        for key in keys:
            ActionChains(browser.driver).send_keys(key).perform()
        return str(browser.one("#viewer-name").text)

    browser.open(run_of_300)
    browser.script("arguments[0].click()", browser.all(".thumb")[1])
    assert browser.one("#viewer-name").text == "001.png"
    browser.wait(lambda: loaded(browser))
    assert press(Keys.ARROW_RIGHT) == "002.png" and press(Keys.ARROW_LEFT, Keys.ARROW_LEFT) == "000.png"
    browser.wait(lambda: loaded(browser))
    assert share(browser.pixels(browser.one("#viewer .cmp")), RED) > 0.9
    assert press(Keys.ARROW_LEFT) == "000.png" and not browser.one("#viewer-previous").is_enabled()
    browser.drag(browser.one("#viewer .handle"), -50)
    assert press(Keys.ARROW_RIGHT) == "001.png", "arrows turn pages after a drag as well"
    browser.one("#viewer-next").click()
    assert browser.one("#viewer-name").text == "002.png"
    browser.script("document.querySelector('#viewer .handle').focus()")
    assert press(Keys.ARROW_RIGHT) == "002.png", "a focused slider keeps its keys"
    assert browser.one("#viewer .handle").get_attribute("aria-valuenow") == "52"
    browser.one("#viewer-close").click()
    next(one for one in browser.all("#rows th button") if one.text.startswith("Seconds")).click()
    browser.script("arguments[0].click()", browser.all(".thumb")[0])
    assert browser.one("#viewer-name").text == "299.png" and press(Keys.ARROW_RIGHT) == "298.png", "in the order shown"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "columns"), [(375, 1), (1280, 2), (1920, 3)])
def test_widths_and_colours(browser: Browser, page_of_300: Path, width: int, columns: int, scheme: str) -> None:
    browser.size(width, 900, mobile=width < 500)
    browser.prefer(scheme)
    browser.open(page_of_300)
    assert browser.script("return document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    lefts = "return new Set([...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().left)).size"
    assert browser.script(lefts, ".card") == columns
    assert browser.script(lefts, ".thumb") >= max(2, 3 * columns - 1)
    cut = "return [...document.querySelectorAll('.plain')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.script(cut) == 0, "tables of numbers are whole"
    browser.script("document.querySelectorAll('.thumb')[0].click()")
    title, line = (
        browser.script(f"return document.querySelector('{e}').offsetHeight") for e in ("#viewer-name", "#viewer-next")
    )
    assert title <= line, "a short name takes one line"
    browser.one("#viewer-close").click()
    contrast = """const [r, g, b] = getComputedStyle(document.body)[arguments[0]].match(/\\d+/g).map(Number);
        return (r + g + b) / 3"""
    back, ink = (browser.script(contrast, name) for name in ("backgroundColor", "color"))
    assert (back > 200 > 80 > ink) if scheme == "light" else (ink > 200 > 80 > back)
    assert browser.complaints() == []


def test_four_cards_are_printed_on_a_page(browser: Browser, page_of_300: Path) -> None:
    import base64
    import re

    def pages() -> int:
        return len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(browser.driver.print_page())))

    browser.open(page_of_300)
    browser.script("document.querySelectorAll('main > :not(#images), footer').forEach(e => e.remove())")
    counts = {}
    for cards in (9, 8, 5, 4):
        browser.script("document.querySelectorAll('.card').forEach((e, i) => i >= arguments[0] && e.remove())", cards)
        counts[cards] = pages()
    assert [counts[9] - counts[8], counts[8] - counts[5], counts[5] - counts[4]] == [1, 0, 1], counts


def test_two_states_of_three_are_chosen(browser: Browser, cli: Cli, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("lq/a.png"), plain(RED, 24, 32))
    save(Path("out/a.png"), plain(BLUE, 96, 128))
    save(Path("gt/a.png"), plain(GREEN, 96, 128))
    words = ("--degraded", "lq", "--metrics", "psnr_y", "--cache", "none", "--report", "p.html")
    assert cli("score", "out", "-r", "gt", *words).code == 0
    browser.open(tmp_path / "p.html")
    box = browser.one(".card .cmp")
    assert [share(browser.pixels(box), color) > 0.4 for color in (RED, BLUE, GREEN)] == [True, True, False]
    buttons = {
        (group.get_attribute("data-side"), button.text): button
        for group in browser.all(".group")
        for button in group.find_elements("css selector", "button")
    }
    buttons["right", "reference"].click()
    buttons["left", "restored"].click()
    browser.drag(browser.one(".card .handle"), 32)
    shown = browser.pixels(box)
    assert share(shown, BLUE) == pytest.approx(0.75, abs=0.03) and share(shown, GREEN) == pytest.approx(0.25, abs=0.03)
    assert browser.one(".card .tag.l").text == "restored" and browser.one(".card .tag.r").text == "reference"
    assert browser.complaints() == [] and len(browser.requests()) == 1


def test_a_folder_of_small_files_shows_them(browser: Browser, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, color in enumerate((RED, BLUE, GREEN)):
        save(Path(f"in/{number}.png"), plain(color, 60, 80))
        save(Path(f"out/{number}.png"), plain(color, 240, 320))
    rows = [row(f"{number}.png", 20.0 + number) for number in range(3)]
    write_restore_page(rows, Path("out"), Path("page/index.html"), apart=True)
    browser.open(tmp_path / "page/index.html")
    for box, color in zip(browser.all(".card .cmp"), (RED, BLUE, GREEN), strict=True):
        browser.script("arguments[0].scrollIntoView()", box)
        browser.wait(
            lambda box=box: all(
                browser.script("return arguments[0].complete", i) for i in box.find_elements("css selector", "img")
            )
        )
        assert share(browser.pixels(box), color) > 0.9
    assert browser.complaints() == [] and len(browser.requests()) > 3


def test_arrow_keys_turn_the_pages_of_scores(browser: Browser, scores_of_300: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(scores_of_300)
    browser.script("arguments[0].click()", browser.all(".thumb")[0])
    assert browser.one("#viewer-name").text == "000", "the worst first"
    ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).perform()
    assert browser.one("#viewer-name").text == "001"
