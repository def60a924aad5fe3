"""``restore --report``: when the page is written, what it covers, which names it takes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, load, photo, save
from page_reader import read

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.report import crops
from varestorer_cli.core.report.page import check_page_target
from varestorer_cli.core.restore.page import page_target
from varestorer_cli.core.sharding import Shard

Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_restore_writes_a_page_and_a_resumed_run_the_whole_one(cli: Cli) -> None:
    save(Path("in/a.png"), photo(10, 14))
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ran = cli("restore", "in", "out", "--report", "out/page.html")
    assert ran.code == 1 and "page: out/page.html" in ran.err
    assert read(Path("out/page.html")).of("div", role="slider")
    save(Path("in/b.png"), photo(10, 14, seed=1))
    assert cli("restore", "in", "out", "--report", "out/page.html", "-q").code == 1
    reader = read(Path("out/page.html"))
    assert len(reader.of("div", role="slider")) == 2, "the image of the earlier run is on it too"
    text = Path("out/page.html").read_text(encoding="utf-8")
    assert "2 images restored: 1 by the last run, 1 before it" in text and "in/broken.png" in text
    assert "fake" in text, "the model's name is read from a file"
    assert load(Path("out/a.png")).shape == (40, 56, 3)


def test_the_page_needs_no_csv_and_carries_the_shard(cli: Cli) -> None:
    for number in range(9):
        save(Path(f"in/{number}.png"), photo(8, 8, seed=number))
    counts = []
    for shard in ("0/2", "1/2"):
        assert cli("restore", "in", "out", "--shard", shard, "--report", "p.html", "--metrics-csv", "none").code == 0
        counts.append(len(read(Path(f"p.{shard.replace('/', '-of-')}.html")).of("div", role="slider")))
    assert sum(counts) == 9 and min(counts) and not Path("p.html").exists()
    assert cli("restore", "in", "out", "--report", "p.html").code == 0
    assert len(read(Path("p.html")).of("div", role="slider")) == 9, "a run over all shards shows them all"


def test_tasks_of_a_farm_write_pages_of_their_own() -> None:
    assert page_target(Path("p.html"), None) == Path("p.html") and page_target(None, None) is None
    assert page_target(Path("d/p.html"), Shard(3, 16)) == Path("d/p.3-of-16.html")
    assert page_target(Path("p.html"), None, "1-100x2") == Path("p.frames-1-100x2.html")


def test_the_name_is_checked_before_any_work(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    Path("mine.html").write_text("<p>my homepage</p>")
    Path("f").write_text("")
    for name, code, words in (
        ("page.txt", 2, "needs a name that ends in .html"),
        ("mine.html", 2, "exists and is no page of varestorer"),
        ("f/page.html", 5, "nothing can be written there"),
    ):
        ran = cli("restore", "in", "out", "--report", name)
        assert ran.code == code and words in ran.err and not Path("out/a.png").exists()
    assert Path("mine.html").read_text() == "<p>my homepage</p>"
    Path("d.html").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_page_target(Path("d.html"))
    Path("empty.html").touch()
    check_page_target(Path("empty.html"))


def images_of(page: Path) -> set[str]:
    """Small images that a page shows."""
    reader = read(page)
    return {tag["src"] for tag in reader.of("img")} | {
        tag["data-image"] for tag in reader.of("button") if "data-image" in tag
    }


def test_a_folder_holds_the_page_and_all_images(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "MOST_CARDS", 2)
    monkeypatch.setattr(crops, "MOST_THUMBNAILS", 3)
    for number in range(5):
        save(Path(f"in/{number}.png"), photo(8, 8, seed=number))
    assert cli("restore", "in", "out", "--report", "p.html").code == 0
    assert "2 have no thumbnail, the page is full: --report-dir shows all" in Path("p.html").read_text()
    assert cli("restore", "in", "out", "--report-dir", "pa ge").code == 0
    shown = images_of(Path("pa ge/index.html"))
    text = Path("pa ge/index.html").read_text()
    assert "data:image" not in text and len(text) < 100_000
    assert len(read(Path("pa ge/index.html")).of("div", role="slider")) == 5
    files = {f"./index-images/{path.name}" for path in Path("pa ge/index-images").iterdir()}
    assert files == shown and len(shown) >= 10
    # a later page leaves nothing of the earlier one behind, and nothing of others is touched
    Path("pa ge/index-images/mine.jpg").write_text("mine")
    save(Path("in/0.png"), photo(8, 8, seed=77))
    assert cli("restore", "in", "out", "--report-dir", "pa ge").code == 0
    now = {f"./index-images/{path.name}" for path in Path("pa ge/index-images").iterdir()}
    assert now == images_of(Path("pa ge/index.html")) | {"./index-images/mine.jpg"} and now != files


def test_a_folder_of_shards_keeps_their_pages_apart(cli: Cli) -> None:
    for number in range(6):
        save(Path(f"in/{number}.png"), photo(8, 8, seed=number))
    for shard in ("0/2", "1/2"):
        assert cli("restore", "in", "out", "--shard", shard, "--report-dir", "p").code == 0
    assert images_of(Path("p/index.0-of-2.html")) and images_of(Path("p/index.1-of-2.html"))
    assert all((Path("p") / address).exists() for address in images_of(Path("p/index.0-of-2.html")))
    assert cli("restore", "--merge", "out", "--report-dir", "p").code == 0
    assert len(read(Path("p/index.html")).of("div", role="slider")) == 6


def test_a_folder_is_no_file_and_takes_no_foreign_page(cli: Cli) -> None:
    save(Path("in/a.png"), photo(8, 8))
    ran = cli("restore", "in", "out", "--report-dir", "p", "--report", "p.html")
    assert ran.code == 2 and "give one of them" in ran.err
    save(Path("p/x.png"), photo(8, 8))
    Path("p/index.html").write_text("<p>my homepage</p>")
    ran = cli("restore", "in", "out", "--report-dir", "p")
    assert ran.code == 2 and "is no page of varestorer" in ran.err and not Path("out").exists()
    Path("file").write_text("x")
    assert cli("restore", "in", "out", "--report-dir", "file").code == 5
