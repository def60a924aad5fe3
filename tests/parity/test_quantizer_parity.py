"""Bits and pyramid tokens against vectors of the released code."""

import pytest
import torch
from reference_data import max_error, reference

from varestorer_models.quantizer import MultiScaleQuantizer
from varestorer_models.schedule import ScaleSchedule

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("size", ["0.06M", "0.25M"])
def test_pyramid_equals_released(size: str) -> None:
    stored, schedule = reference("quantisation"), ScaleSchedule.infinity(size)
    # stored with a leading time axis
    assert stored.get(f"pyramid_{size}/in/schedule")[:, 1:].tolist() == [list(grid) for grid in schedule.grids]
    quantized = MultiScaleQuantizer()(stored.get(f"pyramid_{size}/in/features"), schedule)
    bits = stored.get(f"pyramid_{size}/out/bits")
    assert torch.equal(quantized.bits_BLd, bits)
    tokens = quantized.tokens_with_extra()
    assert stored.max_error(f"pyramid_{size}/out/tokens_long", tokens) <= 5e-6
    assert torch.equal(quantized.tokens_BLd, tokens[:, : schedule.length - 1])
    assert stored.max_error(f"pyramid_{size}/out/accumulated_codes", quantized.accumulated_Bdhw) <= 5e-6


@pytest.mark.parametrize("size", ["0.06M", "0.25M"])
def test_stored_bits_give_the_same_tokens(size: str) -> None:
    stored, schedule = reference("quantisation"), ScaleSchedule.infinity(size)
    quantizer = MultiScaleQuantizer()
    bits = stored.get(f"pyramid_{size}/out/bits")
    tokens, codes = quantizer.tokens_from_bits(bits, schedule)
    extra = codes.flatten(2).transpose(1, 2)
    assert stored.max_error(f"pyramid_{size}/out/tokens_long", torch.cat([tokens, extra], dim=1)) <= 5e-6
    assert stored.max_error(f"pyramid_{size}/out/accumulated_codes", codes) <= 5e-6
    assert max_error(quantizer.accumulate(bits, schedule), codes) == 0
