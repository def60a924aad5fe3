import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran, load, photo, save

from varestorer_cli.core.image.resample import Resampler
from varestorer_cli.core.training.presets import preset
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder; what an untrained tokenizer draws is no fault."""
    monkeypatch.setenv("VARESTORER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("varestorer_cli.core.engine.engine.fault", lambda restored, degraded: None)
    monkeypatch.chdir(tmp_path)


def build(guided: bool) -> OneStepRestorer:
    smoke = preset("smoke")
    generator = torch.Generator().manual_seed(0)
    tokenizer = ImageTokenizer(
        replace(smoke.tokenizer, autoencoder=replace(smoke.tokenizer.autoencoder, guided=guided))
    )
    tokenizer.autoencoder.reset_parameters(generator)
    if guided:  # as it starts, the decoder gives its guide back whatever the codes
        last = [module for module in tokenizer.autoencoder.decoder.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        torch.nn.init.normal_(last.weight, std=0.1, generator=generator)
    prerestorer = ConvRestorer(smoke.prerestorer)
    prerestorer.reset_parameters(generator)
    return OneStepRestorer(smoke.restorer, prerestorer, tokenizer, Transformer(smoke.teacher)).eval()


def tensor(picture: Any) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]


def samples(image: torch.Tensor) -> Any:
    return np.floor(image[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255 + 0.5).astype(np.uint8)


def test_a_reference_goes_through_the_tokenizer_alone(cli: Cli, tmp_path: Path) -> None:
    restorer = build(guided=False)
    side = restorer.tile
    save(tmp_path / "gt/one.png", photo(side, side, seed=1))
    save(tmp_path / "gt/odd.png", photo(side + 21, 2 * side + 3, seed=2))
    ran = cli("score", "--ceiling", "-r", "gt", "--metrics", "psnr_rgb", model=restorer)
    assert ran.code == 0 and "ceiling of compact on gt: 2 pairs scored" in ran.out
    assert "ceiling: references sent through the tokenizer alone" in ran.out
    made = tmp_path / "scores/gt-compact-ceiling"
    assert load(made / "odd.png").shape == (side + 21, 2 * side + 3, 3)
    with torch.inference_mode():
        expected = (restorer.tokenizer(tensor(load(tmp_path / "gt/one.png")) * 2 - 1) + 1) / 2
    assert int(np.abs(load(made / "one.png").astype(int) - samples(expected)).max()) <= 1


def test_a_guided_decoder_gets_the_pre_restored_input_and_the_references_codes(cli: Cli, tmp_path: Path) -> None:
    restorer = build(guided=True)
    side = restorer.tile
    small, large = photo(side // 4, side // 4, seed=1), photo(side, side, seed=2)
    save(tmp_path / "set/lq/a.png", small)
    save(tmp_path / "set/gt/a.png", large)
    assert cli("score", "--ceiling", "--dataset", "set", "--metrics", "psnr_rgb", model=restorer).code == 0
    upscaled = Resampler(small.shape[:2], (side, side), restorer.config.upscale_filter).window(small, 0, 0, side, side)
    degraded = torch.from_numpy(upscaled.clip(0, 1)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        codes = restorer.tokenizer.quantize(restorer.tokenizer.encode(tensor(large) * 2 - 1)).accumulated_Bdhw
        expected = (restorer.decode(codes, restorer.prerestore(degraded)) + 1) / 2
    made = load(tmp_path / "scores/set-compact-ceiling/a.png")
    assert int(np.abs(made.astype(int) - samples(expected)).max()) <= 1
    ran = cli("score", "--ceiling", "-r", "set/gt", model=restorer)
    assert ran.code == 2 and "its ceiling needs the degraded pictures too" in ran.err


def test_what_is_done_is_kept_and_what_fails_is_named(cli: Cli, tmp_path: Path) -> None:
    restorer = build(guided=False)
    for name in ("a", "b"):
        save(tmp_path / f"gt/{name}.png", photo(restorer.tile, restorer.tile))
    words = ("score", "--ceiling", "-r", "gt", "--metrics", "psnr_rgb")
    assert cli(*words, model=restorer).code == 0
    made = tmp_path / "scores/gt-compact-ceiling"
    for name in ("a", "b"):
        os.utime(made / f"{name}.png", (1, 1))
    save(tmp_path / "gt/b.png", photo(restorer.tile, restorer.tile, seed=5))
    assert cli(*words, model=restorer).code == 0
    assert (made / "a.png").stat().st_mtime == 1 and (made / "b.png").stat().st_mtime != 1
    (tmp_path / "gt/b.png").write_bytes(b"broken")
    ran = cli(*words, model=restorer)
    assert ran.code == 1 and "error: b: not restored:" in ran.err and "1 pair scored, 1 failed" in ran.out
    assert cli("score", "--ceiling", model=restorer).code == 2
