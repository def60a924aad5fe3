"""Shared fixtures: images made on the fly, and the command with a fake model behind it."""

import csv
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromium
import cv2
import fakes
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share the machine, and their results do not depend on it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VARESTORER_WEIGHTS", os.devnull)  # whatever this machine has installed
    for variable in ("SLURM_CPUS_PER_TASK", "CUE_THREADS"):
        monkeypatch.delenv(variable, raising=False)


def photo(height: int = 24, width: int = 32, channels: int = 3, depth: int = 8, seed: int = 0) -> Any:
    """An image with smooth parts and detail, as RGB (or gray) samples."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((4, 5, channels))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
    image = np.clip(0.15 + 0.7 * smooth + 0.05 * rng.standard_normal((height, width, channels)), 0, 1)
    kind, top = (np.uint16, 65535) if depth == 16 else (np.uint8, 255)
    return np.floor(image * top + 0.5).astype(kind)


def flat(value: int, size: int = 16) -> Any:
    """An image of one gray."""
    return np.full((size, size, 3), value, np.uint8)


def save(path: Path, pixels: Any) -> Path:
    """Write RGB, RGBA or gray samples with OpenCV, by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    ok, data = cv2.imencode(path.suffix, pixels)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def load(path: Path) -> Any:
    """Read a file's samples as RGB, RGBA or gray, at their own depth."""
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]] if pixels.ndim == 3 else pixels


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a report, in the order of the file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, without reports."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".csv"
    }


def images() -> None:
    """Two images and a text file in the folder ``in``."""
    save(Path("in/a.png"), photo(10, 14))
    save(Path("in/sub/b.jpg"), photo(9, 9, seed=1))
    Path("in/notes.txt").write_text("x")


def broken_folder() -> list[str]:
    """Good and bad files; returns the bad ones."""
    save(Path("in/good.png"), photo(10, 14))
    save(Path("in/フォト/ü ñ.jpg"), photo(8, 8))
    Path("in/empty.png").touch()
    Path("in/text.png").write_text("I am no image\n")
    data = save(Path("in/cut.jpg"), photo(64, 64)).read_bytes()
    Path("in/cut.jpg").write_bytes(data[: len(data) // 2])
    Path("in/loop.png").symlink_to("loop.png")
    return ["in/cut.jpg", "in/empty.png", "in/loop.png", "in/text.png"]


def many(root: Path, count: int = 7) -> Path:
    """A set of one's own in mine/: pairs whose restored files the fake model makes."""
    for i in range(count):
        lq = photo(12, 12, seed=i)
        save(root / f"mine/lq/p{i}.png", lq)
        save(
            root / f"mine/gt/p{i}.png",
            np.clip(np.repeat(np.repeat(lq, 4, 0), 4, 1).astype(int) + i + 1, 0, 255).astype(np.uint8),
        )
    return root / "mine"


@dataclass
class Ran:
    """What one call of the command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without home directory and network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("restore opened a connection"))


@pytest.fixture
def no_pyiqa(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests run as if pyiqa were absent, in an empty folder, without a data root."""
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    monkeypatch.delenv("VARESTORER_DATA", raising=False)
    monkeypatch.setenv("VARESTORER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three restored images in out/, their references in gt/."""
    for i, name in enumerate(("a", "b", "c")):
        reference = photo(24, 24, seed=i)
        save(tmp_path / f"gt/{name}.png", reference)
        save(tmp_path / f"out/{name}.png", np.clip(reference.astype(int) + 4 + i, 0, 255).astype(np.uint8))
    return tmp_path / "out"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process, with a fake in place of the model, or with ``--model mini``."""
    from varestorer_cli import app
    from varestorer_cli.core.restore import session

    load = session.load_model

    def run(*words: object, model: Any = None, name: str = "fake") -> Ran:
        if model == "mini":
            words = *words, "--model", model
            monkeypatch.setattr(session, "load_model", load)
        else:
            model = model if model is not None else fakes.FakeModel()
            monkeypatch.setattr(session, "load_model", lambda wanted, device, weights: fakes.loaded(model, name))
        capsys.readouterr()
        code = app.run([str(word) for word in words])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture(scope="session")
def running_browser() -> Iterator[chromium.Browser]:
    """One browser for all tests of a process."""
    yield from chromium.start()


@pytest.fixture
def browser(running_browser: chromium.Browser) -> chromium.Browser:
    """The browser at the size of a laptop, in light colours, with nothing said yet."""
    running_browser.driver.get("about:blank")
    running_browser.size(1280, 900)
    running_browser.prefer("light")
    running_browser.complaints()
    running_browser.requests()
    return running_browser
