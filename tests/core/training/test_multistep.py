"""Teachers that see the degraded image: one network that teaches, and restores scale after scale."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from varestorer_cli.core.errors import CheckpointError, UsageError
from varestorer_cli.core.training.builder import StageBuilder
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.data.crops import CropCacheConfig, held_out
from varestorer_cli.core.training.distill import DistillTask
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Variant, preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.stages import TeacherTask
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer
from varestorer_models.multistep import MultiStepRestorer
from varestorer_models.restorer import OneStepRestorer

MINI = preset("mini")


def batch(seed: int) -> PairBatch:
    """The same sharp images, whatever the seed; it is the degraded ones'."""
    generator = torch.Generator().manual_seed(3)
    sharp = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    degraded = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return PairBatch(sharp, degraded, torch.arange(2))


def task(share: float) -> TeacherTask:
    torch.manual_seed(0)
    recipe = replace(MINI.recipes["teacher"], variant=Variant(degraded=share))
    options = TrainOptions(stage="teacher", data=Path(), out=Path(), preset="mini")
    builder = StageBuilder(
        options, MINI, recipe, torch.device("cpu"), None, torch.Generator().manual_seed(0), fresh=True
    )
    made, _ = builder.build()
    assert isinstance(made, TeacherTask)
    made.tokenizer.autoencoder.reset_parameters(torch.Generator().manual_seed(0))
    return made


def loss(made: TeacherTask, seed: int, draws: int = 0) -> float:
    return float(made.terms(batch(seed), torch.Generator().manual_seed(draws))["cross_entropy"].detach())


def test_the_share_decides_how_often_the_degraded_image_is_seen() -> None:
    seen, blind, both = task(1.0), task(0.0), task(0.5)
    assert loss(seen, 1) != loss(seen, 2)
    assert loss(blind, 1) == loss(blind, 2)
    assert blind.prerestorer is None
    differs = [loss(both, 1, draws) != loss(both, 2, draws) for draws in range(12)]
    assert 2 <= sum(differs) <= 10


def test_the_prerestorer_stays_as_it_is() -> None:
    made = task(1.0)
    made.terms(batch(1), torch.Generator().manual_seed(0))["cross_entropy"].backward()
    assert made.prerestorer is not None
    assert all(p.grad is None for module in (made.prerestorer, made.tokenizer) for p in module.parameters())
    level = made.transformer.level_embedding.weight.grad
    assert level is not None and bool((level.abs().sum(1) > 0).all())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stages before distillation, two steps each."""
    folder = tmp_path_factory.mktemp("mini")
    photos, rng = folder / "photos", np.random.default_rng(0)
    photos.mkdir()
    names = [name for name in (f"photo_{n}.png" for n in range(200)) if held_out(name, CropCacheConfig())][:1]
    for name in [*names, *(f"training_{n}.png" for n in range(3))]:
        small = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / name), cv2.resize(small, (200, 160), interpolation=cv2.INTER_CUBIC))
    for stage in ("prerestorer", "tokenizer", "teacher"):
        train(options(stage, folder))
    return folder


def options(stage: str, folder: Path) -> TrainOptions:
    return TrainOptions(
        stage=stage,
        data=folder / "photos",
        out=folder / stage,
        preset="mini",
        steps=2,
        batch=2,
        crops=12,
        threads=1,
        device="cpu",
        quiet=True,
        losses={"features": 0.0, "texture": 0.1} if stage == "distill" else {},
    )


def test_a_teachers_run_restores_scale_after_scale(chain: Path) -> None:
    restorer = load_restorer(chain / "teacher").restorer
    assert isinstance(restorer, MultiStepRestorer)
    assert restorer(torch.rand(1, 3, 64, 64)).image_B3TT.shape == (1, 3, 64, 64)
    assert "psnr_restored" in load_bundle(chain / "teacher" / "model.safetensors").notes["validation"]


def test_a_student_and_its_teacher_in_one_file_teach_again(chain: Path, tmp_path: Path) -> None:
    """The bundled model is such a file; its student, alone in a run, is none, and says whether it is causal."""
    given = replace(options("distill", chain), steps=1, cache=chain / "cache", teacher=Path("mini"))
    train(replace(given, out=tmp_path / "a", prerestorer=chain / "prerestorer"))
    causal = {"attention": "causal"}
    train(replace(given, out=tmp_path / "b", prerestorer=Path("mini"), variant=causal))
    for name in ("a", "b"):
        restorer = load_restorer(tmp_path / name).restorer
        assert isinstance(restorer, OneStepRestorer) and not isinstance(restorer, MultiStepRestorer)
        assert restorer.config.causal is (name == "b")
        assert restorer(torch.rand(1, 3, 64, 64)).image_B3TT.shape == (1, 3, 64, 64)
    with pytest.raises(CheckpointError, match="holds a student"):
        train(replace(given, out=tmp_path / "c", teacher=tmp_path / "a", prerestorer=Path("mini")))


def test_what_has_no_use_is_refused(tmp_path: Path) -> None:
    given = TrainOptions(stage="teacher", data=tmp_path, out=tmp_path, preset="smoke", dry_run=True)
    with pytest.raises(UsageError, match="--prerestorer"):
        train(replace(given, prerestorer=tmp_path))
    with pytest.raises(UsageError, match="--degraded"):
        train(replace(given, stage="tokenizer", variant={"degraded": 0.5}))
    with pytest.raises(UsageError, match="--degraded"):
        train(replace(given, variant={"degraded": 1.5}))


def test_distillation_takes_the_teacher_that_sees_the_degraded_image() -> None:
    """Its KL is another than the blind teacher's, and depends on the degraded image through the teacher too."""

    def distilled(share: float) -> DistillTask:
        torch.manual_seed(0)
        recipe = replace(MINI.recipes["distill"], losses={"kl": 1.0}, variant=Variant(degraded=share))
        wanted = replace(options("distill", Path()), prerestorer=Path("mini"), teacher=Path("mini"))
        builder = StageBuilder(wanted, MINI, recipe, torch.device("cpu"), None, torch.Generator().manual_seed(0))
        made, _ = builder.build()
        assert isinstance(made, DistillTask)
        return made

    def kl(made: DistillTask, seed: int) -> float:
        return float(made.terms(batch(seed), torch.Generator().manual_seed(0))["kl"].detach())

    seeing, blind = distilled(1.0), distilled(0.0)
    assert kl(seeing, 1) != kl(blind, 1)

    def scores(made: DistillTask, seed: int) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        original = made.teacher.forward

        def spy(*arguments: object, **named: object) -> torch.Tensor:
            out = original(*arguments, **named)  # type: ignore[arg-type]
            seen.append(out)
            return out

        made.teacher.forward = spy  # type: ignore[method-assign, assignment]
        kl(made, seed)
        made.teacher.forward = original  # type: ignore[method-assign]
        return seen[0]

    assert not torch.equal(scores(seeing, 1), scores(seeing, 2))
    assert torch.equal(scores(blind, 1), scores(blind, 2))
