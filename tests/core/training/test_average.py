"""Averages of model files: values by hand, layouts that do not agree, files that exist."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from varestorer_cli.app import run
from varestorer_cli.core.errors import CheckpointError, MissingDependencyError, UsageError
from varestorer_cli.core.training.average import average_models, make_dial
from varestorer_cli.core.training.tool_options import AverageOptions, DialOptions
from varestorer_cli.core.weights.model_file import load_bundle, save_bundle
from varestorer_models.conv_restorer import ConvRestorer, ConvRestorerConfig
from varestorer_models.first_stage import RestorerConfig
from varestorer_models.rrdb import RRDBConfig, RRDBNet

CONFIG = RRDBConfig(width=4, growth=2, blocks=1)


def written(path: Path, seed: int, config: RRDBConfig = CONFIG, licence: str = "") -> Path:
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(path, {"prerestorer": RRDBNet(config)}, notes={"licence": licence})
    return path


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_bundle(path).components["prerestorer"].state_dict()


@pytest.mark.parametrize(("words", "shares"), [([], (0.5, 0.5)), (["--weights", "0.25,0.75"], (0.25, 0.75))])
def test_the_command_mixes_a_run_and_a_file(
    words: list[str], shares: tuple[float, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = written(tmp_path / "a" / "model.safetensors", 1), written(tmp_path / "b.safetensors", 2)
    out = tmp_path / "mix"
    assert run(["train", "average", str(a.parent), str(b), *words, "--out", str(out)]) == 0
    assert capsys.readouterr().err == f"model: {out / 'model.safetensors'}\n"
    mixed, first, second = state(out / "model.safetensors"), state(a), state(b)
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, first[name] * shares[0] + second[name] * shares[1])
    parts = json.loads(load_bundle(out / "model.safetensors").notes["of"])
    assert [part["weight"] for part in parts] == list(shares)
    assert [part["sha256"] for part in parts] == [load_bundle(path).sha256 for path in (a, b)]


def test_three_models_have_a_third_each(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{n}.safetensors", n) for n in range(3)]
    out = average_models(AverageOptions(tuple(files), tmp_path / "mean.safetensors"))
    for name, tensor in state(out).items():
        torch.testing.assert_close(tensor, sum(state(file)[name] for file in files) / 3)


def test_licences_of_all_are_kept_unless_another_is_given(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{n}.safetensors", n, licence=text) for n, text in enumerate(("MIT", "BSD", "MIT"))]
    both = average_models(AverageOptions(tuple(files), tmp_path / "x.safetensors"))
    assert load_bundle(both).notes["licence"] == "MIT; BSD"
    other = average_models(AverageOptions(tuple(files), tmp_path / "y.safetensors", license_text="mine"))
    assert load_bundle(other).notes["licence"] == "mine"


def test_half_is_half_the_size(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{n}.safetensors", n) for n in range(2)]
    asked = AverageOptions(tuple(files), tmp_path / "whole.safetensors")
    whole, half = average_models(asked), average_models(replace(asked, out=tmp_path / "half.safetensors", half=True))
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    for name, tensor in state(half).items():
        torch.testing.assert_close(tensor, state(whole)[name].half().float())


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0.5], "1 numbers for 2 models"), ([0.7, 0.7], "they are 1.4"), ([2.0, -1.0], "between 0 and 1"),
     ([float("nan"), 1.0], "between 0 and 1")],
)  # fmt: skip
def test_unusable_weights_are_refused(weights: list[float], message: str, tmp_path: Path) -> None:
    files = [written(tmp_path / f"{n}.safetensors", n) for n in range(2)]
    with pytest.raises(UsageError, match=message):
        average_models(AverageOptions(tuple(files), tmp_path / "out.safetensors", tuple(weights)))
    assert not (tmp_path / "out.safetensors").exists()


def test_one_model_or_words_for_weights_are_refused(tmp_path: Path) -> None:
    a = written(tmp_path / "a.safetensors", 1)
    with pytest.raises(UsageError, match="two models or more"):
        average_models(AverageOptions((a,), tmp_path / "out"))
    assert run(["train", "average", str(a), str(a), "--weights", "half,half", "--out", str(tmp_path / "out")]) == 2


def test_models_of_other_layouts_are_refused(tmp_path: Path) -> None:
    a = written(tmp_path / "a.safetensors", 1)
    deeper = written(tmp_path / "deeper.safetensors", 1, replace(CONFIG, blocks=2))
    other = tmp_path / "other.safetensors"
    save_bundle(other, {"prerestorer": ConvRestorer(ConvRestorerConfig(width=8, blocks=1))})
    part = tmp_path / "part.safetensors"
    save_bundle(part, {"something": RRDBNet(CONFIG)})
    refused = ((deeper, "prerestorer differ"), (other, "prerestorer differ"), (part, "the other something"))
    for second, message in refused:
        with pytest.raises(CheckpointError, match=message):
            average_models(AverageOptions((a, second), tmp_path / "out.safetensors"))
    with pytest.raises(MissingDependencyError):
        average_models(AverageOptions((a, tmp_path / "missing"), tmp_path / "out.safetensors"))


def test_an_existing_file_stays(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.safetensors", 1), written(tmp_path / "b.safetensors", 2)
    before = b.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        average_models(AverageOptions((a, b), b))
    assert b.read_bytes() == before


# --- dial


def first_stage(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_bundle(path, {"prerestorer": RRDBNet(CONFIG)}, restorer=RestorerConfig(tile=64))
    return path


def test_the_dial_command_writes_the_line_through_the_default_point_and_the_faithful_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (first_stage(tmp_path / f"{n}.safetensors", n) for n in range(2))
    out = tmp_path / "dial"
    assert run(["train", "dial", str(a), str(b), "--default", "0.25", "--out", str(out)]) == 0
    assert capsys.readouterr().err == f"model: {out / 'model.safetensors'}\n"
    base, faithful = state(a), state(b)
    for point in (0.0, 0.25, 1.0):
        bundle = load_bundle(out / "model.safetensors")
        assert bundle.dial is not None and bundle.dial.default == 0.25
        network = bundle.components["prerestorer"]
        bundle.dial.set(network, point)
        for name, tensor in network.state_dict().items():
            wanted = torch.lerp(base[name], faithful[name], (point - 0.25) / 0.75)
            torch.testing.assert_close(tensor, wanted, atol=2e-3, rtol=2e-3)


def test_a_dial_between_models_that_are_no_first_stage_is_refused(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.safetensors", 1), written(tmp_path / "b.safetensors", 2)
    with pytest.raises(CheckpointError, match="two pre-restorers"):
        make_dial(DialOptions(a, b, tmp_path / "out.safetensors", 0.5))


def test_a_dial_needs_a_default_between_its_ends_and_a_new_file(tmp_path: Path) -> None:
    a, b = (first_stage(tmp_path / f"{n}.safetensors", n) for n in range(2))
    with pytest.raises(UsageError, match=r"--default 1\.5"):
        DialOptions(a, b, tmp_path / "out.safetensors", 1.5)
    with pytest.raises(UsageError, match="exists already"):
        make_dial(DialOptions(a, b, a, 0.5))
