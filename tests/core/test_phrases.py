import pytest

from varestorer_cli.core.phrases import byte_size, clock, count, named


def test_counts_carry_their_noun() -> None:
    assert count(1, "image") == "1 image"
    assert count(0, "image") == "0 images"
    assert count(2, "entry", "entries") == "2 entries"


def test_a_few_of_many_names() -> None:
    assert named([]) == ""
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named("abcd") == "a, b, c and 1 more"
    assert named(range(9), most=1) == "0 and 8 more"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (10, "0:10"), (61, "1:01"), (3599.6, "1:00:00")]
)
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3e9, "3.0 GB")])
def test_sizes_in_bytes(number: float, text: str) -> None:
    assert byte_size(number) == text
