"""The benchmark of the plumbing still runs; its numbers are nobody's test."""

import pytest

from varestorer_cli.bench import plumbing as iospeed


def test_the_table_has_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    iospeed.main(["--count", "1", "--side", "16", "--rounds", "1", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| png", "| jpg", "| webp", "| tif"]
    assert all(line.count("%") == 2 for line in lines[4:])
