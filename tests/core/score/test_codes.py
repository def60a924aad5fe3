import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran, load, photo, save

from varestorer_cli.core.image.resample import Resampler
from varestorer_cli.core.score.codes import ReplacedCodes
from varestorer_cli.core.score.options import Codes
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.color_fix import adain_fix
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

Cli = Callable[..., Ran]


@dataclass(frozen=True)
class Pair:
    restorer: OneStepRestorer
    degraded: torch.Tensor  # as the model gets it


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder; fp32 everywhere, since rounding to bf16 flips bits near zero."""
    monkeypatch.setattr("varestorer_cli.core.runtime.cpu_has_bf16", lambda: False)
    monkeypatch.setenv("VARESTORER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def mini() -> OneStepRestorer:
    """The bundled model; its decoder sees codes alone."""
    restorer = load_restorer("mini").restorer
    assert isinstance(restorer, OneStepRestorer)
    return restorer


@pytest.fixture(scope="module")
def guided() -> OneStepRestorer:
    """A model whose decoder sees the pre-restored image too. None is bundled, so its weights are random."""
    smoke = preset("smoke")
    generator = torch.Generator().manual_seed(0)
    tokenizer = ImageTokenizer(replace(smoke.tokenizer, autoencoder=replace(smoke.tokenizer.autoencoder, guided=True)))
    tokenizer.autoencoder.reset_parameters(generator)
    torch.nn.init.normal_(tokenizer.autoencoder.decoder.conv_out.weight, std=0.1, generator=generator)  # louder
    prerestorer = ConvRestorer(smoke.prerestorer)
    prerestorer.reset_parameters(generator)
    config = replace(smoke.restorer, color_fix="none")
    return OneStepRestorer(config, prerestorer, tokenizer, Transformer(smoke.teacher)).eval()


def tensor(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def samples(image: torch.Tensor) -> Any:
    return np.floor(image[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255 + 0.5).astype(np.uint8)


def test_a_reference_goes_through_the_tokenizer_alone(cli: Cli, mini: OneStepRestorer, tmp_path: Path) -> None:
    side = mini.tile
    save(tmp_path / "gt/one.png", photo(side, side, seed=1))
    save(tmp_path / "gt/odd.png", photo(side + 21, 2 * side + 3, seed=2))
    ran = cli("score", "--codes", "reference", "-r", "gt", "--metrics", "psnr_rgb", model="mini")
    assert ran.code == 0 and "mini with codes of reference on gt: 2 pairs scored" in ran.out
    assert "codes reference: the encoder's of the reference" in ran.out
    made = tmp_path / "scores/gt-mini-codes-reference"
    assert load(made / "odd.png").shape == (side + 21, 2 * side + 3, 3)
    with torch.inference_mode():
        expected = (mini.tokenizer(tensor(load(tmp_path / "gt/one.png")) * 2 - 1) + 1) / 2
    assert int(np.abs(load(made / "one.png").astype(int) - samples(expected)).max()) <= 1


def test_a_guided_decoder_gets_the_pre_restored_input_and_the_references_codes(
    cli: Cli, guided: OneStepRestorer, tmp_path: Path
) -> None:
    restorer, side = guided, guided.tile
    small, large = photo(side // 4, side // 4, seed=1), photo(side, side, seed=2)
    save(tmp_path / "set/lq/a.png", small)
    save(tmp_path / "set/gt/a.png", large)
    assert cli("score", "--codes", "reference", "--dataset", "set", "--metrics", "psnr_rgb", model=restorer).code == 0
    upscaled = Resampler(small.shape[:2], (side, side), restorer.config.upscale_filter).window(small, 0, 0, side, side)
    degraded = torch.from_numpy(upscaled.clip(0, 1)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        codes = restorer.tokenizer.quantize(restorer.tokenizer.encode(tensor(large) * 2 - 1)).accumulated_Bdhw
        expected = (restorer.decode(codes, restorer.prerestore(degraded)) + 1) / 2
    made = load(tmp_path / "scores/set-fine-codes-reference/a.png")
    assert int(np.abs(made.astype(int) - samples(expected)).max()) <= 1
    ran = cli("score", "--codes", "reference", "-r", "set/gt", model=restorer)
    assert ran.code == 2 and "codes of the reference need the degraded images too" in ran.err


@pytest.fixture
def one(mini: OneStepRestorer, tmp_path: Path) -> Pair:
    """A data set of one tile and the model that restores it."""
    restorer, side = mini, mini.tile
    small, large = photo(side // 4, side // 4, seed=1), photo(side, side, seed=2)
    save(tmp_path / "set/lq/a.png", small)
    save(tmp_path / "set/gt/a.png", large)
    upscaled = Resampler(small.shape[:2], (side, side), restorer.config.upscale_filter).window(small, 0, 0, side, side)
    return Pair(restorer, torch.from_numpy(upscaled.clip(0, 1)).permute(2, 0, 1)[None])


def run(cli: Cli, one: Pair, codes: str, *words: str) -> Any:
    ran = cli("score", "--dataset", "set", "--codes", codes, "--metrics", "psnr_rgb", *words, model="mini")
    assert ran.code == 0, ran.err
    if codes != "predicted":
        assert f"mini with codes of {codes} on set: 1 pair scored" in ran.out and f"codes {codes}: " in ran.out
    name = "set-mini" if codes == "predicted" else f"set-mini-codes-{codes}"
    return load(Path("scores") / name / "a.png").astype(int)


@torch.inference_mode()
def test_only_the_codes_are_replaced(cli: Cli, one: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, tokenizer = one.restorer, one.restorer.tokenizer
    predicted = run(cli, one, "predicted")
    assert np.abs(predicted - samples(restorer(one.degraded).image_B3TT)).max() <= 1
    monkeypatch.setattr(Transformer, "forward", None)  # no source but the prediction asks it
    prerestored = restorer.prerestore(one.degraded)
    own = tokenizer.quantize(tokenizer.encode(prerestored * 2 - 1)).accumulated_Bdhw
    expected = {"input": own, "zeros": torch.zeros_like(own)}
    made = {codes: run(cli, one, codes) for codes in ("input", "zeros", "noise", "reference")}
    for codes, accumulated in expected.items():
        image = samples((restorer.decode(accumulated, prerestored) + 1) / 2)
        assert np.abs(made[codes] - image).max() <= 1, codes
    made["predicted"] = predicted
    for first, second in itertools.combinations(made, 2):
        assert np.abs(made[first] - made[second]).max() > 2, f"{first} and {second} give the same image"


def test_noise_follows_the_seed(cli: Cli, one: Pair) -> None:
    first = run(cli, one, "noise")
    assert (run(cli, one, "noise", "--restored", "again") == first).all()
    assert (run(cli, one, "noise", "--seed", "1") != first).any()
    assert (run(cli, one, "noise") == first).all(), "a folder of another seed is made anew"


def test_coin_flips_are_fair_and_differ_from_tile_to_tile(mini: OneStepRestorer) -> None:
    model = ReplacedCodes(mini, Codes.NOISE)
    tiles = torch.rand(2, 3, mini.tile, mini.tile, generator=torch.Generator().manual_seed(1))
    one, two = (model._flips(tile, (400, 16)) for tile in tiles)
    assert set(one.unique().tolist()) == {0.0, 1.0} and abs(float(one.mean()) - 0.5) < 0.03
    assert 0.4 < float((one == two).float().mean()) < 0.6
    with torch.inference_mode():
        both = model(tiles).image_B3TT
        assert torch.allclose(both[1:], model(tiles[1:]).image_B3TT, atol=1e-5), "the batch changes nothing"


@torch.inference_mode()
def test_the_colour_fix_stays(one: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = one.restorer
    plain = ReplacedCodes(restorer, Codes.ZEROS)(one.degraded)
    monkeypatch.setattr(restorer, "config", replace(restorer.config, color_fix="adain"))
    fixed = ReplacedCodes(restorer, Codes.ZEROS)(one.degraded).image_B3TT
    prerestored = restorer.prerestore(one.degraded)
    own = torch.zeros_like(restorer.tokenizer.encode(prerestored * 2 - 1))
    expected = adain_fix((restorer.decode(own, prerestored, clamp=False) + 1) / 2, prerestored).clamp(0, 1)
    assert torch.allclose(fixed, expected, atol=1e-4) and not torch.allclose(fixed, plain.image_B3TT, atol=1e-3)


@pytest.mark.parametrize("codes", ["input", "reference", "noise", "zeros"])
def test_a_model_without_tokens_says_so(cli: Cli, one: Pair, codes: str) -> None:
    ran = cli("score", "--dataset", "set", "--codes", codes, "--metrics", "psnr_rgb")
    assert ran.code == 2 and f"--codes {codes}: " in ran.err and "has no tokens" in ran.err
    ran = cli("score", "--dataset", "set", "--codes", "predicted", "--metrics", "psnr_rgb")
    assert "no tokens" not in ran.err


def test_contradictions_are_refused(cli: Cli, one: Pair) -> None:
    ran = cli("score", "--codes", "noise", "-r", "set/gt")
    assert ran.code == 2 and "add --dataset" in ran.err
    assert cli("score", "--codes", "reference").code == 2
    ran = cli("score", "--compare", "set/lq", "set/gt", "--codes", "zeros")
    assert ran.code == 2 and "leave out --codes" in ran.err
    shutil.rmtree("set/gt")
    Path("DPED").mkdir()
    Path("set/lq").rename("DPED/lq")
    ran = cli("score", "--dataset", "dped", "--data-root", ".", "--codes", "reference", "--metrics", "niqe")
    assert ran.code == 2 and "dped has none" in ran.err


def test_what_is_done_is_kept_and_what_fails_is_named(cli: Cli, mini: OneStepRestorer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"gt/{name}.png", photo(mini.tile, mini.tile))
    words = ("score", "--codes", "reference", "-r", "gt", "--metrics", "psnr_rgb")
    assert cli(*words, model="mini").code == 0
    made = tmp_path / "scores/gt-mini-codes-reference"
    for name in ("a", "b"):
        os.utime(made / f"{name}.png", (1, 1))
    save(tmp_path / "gt/b.png", photo(mini.tile, mini.tile, seed=5))
    assert cli(*words, model="mini").code == 0
    assert (made / "a.png").stat().st_mtime == 1 and (made / "b.png").stat().st_mtime != 1
    (tmp_path / "gt/b.png").write_bytes(b"broken")
    ran = cli(*words, model="mini")
    assert ran.code == 1 and "error: b: not restored:" in ran.err and "1 pair scored, 1 failed" in ran.out
    assert cli("score", "--codes", "reference", model="mini").code == 2
