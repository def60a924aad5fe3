"""The pre-restorer against vectors of the released code."""

import pytest
import torch
from reference_data import max_error, reference
from released_states import from_released

from varestorer_models.swinir import SwinIR, WindowGeometry

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def network() -> SwinIR:
    return from_released("prerestorer", reference("swinir").state("prerestorer"))


@pytest.mark.parametrize("case", ["clean_64x64", "clean_128x192"])
def test_picture_equals_released(network: SwinIR, case: str) -> None:
    stored = reference("swinir")
    with torch.inference_mode():
        restored = network(stored.get(f"{case}/in/image"))
    assert max_error(restored, stored.get(f"{case}/out/image")) <= 1e-5


def test_tables_equal_the_stored_buffers() -> None:
    state = reference("swinir").state("prerestorer")
    stack = "layers.0.residual_group.blocks.1"
    geometry = WindowGeometry.of(8, 64, 64, torch.device("cpu"))
    assert torch.equal(geometry.bias_index, state[f"{stack}.attn.relative_position_index"])
    assert torch.equal(geometry.shift_mask, state[f"{stack}.attn_mask"].float())
