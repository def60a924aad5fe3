"""What a recipe is, held by numbers: schedule, optimiser groups, flips, the effect of each loss term on one step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from varestorer_cli.core.choices import Progress
from varestorer_cli.core.console import Console
from varestorer_cli.core.training.builder import StageBuilder
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.distill import DistillTask
from varestorer_cli.core.training.losses import ImageLosses
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Recipe, preset, preset_names
from varestorer_cli.core.training.stages import PrerestorerTask, Task, TeacherTask, TokenizerTask
from varestorer_cli.core.training.trainer import LoopOptions, Trainer, _Losses, learning_rate_factor
from varestorer_models.quantizer import draw_flips

SMOKE = preset("smoke")
CPU = torch.device("cpu")


def make_batch(step: int = 0) -> PairBatch:
    generator = torch.Generator().manual_seed(3 + step)
    sharp = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return PairBatch(sharp, sharp[:, :, ::4, ::4].contiguous(), torch.arange(2))


def task(stage: str, recipe: Recipe | None = None, **options: Any) -> Task:
    torch.manual_seed(0)
    asked = TrainOptions(stage=stage, data=Path(), out=Path(), **options)
    chosen = recipe or SMOKE.recipes[stage]
    builder = StageBuilder(asked, SMOKE, chosen, CPU, None, torch.Generator().manual_seed(0), fresh=True)
    made, _ = builder.build()
    return made


class Batches:
    """The same images at each step's call."""

    def batch(self, step: int) -> PairBatch:
        return make_batch(step)


def trainer(made: Task, recipe: Recipe, folder: Path, **options: Any) -> Trainer:
    loop = LoopOptions(folder, 0, None, CPU, 1, 1000, 60.0, None, Console(Progress.NONE, quiet=True))
    return Trainer(made, recipe, Batches(), [], replace(loop, **options), {}, lambda step, figures, name: None)


# figures of the shipped recipes: steps, batch, patch, rate, betas, share of flipped bits, warm-up, clip, losses

FIGURES = {
    ("smoke", "prerestorer"): (30, 4, 64, 1e-3, (0.9, 0.99), 0.0, 5, 1.0, {"l1": 1.0}),
    ("smoke", "tokenizer"): (
        *(30, 2, 64, 1e-3, (0.9, 0.99), 0.0, 5, 1.0),
        {"l1": 1.0, "gradient": 0.5, "codebook": 1.0, "commitment": 0.1, "entropy": 0.01},
    ),
    ("smoke", "teacher"): (30, 2, 64, 1e-3, (0.9, 0.97), 0.3, 5, 1.0, {"cross_entropy": 1.0}),
    ("smoke", "distill"): (30, 2, 64, 1e-3, (0.9, 0.99), 0.0, 5, 1.0, {"kl": 0.1, "texture": 0.25, "mse": 0.5}),
    ("compact", "prerestorer"): (2400, 2, 256, 2e-4, (0.9, 0.99), 0.0, 40, 1.0, {"hints": 1.0}),
    ("compact", "tokenizer"): (
        *(2500, 2, 256, 4e-4, (0.9, 0.99), 0.0, 40, 1.0),
        {"l1": 1.0, "gradient": 0.5, "codebook": 1.0, "commitment": 0.1},
    ),
    ("compact", "teacher"): (500, 4, 256, 1e-3, (0.9, 0.97), 0.3, 40, 5.0, {"cross_entropy": 1.0}),
    ("compact", "distill"): (
        *(620, 2, 256, 4e-4, (0.9, 0.99), 0.0, 40, 1.0),
        {"l1": 1.0, "gradient": 0.25, "texture": 0.5, "features": 0.2, "kl": 0.005, "latent": 0.05},
    ),
    ("fine", "prerestorer"): (
        *(700, 2, 192, 1e-4, (0.9, 0.99), 0.0, 20, 1.0),
        {"l1": 0.5, "balanced_features": 0.4, "texture": 0.5},
    ),
    ("2b", "prerestorer"): (100000, 32, 512, 1e-4, (0.9, 0.99), 0.0, 40, 1.0, {"mse": 1.0}),
    ("2b", "tokenizer"): (
        *(250000, 32, 512, 1e-4, (0.9, 0.99), 0.0, 40, 1.0),
        {"l1": 4.0, "commitment": 0.25, "entropy": 0.1, "perceptual": 1.0},
    ),
    ("2b", "teacher"): (200000, 32, 512, 1e-4, (0.9, 0.97), 0.3, 40, 5.0, {"cross_entropy": 1.0}),
    ("2b", "distill"): (10000, 32, 512, 1e-6, (0.9, 0.99), 0.0, 40, 1.0, {"kl": 0.1, "perceptual": 0.25, "mse": 0.5}),
}


