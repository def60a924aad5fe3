"""No bundled model carries tokens for show: where it has any, noise in their place costs at least 1 dB."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from varestorer_cli.core.score.codes import ReplacedCodes
from varestorer_cli.core.score.options import Codes
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.restorer import OneStepRestorer

DATA = Path(str(resources.files("varestorer_cli.data")))
MODELS = sorted(DATA.glob("*.safetensors"))


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    return float(-10 * torch.log10(torch.mean((image - reference) ** 2)))


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
@torch.inference_mode()
def test_noise_codes_cost_at_least_a_decibel_or_there_are_no_tokens(path: Path) -> None:
    restorer = load_restorer(path, "cpu").restorer
    if not isinstance(restorer, OneStepRestorer):
        return
    side = restorer.tile
    photo = Image.open(DATA / "samples" / "honey_bee.png").convert("RGB")
    reference = photo.resize((side, side), Image.Resampling.LANCZOS)
    small = reference.resize((side // 4, side // 4), Image.Resampling.BICUBIC)
    degraded, sharp = (
        torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
        for image in (small.resize((side, side), Image.Resampling.BICUBIC), reference)
    )
    predicted = psnr(restorer(degraded, sampling="argmax").image_B3TT, sharp)
    noise = psnr(ReplacedCodes(restorer, Codes.NOISE)(degraded).image_B3TT, sharp)
    assert noise <= predicted - 1, f"{path.name}: predicted codes {predicted:.2f} dB, coin flips {noise:.2f} dB"


def test_the_models_are_where_this_test_looks() -> None:
    assert MODELS
