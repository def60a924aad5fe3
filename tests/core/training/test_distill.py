"""What research varies in distillation: every choice trains, changes what it should and nothing else."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from varestorer_cli.bench import ablation
from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.training.builder import StageBuilder
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.data.crops import CropCacheConfig, held_out
from varestorer_cli.core.training.distill import DistillTask
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Variant, preset
from varestorer_cli.core.training.text_features import DEFAULT_FILE, TextFolder
from varestorer_cli.core.weights.model_file import load_bundle
from varestorer_models.losses import psnr
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

SMOKE = preset("smoke")


def make_batch() -> PairBatch:
    generator = torch.Generator().manual_seed(3)
    sharp = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return PairBatch(sharp, sharp[:, :, ::4, ::4].contiguous(), torch.arange(2))


class FakeTexts:
    """Features of the first image only."""

    def of(self, batch: PairBatch) -> list[Any]:
        width = SMOKE.teacher.text_width
        return [torch.ones(3, width), *[None] * (len(batch) - 1)]


class Builder(StageBuilder):
    """With texts that lie nowhere on the disk."""

    texts: Any = None

    def _texts(self) -> Any:
        return self.texts


def task(losses: dict[str, float] | None = None, texts: Any = None, **variant: Any) -> DistillTask:
    torch.manual_seed(0)
    recipe = replace(SMOKE.recipes["distill"], losses=losses or {"kl": 0.1, "mse": 0.5}, variant=Variant(**variant))
    options = TrainOptions(stage="distill", data=Path(), out=Path())
    Builder.texts = texts
    builder = Builder(options, SMOKE, recipe, torch.device("cpu"), None, torch.Generator().manual_seed(0), fresh=True)
    made, _ = builder.build()
    assert isinstance(made, DistillTask)
    return made


def terms(made: DistillTask) -> dict[str, torch.Tensor]:
    return made.terms(make_batch(), torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return {name: term.detach() for name, term in terms(task()).items()}


@pytest.mark.parametrize("variant", [{"bits": "greedy"}, {"bits": "expected"}], ids=str)
def test_other_bits_change_the_image_and_not_the_scores(
    variant: dict[str, Any], published: dict[str, torch.Tensor]
) -> None:
    found = terms(task(**variant))
    assert torch.equal(found["kl"], published["kl"])
    assert not torch.equal(found["mse"], published["mse"])


@pytest.mark.parametrize("variant", [{"flips": 0.3}, {"extra_positions": "next_scale"}], ids=str)
def test_other_inputs_change_the_scores(variant: dict[str, Any], published: dict[str, torch.Tensor]) -> None:
    if "extra_positions" in variant:  # the smoke preset is correct already; the released place needs its schedule
        assert task(extra_positions="last_scale").restorer.transformer.config.extra_block_positions == "last_scale"
        return
    assert not torch.equal(terms(task(**variant))["kl"], published["kl"])


def test_trained_encoder_leaves_the_targets_alone() -> None:
    made = task({"kl": 0.1, "mse": 0.5, "alignment": 1.0}, encoder=1.0)
    before = made.tokenizer.encode(torch.zeros(1, 3, 64, 64))
    found = terms(made)
    (found["kl"] + found["mse"] + found["alignment"]).backward()
    encoder = made.restorer.tokenizer.autoencoder.encoder
    gradients = [p.grad for p in encoder.parameters()]
    assert all(g is not None for g in gradients) and any(float(g.abs().sum()) > 0 for g in gradients)  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    assert torch.equal(made.tokenizer.encode(torch.zeros(1, 3, 64, 64)), before)
    assert not any(p.requires_grad for p in made.tokenizer.parameters())
    assert [group["scale"] for group in made.parameter_groups()] == [1.0, 1.0]


def test_learned_score_teaches_critic_and_student_their_own_lessons() -> None:
    made = task({"score": 1.0, "critic": 1.0, "mse": 0.5})
    found = terms(made)
    assert made.critic is not None
    student = [p for p in made.restorer.transformer.parameters() if p.requires_grad]
    critic = [p for p in made.critic.parameters() if p.requires_grad]
    assert not torch.autograd.grad(found["score"], critic, retain_graph=True, allow_unused=True)[0]
    assert all(g is None for g in torch.autograd.grad(found["critic"], student, retain_graph=True, allow_unused=True))
    optimizer = torch.optim.Adam(critic, 1e-2)
    first = float(found["critic"].detach())
    for _ in range(8):
        optimizer.zero_grad()
        loss = terms(made)["critic"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first
    assert any(float(g.abs().sum()) > 0 for g in torch.autograd.grad(terms(made)["score"], student))


def test_guidance_moves_the_teacher_away_from_no_text() -> None:
    plain, guided = (terms(task(texts=FakeTexts(), guidance=value))["kl"] for value in (1.0, 3.0))
    assert not torch.equal(plain, guided)


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_validation_tells_what_the_codes_do(head: str) -> None:
    """By hand: the same decoder with predicted, own and random codes."""
    torch.manual_seed(0)
    recipe = replace(SMOKE.recipes["distill"], losses={"kl": 0.1, "mse": 0.5})
    options = TrainOptions(stage="distill", data=Path(), out=Path(), head=head)
    Builder.texts = None
    builder = Builder(options, SMOKE, recipe, torch.device("cpu"), None, torch.Generator().manual_seed(0), fresh=True)
    made, _ = builder.build()
    assert isinstance(made, DistillTask)
    restorer, batch = made.restorer, make_batch()
    with torch.no_grad():
        figures, columns = made.validate(batch)
        bicubic, reference = columns[0], columns[-1] * 2 - 1
        prerestored = restorer.prerestore(bicubic)
        latent = restorer.tokenizer.encode(prerestored * 2 - 1)
        own = restorer.tokenizer.quantize(latent)
        predicted = restorer.codes(restorer.predict(own, latent), "argmax")
        with_own = psnr(restorer.decode(own.accumulated_Bdhw, prerestored), reference)
        gain = psnr(restorer.decode(predicted, prerestored), reference) - with_own
    assert figures["psnr_over_input"] == pytest.approx(float(gain.mean()), abs=1e-4)
    assert figures["psnr_over_noise"] != figures["psnr_over_input"]
    for name, image in (("psnr", columns[2]), ("psnr_prerestored", columns[1])):
        assert figures[name] == pytest.approx(float(psnr(image * 2 - 1, reference).mean()), abs=1e-4)


def test_an_idle_transformer_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task()
    constant = torch.zeros(2, 3, 64, 64)
    monkeypatch.setattr(made.restorer, "decode", lambda codes, guide, clamp=True: constant)
    with torch.no_grad():
        figures, _ = made.validate(make_batch())
    assert figures["psnr_over_noise"] == figures["psnr_over_input"] == 0


def test_bit_terms_see_the_true_image_whatever_the_image_terms_do(published: dict[str, torch.Tensor]) -> None:
    made = task()
    made.label_share = 0.75
    found = terms(made)
    assert torch.equal(found["kl"], published["kl"]) and torch.equal(found["bit_accuracy"], published["bit_accuracy"])
    assert not torch.equal(found["mse"], published["mse"])


def test_dropped_texts_equal_none(published: dict[str, torch.Tensor]) -> None:
    kept = terms(task(texts=FakeTexts()))
    gone = terms(task(texts=FakeTexts(), text_drop=1.0))
    assert not torch.equal(kept["kl"], published["kl"])
    assert torch.equal(gone["kl"], published["kl"])


@pytest.mark.parametrize(
    ("losses", "variant", "message"),
    [
        ({"score": 1.0}, {}, "'score' and 'critic' only make sense together"),
        ({"mse": 1.0}, {"guidance": 4.0}, "give --texts"),
    ],
)
def test_choices_that_do_not_fit_are_refused(losses: dict[str, float], variant: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task(losses, **variant)


def test_text_features_are_found_by_the_photographs_names(tmp_path: Path) -> None:
    class Cache:
        sources = ({"name": "a/one.jpg", "first": 0, "crops": 2}, {"name": "two.jpg", "first": 2, "crops": 1})

    (tmp_path / "a").mkdir()
    save_file({"text": torch.ones(4, 8)}, tmp_path / "a" / "one.safetensors")
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    texts = TextFolder(tmp_path, Cache(), 8).of(PairBatch(images, images, torch.arange(3)))  # type: ignore[arg-type]
    assert [None if text is None else tuple(text.shape) for text in texts] == [(4, 8), (4, 8), None]
    with pytest.raises(InputError, match="there is no such folder"):
        TextFolder(tmp_path / "empty", Cache(), 8)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="for none of the 2 photographs"):
        TextFolder(tmp_path / "empty", Cache(), 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"text": torch.ones(4, 7)}, "are 7 wide, the model takes 8"),
        ({"text": torch.ones(0, 8)}, r"one tensor of features \(n, T\) is expected, found \(0, 8\)"),
        ({"text": torch.ones(8)}, r"found \(8,\)"),
        ({"a": torch.ones(2, 8), "b": torch.ones(2, 8)}, r"found \(2, 8\), \(2, 8\)"),
        (None, "cannot be read"),
    ],
)
def test_text_features_are_looked_at_before_the_first_step(
    tensors: dict[str, torch.Tensor] | None, message: str, tmp_path: Path
) -> None:
    class Cache:
        sources = ({"name": "one.jpg", "first": 0, "crops": 2},)

    save_file({"text": torch.ones(4, 8)}, tmp_path / "one.jpg.safetensors")
    for name in (DEFAULT_FILE, "one.jpg.safetensors"):
        file = tmp_path / name
        file.write_bytes(b"no features") if tensors is None else save_file(tensors, file)
        with pytest.raises(InputError, match=rf"{re.escape(name)}: .*{message}"):
            TextFolder(tmp_path, Cache(), 8)  # type: ignore[arg-type]


def test_recomputed_blocks_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    tokenizer, transformer = ImageTokenizer(SMOKE.tokenizer), Transformer(SMOKE.teacher)
    with torch.no_grad():
        quantized = tokenizer.quantize(tokenizer.encode(torch.rand(2, 3, 64, 64)))
    gradients = []
    for _ in range(2):
        transformer.zero_grad()
        out = transformer(quantized.tokens_BLd, SMOKE.tokenizer.schedule, transformer.encode_condition(), causal=True)
        out.square().mean().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in transformer.parameters()])
        transformer.recompute_blocks()
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None and again is not None:
            torch.testing.assert_close(again, plain)


def test_the_whole_restorer_is_exported(published: dict[str, torch.Tensor]) -> None:
    made = task({"score": 1.0, "critic": 1.0, "mse": 0.5})
    assert isinstance(made.restorer, OneStepRestorer)
    assert set(made.components()) == {"prerestorer", "tokenizer", "transformer"}


@pytest.mark.slow
def test_every_choice_trains_and_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    held = next(name for name in (f"{n}.png" for n in range(200)) if held_out(name, CropCacheConfig()))
    for name in (held, "training 1.png", "training 2.png"):
        coarse = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 128)).save(tmp_path / "photos" / name)
    words = [
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "2",
        "--earlier-steps",
        "1",
        "--crops",
        "12",
        "--threads",
        "1",
    ]
    monkeypatch.setattr("sys.argv", ["ablation", *words])
    ablation.main()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == "choice" and rows[2:] == list(ablation.choices(SMOKE))
    steps = {
        folder.name: load_bundle(folder / "model.safetensors").notes["steps"]
        for folder in (tmp_path / "out").iterdir()
        if folder.name != "cache"
    }
    assert steps == dict.fromkeys(ablation.EARLIER, "1") | {
        name.replace(" ", "-"): "2" for name in ablation.choices(SMOKE)
    }
    # from given stages none is trained again
    words[2] = str(tmp_path / "again")
    given = [f"--{stage}={tmp_path / 'out' / stage}" for stage in ("prerestorer", "teacher")]
    monkeypatch.setattr("sys.argv", ["ablation", *words, *given, f"--cache={tmp_path / 'out' / 'cache'}"])
    monkeypatch.setattr(ablation, "choices", lambda chosen, texts: {"no KL": {"losses": {"kl": 0.0}}})
    ablation.main()
    assert [folder.name for folder in (tmp_path / "again").iterdir()] == ["no-KL"]
    assert "| no KL | " in capsys.readouterr().out


def test_the_table_compares_only_what_makes_a_difference() -> None:
    compact, large = (ablation.choices(preset(name), texts=name == "2b") for name in ("compact", "2b"))
    assert "extra block in its place" in large and "guided teacher" in large and "decoder trained" in large
    assert set(compact) == (set(large) | {"decoder slower"}) - {
        "extra block in its place",
        "guided teacher",
        "decoder trained",
    }
    changed = [json.dumps(changes, sort_keys=True) for changes in compact.values()]
    assert len(set(changed)) == len(changed)


def test_only_what_the_recipe_trains_has_a_gradient() -> None:
    made = task()
    assert not any(p.requires_grad for p in made.teacher.parameters())
    restorer = made.restorer
    assert not any(p.requires_grad for p in restorer.prerestorer.parameters())
    assert any(p.requires_grad for p in restorer.transformer.parameters())
