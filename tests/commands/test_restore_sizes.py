"""Which images are restored and how large: --only-below, --large, prints."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, load, photo, rows, save, tree
from PIL import Image

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.sizing import Sizing, parse_size

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def mixed(alone: None) -> None:
    save(Path("in/small.png"), photo(8, 10))
    save(Path("in/edge.png"), photo(12, 20))
    save(Path("in/sub/large.jpg"), photo(30, 21))


@pytest.mark.usefixtures("mixed")
def test_large_images_are_left_out_and_counted(cli: Cli) -> None:
    ran = cli("restore", "in", "out", "--only-below", "20")
    assert ran.code == 0 and "1 image restored, 2 large already, 0 failed" in ran.err
    assert sorted(tree(Path("out"))) == ["small.png"]
    found = {row["input"]: (row["status"], row["reason"]) for row in rows(Path("out/metrics.csv"))}
    assert found["in/edge.png"] == ("skipped", "large already: 20x12 is not below 20 pixels")
    assert (
        "1 image restored, 1 already up to date, 1 large already"
        in cli("restore", "in", "out", "--only-below", "21").err
    )


@pytest.mark.usefixtures("mixed")
def test_large_images_are_copied_as_they_are(cli: Cli) -> None:
    words = ["restore", "in", "out", "--only-below", "20", "--large", "copy"]
    ran = cli(*words, "--format", "png")
    assert ran.code == 0 and "1 image restored, 2 large already (2 copied), 0 failed" in ran.err
    assert sorted(tree(Path("out"))) == ["edge.png", "small.png", "sub/large.jpg"]
    assert Path("out/sub/large.jpg").read_bytes() == Path("in/sub/large.jpg").read_bytes()
    before = tree(Path("out"))
    again = cli(*words, "--format", "png")
    assert "1 already up to date, 2 large already (2 copied)" in again.err and tree(Path("out")) == before
    # what was copied is restored once nothing speaks against it
    assert "2 images restored" in cli("restore", "in", "out").err
    assert load(Path("out/edge.png")).shape == (48, 80, 3)


@pytest.mark.usefixtures("mixed")
def test_a_copy_replaces_nothing(cli: Cli) -> None:
    save(Path("out/edge.png"), photo(3, 3))
    words = ["restore", "in", "out", "--only-below", "20", "--large", "copy"]
    ran = cli(*words)
    assert ran.code == 0 and "out/edge.png: the output exists and was not made by varestorer; kept" in ran.err
    assert load(Path("out/edge.png")).shape == (3, 3, 3)
    assert cli(*words, "--existing", "overwrite").code == 0
    assert Path("out/edge.png").read_bytes() == Path("in/edge.png").read_bytes()


@pytest.mark.usefixtures("mixed")
def test_a_dry_run_names_large_images(cli: Cli) -> None:
    ran = cli("restore", "in", "out", "--only-below", "20", "--dry-run")
    assert "in/edge.png: would be left out: large already" in ran.out
    assert "1 image would be restored, 2 large already, 0 would fail" in ran.err
    assert not Path("out").exists()


# --- prints


@pytest.mark.parametrize(
    ("image", "expected"), [((300, 200), (354, 236)), ((200, 300), (236, 354)), ((100, 100), (236, 236))]
)
def test_a_print_is_fitted_into_and_turned_as_the_image(image: tuple[int, int], expected: tuple[int, int]) -> None:
    for size in ("30x20cm", "200x300mm", "20x30 cm"):
        assert Sizing(size=size, ppi=30).target(*image) == expected  # type: ignore[arg-type]
    assert Sizing(size=parse_size("10x8in"), ppi=10).target(1000, 500) == (100, 50)


def test_a_print_needs_its_pixels_per_inch() -> None:
    with pytest.raises(UsageError, match=r"--size 30x20cm: a print needs --ppi"):
        Sizing(size=parse_size("30x20cm"))
    for text in ("0x20cm", "30x20ft", "30.5x20", "cm"):
        with pytest.raises(UsageError, match="the size of a print: 30x20cm with --ppi 300"):
            parse_size(text)
    with pytest.raises(UsageError, match="--ppi 0"):
        Sizing(ppi=0)


def test_the_words_for_a_print() -> None:
    sizing = Sizing(size=parse_size("30x20 cm"), ppi=300)
    assert (sizing.describe(), sizing.label()) == ("a print of 30x20cm at 300 ppi", "30x20cm")


def test_prints_count_in_the_settings_hash() -> None:
    def of(sizing: Sizing) -> str:
        return RestoreOptions(sizing=sizing).settings_sha256(overlap=4, sampling="argmax", format=ImageFormat.PNG)

    size = parse_size("30x20cm")
    assert (
        len({of(one) for one in (Sizing(), Sizing(ppi=300), Sizing(size=size, ppi=300), Sizing(size=size, ppi=240))})
        == 4
    )
    assert of(Sizing(ppi=300)) == of(Sizing(scale=4, ppi=300))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_the_resolution_is_written(cli: Cli, name: str) -> None:
    Path("in").mkdir()
    image = Image.fromarray(photo(8, 12))
    exif = image.getexif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 72.0, 72.0, 2
    image.save(Path("in") / name, dpi=(72, 72), exif=exif)
    assert cli("restore", "in", "out", "--size", "3x2in", "--ppi", "20").code == 0
    with Image.open(Path("out") / name) as made:
        assert made.size == (60, 40)
        assert [round(float(value)) for value in made.info["dpi"]] == [20, 20]
        assert round(float(made.getexif().get(0x011A, 20))) == 20
