"""The pre-restorer against vectors of the released code."""

import pytest
import torch
from reference_data import reference
from released_states import from_released

from varestorer_models.swinir import SwinIR, WindowGeometry

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def network() -> SwinIR:
    return from_released("prerestorer", reference("swinir").state("prerestorer"))


@pytest.mark.parametrize("case", ["clean_64x64", "clean_128x192"])
def test_image_equals_released(network: SwinIR, case: str) -> None:
    stored = reference("swinir")
    with torch.inference_mode():
        restored = network(stored.get(f"{case}/in/image"))
    assert stored.max_error(f"{case}/out/image", restored) <= 1e-5


def test_tables_equal_the_stored_buffers() -> None:
    stored, block = reference("swinir"), "layers.0.residual_group.blocks.1"
    geometry = WindowGeometry.of(8, 64, 64, torch.device("cpu"))
    assert torch.equal(geometry.bias_index, stored.table(f"{block}.attn.relative_position_index"))
    assert torch.equal(geometry.shift_mask, stored.table(f"{block}.attn_mask").float())
