"""What the host does in line with the device: counted, not timed."""

import numpy as np
import pytest

from varestorer_cli.bench.host_work import FakeDevice, main, measure


def test_operations_and_bytes_per_tile() -> None:
    """81 tiles of 512 pixels in calls of four: with 8 us to begin an operation less than 0.2 ms per tile."""
    tiles, _, device = measure(1024, 1, 4)
    assert tiles == 81
    assert 15 < device.answers.count / tiles < 24
    degraded, result = 132 * 132 * 3, 4096 * 4096 * 3
    assert device.bytes_out == result + 5 * tiles, "each pixel once, and five bits per tile"
    assert device.bytes_in < 1.3 * tiles * degraded
    tiles, _, sampled = measure(1024, 1, 4, sampling="sample")
    assert sampled.bytes_in - device.bytes_in == tiles * 2521 * 32 * 2 * 4


def test_the_clock_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDevice, "host", 0.0)
    device = FakeDevice()
    device.compute(2)
    copy = device.to_host(device.to_device(np.zeros(3)))
    assert not copy.ready and device.waited == 0
    copy.array()
    assert copy.ready and device.now == pytest.approx(0.07)
    monkeypatch.setattr(FakeDevice, "host", 0.01)
    device.compute(1)
    assert device.waited == pytest.approx(0.01)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "1", "--batches", "8", "--images", "2"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[1:4] for row in rows[2:]] == [
        ["no", "8", "81"],
        ["yes", "8", "81"],
        ["no", "8", "2"],
        ["yes", "8", "2"],
    ]
