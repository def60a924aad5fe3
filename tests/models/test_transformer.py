import copy
from dataclasses import replace

import pytest
import torch
from small_networks import square_grids, without_quirks
from torch import Tensor

from varestorer_models import layers
from varestorer_models.attention import GroupedKeysValues, attend
from varestorer_models.condition import Condition
from varestorer_models.layers import Projection
from varestorer_models.transformer import TextFeatures, Transformer, TransformerConfig

SCHEDULE = square_grids(1, 2, 3, 4, 4)
SMALL = without_quirks(32, 3, 2, bits=6, text_width=24, null_tokens=5, levels=7)


def make(config: TransformerConfig = SMALL, *, seed: int = 0, noise: float = 0.3) -> Transformer:
    """A transformer in which no parameter is zero or one, so that leaving any out shows."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    return model.eval()


def random_tokens(batch: int = 2, *, extra: bool = False, seed: int = 1) -> Tensor:
    rows = SCHEDULE.length - 1 + (SCHEDULE.latent_length if extra else 0)
    return torch.randn(batch, rows, SMALL.bits, generator=torch.Generator().manual_seed(seed))


def random_text(*lengths: int, seed: int = 2) -> TextFeatures:
    generator = torch.Generator().manual_seed(seed)
    return TextFeatures(torch.randn(sum(lengths), SMALL.text_width, generator=generator), lengths)


def changed_scales(model: Transformer, scale: int, *, causal: bool) -> list[bool]:
    """Which scales' scores move when the tokens of one scale change."""
    tokens = random_tokens()
    other = tokens.clone()
    rows = SCHEDULE.slices[scale]
    other[:, rows.start - 1 : rows.stop - 1] += 1  # tokens have no row for the start token
    condition = model.encode_condition()
    with torch.no_grad():
        before, after = (model(rows, SCHEDULE, condition, causal=causal) for rows in (tokens, other))
    return [not torch.equal(before[:, rows], after[:, rows]) for rows in SCHEDULE.slices]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_teacher_sees_no_finer_scale(scale):
    assert changed_scales(make(), scale, causal=True) == [k >= scale for k in range(5)]


@pytest.mark.parametrize("scale", [1, 4])
def test_student_sees_every_scale(scale):
    assert changed_scales(make(), scale, causal=False) == [True] * 5


@pytest.mark.parametrize("head", ["bits", "latent"])
def test_shapes(head):
    model = make(replace(SMALL, head=head))
    scores = model(random_tokens(extra=True), SCHEDULE, model.encode_condition(), extra_block=True)
    assert scores.shape == ((2, SCHEDULE.length, 6, 2) if head == "bits" else (2, SCHEDULE.length, 6))
    assert scores.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        {"extra_block_positions": "next_scale"},
        {"extra_block_level": "last_scale"},
        {"rotary_rounding": "nearest"},
    ],
)
def test_choices_about_the_extra_block_matter(change):
    # A released schedule, so that the extra block has rows of a next scale to read.
    released = replace(SMALL, rotary_reference="infinity_1m")
    schedule = square_grids(1, 2, 4)
    model = make(released)
    other = Transformer(replace(released, **change))
    other.load_state_dict(model.state_dict())
    tokens = torch.randn(2, schedule.length - 1 + 16, SMALL.bits, generator=torch.Generator().manual_seed(1))
    scores = [each(tokens, schedule, each.encode_condition(), extra_block=True) for each in (model, other)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_last_block_may_leave_out_the_extra_rows():
    model = make()
    tokens, condition = random_tokens(extra=True), model.encode_condition(random_text(3, 5))
    short = model(tokens, SCHEDULE, condition, extra_block=True)
    block = model.blocks[-1]
    forward = block.forward
    block.forward = lambda *args, queries, **kwargs: forward(*args, **kwargs)[:, :queries]  # type: ignore[method-assign]
    torch.testing.assert_close(short, model(tokens, SCHEDULE, condition, extra_block=True))


def test_latent_head_starts_at_zero():
    model = Transformer(replace(SMALL, head="latent"))
    assert not model(random_tokens(), SCHEDULE, model.encode_condition()).any()


def test_initial_activations_keep_their_size():
    torch.manual_seed(0)
    model = Transformer(without_quirks(192, 8, 6, bits=96, text_width=192, null_tokens=4))
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.std().item()))
    schedule = square_grids(1, 2, 4, 8)
    scores = model(torch.randn(1, schedule.length - 1, 96), schedule, model.encode_condition())
    assert len(sizes) == 8
    assert all(0.7 < size < 2.5 for size in sizes)
    assert 0.03 < scores.std() < 0.3


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, adapter_rank=2))
    model(random_tokens(), SCHEDULE, model.encode_condition()).square().sum().backward()
    # A new adapter's first half waits for its second, which starts at zero.
    silent = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert silent == {name for name in model.state_dict() if name.endswith("adapter_down")}