@pytest.mark.parametrize(("name", "stage"), list(FIGURES))
def test_a_shipped_recipe_has_these_figures(name: str, stage: str) -> None:
    r = preset(name).recipes[stage]
    found = (r.steps, r.batch, r.patch, r.learning_rate, r.betas, r.flip, r.warmup, r.clip, dict(r.losses))
    assert found == FIGURES[name, stage]


def test_the_tokenizers_validation_shows_its_round_trip_in_zero_to_one() -> None:
    made = task("tokenizer")
    with torch.no_grad():
        _, (result, reference) = made.validate(make_batch())
        expected = make_batch().hq.float() / 255
    torch.testing.assert_close(reference, expected, atol=1e-6, rtol=0)
    assert float(result.min()) >= 0 and float(result.max()) <= 1


# schedule


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.25),
        (1, 0.5),
        (3, 1.0),
        (4, 1.0),
        (6, (1 + math.sqrt(0.5)) / 2),
        (8, 0.5),
        (10, (1 - math.sqrt(0.5)) / 2),
        (12, 0.0),
    ],
)
def test_learning_rate_rises_linearly_and_falls_as_a_cosine(step: int, factor: float) -> None:
    recipe = Recipe(steps=12, batch=1, patch=64, learning_rate=1.0, warmup=4)
    assert learning_rate_factor(step, recipe) == pytest.approx(factor, abs=1e-12)


@dataclass
class Toy:
    """Two weights in groups of different rates; the gradient of each is 1."""

    unit: str = "steps"
    trained: nn.Module = field(
        default_factory=lambda: nn.ParameterDict({"a": nn.Parameter(torch.zeros(1)), "b": nn.Parameter(torch.zeros(1))})
    )

    def terms(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"sum": sum(p.sum() for p in self.trained.parameters())}  # type: ignore[dict-item]

    def parameter_groups(self) -> list[dict[str, object]]:
        a, b = self.trained.parameters()
        return [{"params": [a], "scale": 1.0}, {"params": [b], "scale": 0.25}]

    def validate(self, batch: PairBatch) -> tuple[dict[str, float], list[Tensor]]:
        return {}, []

    def components(self) -> Mapping[str, nn.Module]:
        return {}


def test_a_step_moves_each_group_by_its_own_rate_on_the_schedule(tmp_path: Path) -> None:
    """AdamW's step is the rate itself where the gradient never changes."""
    recipe = Recipe(steps=12, batch=1, patch=64, learning_rate=0.01, losses={"sum": 1.0}, warmup=4)
    made = Toy()
    trainer(made, recipe, tmp_path).run()
    whole = sum(learning_rate_factor(step, recipe) for step in range(12)) * 0.01
    a, b = (float(p.detach()) for p in made.trained.parameters())
    assert a == pytest.approx(-whole, rel=1e-4) and b == pytest.approx(-whole / 4, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 5])
