"""A page in headless Chromium, driven by real pointer and key events; watches the console and the network."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

MISSING = "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"


def programs() -> tuple[str, str] | None:
    """Browser and driver of the system; both are of one version, so nothing needs to be fetched."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@dataclass
class Browser:
    """The driver, and what tests ask of it."""

    driver: Any

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def script(self, text: str, *values: Any) -> Any:
        return self.driver.execute_script(text, *values)

    def texts(self, selector: str) -> list[str]:
        return self.script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def pixels(self, element: Any) -> Any:
        """(H, W, 3) screenshot of an element, scrolled into view, with its images decoded."""
        self.driver.execute_async_script(
            """const [element, done] = arguments;
            element.scrollIntoView({block: "center"});
            const drawn = [...element.querySelectorAll("img")].map((image) => image.decode());
            Promise.all(drawn).then(() => requestAnimationFrame(() => requestAnimationFrame(done)));""",
            element,
        )
        with Image.open(io.BytesIO(element.screenshot_as_png)) as image:
            return np.asarray(image.convert("RGB"))

    def drag(self, element: Any, across: int, down: int = 0) -> None:
        """Press on an element, move, let go."""
        from selenium.webdriver import ActionChains

        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        actions = ActionChains(self.driver, duration=20)
        actions.move_to_element(element).click_and_hold()
        actions.move_by_offset(across // 2, down).move_by_offset(across - across // 2, 0).release().perform()

    def touch(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Put a finger down, move it, lift it."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for kind, points in (("Start", [start]), ("Move", [middle]), ("Move", [end]), ("End", [])):
            places = [{"x": x, "y": y} for x, y in points]
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": places})

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Ask until the answer is yes, ten seconds at most."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 10, 0.05).until(lambda _: condition())

    def phone(self) -> None:
        self.size(390, 800, mobile=True)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)

    def prefer(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def complaints(self) -> list[str]:
        """What the console said since it was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since it was asked last, without the embedded images."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [address for address in found if not address.startswith("data:")]


def start() -> Iterator[Browser]:
    """Start a browser, or skip; on a machine that calls itself CI a missing one is a failure."""
    found = programs()
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError as error:
        found = None
        reason = f"selenium cannot be imported ({error})"
    else:
        reason = MISSING
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; these tests must run where CI=true")
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in ("headless=new", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "lang=en"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(found[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
