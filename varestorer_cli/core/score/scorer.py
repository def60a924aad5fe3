"""Score pairs of files: read them, measure in batches, keep what was measured.

A pair that cannot be scored (unreadable, differently sized) is named and is in no mean; the others are scored.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from varestorer_cli.core.errors import InputError, MissingDependencyError
from varestorer_cli.core.image.reader import decode, read_bytes
from varestorer_cli.core.image.resample import to_depth
from varestorer_cli.core.metrics.base import Image8, Metric
from varestorer_cli.core.score.cache import About, ScoreCache
from varestorer_cli.core.score.pairing import Pair

READING_RULE = 1  # raised when the same files are read as other pixels
_CHUNK_PAIRS, _CHUNK_PIXELS = 16, 1 << 23  # read and measured together


@dataclass(frozen=True)
class PairScore:
    """What became of one pair.

    Attributes:
        pair: the files.
        values: metric name -> score, infinite for the PSNR of identical images; empty where the pair failed.
        size: (width, height) that was scored, before any crop; None where unknown.
        reason: why it failed; empty where it did not.
        note: what to know about a pair that was scored, e.g. that its alpha channel was ignored.
        key: hash of the files and the crop; empty where scores are not kept.
    """

    pair: Pair
    values: Mapping[str, float] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    reason: str = ""
    note: str = ""
    key: str = ""

    @property
    def failed(self) -> bool:
        """True where the pair is in no mean."""
        return bool(self.reason)


def read_rgb8(path: Path) -> tuple[Image8, str]:
    """Read a file as published protocols do: upright, 8 bit, RGB.

    Returns:
        The image (H, W, 3) and a note on what was left out or converted, empty as a rule.

    Raises:
        InputError: the file is no readable image.
    """
    try:
        return rgb8(read_bytes(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def rgb8(data: bytes) -> tuple[Image8, str]:
    """Decode a file's bytes as :func:`read_rgb8` does."""
    decoded = decode(data)
    color, notes = decoded.color, []
    if color.dtype != np.uint8:
        color = np.rint(color / 257).astype(np.uint8) if color.dtype == np.uint16 else to_depth(color, np.uint8)
        notes.append(f"{decoded.depth} bit scored as 8")
    if decoded.alpha is not None:
        notes.append("alpha ignored")
    notes += [loss.text for loss in decoded.losses if loss.name in {"cmyk", "lab", "frames"}]
    return np.broadcast_to(color, (*color.shape[:2], 3)).astype(np.uint8), ", ".join(notes)


def score_pairs(
    pairs: Sequence[Pair],
    metrics: Sequence[Metric],
    *,
    crop_border: int = 0,
    cache: ScoreCache | None = None,
    on_done: Callable[[PairScore], None] = lambda score: None,
) -> tuple[PairScore, ...]:
    """Score every pair with every metric of pairs; one that fails is recorded and the next one is taken.

    Args:
        pairs: what to compare.
        metrics: from ``metrics.load_metrics``; those of whole sets are passed over.
        crop_border: pixels cut off each side of both images first.
        cache: scores of earlier runs; new ones are added to it.
        on_done: called after each pair.

    Raises:
        MissingDependencyError: a metric lacks its weights.
    """
    single = [metric for metric in metrics if not metric.whole_set]
    scores: list[PairScore] = []
    for chunk in _chunks(ScoreItem(pair, single, crop_border, cache) for pair in pairs):
        for metric in single:
            _measure(metric, [item for item in chunk if not item.reason and metric.name not in item.values])
        if cache is not None:
            cache.add(record for item in chunk for record in item.records(single))
        for item in chunk:
            scores.append(item.score(single))
            on_done(scores[-1])
    return tuple(scores)


class ScoreItem:
    """One pair while it is scored: read, looked up among earlier scores, decoded only where a score is missing."""

    def __init__(self, pair: Pair, metrics: Sequence[Metric], crop_border: int, cache: ScoreCache | None) -> None:
        self.pair = pair
        self.values: dict[str, float] = {}
        self.known: frozenset[str] = frozenset()
        self.about: About | None = None
        self.size: tuple[int, int] | None = None
        self.reason = pair.problem
        self.images: tuple[Image8, Image8 | None] | None = None
        self.keys = ("", "")
        if self.reason:
            return
        try:
            files = [read_named(path) for path in (pair.restored, pair.reference) if path is not None]
        except InputError as error:
            self.reason = str(error)
            return
        if cache is not None:
            self.keys = _keys(files, crop_border)
            self.about = cache.about(self.keys[1])
            self.size = self.about.size if self.about is not None else None
            self.values = cache.values({metric: self.keys[metric.needs_reference] for metric in metrics})
            self.known = frozenset(self.values)
        # A pair never seen together is decoded even if its scores are known: its sizes may differ.
        if self.about is None or any(metric.name not in self.values for metric in metrics):
            self._decode(files, crop_border)

    @property
    def pixels(self) -> int:
        """Pixels held in memory."""
        return 0 if self.images is None else self.images[0].shape[0] * self.images[0].shape[1]

    def _decode(self, files: Sequence[bytes], crop_border: int) -> None:
        images, notes = [], []
        for data, path, side in zip(files, (self.pair.restored, self.pair.reference), _SIDES, strict=False):
            try:
                image, note = rgb8(data)
            except InputError as error:
                self.reason = f"{path}: {error}"
                return
            images.append(image)
            notes += [f"{side}: {note}"] if note else []
        height, width = images[0].shape[:2]
        self.size = (width, height)
        self.about = About(self.size, "; ".join(notes))
        if len({image.shape for image in images}) > 1:
            other = f"{images[1].shape[1]}x{images[1].shape[0]}"
            self.reason = (
                f"sizes differ: restored {width}x{height}, reference {other} (width x height); "
                f"nothing is resized or cropped to make them fit"
            )
        elif min(self.size) <= 2 * crop_border:
            self.reason = f"a border of {crop_border} pixels leaves nothing of {width}x{height}"
        else:
            cut = [_cropped(image, crop_border) for image in images]
            self.images = (cut[0], cut[1] if len(cut) > 1 else None)

    def records(self, metrics: Sequence[Metric]) -> Iterator[tuple[str, About | None, Metric | None, float]]:
        """What the cache does not hold yet: (key, about the pair or None, metric or None, score)."""
        if self.images is None:
            return
        yield self.keys[1], self.about, None, 0.0
        for metric in metrics:
            if metric.name in self.values and metric.name not in self.known:
                yield self.keys[metric.needs_reference], None, metric, self.values[metric.name]

    def score(self, metrics: Sequence[Metric]) -> PairScore:
        """The finished score; the images are released."""
        self.images = None
        if self.reason:
            return PairScore(self.pair, size=self.size, reason=self.reason)
        values = {metric.name: self.values[metric.name] for metric in metrics}
        notes = [self.about.note] if self.about is not None and self.about.note else []
        notes += sorted(f"{name} infinite: identical images" for name, value in values.items() if math.isinf(value))
        return PairScore(self.pair, values, self.size, note="; ".join(notes), key=self.keys[1])