def test_every_step_and_seed_has_random_numbers_of_its_own(tmp_path: Path, seed: int) -> None:
    seeds: list[int] = []

    class Recording(Toy):
        def terms(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
            seeds.append(generator.initial_seed())
            return super().terms(batch, generator)

    trainer(Recording(), Recipe(3, 1, 64, 0.01, {"sum": 1.0}, warmup=1), tmp_path, seed=seed).run()
    assert seeds == [seed * 2**32 + step for step in range(3)]


def test_weight_decay_clip_and_betas_are_the_recipes(tmp_path: Path) -> None:
    recipe = Recipe(4, 1, 64, 0.5, {"sum": 1.0}, betas=(0.6, 0.7), weight_decay=0.02, warmup=1, clip=0.125)
    made = trainer(Toy(), recipe, tmp_path)
    assert [group["betas"] for group in made.optimizer.param_groups] == [(0.6, 0.7)] * 2
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == [0.02] * 2
    made.run()
    moments = [made.optimizer.state[p]["exp_avg"] for p in made.task.trained.parameters()]
    assert float(moments[0]) == pytest.approx(0.125 * (1 - 0.6**4), rel=1e-4), "the gradient is cut to the clip"
    average = made.average.state()["average"]
    now = float(next(iter(made.task.trained.parameters())).detach())
    assert isinstance(average, dict) and now < float(average["a"]) < 0.9 * now, "the average lags behind"


# optimiser groups


def test_the_linear_path_of_the_tokenizer_learns_at_a_quarter_of_the_rate() -> None:
    made = task("tokenizer")
    assert isinstance(made, TokenizerTask)
    rest, linear = made.parameter_groups()
    names = {id(p): name for name, p in made.tokenizer.named_parameters()}
    assert (rest["scale"], linear["scale"]) == (1.0, 0.25)
    assert {names[id(p)] for p in linear["params"]} == {n for n in names.values() if ".linear." in n}  # type: ignore[attr-defined]
    assert linear["params"] and len(rest["params"]) + len(linear["params"]) == len(names)  # type: ignore[arg-type]


def adversarial(weights: Mapping[str, float]) -> Recipe:
    return replace(SMOKE.recipes["prerestorer"], losses=weights)


def test_the_discriminator_has_a_group_with_little_momentum(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    recipe = adversarial({"l1": 1.0, "adversarial": 0.1, "discriminator": 1.0})
    made = task("prerestorer", recipe)
    assert isinstance(made, PrerestorerTask) and made.losses.discriminator is not None
    groups = trainer(made, recipe, tmp_path).optimizer.param_groups
    assert [group["betas"] for group in groups] == [recipe.betas, (0.5, 0.99)]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in made.losses.discriminator.parameters()}
    assert groups[1]["scale"] == 1.0


def test_every_part_of_a_student_has_its_group_and_rate() -> None:
    recipe = replace(SMOKE.recipes["distill"], losses={"kl": 0.1, "mse": 0.5}, decoder=0.5)
    recipe = replace(recipe, variant=replace(recipe.variant, encoder=0.25))
    made = task("distill", recipe, head="latent")
    assert isinstance(made, DistillTask) and made.temperature is not None
    parts = {id(p): "temperature" for p in made.temperature.parameters()}
    parts |= {id(p): "decoder" for p in made.restorer.tokenizer.autoencoder.decoder.parameters()}
    parts |= {id(p): "encoder" for p in made.restorer.tokenizer.autoencoder.encoder.parameters()}
    parts |= {id(p): "student" for p in made.restorer.transformer.parameters()}
    found = {
        name: group["scale"]
        for group in made.parameter_groups()
        for name in {parts[id(p)] for p in group["params"]}  # type: ignore[attr-defined]
    }
    assert found == {"student": 1.0, "encoder": 0.25, "decoder": 0.5, "temperature": 10.0}
    trained = {id(p) for p in made.trained.parameters() if p.requires_grad}
    grouped = [id(p) for group in made.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
    assert len(grouped) == len(set(grouped)) and set(grouped) == trained, "what is trained is optimised, and once"


@pytest.mark.parametrize("stage", ["prerestorer", "tokenizer", "teacher", "distill"])
def test_all_that_is_trained_is_optimised_once(stage: str) -> None:
    made = task(stage)
    trained = {id(p) for p in made.trained.parameters() if p.requires_grad}
    grouped = [id(p) for group in made.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
    assert len(grouped) == len(set(grouped)) and set(grouped) == trained


def test_the_temperature_of_a_latent_head_is_learnt(tmp_path: Path) -> None:
    recipe = replace(SMOKE.recipes["distill"], losses={"kl": 0.1}, steps=2, warmup=1)
    made = task("distill", recipe, head="latent")
    assert isinstance(made, DistillTask) and made.temperature is not None
    trainer(made, recipe, tmp_path).run()
    moved = made.temperature.logarithm.detach().abs()
    # both steps count: rate x 10 x (1 + 1), of the direction that a gradient has from the start
    assert float(moved.max()) == pytest.approx(recipe.learning_rate * 10 * 2, rel=0.3)


# bit flips of the teacher


class Recorder(nn.Module):
    """Hands on a transformer's answers and keeps the tokens it was asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.tokens = inner, torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.tokens = tokens
        answer: Tensor = self.inner(tokens, *args, **kwargs)
        return answer


@pytest.mark.parametrize("flip", [0.0, 0.3])
def test_the_teacher_sees_a_history_with_flipped_bits(flip: float) -> None:
    made = task("teacher", replace(SMOKE.recipes["teacher"], flip=flip))
    assert isinstance(made, TeacherTask)
    recorder = Recorder(made.transformer)
    made.transformer = recorder  # type: ignore[assignment]
    made.terms(make_batch(), torch.Generator().manual_seed(1))
    config = made.tokenizer.config
    latent = made.tokenizer.encode(make_batch().hq / 127.5 - 1)
    flips = draw_flips(2, config.quantizer.bits, config.schedule, flip, torch.Generator().manual_seed(1))
    expected = made.tokenizer.quantizer(latent, config.schedule, flips).tokens_BLd
    plain = made.tokenizer.quantizer(latent, config.schedule).tokens_BLd
    torch.testing.assert_close(recorder.tokens, expected)
    assert torch.equal(expected, plain) is (flip == 0.0)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_flips_bits_of_its_teacher(name: str) -> None:
    assert preset(name).recipes["teacher"].flip == 0.3


# loss terms

OF_IMAGES = [name for name in ImageLosses.NAMES if name not in ("perceptual", "adversarial", "discriminator")]


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *[("prerestorer", name) for name in OF_IMAGES],
        *[("tokenizer", name) for name in ("l1", "mse", "codebook", "commitment", "entropy")],
        ("teacher", "cross_entropy"),
        *[("distill", name) for name in ("kl", "cross_entropy", "mse", "l1", "latent", "commitment", "features")],
    ],
)
def test_each_term_counts_by_its_weight_and_moves_what_is_trained(stage: str, name: str) -> None:
    if "features" in name:
        pytest.importorskip("efficientnet_lite_pytorch")
    base = {"distill": {"kl": 0.5}, "teacher": {}}.get(stage, {"l1": 0.5})
    found: dict[str, tuple[float, dict[str, Tensor], list[Tensor]]] = {}
    cases = {"without": {**base, name: 0.0}, "once": {**base, name: 0.25}, "double": {**base, name: 0.5}}
    if not base or name in base:
        cases = {"once": {name: 0.25}, "double": {name: 0.5}}
    for case, weights in cases.items():
        recipe = replace(SMOKE.recipes[stage], losses=weights, flip=0.3)
        made = task(stage, recipe, head="latent" if stage == "distill" else None)
        autocast = lambda: torch.autocast("cpu", enabled=False)  # noqa: E731
        total, terms = _Losses(made, weights, autocast)(make_batch(), torch.Generator().manual_seed(1))
        expected = sum(float(terms[n]) * w for n, w in weights.items() if w)
        assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
        total.backward()
        gradients = [p.grad for p in made.trained.parameters() if p.requires_grad and p.grad is not None]
        found[case] = float(total.detach()), terms, gradients
    once, double = found["once"], found["double"]
    assert float(once[1][name]) == pytest.approx(float(double[1][name]), rel=1e-5)
    assert double[0] - once[0] == pytest.approx(0.25 * float(once[1][name]), rel=2e-3, abs=1e-7)
    moved = sum(float((a - b).abs().sum()) for a, b in zip(once[2], double[2], strict=True))
    assert moved > 0, "a term without a gradient teaches nothing"
    if "without" in found:
        assert once[0] - found["without"][0] == pytest.approx(0.25 * float(once[1][name]), rel=2e-3, abs=1e-7)


def test_image_terms_have_the_values_they_are_named_after() -> None:
    a, b = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    b[..., 4:] = -0.25
    terms = ImageLosses({"l1": 1.0, "mse": 1.0, "gradient": 1.0}, CPU)(a, b)
    assert float(terms["l1"]) == pytest.approx(0.375)
    assert float(terms["mse"]) == pytest.approx((0.25 + 0.0625) / 2)
    assert float(terms["gradient"]) > 0
    assert all(float(term) == 0 for term in ImageLosses({"l1": 1.0, "mse": 1.0, "gradient": 1.0}, CPU)(b, b).values())


# a student of adapters on its teacher


def built(divided: bool, recipe: Recipe, **options: Any) -> DistillTask:
    torch.manual_seed(0)
    asked = TrainOptions(stage="distill", data=Path(), out=Path(), **options)
    generator = torch.Generator().manual_seed(0)
    made, _ = StageBuilder(asked, SMOKE, recipe, CPU, None, generator, fresh=True, divided=divided).build()
    assert isinstance(made, DistillTask)
    return made


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_a_student_of_adapters_holds_its_teachers_weights(head: str) -> None:
    weights = {"kl": 0.1, "score": 0.1, "critic": 1.0} if head == "bits" else {"kl": 0.1}
    made = built(False, replace(SMOKE.recipes["distill"], losses=weights), head=head)
    teacher = dict(made.teacher.named_parameters())
    for part in (made.restorer.transformer, *filter(None, [made.critic])):
        own = {name for name, p in part.named_parameters() if "adapter_" in name or (p.requires_grad)}
        shared = {name: p for name, p in part.named_parameters() if name not in own}
        assert len(shared) > 20 and all(p.data_ptr() == teacher[name].data_ptr() for name, p in shared.items())
        assert not any(p.requires_grad for p in shared.values())
        assert {name for name in teacher if name not in shared} == ({"head.weight", "head.bias"} & own)
    apart = built(True, replace(SMOKE.recipes["distill"], losses=weights), head=head)
    pointers = {p.data_ptr() for p in apart.teacher.parameters()}
    assert not pointers & {p.data_ptr() for p in apart.restorer.transformer.parameters()}


def test_sharing_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    weights = {"kl": 0.1, "mse": 0.5, "score": 0.1, "critic": 1.0}
    recipe = replace(SMOKE.recipes["distill"], losses=weights, steps=4, warmup=1)
    found = []
    for divided in (False, True):
        made = built(divided, recipe)
        folder = tmp_path / str(divided)
        folder.mkdir()
        before = {name: p.clone() for name, p in made.teacher.named_parameters()}
        trainer(made, recipe, folder).run()
        assert all(torch.equal(p, before[name]) for name, p in made.teacher.named_parameters()), "it is frozen"
        rows = [line for line in (folder / "log.csv").read_text().splitlines() if "per_second" not in line]
        found.append((rows, made.trained.state_dict()))
    (rows, state), (other_rows, other_state) = found
    assert rows == other_rows and len(rows) > 20
    assert all(torch.equal(tensor, other_state[name]) for name, tensor in state.items())
    assert any(float(t.abs().sum()) > 0 for name, t in state.items() if name.endswith("adapter_up"))


def test_weights_that_differ_are_not_shared() -> None:
    from varestorer_models.lora import share_frozen

    one, two = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2).requires_grad_(False)
    two.bias.copy_(one.bias)
    assert share_frozen(one, two) == 2 and one.bias is two.bias and one.weight is not two.weight
    three = nn.Linear(2, 2)
    assert share_frozen(three, three) == 0, "what is trained stays its own"
