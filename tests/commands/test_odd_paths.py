"""Outputs that cannot be looked at, pipes in place of files: a failure with a reason, never a silent end or a wait."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, photo
from PIL import Image

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.reader import probe, read_bytes

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(8, 8)).save(path, "PNG")


@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_a_name_too_long_fails_its_input_alone(cli: Cli, existing: str) -> None:
    save(Path("in") / ("x" * 250 + ".png"))
    save(Path("in/good.png"))
    ran = cli("restore", "in", "out", "--format", "webp", "--name", "{stem}_{size}", "--existing", existing)
    assert ran.code == 1
    assert "cannot be looked at (File name too long)" in ran.err
    assert [path.name for path in Path("out").glob("*.webp")] == ["good_x4.webp"]


@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_a_loop_of_links_in_the_place_of_an_output_fails_its_input(cli: Cli, existing: str) -> None:
    save(Path("in/a.png"))
    save(Path("in/b.png"))
    Path("out").mkdir()
    Path("out/a.png").symlink_to("a.png")
    ran = cli("restore", "in", "out", "--existing", existing)
    assert ran.code == 1 and "in/a.png" in ran.err and "cannot be looked at" in ran.err
    assert Path("out/b.png").is_file()


@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_a_folder_in_the_place_of_an_output_fails_its_input_alone(cli: Cli, existing: str) -> None:
    save(Path("in/a.png"))
    save(Path("in/b.png"))
    Path("out/a.png").mkdir(parents=True)
    ran = cli("restore", "in", "out", "--existing", existing)
    assert ran.code == 1 and "in/a.png" in ran.err and "cannot be looked at (Is a directory)" in ran.err
    assert Path("out/b.png").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_output_fails_its_input(cli: Cli) -> None:
    save(Path("in/a.png"))
    save(Path("out/a.png"))
    Path("out/a.png").chmod(0)
    assert cli("restore", "in", "out").code == 1


def test_a_pipe_as_the_only_input_is_a_failure(cli: Cli) -> None:
    os.mkfifo("pipe.png")
    ran = cli("restore", "pipe.png", "out")
    assert ran.code == 1
    assert "pipe.png: not a regular file; write a pipe's or device's content to a file first" in ran.err


def test_a_pipe_in_a_folder_is_passed_over(cli: Cli) -> None:
    save(Path("in/a.png"))
    os.mkfifo("in/pipe.png")
    ran = cli("restore", "in", "out")
    assert ran.code == 0 and Path("out/a.png").is_file()


def test_a_pipe_that_took_the_place_of_a_file_does_not_make_the_run_wait() -> None:
    os.mkfifo("pipe.png")
    said: list[str] = []

    def look() -> None:
        for read in (read_bytes, probe):
            with pytest.raises(InputError) as error:
                read("pipe.png")
            said.append(str(error.value))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert len(said) == 2 and all(text.startswith("not a regular file") for text in said)
