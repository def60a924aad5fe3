import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import load, photo, save

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.score.cache import About, ScoreCache
from varestorer_cli.core.score.pairing import Pair
from varestorer_cli.core.score.scorer import score_pairs, score_set


class Counted:
    """A metric that counts the images it was given and remembers the sizes of its batches."""

    def __init__(self, name: str = "mean", *, batch: int = 4, reference: bool = False, version: str = "") -> None:
        self.batches: list[int] = []
        self.bad: set[int] = set()
        self.metric = Metric(
            name, name.upper(), reference, False, "lib 1", self.measure, batch=batch, version=lambda: version
        )

    def measure(self, restored: Any, references: Any) -> list[float]:
        self.batches.append(len(restored))
        assert len({image.shape for image in restored}) == 1, "one size at a time"
        if any(int(image[0, 0, 0]) in self.bad for image in restored):
            raise RuntimeError("CUDA out of memory")
        return [float(image[0, 0, 0]) for image in restored]


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Six restored images of two sizes, numbered by their first sample, with references."""
    made = []
    for i in range(6):
        side = 16 if i % 3 else 20
        image = photo(side, side, seed=i)
        image[0, 0] = i
        gt = save(tmp_path / f"gt/{i}.png", photo(side, side, seed=i + 50))
        made.append(Pair(str(i), save(tmp_path / f"out/{i}.png", image), gt))
    return made


def test_images_of_one_size_are_measured_together_and_stay_in_order(pairs: list[Pair]) -> None:
    counted = Counted(batch=3)
    scores = score_pairs(pairs, [counted.metric])
    assert [score.values["mean"] for score in scores] == [0, 1, 2, 3, 4, 5]
    assert sorted(counted.batches) == [1, 2, 3], "four of 16 pixels as 3 + 1, two of 20 pixels"


def test_a_batch_that_fails_is_tried_one_by_one(pairs: list[Pair]) -> None:
    counted = Counted(batch=3)
    counted.bad = {2}
    scores = score_pairs(pairs, [counted.metric])
    assert [score.pair.name for score in scores if score.failed] == ["2"]
    assert "mean failed (RuntimeError: CUDA out of memory)" in scores[2].reason
    assert scores[1].values == {"mean": 1.0}


def test_a_second_run_computes_nothing_and_decodes_nothing(
    pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = save(tmp_path / "out/6.png", photo(16, 16, depth=16))
    pairs = [*pairs, Pair("6", deep, save(tmp_path / "gt/6.png", photo(16, 16)))]
    first, cache = Counted(reference=True), ScoreCache(tmp_path / "cache")
    before = score_pairs(pairs, [first.metric], cache=cache)
    cache.close()
    assert sum(first.batches) == 7 and before[6].note == "restored: 16 bit scored as 8"
    monkeypatch.setattr("varestorer_cli.core.score.scorer.decode", lambda data: pytest.fail("decoded"))
    second = Counted(reference=True)
    after = score_pairs(pairs, [second.metric], cache=ScoreCache(tmp_path / "cache"))
    assert second.batches == [] and after == before


def test_what_changed_is_computed_again(pairs: list[Pair], tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "cache")
    alone, paired = Counted("alone"), Counted("paired", reference=True)
    score_pairs(pairs, [alone.metric, paired.metric], cache=cache)
    reference = pairs[1].reference
    assert reference is not None
    save(reference, photo(16, 16, seed=99))
    alone.batches, paired.batches = [], []
    score_pairs(pairs, [alone.metric, paired.metric], cache=cache)
    assert alone.batches == [], "a metric without reference does not depend on it"
    assert sum(paired.batches) == 1
    for other, settings in (
        (Counted("alone", version="other weights"), {}),
        (Counted("alone"), {"crop_border": 1}),
        (Counted("other"), {}),
    ):
        score_pairs(pairs, [other.metric], cache=cache, **settings)
        assert sum(other.batches) == 6


def test_a_renamed_copy_is_known(pairs: list[Pair], tmp_path: Path) -> None:
    cache, counted = ScoreCache(tmp_path / "cache"), Counted()
    score_pairs(pairs[:1], [counted.metric], cache=cache)
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes(pairs[0].restored.read_bytes())
    counted.batches = []
    (score,) = score_pairs([Pair("x", copy, pairs[0].reference)], [counted.metric], cache=cache)
    assert score.values == {"mean": 0.0} and counted.batches == []


def test_infinite_scores_are_kept_and_failures_are_not(pairs: list[Pair], tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "cache")
    metric = Metric("m", "M", False, False, "lib", lambda a, b: [math.inf if int(i[0, 0, 0]) else math.nan for i in a])
    for _ in range(2):
        scores = score_pairs(pairs[:2], [metric], cache=cache)
        assert scores[0].reason == "m is not a number for this image"
        assert scores[1].values == {"m": math.inf} and "infinite" in scores[1].note


@pytest.mark.parametrize("harm", ["file", "damaged"])
def test_a_cache_that_cannot_be_used_costs_no_score(pairs: list[Pair], tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "cache"
    if harm == "file":
        folder.write_text("in the way")
    else:
        folder.mkdir()
        (folder / "scores.sqlite3").write_bytes(b"this is no database" * 100)
    said: list[str] = []
    scores = score_pairs(pairs, [Counted().metric], cache=ScoreCache(folder, said.append))
    assert [score.values["mean"] for score in scores] == [0, 1, 2, 3, 4, 5]
    assert len(said) == 1 and "scores are not kept for the next run" in said[0] and "--cache" in said[0]


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    default = ScoreCache.open(None)
    assert default is not None and default.path == tmp_path / "varestorer/scores.sqlite3"
    assert ScoreCache.open("none") is None and not list(tmp_path.iterdir())
    named = ScoreCache.open(str(tmp_path / "mine"))
    assert named is not None
    named.add([("k", About((3, 2), "n"), None, 0.0)])
    assert named.about("k") == About((3, 2), "n") and named.about("other") is None
    with sqlite3.connect(named.path) as file:
        assert file.execute("SELECT count(*) FROM scores").fetchone() == (0,)


def test_missing_weights_end_the_run(pairs: list[Pair]) -> None:
    def measure(restored: Any, references: Any) -> list[float]:
        raise MissingDependencyError("no weights")

    with pytest.raises(MissingDependencyError):
        score_pairs(pairs, [Metric("m", "M", False, False, "lib", measure, batch=4)])


# --- whole sets ------------------------------------------------------------------------------------------------------


def test_a_set_is_scored_on_the_pairs_that_count(pairs: list[Pair], tmp_path: Path) -> None:
    (tmp_path / "out/3.png").write_bytes(b"broken")
    seen: list[dict[str, Any]] = []

    def measure_set(restored: Path, reference: Path) -> float:
        names = sorted(path.name for path in restored.iterdir())
        assert names == sorted(path.name for path in reference.iterdir())
        seen.append({name: load(restored / name) for name in names})
        return 12.5

    fid = Metric("fid", "FID", True, True, "lib", lambda a, b: [0.0], whole_set=True, measure_set=measure_set)
    cache = ScoreCache(tmp_path / "cache")
    scores = score_pairs(pairs, [Counted().metric, fid], cache=cache)
    assert set(scores[0].values) == {"mean"}
    assert score_set(scores, fid, crop_border=2, cache=cache) == 12.5
    first = [int(image.shape[0]) for image in seen[0].values()]
    assert first == [16, 12, 12, 12, 12], "five pairs, two pixels cut off each side"
    np.testing.assert_array_equal(next(iter(seen[0].values())), load(pairs[0].restored)[2:-2, 2:-2])
    assert score_set(scores, fid, crop_border=2, cache=cache) == 12.5 and len(seen) == 1
    with pytest.raises(ValueError, match="at least two images, 1 can be scored"):
        score_set(scores[:1], fid)


def test_a_set_that_fails_says_why(pairs: list[Pair]) -> None:
    def measure_set(restored: Path, reference: Path) -> float:
        raise RuntimeError("singular\nmore")

    fid = Metric("fid", "FID", True, True, "lib", lambda a, b: [0.0], whole_set=True, measure_set=measure_set)
    scores = score_pairs(pairs, [Counted().metric])
    with pytest.raises(ValueError, match=r"fid failed \(RuntimeError: singular\)"):
        score_set(scores, fid)
