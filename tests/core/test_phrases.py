import os
import re

import pytest

from varestorer_cli.core.phrases import (
    and_list,
    byte_size,
    clock,
    count,
    escaped,
    from_cell,
    named,
    reason_of,
    speed,
    to_cell,
    unescaped,
    visible,
)


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


ODD_NAMES = [
    "=1+1.png",
    "'=1.png",
    "''@x",
    "-x.png",
    "+x",
    "@SUM(A1)",
    "'plain",
    "a\nopenjd_env: X=1",
    "a\tb\rc",
    "\x1b[31mred\x9b",
    "a\u202egpj.exe",
    "\u2028\u2066x",
    "C:\\x41\\u0041\\new",
    "\\\\x0a\\x5cx5c",
    'plain, with "quotes"',
    os.fsdecode(b"\xff\xfe.png"),
    "",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_cells_and_lists_are_safe_and_read_back_unchanged(name: str) -> None:
    cell, line = to_cell(name), escaped(name)
    assert from_cell(cell) == name and unescaped(line) == name
    assert not cell.startswith(("=", "+", "-", "@"))
    for text in (cell, line, visible(name)):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)


def test_lists_speeds_and_reasons_as_sentences_have_them() -> None:
    assert [and_list(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [speed(number) for number in (12.345, 0.1, 0.0123, 0.0)] == ["12.35", "0.10", "0.01", "0.00"]
    assert speed(0.0009) == "0.0009"
    errors = FileExistsError(17, "File exists", "in/a.png"), ValueError("no number"), KeyError(), RuntimeError()
    assert [reason_of(error) for error in errors] == ["File exists", "no number", "KeyError", "RuntimeError"]
