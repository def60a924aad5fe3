"""Labels of a pre-restorer: another restorer's results as its target, made once, cut as the crops are."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_networks import square_grids

from varestorer_cli.core.errors import CheckpointError, UsageError
from varestorer_cli.core.training import builder, presets
from varestorer_cli.core.training.data.crop_cache import CropCache, PairBatches
from varestorer_cli.core.training.data.crops import CropCacheConfig
from varestorer_cli.core.training.labels import LabelNetwork, Labels
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.weights.model_file import load_bundle, save_bundle
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.rrdb import RRDBConfig, RRDBNet
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

SMALL = RRDBConfig(width=8, growth=4, blocks=2)
CPU = torch.device("cpu")


class Inverted(torch.nn.Module):
    """A restorer whose result nobody confuses with another image."""

    calls = 0

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 1 - image_B3HW


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(8):
        noise = rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(noise, (160, 128), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="module")
def cache(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CropCache:
    config = CropCacheConfig(crop=64, scale=4, crops=16, recipe="moderate")
    return CropCache.build(photos, tmp_path_factory.mktemp("cache"), config)


def options(photos: Path, out: Path, **changes: object) -> TrainOptions:
    base = TrainOptions(
        "prerestorer", photos, out, preset="smoke", crops=24, threads=1, device="cpu", log_every=1, quiet=True, steps=2
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_labels_are_cut_and_turned_as_their_crops(cache: CropCache) -> None:
    labels = Labels(LabelNetwork(Inverted(), "0" * 64, "inverted"), cache, CPU, None)
    batches = PairBatches(cache, 4, seed=3, patch=32, labels=labels.of)
    for step in range(4):
        batch = batches.batch(step)
        assert batch.label is not None and batch.label.shape == batch.hq.shape
        parts = batch.parts(2)
        assert torch.equal(torch.cat([part.label for part in parts if part.label is not None]), batch.label)
        smaller = cv2.resize(np.asarray(255 - batch.label[0].permute(1, 2, 0)), (8, 8), interpolation=cv2.INTER_AREA)
        assert np.abs(smaller.astype(float) - np.asarray(batch.lq[0].permute(1, 2, 0))).mean() < 12
    assert PairBatches(cache, 4, seed=3).batch(0).label is None


def test_a_label_is_made_once_and_found_again(cache: CropCache) -> None:
    module = Inverted()
    labels = Labels(LabelNetwork(module, "1" * 64, "inverted"), cache, CPU, None)
    first = labels.of(3, 1)
    assert module.calls == 1
    again = Labels(LabelNetwork(module, "1" * 64, "inverted"), cache, CPU, None)
    assert np.array_equal(again.of(3, 1), first) and module.calls == 1
    assert not np.array_equal(labels.of(3, 0), first) and module.calls == 2, "each degraded version has its own"
    for other in (("2" * 64, None), ("1" * 64, torch.bfloat16)):
        assert Labels(LabelNetwork(module, other[0], "inverted"), cache, CPU, other[1]).folder != labels.folder


def test_a_damaged_label_is_made_again(cache: CropCache) -> None:
    module = Inverted()
    labels = Labels(LabelNetwork(module, "3" * 64, "inverted"), cache, CPU, None)
    first = labels.of(0, 0)
    file = next(labels.folder.rglob("*.png"))
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(labels.of(0, 0), first)
    assert module.calls == 2


def test_the_target_is_the_other_models_result(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network trained on its own result has nothing to learn; on the true image it has."""
    smoke = preset("smoke")
    monkeypatch.setattr(presets, "preset", lambda name: replace(smoke, prerestorer=SMALL))
    torch.manual_seed(0)
    large = RRDBNet(replace(SMALL, blocks=4, unshuffle=1)).requires_grad_(False)
    assert large.conv_last.bias is not None
    large.conv_last.bias.fill_(0.5)  # results within [0, 1], which labels are clamped to
    monkeypatch.setattr(builder, "load_realesrgan", lambda: large)
    start = train(options(photos, tmp_path / "start", steps=0))
    assert int(load_bundle(start).notes["steps"]) == 0

    def first_loss(name: str, **changes: object) -> float:
        out = tmp_path / name
        train(options(photos, out, cache=tmp_path / "cache", precision="fp32", **changes))
        lines = (out / "log.csv").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("train,1,l1,")).split(",")[-1])

    itself = first_loss("itself", label=start, init=start)
    half = first_loss("half", label=start, init=start, label_share=0.5)
    true = first_loss("true", init=start)
    assert 10 * itself < half < true
    assert first_loss("started", label=start) == itself, "without --init, it starts from the label's weights"


def test_zero_steps_write_the_weights_a_run_starts_with(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many blocks as the published network, they are its weights: a file to average with."""
    monkeypatch.setattr(presets, "preset", lambda name: replace(preset("smoke"), prerestorer=SMALL))
    torch.manual_seed(0)
    large = RRDBNet(replace(SMALL, unshuffle=1)).requires_grad_(False)
    monkeypatch.setattr(builder, "load_realesrgan", lambda: large)
    made = load_bundle(train(options(photos, tmp_path / "start", steps=0))).components["prerestorer"].state_dict()
    for name, tensor in large.state_dict().items():
        if not name.startswith("conv_first"):  # fitted to the upscaled image
            assert torch.equal(tensor, made[name]), name


def test_models_that_cannot_be_learnt_from_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--keep needs a network to learn from"):
        train(options(photos, tmp_path / "a", label_share=0.5))
    part = tmp_path / "part.safetensors"
    save_bundle(part, {"something": RRDBNet(SMALL)})
    with pytest.raises(CheckpointError, match="nothing that restores"):
        train(options(photos, tmp_path / "b", label=part))
    large = preset("smoke")
    schedule = square_grids(1, 2, 4, 8, 16)
    tokenizer = replace(
        large.tokenizer, schedule=schedule, quantizer=replace(large.tokenizer.quantizer, scales=len(schedule))
    )
    whole = tmp_path / "whole.safetensors"
    parts = ConvRestorer(large.prerestorer), ImageTokenizer(tokenizer)
    student = Transformer(replace(large.teacher, levels=len(schedule) + 1))
    save_bundle(whole, OneStepRestorer(large.restorer, *parts, student).components(), restorer=large.restorer)
    side = tokenizer.tile
    assert side != large.tokenizer.tile
    with pytest.raises(CheckpointError, match=rf"tiles of {side} pixels, the crops of preset smoke have 64"):
        train(options(photos, tmp_path / "c", label=whole))
