"""The GPU benchmark at small widths on a CPU: it runs to the end, and what it measures is what it says."""

import pytest
import torch

from varestorer_cli.bench.gpu import build, main, measure, sizes_of


def test_it_runs_on_a_cpu_at_small_widths(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--device", "cpu", "--precision", "fp32", "--batches", "1", "2", "--rounds", "1"])
    text = capsys.readouterr().out
    assert text.count("| ours | 1 |") == text.count("| ours | 2 |") == text.count("| released | 1 |") == 7
    assert "TFLOP/s (matrix product in float32), copy" in text and "first call:" in text
    assert "batch 2: idle not measured, peak memory not measured" in text


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
    assert "batch 8: idle" in capsys.readouterr().out
