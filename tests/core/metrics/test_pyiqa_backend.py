"""Metrics of pyiqa: wrapped, in batches, with their weights, or refused with what is missing."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
from conftest import flat

from varestorer_cli.core.errors import ExitCode, MissingDependencyError, UsageError
from varestorer_cli.core.metrics import lpips_backend, pyiqa_backend
from varestorer_cli.core.metrics.base import hub_folder
from varestorer_cli.core.metrics.registry import load_metrics


class FakePyiqa(ModuleType):
    """pyiqa with three metrics: gmsd (a difference), niqe (needs a file), wild (random)."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("pyiqa")
        self.error = error

    def list_models(self) -> list[str]:
        return ["fid", "fid_dinov2", "gmsd", "niqe", "wild"]

    def create_metric(self, name: str, device: str) -> Any:
        import torch

        sys.stdout.write("Loading pretrained model\n")
        if self.error is not None:
            raise self.error
        if name == "gmsd":
            return _metric(lambda a, b: (a - b).abs().mean(), "FR", True)
        if name == "niqe":
            return _metric(lambda a: a.mean(), "NR", True)
        return _metric(lambda a: torch.rand(1), "NR", False)


def _metric(work: Any, mode: str, lower: bool) -> Any:
    class Call(SimpleNamespace):
        def __call__(self, *tensors: Any) -> Any:
            assert all(t.ndim == 4 and t.shape[1] == 3 and t.min() >= 0 and t.max() <= 1 for t in tensors)
            sys.stdout.write("chatter\n")
            return work(*tensors)

    return Call(metric_mode=mode, lower_better=lower)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of torch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub"


def test_pyiqa_is_wrapped(monkeypatch: pytest.MonkeyPatch, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", FakePyiqa())
    said: list[str] = []
    monkeypatch.setattr(pyiqa_backend, "_installed", lambda: True)
    gmsd, niqe = load_metrics(["gmsd", "niqe"], device="cpu", notify=said.append)
    assert (gmsd.needs_reference, gmsd.lower_better, gmsd.label) == (True, True, "GMSD")
    assert niqe.needs_reference is False
    assert gmsd.library.startswith("pyiqa ") and gmsd.library.endswith(" on cpu")
    assert gmsd.compute(flat(102), flat(51)) == pytest.approx(0.2)
    assert niqe.compute(flat(102), None) == pytest.approx(0.4)
    licence = [text for text in said if "PolyForm Noncommercial" in text]
    assert len(licence) == 1 and "S-Lab" in licence[0]
    assert f"niqe: pyiqa will try to download niqe_modelparameters.mat into {hub}." in said
    out, err = capsys.readouterr()
    assert out == "" and "Loading pretrained model" in err and "chatter" in err


def test_a_random_metric_gives_one_image_one_score(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    import torch

    monkeypatch.setitem(sys.modules, "pyiqa", FakePyiqa())
    (wild,) = load_metrics(["wild"])
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert wild.compute(flat(1), None) == wild.compute(flat(1), None)
    assert torch.equal(torch.random.get_rng_state(), state)  # and takes nothing from the program's generator


def test_pyiqa_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MissingDependencyError) as caught:
        load_metrics(["psnr_y", "niqe", "psnr_v"])
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert "pip install 'pyiqa" in text and "niqe, psnr_v" in text
    assert "Did you mean psnr_y (for psnr_v)?" in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "pip install timm"),
        (ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources"), "setuptools<81"),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision::nms"),
    ],
)
def test_pyiqa_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "pyiqa":
                raise error

    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(MissingDependencyError, match="installed") as caught:
        load_metrics(["niqe"])
    assert words in str(caught.value) and "not installed, and it alone" not in str(caught.value)


