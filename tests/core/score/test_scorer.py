import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photo, save

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.metrics.registry import load_metrics
from varestorer_cli.core.score import scorer as scoring
from varestorer_cli.core.score.pairing import Pair
from varestorer_cli.core.score.scorer import PairScore


def score_one(restored: Path, reference: Path | None, names: str = "psnr_rgb", **settings: Any) -> PairScore:
    (score,) = scoring.score_pairs([Pair("a", restored, reference)], load_metrics(names.split(",")), **settings)
    return score


def test_a_score_is_what_the_metric_says(tmp_path: Path) -> None:
    reference = np.clip(photo(20, 30).astype(int), 5, 250).astype(np.uint8)
    score = score_one(save(tmp_path / "a.png", reference + 5), save(tmp_path / "b.png", reference))
    assert score.values["psnr_rgb"] == pytest.approx(20 * math.log10(51), abs=1e-3)
    assert (score.size, score.failed, score.note) == ((30, 20), False, "")


def test_the_border_is_cut_off_both_images(tmp_path: Path) -> None:
    reference = photo(20, 30)
    restored = reference.copy()
    restored[:2] = restored[-2:] = 255 - restored[0]
    restored[:, :2] = 0
    left, right = save(tmp_path / "a.png", restored), save(tmp_path / "b.png", reference)
    assert math.isfinite(score_one(left, right, crop_border=1).values["psnr_rgb"])
    assert math.isinf(score_one(left, right, crop_border=2).values["psnr_rgb"])
    nothing = score_one(left, right, crop_border=10)
    assert nothing.failed and "10 pixels leaves nothing of 30x20" in nothing.reason


def test_sizes_that_differ_fail_with_both_sizes(tmp_path: Path) -> None:
    score = score_one(save(tmp_path / "a.png", photo(20, 31)), save(tmp_path / "b.png", photo(20, 30)))
    assert score.failed and score.values == {}
    assert "restored 31x20, reference 30x20" in score.reason


@pytest.mark.parametrize("broken", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_unreadable_files_fail_by_name(tmp_path: Path, broken: bytes) -> None:
    good, bad = save(tmp_path / "b.png", photo()), tmp_path / "a.png"
    bad.write_bytes(broken)
    for score in (score_one(bad, good), score_one(good, bad)):
        assert score.failed and str(bad) in score.reason


def test_16_bit_alpha_and_gray_are_scored_as_8_bit_rgb(tmp_path: Path) -> None:
    gray = photo(20, 30, channels=1)
    deep = save(tmp_path / "deep.png", gray.astype(np.uint16) * 257 + 100)
    clear = save(tmp_path / "clear.png", np.concatenate([np.repeat(gray, 3, axis=2), gray], axis=2))
    plain = save(tmp_path / "plain.png", gray)
    score = score_one(deep, plain)
    assert math.isinf(score.values["psnr_rgb"])
    assert score.note == "restored: 16 bit scored as 8; psnr_rgb infinite: identical images"
    assert scoring.read_rgb8(clear) == (pytest.approx(np.repeat(gray, 3, axis=2)), "alpha ignored")


def test_a_failing_metric_fails_the_pair_and_no_other(tmp_path: Path) -> None:
    small, large = photo(10, 10), photo(20, 20)
    pairs = []
    for name, image in (("small", small), ("large", large)):
        left, right = save(tmp_path / f"{name}.png", image // 2), save(tmp_path / "gt" / f"{name}.png", image)
        pairs.append(Pair(name, left, right))
    seen: list[str] = []
    scores = scoring.score_pairs(
        pairs, load_metrics(["psnr_y", "ssim_y"]), on_done=lambda score: seen.append(score.pair.name)
    )
    assert seen == ["small", "large"]
    assert "ssim_y failed" in scores[0].reason and "11x11" in scores[0].reason
    assert scores[0].values == {} and set(scores[1].values) == {"psnr_y", "ssim_y"}


def test_not_a_number_is_a_failure(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", photo())
    metric = Metric("odd", "ODD", False, True, "test", lambda restored, references: [math.nan])
    (score,) = scoring.score_pairs([Pair("a", image, None)], [metric])
    assert score.reason == "odd is not a number for this image"


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: the file cannot be read"):
        scoring.read_rgb8(tmp_path / "none.png")
