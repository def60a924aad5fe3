"""``make bench-threads`` turns the number of threads and compares rounds with their neighbours."""

from types import SimpleNamespace

import pytest
import torch
from fakes import FakeModel

from varestorer_cli.bench import threads


def test_ratios_are_of_neighbouring_rounds() -> None:
    found = {1: [(4.0, 4.0), (8.0, 8.0), (6.0, 6.0)], 2: [(2.0, 2.5), (4.0, 5.0), (3.0, 3.0)]}
    assert threads.ratios(found, 1) == {1: (1.0, 1.0), 2: (2.0, 1.6)}


def test_every_number_of_threads_computes_the_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    class Watched(FakeModel):
        def restore(self, degraded: torch.Tensor, settings: dict[str, object]) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return degraded

    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "load_restorer", lambda model: SimpleNamespace(restorer=Watched(tile=64)))
    try:
        threads.main(["--models", "fake", "--threads", "1", "2", "--rounds", "2", "--side", "16"])
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 1, 2, 1, 2]
    rows = [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| fake")]
    assert rows == ["1", "2"]
