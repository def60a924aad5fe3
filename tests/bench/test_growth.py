"""``make bench-growth`` counts what was restored and divides by the right seconds; its figures are nobody's test."""

import sys
from collections.abc import Sequence

import pytest

from varestorer_cli import app
from varestorer_cli.bench import growth
from varestorer_cli.core.errors import VarestorerError


def in_this_process(words: Sequence[str]) -> growth.Usage:
    """Restore here, and claim two seconds for each run and eight more for each image beyond the first."""
    assert app.run(["restore", *words, "--threads", "1", "--progress", "none", "-q"]) == 0
    count = sum(1 for _ in growth.Path(words[0]).iterdir())
    return growth.Usage(2.0 + 8.0 * (count - 1), 123.4)


def test_each_row_is_restored_and_restored_again(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(["--counts", "1", "3", "--megapixels", "0.5", "--compact"], in_this_process)
    start, _, head, _, *rows = capsys.readouterr().out.splitlines()
    assert start.startswith("start: 2.00 CPU s")
    columns = [name.strip() for name in head.strip("|").split("|")]
    one, three, large = (
        dict(zip(columns, (cell.strip() for cell in row.strip("|").split("|")), strict=True)) for row in rows
    )
    assert (one["images"], one["tiles"], one["CPU s"], one["peak MB"]) == ("1", "1", "2.0", "123")
    assert one["images per CPU s"] == one["tiles per CPU s"] == one["MP per CPU s"] == "–", "all of it is the start"
    assert (three["images"], three["MP out"], three["tiles"], three["CPU s"]) == ("3", "0.0369", "3", "18.0")
    assert (three["images per CPU s"], three["MP per CPU s"]) == ("0.188", "0.0023")
    assert int(large["tiles"]) > 1 and float(large["MP out"]) == pytest.approx(0.5, rel=0.02)
    assert large["model"] == "costless"


def test_a_run_that_leaves_images_out_is_no_measurement() -> None:
    def lazy(words: Sequence[str]) -> growth.Usage:
        return growth.Usage(1.0, 1.0)

    with pytest.raises(VarestorerError, match="0 of 2 images"):
        growth.measured_row(lazy, "compact", 0.5, 2, (8, 8))


def test_a_process_is_measured_alone_and_its_failure_is_told() -> None:
    with pytest.raises(VarestorerError, match=r"code 2: .*nowhere"):
        growth.restore_process(["nowhere", "out"])
    used = growth.usage_of([sys.executable, "-S", "-c", "sum(range(10**6))"])
    assert 0 < used.cpu < 5
    assert 1 < used.peak_mb < 100, "this process, with torch loaded, is larger"
