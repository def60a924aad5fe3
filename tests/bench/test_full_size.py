import torch

from varestorer_cli.bench.full_size import Stages, random_weights
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
    stages.total()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert rows == ["load", "work", "tile"] and 0 < stages.total_processor < stages.total_wall + 1