def test_items_do_not_see_each_other():
    model = make()
    tokens, text = random_tokens(), random_text(2, 5)
    together = model(tokens, SCHEDULE, model.encode_condition(text, batch=2))
    for item, rows in enumerate((text.rows[:2], text.rows[2:])):
        condition = model.encode_condition(TextFeatures(rows, (len(rows),)))
        alone = model(tokens[item : item + 1], SCHEDULE, condition)
        # another batch is summed in another order: a hundred-thousandth on processors with matrix units
        torch.testing.assert_close(together[item : item + 1], alone, atol=5e-5, rtol=1.3e-6)
    other_tokens, other_rows = tokens.clone(), text.rows.clone()
    other_tokens[1] += 1
    other_rows[2:] += 1
    other = model(other_tokens, SCHEDULE, model.encode_condition(replace(text, rows=other_rows), batch=2))
    assert torch.equal(other[0], together[0]) and not torch.equal(other[1], together[1])


def test_one_condition_serves_a_batch_and_can_be_cached():
    model = make()
    tokens, condition = random_tokens(3), model.encode_condition(random_text(4))
    expected = model(tokens, SCHEDULE, condition.expand(3))
    torch.testing.assert_close(model(tokens, SCHEDULE, condition), expected)
    cached = model.with_keys_values(condition)
    assert len(cached.keys_values) == SMALL.depth
    torch.testing.assert_close(model(tokens, SCHEDULE, cached), expected)
    torch.testing.assert_close(model(tokens, SCHEDULE, cached.expand(3)), expected)


def test_joined_conditions_keep_their_items():
    model = make()
    short, long = model.encode_condition(random_text(2)), model.encode_condition(random_text(4, seed=3))
    tokens = random_tokens()
    joined = model(tokens, SCHEDULE, short.join(long))
    torch.testing.assert_close(joined[:1], model(tokens[:1], SCHEDULE, short))
    torch.testing.assert_close(joined[1:], model(tokens[1:], SCHEDULE, long))


def test_grouped_conditions_keep_their_keys_and_values_and_need_no_mask(monkeypatch):
    model = make()
    texts = [model.with_keys_values(model.encode_condition(random_text(n, seed=n))) for n in (2, 4, 3)]
    tokens = random_tokens(4)
    grouped = Condition.grouped(texts, [1, 2, 1])
    assert grouped.mask_Bn is None and grouped.batch == 4
    projected = []
    for block in model.blocks:
        monkeypatch.setattr(block.cross_attention, "keys_values", lambda tokens: projected.append(tokens))
    scores = model(tokens, SCHEDULE, grouped)
    assert not projected
    for item, text in enumerate((texts[0], texts[1], texts[1], texts[2])):
        alone = model(tokens[item : item + 1], SCHEDULE, text)
        torch.testing.assert_close(scores[item : item + 1], alone, atol=5e-5, rtol=1.3e-6)
    with pytest.raises(ValueError, match="only conditions of one prompt with keys and values"):
        Condition.grouped([texts[0], model.encode_condition(random_text(2))], [1, 1])
    with pytest.raises(ValueError, match="only keys and values of single texts"):
        GroupedKeysValues.of([1, 1], [texts[0].keys_values[0], grouped.keys_values[0]])


def test_no_text_means_the_learned_rows():
    model = make()
    condition = model.encode_condition(None, 4)
    assert condition.batch == 1
    assert torch.equal(condition.vector_BC, model.encode_condition(model.null_features()).vector_BC)
    some = model.null_features((2, 3))
    assert torch.equal(some.rows, torch.cat([model.null_text[:2], model.null_text[:3]]))
    with pytest.raises(ValueError, match="has 5 rows, a text has 6"):
        model.null_features((6,))


@pytest.mark.parametrize("cast_weights", [False, True])
def test_bfloat16_is_finite_and_close(cast_weights):
    model = make(noise=0.1)
    tokens = random_tokens(extra=True)
    with torch.no_grad():
        exact = model(tokens, SCHEDULE, model.encode_condition(random_text(3, 4)), extra_block=True)
        if cast_weights:
            model.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=not cast_weights):
            condition = model.encode_condition(random_text(3, 4))
            rough = model(tokens, SCHEDULE, condition, extra_block=True)
    assert condition.vector_BC.dtype == condition.modulation_B16C.dtype == rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).square().mean().sqrt() < 0.1 * exact.std()


