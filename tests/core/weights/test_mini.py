"""The bundled model of the whole method: small, nothing past its codes, one pass or all steps.

That it teaches is tested where teachers are: ``tests/core/training/test_multistep.py``.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from varestorer_cli.app import run
from varestorer_cli.core.choices import Sampling, Steps
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.restore.session import open_session
from varestorer_cli.core.score.codes import ReplacedCodes
from varestorer_cli.core.score.options import Codes
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_cli.core.weights.root import PACKAGE
from varestorer_models.multistep import MultiStepRestorer, multistep
from varestorer_models.restorer import OneStepRestorer

SAMPLE = PACKAGE / "data" / "samples" / "honey_bee.png"


@pytest.fixture(scope="module")
def mini() -> OneStepRestorer:
    restorer = load_restorer("mini").restorer
    assert isinstance(restorer, OneStepRestorer)
    return restorer


def test_it_is_the_preset_of_its_name_and_small(mini: OneStepRestorer) -> None:
    assert (PACKAGE / "data" / "mini.safetensors").stat().st_size <= 12e6
    sizes = preset("mini")
    assert mini.tokenizer.config == sizes.tokenizer
    assert mini.transformer.config == sizes.teacher
    assert mini.teacher is not None and mini.teacher.config == sizes.teacher
    assert not mini.tokenizer.config.autoencoder.guided and mini.config.color_fix == "none"
    assert mini.config.extra_block and not mini.config.causal and mini.config.steps == "one"


def crops() -> tuple[torch.Tensor, torch.Tensor]:
    """Four sharp tiles of a photograph and degraded ones, (4, 3, 64, 64) in [0, 1]."""
    photo = cv2.imread(str(SAMPLE))[..., ::-1]
    sharp = [photo[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)]
    degraded = [
        cv2.resize(cv2.resize(one, (16, 16), interpolation=cv2.INTER_AREA), (64, 64), interpolation=cv2.INTER_CUBIC)
        for one in sharp
    ]
    tensors = [torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float() / 255 for some in (sharp, degraded)]
    return tensors[0], tensors[1]


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    return float(-10 * (image - reference).square().mean().log10())


@torch.inference_mode()
@pytest.mark.parametrize("steps", ["one", "all"])
def test_its_codes_make_the_image(mini: OneStepRestorer, steps: str) -> None:
    sharp, degraded = crops()
    restorer = mini if steps == "one" else multistep(mini)
    restored = psnr(restorer(degraded).image_B3TT, sharp)
    noise = psnr(ReplacedCodes(restorer, Codes.NOISE)(degraded).image_B3TT, sharp)
    ceiling = psnr((mini.tokenizer(sharp * 2 - 1) + 1) / 2, sharp)
    assert noise < restored - 3 and restored < ceiling - 1


def restored(**options: Any) -> Any:
    session = open_session(RestoreOptions(model="mini", threads=1, device="cpu", **options))
    image = np.ascontiguousarray(cv2.imread(str(SAMPLE))[:16, :16, ::-1])
    return session.engine.restore(ImageTask(image, (64, 64), key="one", dtype=np.uint8)).image


def test_one_step_and_all_steps_sampled_or_not() -> None:
    plain, every = restored(), restored(steps=Steps.ALL)
    assert not np.array_equal(plain, every)
    for steps in (Steps.ONE, Steps.ALL):
        drawn = [restored(steps=steps, sampling=Sampling.SAMPLE, seed=seed) for seed in (1, 1, 2)]
        assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert isinstance(open_session(RestoreOptions(model="mini", steps=Steps.ALL)).engine.model, MultiStepRestorer)


def test_score_asks_what_its_codes_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, side in (("gt", 128), ("lq", 32)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        image = cv2.resize(cv2.imread(str(SAMPLE)), (side, side), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / "set" / folder / "a.png"), image)
    found = {}
    for codes in ("predicted", "input", "noise"):
        command = [
            "score",
            "--dataset",
            str(tmp_path / "set"),
            "-m",
            "mini",
            "--codes",
            codes,
            "--metrics",
            "psnr_y",
            "-q",
        ]
        assert run([*command, "--restored", str(tmp_path / codes), "--metrics", "psnr_y"]) == 0
        found[codes] = (tmp_path / codes / "a.png").read_bytes()
    assert len(set(found.values())) == 3
