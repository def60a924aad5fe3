"""The dial of the bundled models: from its sharp to its faithful end the image comes nearer to the original."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from varestorer_cli.core.weights.model_file import load_restorer

DATA = Path(str(resources.files("varestorer_cli.data")))


@pytest.mark.parametrize("crop", [(0, 0), (16, 16)])
@pytest.mark.parametrize("model", ["fine", "compact"])
@torch.inference_mode()
def test_psnr_grows_with_fidelity(model: str, crop: tuple[int, int]) -> None:
    photo = Image.open(DATA / "samples" / "honey_bee.png").convert("RGB").crop((*crop, crop[0] + 112, crop[1] + 112))
    generator = np.random.default_rng(0)
    small = np.asarray(photo.resize((28, 28), Image.Resampling.BICUBIC), np.float32)
    noisy = Image.fromarray((small + generator.normal(0, 6, small.shape)).clip(0, 255).astype(np.uint8))
    degraded, sharp = (
        torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
        for image in (noisy.resize((112, 112), Image.Resampling.BICUBIC), photo)
    )
    found = []
    for fidelity in (0.0, 0.25, 1.0):
        loaded = load_restorer(model)
        assert loaded.dial is not None
        loaded.dial.set(loaded.restorer.prerestorer, fidelity)
        error = (loaded.restorer(degraded).image_B3TT - sharp).square().mean()
        found.append(float(-10 * torch.log10(error)))
    assert found == sorted(found) and found[-1] > found[0] + 0.2, found
