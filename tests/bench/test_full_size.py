import pytest
import torch

from varestorer_cli.bench import full_size
from varestorer_cli.bench.full_size import Stages, random_weights
from varestorer_cli.bench.gpu import build, sizes_of
from varestorer_models.layers import Projection
from varestorer_models.meta_init import on_meta_device
from varestorer_models.schedule import ScaleSchedule
from varestorer_models.transformer import Transformer, TransformerConfig


def test_random_weights_fill_every_parameter_and_keep_the_matrices_narrow() -> None:
    config = TransformerConfig(width=32, depth=2, heads=2, bits=6, text_width=128, cross_value_bias=False)
    model = on_meta_device(lambda: Transformer(config))
    random_weights(model, torch.bfloat16)
    kinds = {id(layer.weight): layer.weight.dtype for layer in model.modules() if isinstance(layer, Projection)}
    assert set(kinds.values()) == {torch.bfloat16} and len(kinds) == 14
    assert all(p.dtype == torch.float32 for p in model.parameters() if id(p) not in kinds)
    assert not any(p.is_meta or p.requires_grad for p in model.parameters())
    schedule = ScaleSchedule.infinity("0.06M")
    tokens = torch.randn(1, schedule.length - 1, 6)
    with torch.inference_mode():
        scores = model(tokens, schedule, model.encode_condition())
    assert scores.isfinite().all() and 0.1 < float(scores.std()) < 10


def test_a_stage_gives_its_result_and_a_row(capsys) -> None:
    stages = Stages()
    assert stages.run("load", lambda: 3, of_tile=False) == 3
    assert stages.run("work", lambda: sum(range(10**6))) > 0
    assert 0 < stages.total_processor < stages.total_wall + 1
    stages.total()
    rows = [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines()]
    assert rows == ["load", "work", "tile"] and stages.total_processor == 0


@pytest.mark.parametrize("narrow", [False, True])
def test_the_table_has_ours_and_the_released_arithmetic(monkeypatch, capsys, narrow: bool) -> None:
    monkeypatch.setattr(full_size, "full_size", lambda store, blocks: build(sizes_of("tiny"), torch.device("cpu")))
    monkeypatch.setattr(full_size, "cpu_has_bf16", lambda: narrow)
    full_size.measure("bf16", 2)
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in capsys.readouterr().out.splitlines()]
    assert [kind for kind, stage in rows if stage == "tile"] == [
        *(["ours, bf16"] if narrow else []),
        "ours, fp32",
        "released, fp32",
    ]
    assert (("ours, bf16", "not measured here: the processor has no bf16") in rows) is not narrow
    assert sum(stage == "transformer, 2 blocks" for _, stage in rows) == 2 + narrow
