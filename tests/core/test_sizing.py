import pytest

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.sizing import Sizing, parse_size


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Sizing(), (404, 200)),
        (Sizing(scale=1), (101, 50)),
        (Sizing(scale=1.5), (152, 75)),  # 151.5 rounds up
        (Sizing(scale=2), (202, 100)),
        (Sizing(scale=3), (303, 150)),
        (Sizing(scale=8), (808, 400)),
        (Sizing(scale=0.001), (1, 1)),
        (Sizing(size=(640, 480)), (640, 480)),
        (Sizing(long_side=1000), (1000, 495)),
        (Sizing(short_side=100), (202, 100)),
        (Sizing(megapixels=1), (1421, 704)),
    ],
)
def test_target_sizes_are_rounded_to_the_pixel(rule: Sizing, expected: tuple[int, int]) -> None:
    assert rule.target(101, 50) == expected


def test_sides_follow_the_image_not_its_order() -> None:
    assert Sizing(long_side=1000).target(50, 101) == (495, 1000)
    assert Sizing(short_side=100).target(50, 101) == (100, 202)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": 0.0}, "--scale 0: a factor above 0"),
        ({"scale": float("nan")}, "--scale nan"),
        ({"scale": 65.0}, "up to 64"),
        ({"size": (0, 5)}, "--size 0x5"),
        ({"long_side": 0}, "--long-side 0: at least 1 pixel"),
        ({"megapixels": -1.0}, "--megapixels -1"),
        ({"scale": 2.0, "long_side": 5}, "--scale and --long-side contradict each other"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sizing(**values)  # type: ignore[arg-type]


def test_sizes_are_parsed() -> None:
    assert parse_size("1920x1080") == (1920, 1080)
    with pytest.raises(UsageError, match="expected WIDTHxHEIGHT"):
        parse_size("1920")