def test_a_missing_weight_file_is_named_with_its_folder(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", FakePyiqa(URLError("Name or service not known")))
    monkeypatch.setattr(pyiqa_backend, "_installed", lambda: True)
    (niqe,) = load_metrics(["niqe"])  # nothing is loaded before a score is needed
    with pytest.raises(MissingDependencyError) as caught:
        niqe.prepare()
    text = str(caught.value)
    assert str(hub / "pyiqa/niqe_modelparameters.mat") in text
    assert "these files are missing" in text and "Name or service not known" in text and "TORCH_HOME" in text


def test_a_present_weight_file_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    (hub / "pyiqa").mkdir(parents=True)
    (hub / "pyiqa/niqe_modelparameters.mat").write_bytes(b"half")
    monkeypatch.setitem(sys.modules, "pyiqa", FakePyiqa(ValueError("Unknown mat file type")))
    said: list[str] = []
    monkeypatch.setattr(pyiqa_backend, "_installed", lambda: True)
    (niqe,) = load_metrics(["niqe"], notify=said.append)
    with pytest.raises(MissingDependencyError, match="may be damaged"):
        niqe.compute(flat(1), None)
    assert not any("download" in text for text in said)


def test_unknown_and_whole_folder_metrics_are_refused(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", FakePyiqa())
    with pytest.raises(UsageError, match=r"No metric is called gsmd\. Did you mean gmsd \(for gsmd\)\?"):
        load_metrics(["gsmd"])
    with pytest.raises(UsageError, match="whole folders"):
        load_metrics(["fid_dinov2"])


def test_nothing_is_imported_where_every_score_is_known(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    monkeypatch.setattr(pyiqa_backend, "_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # an import would fail
    loaded = load_metrics(["niqe", "maniqa-pipal", "fid", "psnr_y"], device="cpu")
    assert [(m.needs_reference, m.lower_better, m.whole_set) for m in loaded] == [
        (False, True, False),
        (False, False, False),
        (True, True, True),
        (True, False, False),
    ]
    with pytest.raises(MissingDependencyError):
        loaded[0].prepare()


def test_other_weights_are_another_version(hub: Path) -> None:
    (hub / "pyiqa").mkdir(parents=True)
    files = ("pyiqa/niqe_modelparameters.mat", "HF:something")
    assert pyiqa_backend.weights_version(files) == ""
    (hub / files[0]).write_bytes(b"123")
    first = pyiqa_backend.weights_version(files)
    (hub / files[0]).write_bytes(b"1234")
    assert first and pyiqa_backend.weights_version(files) != first


def test_images_go_to_pyiqa_in_batches(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    class Batched(FakePyiqa):
        def create_metric(self, name: str, device: str) -> Any:
            def work(*tensors: Any) -> Any:
                shapes.append(tuple(tensors[0].shape))
                return tensors[0].mean((1, 2, 3), keepdim=name == "dists")[: None if name != "gmsd" else 1]

            return _metric(work, "FR" if name in {"dists", "gmsd"} else "NR", False)

    monkeypatch.setitem(sys.modules, "pyiqa", Batched())
    monkeypatch.setattr(pyiqa_backend, "_installed", lambda: True)
    musiq, dists, gmsd, niqe = load_metrics(["musiq", "dists", "gmsd", "niqe"], device="cpu")
    images = [flat(51), flat(102), flat(255)]
    assert musiq.batch == dists.batch == pyiqa_backend.BATCH and niqe.batch == 1
    assert musiq.measure(images, [None] * 3) == pytest.approx([0.2, 0.4, 1.0])
    assert dists.measure(images, images) == pytest.approx([0.2, 0.4, 1.0])
    assert shapes == [(3, 3, 16, 16)] * 2
    with pytest.raises(ValueError, match="1 scores came back for 3 images"):
        gmsd.measure(images, images)
    with pytest.raises(ValueError, match="got none"):
        dists.measure(images, [flat(1), None, flat(1)])


def test_fid_is_asked_for_two_folders(monkeypatch: pytest.MonkeyPatch, hub: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    class Whole(FakePyiqa):
        def create_metric(self, name: str, device: str) -> Any:
            return lambda a, b, **settings: asked.append((a, b)) or 31.5  # type: ignore[func-returns-value]

    monkeypatch.setitem(sys.modules, "pyiqa", Whole())
    monkeypatch.setattr(pyiqa_backend, "_installed", lambda: True)
    (fid,) = load_metrics(["fid"], device="cpu")
    assert fid.whole_set and fid.measure_set is not None
    assert fid.measure_set(tmp_path / "a", tmp_path / "b") == 31.5
    assert asked == [(str(tmp_path / "a"), str(tmp_path / "b"))]


def test_lpips_takes_the_free_way_where_package_and_backbone_are(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    import torch

    class Distance(torch.nn.Module):
        def __init__(self, net: str, version: str, verbose: bool) -> None:
            super().__init__()
            assert (net, version) == ("alex", "0.1")

        def forward(self, a: Any, b: Any) -> Any:
            assert a.min() >= -1 and a.max() <= 1 and a.shape[1] == 3
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    package = ModuleType("lpips")
    package.LPIPS = Distance  # type: ignore[attr-defined]
    package.__spec__ = importlib.util.spec_from_loader("lpips", None)
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert not lpips_backend.available(), "the backbone is not there"
    with pytest.raises(MissingDependencyError):
        load_metrics(["lpips"])
    lpips_backend.backbone_path().parent.mkdir(parents=True)
    lpips_backend.backbone_path().write_bytes(b"weights")
    monkeypatch.setattr(lpips_backend.metadata, "version", lambda name: "0.1.4")
    said: list[str] = []
    (metric,) = load_metrics(["lpips"], device="cpu", notify=said.append)
    assert (metric.needs_reference, metric.lower_better, metric.library) == (True, True, "lpips 0.1.4 on cpu")
    assert metric.measure([flat(0), flat(255)], [flat(255), flat(255)]) == pytest.approx([2.0, 0.0])
    assert said == [], "no licence to be told"


def test_the_hub_folder_is_torchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.delenv("TORCH_HOME", raising=False)
    for value in (str(tmp_path), None):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert hub_folder() == Path(torch.hub.get_dir())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert hub_folder() == Path(torch.hub.get_dir())


def test_the_table_of_files_has_folders() -> None:
    folders = ("pyiqa/", "checkpoints/", "clip/", "HF:")
    for name, facts in pyiqa_backend.KNOWN.items():
        assert all(file.startswith(folders) for file in facts.files), name


@pytest.mark.weights
def test_what_is_said_of_pyiqas_metrics_is_what_pyiqa_says() -> None:
    configs = pytest.importorskip("pyiqa.default_model_configs").DEFAULT_CONFIGS
    for name, facts in pyiqa_backend.KNOWN.items():
        assert facts.lower == bool(configs[name].get("lower_better", False)), name
        assert facts.whole_set or facts.reference == (configs[name]["metric_mode"] == "FR"), name