@pytest.mark.parametrize("queries", [None, 3])
def test_queries_and_keys_are_rounded_to_the_type_of_values(queries, monkeypatch):
    """At once: attention gets them as they are, no operation in between reads float32 to round it."""
    seen = []

    def recorded(query, key, value, **rest):
        seen.append((query.dtype, key.dtype, value.dtype))
        return attend(query, key, value, **rest)

    monkeypatch.setattr(layers, "attend", recorded)
    attention = make().blocks[0].self_attention
    rotation = torch.zeros(5, SMALL.width // SMALL.heads // 2, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attention(torch.rand(1, 5, SMALL.width), rotation, queries=queries)
    attention(torch.rand(1, 5, SMALL.width), rotation, queries=queries)
    assert seen == [(torch.bfloat16,) * 3, (torch.float32,) * 3]


@pytest.mark.parametrize("rank", [0, 2])
def test_matrices_stored_in_bfloat16_take_part_in_float32_arithmetic(rank):
    model = make(replace(SMALL, adapter_rank=rank), noise=0.1)
    tokens = random_tokens(extra=True)
    layers = [layer for layer in model.modules() if isinstance(layer, Projection)]
    results = []
    for stored in (torch.bfloat16, torch.float32):
        for layer in layers:
            for name, value in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, torch.nn.Parameter(value.detach().bfloat16().to(stored)))
        with torch.no_grad():
            results.append(model(tokens, SCHEDULE, model.encode_condition(random_text(3, 4)), extra_block=True))
    assert torch.equal(*results)


def test_autocast_trains():
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        model(random_tokens(), SCHEDULE, model.encode_condition()).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_tables_made_in_inference_serve_training_and_stay_out_of_the_state():
    model = make()
    keys = set(model.state_dict())
    with torch.inference_mode():
        model(random_tokens(), SCHEDULE, model.encode_condition(), causal=True)
    assert set(model.state_dict()) == keys
    model(random_tokens(), SCHEDULE, model.encode_condition(), causal=True).sum().backward()
    twin = copy.deepcopy(model)
    tokens, condition = random_tokens(), model.encode_condition()
    assert torch.equal(twin(tokens, SCHEDULE, condition), model(tokens, SCHEDULE, condition))


def test_initialisation_follows_its_generator():
    torch.manual_seed(0)
    first, second = Transformer(SMALL), Transformer(SMALL)
    assert not torch.equal(first.head.weight, second.head.weight)
    for model in (first, second):
        model.reset_parameters(torch.Generator().manual_seed(3))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_released_size_on_the_meta_device():
    with torch.device("meta"):
        model = Transformer(TransformerConfig(width=2048, depth=32, heads=16))
    assert model.config.hidden == 8192
    assert model.config.pool_heads == 16
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_204_564_032
    assert sum(parameter.numel() for parameter in model.blocks.parameters()) == 2_148_729_344


@pytest.mark.parametrize(("width", "hidden"), [(2048, 8192), (160, 512), (2080, 8192), (16, 256)])
def test_hidden_width_rounds_as_released(width, hidden):
    assert TransformerConfig(width, 1, 1, text_heads=1).hidden == hidden


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 3}, "width 32 does not give 3 heads"),
        ({"text_heads": 5}, "not divisible by text_heads 5"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"adapter_rank": -1}, "adapter_rank must not be negative"),
        ({"head": "pixels"}, "head must be one of bits, latent, got 'pixels'"),
        ({"extra_block_positions": "true"}, "extra_block_positions must be one of next_scale, last_scale"),
    ],
)
def test_impossible_configs(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **fields)


def test_misfits_are_named():
    model = make()
    condition, tokens = model.encode_condition(random_text(2, 3)), random_tokens()
    with pytest.raises(ValueError, match=r"expected 61 token rows for 46 positions and the extra block, got 45"):
        model(tokens, SCHEDULE, condition, extra_block=True)
    with pytest.raises(ValueError, match="no extra block"):
        model(random_tokens(extra=True), SCHEDULE, condition, extra_block=True, causal=True)
    with pytest.raises(ValueError, match="condition of 2 items does not fit a batch of 3"):
        model(random_tokens(3), SCHEDULE, condition)
    with pytest.raises(ValueError, match="2 texts do not fit a batch of 3"):
        model.encode_condition(random_text(2, 3), batch=3)
    with pytest.raises(ValueError, match="7 wide, the transformer expects 24"):
        model.encode_condition(TextFeatures(torch.zeros(2, 7), (2,)))
    with pytest.raises(ValueError, match=r"\(2, 0\) must be positive"):
        TextFeatures(torch.zeros(2, 24), (2, 0))
    with pytest.raises(ValueError, match=r"needs 8 level embeddings, the model has 7"):
        schedule = square_grids(1, 1, 1, 1, 1, 1, 1)
        model(torch.zeros(2, 7, 6), schedule, condition, extra_block=True)
    released = Transformer(replace(SMALL, rotary_reference="infinity_1m"))
    with pytest.raises(ValueError, match="no released schedule begins with"):
        released(tokens, SCHEDULE, released.encode_condition())


@torch.inference_mode()
def test_bfloat16_weights_compute_in_float32_without_autocast():
    kept, widened = make(), make()
    for block in kept.blocks:
        for layer in block.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.data = layer.weight.data.bfloat16()
    widened.load_state_dict(kept.state_dict())  # the same values, in float32
    assert kept.blocks[0].feed_forward.fc1.weight.dtype == torch.bfloat16
    out, expected = (model(random_tokens(), SCHEDULE, model.encode_condition()) for model in (kept, widened))
    assert out.dtype == torch.float32 and torch.equal(out, expected)
