"""The page of a score: what it shows of one folder and of two, without a browser."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, photo, save
from page_reader import decoded, read

from varestorer_cli.core.score.page import unique_labels

Cli = Callable[..., Ran]
ODD = 'a <b> "q" #1 100% ü'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pairs of which one has another size, their degraded inputs, and another folder of restored ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VARESTORER_CACHE", "none")
    for seed, name in enumerate((ODD, "b", "c")):
        reference = photo(48, 64, seed=seed).astype(int)
        save(Path(f"gt/{name}.png"), reference.astype(np.uint8))
        save(Path(f"out/{name}.png"), np.clip(reference + 3 + 4 * seed, 0, 255).astype(np.uint8))
        save(Path(f"other/{name}.png"), np.clip(reference - 9, 0, 255).astype(np.uint8))
        save(Path(f"lq/{name}.png"), photo(12, 16, seed=seed))
    save(Path("out/d.png"), photo(20, 20))
    save(Path("gt/d.png"), photo(40, 40))
    return tmp_path


def names(page: str) -> list[str]:
    return re.findall(r'<tr id="row-\d+"[^>]*><th scope="row"><bdi>(.*?)</bdi>', page)


def layers(page: Path) -> list[list[str]]:
    """Labels of the embedded images, card by card."""
    text = page.read_text(encoding="utf-8")
    return [re.findall(r'data-label="(.*?)" width', card) for card in text.split("<article ")[1:]]


def test_one_folder(cli: Cli) -> None:
    ran = cli("score", "out", "-r", "gt", "--degraded", "lq", "--also", "other", "--report", "p.html")
    assert ran.code == 1 and "wrote p.html" in ran.err
    page = Path("p.html").read_text(encoding="utf-8")
    assert names(page) == ["c", "b", "a &lt;b&gt; &#34;q&#34; #1 100% ü", "d"], "lowest PSNR first, failed last"
    assert layers(Path("p.html")) == [["degraded", "other", "restored", "reference"]] * 3
    assert "1 pair failed, in no mean" in page and "sizes differ: restored 20x20, reference 40x40" in page
    assert "Protocol both: PSNR and SSIM on Y of YCbCr" in page and "bootstrap interval" in page
    content = json.loads(Path("out/scores.json").read_text())
    for name, label, digits in (("psnr_y", "PSNR-Y", 2), ("ssim_rgb", "SSIM-RGB", 4)):
        mean = content["summary"][name]["mean"]
        assert f"<b>{mean:.{digits}f}</b><span>mean {label}</span>" in page
        for one in content["images"]:
            if one[name] is not None:
                assert f">{one[name]:.{digits}f}</td>" in page
    assert page.count("Histogram of") == len(content["summary"])
    assert page.count("Scatter plot:") == len(content["summary"]) - 1
    dots = re.findall(r'<a href="#row-(\d)" tabindex="-1"><circle[^>]*><title>(.*?):', page)
    assert {unescape(names(page)[int(row)]) == unescape(name) for row, name in dots} == {True}


def test_images_lie_over_each_other(cli: Cli) -> None:
    cli("score", "out", "-r", "gt", "--degraded", "lq", "--report", "p.html", "--partial")
    images = read(Path("p.html")).of("img")
    assert {decoded(image["src"]).shape for image in images} == {(48, 64, 3)}
    assert [image["class"] for image in images[:3]] == ["left", "right", "off"], "degraded against restored"


def test_a_data_set_brings_its_degraded_images(cli: Cli) -> None:
    Path("out/d.png").unlink()
    Path("gt/d.png").unlink()
    for name in ("gt", "lq"):
        Path("set").mkdir(exist_ok=True)
        Path(name).rename(f"set/{name}")
    assert cli("score", "out", "--dataset", "set", "--metrics", "ssim_y", "--report", "sub/p.html").code == 0
    page = Path("sub/p.html")
    assert layers(page) == [["degraded", "restored", "reference"]] * 3
    links = [a["href"] for a in read(page).of("a") if a.get("data-label") == "degraded"]
    assert len(links) == 3 and "../set/lq/b.png" in links


def test_without_reference_and_by_shard(cli: Cli) -> None:
    ran = cli("score", "out", "--report", "p.html", "--metrics", "psnr_y")
    assert ran.code == 2 and not Path("p.html").exists()
    Path("gt/d.png").unlink()
    Path("out/d.png").unlink()
    found = []
    for shard in ("0/2", "1/2"):
        assert cli("score", "out", "-r", "gt", "--report", "p.html", "--shard", shard).code == 0
        found += names(Path(f"p.{shard.replace('/', '-of-')}.html").read_text(encoding="utf-8"))
    assert len(found) == 3
    assert cli("score", "out", "--merge", "--report", "p.html").code == 0
    assert sorted(names(Path("p.html").read_text(encoding="utf-8"))) == sorted(found)
    assert layers(Path("p.html")) == [["restored", "reference"]] * 3


def test_two_folders(cli: Cli) -> None:
    Path("out/d.png").unlink()
    Path("gt/d.png").unlink()
    words = ("--compare", "other", "out", "-r", "gt", "--metrics", "psnr_y,ssim_y", "--report", "p.html")
    assert cli("score", *words).code == 0
    page = Path("p.html").read_text(encoding="utf-8")
    assert layers(Path("p.html")) == [["A other", "B out", "reference"]] * 3
    heads = re.findall(r'data-worst="\w*"><button type="button">(.*?)</button>', page)
    assert heads[1:4] == ["PSNR-Y A", "PSNR-Y B", "PSNR-Y B - A"]
    rows = re.findall(r'<tr id="row-\d+".*?</tr>', page, re.S)
    differences = []
    for row in rows:
        a, b, difference = (float(value) for value in re.findall(r'data-v="(.*?)"', row)[:3])
        assert difference == pytest.approx(b - a)
        differences.append(difference)
    assert differences == sorted(differences), "where B is worst comes first"
    assert "sign test p" in page and page.count('class="equal"') == 2


def test_what_cannot_be(cli: Cli) -> None:
    assert "--also shows further folders on a page" in cli("score", "out", "-r", "gt", "--also", "lq").err
    ran = cli("score", "out", "-r", "gt", "--report", "p.html", *("--also", "lq") * 5)
    assert ran.code == 2 and "5 folders are given" in ran.err
    ran = cli("score", "out", "-r", "gt", "--report", "p.txt")
    assert ran.code == 2 and "ends in .html" in ran.err
    assert not Path("out/scores.csv").exists(), "refused before any work"


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["x/a", "b"], ["a", "b"]),
        (["x/a", "y/a"], ["x/a", "y/a"]),
        (["q/x/a", "r/x/a"], ["1: x/a", "2: x/a"]),
        (["x/restored"], ["x/restored"]),
    ],
)
def test_labels_tell_folders_apart(folders: list[str], labels: list[str]) -> None:
    assert unique_labels([Path(folder) for folder in folders], {"restored"}) == labels


def test_the_same_scores_give_the_same_bytes(cli: Cli) -> None:
    contents: list[Any] = []
    for _ in range(2):
        cli("score", "out", "-r", "gt", "--degraded", "lq", "--report", "p.html", "--metrics", "psnr_y")
        contents.append(Path("p.html").read_bytes())
    assert contents[0] == contents[1]
