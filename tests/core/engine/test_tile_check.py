import cv2
import numpy as np
import pytest
import torch
from conftest import photo

from varestorer_cli.core.engine import tile_check
from varestorer_cli.core.engine.tile_check import BLURRED, NOT_FINITE, RELATIVE, UNLIKE, named


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))


def fault(restored: np.ndarray, degraded: np.ndarray) -> str | None:
    """What is wrong with one tile; in the company of sound tiles it is the same."""
    got, given = tensor(restored), tensor(degraded)
    alone, company = named(tile_check.fault(got[None], given[None])[0].tolist()), torch.stack([given, got])
    assert [named(row) for row in tile_check.fault(company, torch.stack([given, given])).tolist()] == ["", alone]
    return alone or None


def probe_card(height: int, width: int) -> np.ndarray:
    return tile_check.probe_card(height, width).permute(1, 2, 0).numpy()


TILE = (photo(256, 256) / 255).astype(np.float32)
COARSE = cv2.resize(np.random.default_rng(1).random((12, 12, 3)).astype(np.float32), (256, 256)).clip(0, 1)


@pytest.mark.parametrize(
    ("restored", "word"),
    [
        (np.where(np.arange(256)[:, None, None] == 7, np.nan, COARSE), "not finite"),
        (np.full_like(COARSE, 0.001), "black"),
        (np.full_like(COARSE, 0.5), "constant"),
        (1 - COARSE, "unlike its input"),
        (COARSE[..., ::-1] * 0.2, "unlike its input"),
        (cv2.GaussianBlur(COARSE, (0, 0), 24), "blurred"),
    ],
)
def test_bad_tiles_are_named(restored: np.ndarray, word: str) -> None:
    assert fault(restored.astype(np.float32), COARSE) == word


@pytest.mark.parametrize("degraded", [TILE, COARSE, TILE[:40, :32], TILE[:3, :5], np.zeros_like(TILE)])
def test_a_restoration_passes(degraded: np.ndarray) -> None:
    assert fault(degraded, degraded) is None
    assert fault(cv2.GaussianBlur(degraded, (0, 0), 2), degraded) is None
    assert fault((degraded * 1.08).astype(np.float32), degraded) is None


def test_removing_heavy_noise_is_no_blur() -> None:
    """A flat wall at ISO 25600, enlarged four times, and the flat wall."""
    noise = np.random.default_rng(0).normal(0.4, 0.12, (64, 64, 3))
    degraded = cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC).clip(0, 1).astype(np.float32)
    clean = np.full_like(degraded, 0.4) + np.linspace(-0.01, 0.01, 256, dtype=np.float32)[:, None, None]
    assert fault(clean, degraded) is None


@pytest.mark.parametrize("shape", [(16, 16), (64, 96), (256, 256), (512, 512)])
def test_the_probe_card_is_a_image_that_passes_and_whose_opposite_does_not(shape: tuple[int, int]) -> None:
    card = probe_card(*shape)
    assert card.shape == (*shape, 3) and card.dtype == np.float32
    assert card.min() >= 0.05 - 1e-6 and card.max() <= 0.95 + 1e-6
    assert fault(card, card) is None
    if min(shape) > 64:
        assert fault(1 - card, card) in RELATIVE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_seen(value: float) -> None:
    tiles = torch.rand(3, 3, 32, 32)
    tiles[1, 2, 31, 0] = value
    assert tile_check.not_finite(tiles, tiles).tolist() == [[False], [True], [False]]
    found = tile_check.fault(tiles, torch.rand(3, 3, 32, 32)).tolist()
    assert [named(row) == NOT_FINITE for row in found] == [False, True, False]


# --- the limits themselves


@pytest.mark.parametrize(("difference", "found"), [(0.145, None), (0.155, UNLIKE), (-0.145, None), (-0.155, UNLIKE)])
def test_limit_of_the_difference(difference: float, found: str | None) -> None:
    degraded = np.full((64, 64, 3), 0.5, np.float32)
    assert fault(degraded + np.float32(difference), degraded) == found


@pytest.mark.parametrize(("kept", "found"), [(0.16, None), (0.14, BLURRED)])
def test_limit_of_the_structure(kept: float, found: str | None) -> None:
    blocks = np.indices((8, 8)).sum(0) % 2 * 2.0 - 1.0
    structure = np.kron(blocks, np.ones((16, 16)))[..., None].repeat(3, 2) * 0.06
    degraded, restored = ((0.5 + structure * share).astype(np.float32) for share in (1.0, kept))
    assert fault(restored, degraded) == found
    assert fault(restored[:112], degraded[:112]) is None  # too small to tell
    weak = ((0.5 + structure * share * 0.6).astype(np.float32) for share in (kept, 1.0))
    assert fault(*weak) is None  # 0.036 is less structure than 10 of 255 levels


@pytest.mark.parametrize(("given", "got", "found"), [(17, 0.9, "black"), (15, 0.9, None), (17, 1.1, None)])
def test_limits_of_black(given: float, got: float, found: str | None) -> None:
    degraded, restored = (np.full((32, 32, 3), level / 255, np.float32) for level in (given, got))
    assert fault(restored, degraded) == found


@pytest.mark.parametrize(("given", "got", "found"), [(4.5, 0.4, "constant"), (3.5, 0.4, None), (4.5, 0.6, None)])
def test_limits_of_constant(given: float, got: float, found: str | None) -> None:
    signs = (np.indices((32, 32)).sum(0) % 2 * 2.0 - 1.0)[..., None].repeat(3, 2)
    degraded, restored = ((0.5 + signs * level / 255).astype(np.float32) for level in (given, got))
    assert fault(restored, degraded) == found