_SIDES = ("restored", "reference")


def read_named(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read; the text names it.
    """
    try:
        return read_bytes(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _keys(files: Sequence[bytes], crop_border: int) -> tuple[str, str]:
    """Hashes under which scores without and with reference are kept."""
    digests = [hashlib.sha256(data).hexdigest() for data in files]
    parts = (digests[:1], digests)
    alone, both = (hashlib.sha256(f"{READING_RULE} {crop_border} {p}".encode()).hexdigest() for p in parts)
    return alone, both


def _cropped(image: Image8, border: int) -> Image8:
    inner = slice(border, -border or None)
    return np.ascontiguousarray(image[inner, inner])


def _chunks(items: Iterable[ScoreItem]) -> Iterator[list[ScoreItem]]:
    """Items to be measured together: bounded in number and in pixels."""
    chunk: list[ScoreItem] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK_PAIRS or sum(one.pixels for one in chunk) >= _CHUNK_PIXELS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _measure(metric: Metric, items: Sequence[ScoreItem]) -> None:
    """Fill in one metric's scores, images of one size together."""
    by_size: dict[tuple[int, int] | None, list[ScoreItem]] = {}
    for item in items:
        by_size.setdefault(item.size, []).append(item)
    for group in by_size.values():
        for start in range(0, len(group), metric.batch):
            _measure_batch(metric, group[start : start + metric.batch])


def _measure_batch(metric: Metric, items: Sequence[ScoreItem]) -> None:
    images = [item.images for item in items if item.images is not None]
    try:
        values = metric.measure([restored for restored, _ in images], [reference for _, reference in images])
    except MissingDependencyError:
        raise
    except Exception as error:  # libraries raise what they like on small or flat images, or on a full GPU
        if len(items) > 1:
            for item in items:  # one by one, to find out whose fault it is
                _measure_batch(metric, [item])
            return
        text = (str(error).strip().splitlines() or ["no message"])[0]
        items[0].reason = f"{metric.name} failed ({type(error).__name__}: {text})"
        return
    for item, value in zip(items, values, strict=True):
        if math.isnan(value):
            item.reason = f"{metric.name} is not a number for this image"
        else:
            item.values[metric.name] = value


def score_set(
    scores: Sequence[PairScore], metric: Metric, *, crop_border: int = 0, cache: ScoreCache | None = None
) -> float:
    """One number for all pairs that did not fail, as FID is.

    Args:
        scores: of the pairs, from :func:`score_pairs`.
        metric: one of whole sets.
        crop_border: pixels cut off each side.
        cache: scores of earlier runs.

    Raises:
        ValueError: under two pairs, or the metric failed; with a reason.
        MissingDependencyError: the metric lacks its weights.
    """
    good = [score for score in scores if not score.failed]
    if len(good) < 2 or metric.measure_set is None:
        raise ValueError(f"{metric.name} compares sets of at least two images, {len(good)} can be scored")
    key = hashlib.sha256("".join(sorted(score.key for score in good)).encode()).hexdigest()
    if cache is not None and (known := cache.values({metric: key})):
        return known[metric.name]
    with tempfile.TemporaryDirectory(prefix="varestorer-") as name:
        folders = [Path(name) / side for side in _SIDES]
        for folder in folders:
            folder.mkdir()
        for number, score in enumerate(good):
            # Written anew: the same reading rule and crop for every metric, and only the pairs that count.
            for path, folder in zip((score.pair.restored, score.pair.reference), folders, strict=True):
                if path is not None:
                    image = _cropped(read_rgb8(path)[0], crop_border)
                    cv2.imwrite(str(folder / f"{number:06}.png"), image[..., ::-1])
        try:
            value = metric.measure_set(*folders)
        except MissingDependencyError:
            raise
        except Exception as error:
            text = (str(error).strip().splitlines() or ["no message"])[0]
            raise ValueError(f"{metric.name} failed ({type(error).__name__}: {text})") from error
    if not math.isfinite(value):
        raise ValueError(f"{metric.name} is not a number for these images")
    if cache is not None:
        cache.add([(key, None, metric, value)])
    return value
