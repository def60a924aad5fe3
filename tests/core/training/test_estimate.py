"""Plans of runs: weights from a build without storage, arithmetic from traces, words on stdout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from varestorer_cli.app import run
from varestorer_cli.core.training import estimate as planning
from varestorer_cli.core.training.estimate import CostEstimate, estimate
from varestorer_cli.core.training.options import STAGES, TrainOptions
from varestorer_cli.core.training.presets import preset
from varestorer_models.lora import train_adapters_only
from varestorer_models.transformer import Transformer

OPTIONS = TrainOptions(stage="distill", data=Path("none"), out=Path("none"), preset="smoke")


def test_the_published_student_trains_its_adapters_only() -> None:
    published = preset("2b")
    recipe = published.recipes["distill"]
    with torch.device("meta"):
        transformer = Transformer(published.teacher)
    transformer.add_adapters(published.adapter_rank)
    assert train_adapters_only(transformer) == 27_262_976  # what the paper prints as 27.3 M
    assert (recipe.steps, recipe.batch, recipe.learning_rate, recipe.weight_decay) == (10_000, 32, 1e-6, 1e-2)
    assert recipe.losses == {"kl": 0.1, "perceptual": 0.25, "mse": 0.5}
    assert recipe.variant.text_drop == 0.1 and published.tokenizer.tile == 512


def test_cost_of_a_deep_transformer_follows_from_two_shallow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = preset("smoke")
    deep = replace(smoke, teacher=replace(smoke.teacher, depth=4))
    found = estimate(OPTIONS, deep, deep.recipes["distill"])
    traced = planning._trace(OPTIONS, deep, planning._without_networks(deep.recipes["distill"]))
    assert found.flops == pytest.approx(traced.flops * deep.recipes["distill"].batch, rel=1e-6)
    assert found.activation_bytes == pytest.approx(
        traced.copies + traced.kept * deep.recipes["distill"].batch, rel=0.02
    )


def test_more_processes_need_less_each() -> None:
    def made(**changes: int) -> CostEstimate:
        values = {"frozen_bytes": 8, "trained_bytes": 2, "activation_bytes": 4, "steps": 10, "batch": 4, "processes": 1}
        return CostEstimate({"a": (5, 1)}, 1e15, **(values | changes))

    assert made().memory == 14 and made().trained == 1
    assert made().hours(100.0) == pytest.approx(10 * 1e15 / (100e12 * planning.USED) / 3600)
    assert made(processes=2).hours(100.0) == pytest.approx(made().hours(100.0) / 2)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_the_bundled_model_can_be_planned(stage: str) -> None:
    compact = preset("compact")
    found = estimate(replace(OPTIONS, stage=stage, preset="compact"), compact, compact.recipes[stage])
    assert found.flops > 1e9 and found.trained > 1e6
    assert (found.weights.get("hints") == (16_697_987, 0)) == (stage == "prerestorer")


def test_terms_on_the_same_features_cost_one_network() -> None:
    smoke = preset("smoke")

    def flops(**losses: float) -> float:
        recipe = smoke.recipes["distill"]
        return planning._network_flops(replace(OPTIONS, losses=losses), smoke, recipe)

    assert flops() == 0 < flops(features=1.0)
    assert (
        flops(balanced_features=1.0) == flops(features=1.0, adversarial=0.1, discriminator=1.0) == flops(features=1.0)
    )


def test_dry_run_tells_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "prerestorer", str(tmp_path / "no photos"), "--out", str(out), "--preset", "smoke", "--dry-run"]
    assert run(words) == 0
    said = capsys.readouterr()
    assert "total" in said.out and "(100.00%)" in said.out and "memory per GPU" in said.out and "H100" in said.out
    assert said.err == "" and not out.exists()


@pytest.mark.slow
def test_a_step_of_the_published_recipe_costs_what_the_authors_must_have_paid() -> None:
    published = preset("2b")
    found = estimate(replace(OPTIONS, preset="2b"), published, published.recipes["distill"], processes=8)
    assert found.trained == 27_262_976
    # forward 20.5 TFLOP and 11 of the teacher, backward through frozen weights, blocks once more: 55 to 85 an image
    assert 55e12 < found.flops / 32 < 85e12
    assert found.memory < 48e9  # they had eight GPUs of 48 GB


@pytest.mark.parametrize("masked", [False, True])
def test_products_of_attention_are_counted_on_the_cpu(masked: bool) -> None:
    """2 images, 4 heads 16 wide, 10 queries, 30 keys: scores and mixture are 2 x 2 x 2 x 4 x 10 x 30 x 16 FLOP."""
    counter = FlopCounterMode(display=False, custom_mapping=planning._ATTENTION_ON_CPU)
    with FakeTensorMode(), counter:
        query, key, value = (torch.empty(2, 4, n, 16, requires_grad=True) for n in (10, 30, 30))
        mask = torch.zeros(10, 30) if masked else None
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * 2 * 2 * 4 * 10 * 30 * 16
    assert counter.get_total_flops() == forward * 3.5, "the backward pass computes the scores again"


def test_arithmetic_of_a_teacher_is_what_one_counts_by_hand() -> None:
    """Matrix products of a block, three times for forward and backward; attention between all positions."""
    smoke, options = preset("smoke"), replace(OPTIONS, stage="teacher")
    one, two = (
        planning._trace(options, planning._with_depth(smoke, depth), smoke.recipes["teacher"]) for depth in (1, 2)
    )
    width, hidden = smoke.teacher.width, 4 * smoke.teacher.width
    length, condition = smoke.tokenizer.schedule.length, smoke.teacher.null_tokens
    # per token: four products of self-attention, two of cross-attention, two of the MLP
    products = 2 * length * width * (4 * width + 2 * width + 2 * hidden)
    scores = 2 * 2 * length * (length + condition) * width
    found = two.flops - one.flops
    assert found == pytest.approx(3 * products + 3.5 * scores, rel=0.1)
    assert found > 3.1 * products, "without attention it would be less"


def test_weights_that_teacher_and_student_share_count_once() -> None:
    smoke = preset("smoke")
    alone, many = (estimate(OPTIONS, smoke, smoke.recipes["distill"], processes=n) for n in (1, 2))
    with torch.device("meta"):
        teacher = sum(p.numel() for p in Transformer(smoke.teacher).parameters())
    assert alone.weights["teacher"] == (0, 0) and alone.weights["transformer"][0] > teacher
    assert many.weights["teacher"] == (0, 0), "without --parallel fsdp a small preset is whole in each process"
    divided = estimate(replace(OPTIONS, parallel="fsdp"), smoke, smoke.recipes["distill"], processes=2)
    assert divided.weights["teacher"] == (teacher, 0)
    other = {name: count for name, count in alone.weights.items() if name != "teacher"}
    assert alone.frozen_bytes == 4 * sum(count - trained for count, trained in other.values())
    assert any("shares the weights" in line for line in alone.lines())
