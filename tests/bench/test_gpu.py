"""The GPU benchmark at small widths on a CPU: it runs to the end, and what it measures is what it says."""

from typing import Any

import pytest
import torch

from varestorer_cli.bench.gpu import build, main, measure, sizes_of


def test_it_runs_on_a_cpu_at_small_widths(compiler: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--device", "cpu", "--precision", "fp32", "--batches", "1", "2", "--rounds", "1"])
    text = capsys.readouterr().out
    assert len(compiler) == 1
    assert text.count("| ours | 1 |") == text.count("| ours | 2 |") == text.count("| released | 1 |") == 7
    assert "TFLOP/s (matrix product in float32), copy" in text
    engine = [line.split(" | ") for line in text.partition("whole images through the engine")[2].splitlines()[2:]]
    assert [row[0] for row in engine] == ["| batch 1", "| batch 2", "| batch 2, compiled"]
    assert all(row[2:4] == ["not measured", "not measured"] and float(row[1]) > 0 for row in engine)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """In place of torch.compile, which takes minutes; collects what it was asked for."""
    asked: list[dict[str, Any]] = []

    def compiled(model: Any, **settings: Any) -> Any:
        asked.append(settings)
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    return asked


def test_the_whole_call_is_the_sum_of_its_stages_in_arithmetic() -> None:
    cpu = torch.device("cpu")
    table = measure(build(sizes_of("tiny"), cpu), 1, cpu, "fp32", 1)
    flops = {stage: value for stage, (_, value) in table.items()}
    whole = flops.pop("whole call")
    assert whole == pytest.approx(sum(flops.values()), rel=0.01) and whole > 1e8
    assert flops["decoder"] > flops["encoder"] > flops["quantiser, tokens"]


def test_full_size_asks_for_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--size", "2b", "--device", "cpu"])
    assert "--size tiny" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_runs_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--rounds", "1"])
    assert "| batch 8 | " in capsys.readouterr().out
