"""Pairs of files -> scores -> means: what is compared with what, and what counts.

Files are paired by their path below the folder without suffix, never by order. A file without a partner
stops the run before any work; a pair that cannot be scored (unreadable, differently sized) is named and is in
no mean.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from varestorer_cli.core.errors import ExitCode, InputError, UsageError
from varestorer_cli.core.formats import SUFFIXES
from varestorer_cli.core.imageio import decode, read_bytes
from varestorer_cli.core.metrics import OUR_METRICS, Image8, Metric

IMAGE_SUFFIXES = frozenset(SUFFIXES)
BOOTSTRAP_DRAWS = 2000
BOOTSTRAP_LEVEL = 0.95
NAMES_SHOWN = 10  # file names listed in one message before "and N more"


@dataclass(frozen=True)
class Protocol:
    """A named way to score; its words stand above every table.

    Attributes:
        name: what ``--protocol`` takes.
        words: which colours PSNR and SSIM see.
        metrics: what is computed unless ``--metrics`` says otherwise.
    """

    name: str
    words: str
    metrics: tuple[str, ...]


_Y = "Y of YCbCr (ITU-R BT.601, 16-235)"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("both", f"PSNR and SSIM on {_Y} and RGB", ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb")),
        # OSEDiff's test_metrics.py and the papers that follow it: Y, no border cut, 8-bit files read back.
        Protocol("osediff", f"PSNR and SSIM on {_Y}", ("psnr_y", "ssim_y")),
        # pyiqa's defaults. The VARestorer paper does not name its protocol; this one gives back its OSEDiff rows
        # from OSEDiff's released images: RealSR 23.59 and 0.7073 (paper 23.59 and 0.7074), DRealSR 25.85 and 0.7547
        # (25.85 and 0.7548).
        Protocol("paper", "PSNR on RGB, SSIM on Y of YIQ", ("psnr_rgb", "ssim_yiq")),
        Protocol("rgb", "PSNR and SSIM on RGB", ("psnr_rgb", "ssim_rgb")),
    )
}


@dataclass(frozen=True)
class Pair:
    """One comparison.

    Attributes:
        name: path without suffix below the folders.
        restored: the file to judge.
        reference: what it should look like; None for no-reference metrics.
        problem: why it must not be scored, e.g. that its restoration failed and the file is of an earlier run.
    """

    name: str
    restored: Path
    reference: Path | None
    problem: str = ""


@dataclass(frozen=True)
class PairPlan:
    """What will be scored, and which files have no partner (empty unless partial scoring was allowed)."""

    pairs: tuple[Pair, ...]
    unpaired_restored: tuple[str, ...] = ()
    unpaired_reference: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairScore:
    """What became of one pair.

    Attributes:
        pair: the files.
        values: metric name -> score, infinite for the PSNR of identical images; empty where the pair failed.
        size: (width, height) that was scored, before any crop; None where unknown.
        reason: why it failed; empty where it did not.
        note: what to know about a pair that was scored, e.g. that its alpha channel was ignored.
    """

    pair: Pair
    values: Mapping[str, float] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    reason: str = ""
    note: str = ""

    @property
    def failed(self) -> bool:
        """True where the pair is in no mean."""
        return bool(self.reason)


@dataclass(frozen=True)
class Summary:
    """Mean of one metric over the pairs.

    Attributes:
        mean: over the finite scores; infinite if all are infinite, None if nothing was scored.
        interval: bootstrap percentile interval (low, high) of the mean; None under two finite scores.
        count: how many finite scores the mean rests on.
        infinite: how many pairs are identical, their PSNR infinite and in no mean.
    """

    mean: float | None
    interval: tuple[float, float] | None
    count: int
    infinite: int


@dataclass(frozen=True)
class ScoreReport:
    """Everything a table, a CSV or a JSON file says about one run.

    Attributes:
        scores: one entry per pair, in the order of the plan.
        metrics: the columns.
        protocol: what the title names.
        crop_border: pixels cut off each side before scoring.
        plan: the pairs and who was left out.
        seed: of the bootstrap.
        published: method -> metric name -> published value, for a known test set.
        subject: what was scored, for the title, e.g. ``out/ against gt/``.
        notes: sentences to print below the table.
    """

    scores: tuple[PairScore, ...]
    metrics: tuple[Metric, ...]
    protocol: Protocol
    crop_border: int
    plan: PairPlan
    seed: int = 0
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    subject: str = ""
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[PairScore, ...]:
        """Pairs that are in no mean."""
        return tuple(score for score in self.scores if score.failed)

    @property
    def exit_code(self) -> ExitCode:
        """1 where a pair failed, else 0."""
        return ExitCode.SOME_FAILED if self.failed else ExitCode.OK

    def summary(self, name: str) -> Summary:
        """Mean and interval of the metric ``name`` over the pairs that did not fail."""
        return summarize([score.values[name] for score in self.scores if not score.failed], seed=self.seed)


def metric_names(protocol: Protocol, requested: str | None) -> tuple[str, ...]:
    """Metric names to compute: the protocol's, or those of a comma list.

    ``psnr`` and ``ssim`` alone mean those of the protocol, not pyiqa's of these names.

    Raises:
        UsageError: an empty list, or a metric of a colour space that the protocol excludes.
    """
    if requested is None:
        return protocol.metrics
    names: list[str] = []
    for name in (part.strip().lower() for part in requested.split(",")):
        if name in {"psnr", "ssim"}:
            names += [own for own in protocol.metrics if own.startswith(name)]
        elif name:
            names.append(name)
    if not names:
        raise UsageError(f"--metrics {requested!r} names no metric; write for example --metrics psnr_y,ssim_y")
    foreign = [name for name in names if name in OUR_METRICS and name not in protocol.metrics]
    if foreign and protocol.name != "both":
        raise UsageError(
            f"--protocol {protocol.name} means {protocol.words}, which excludes {', '.join(foreign)}. "
            f"Leave it out, or use --protocol both."
        )
    return tuple(dict.fromkeys(names))


def find_images(folder: Path) -> dict[str, Path]:
    """Image files below ``folder``, keyed by their path below it without suffix.

    Hidden files, folders of other things and files that are no image are passed over.

    Raises:
        UsageError: no image, or two files that differ in the suffix only.
    """
    found: dict[str, Path] = {}
    clashes: list[str] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in IMAGE_SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        if not path.is_file():
            continue
        # macOS hands out decomposed names, everyone else composed ones: the same name shall match.
        key = unicodedata.normalize("NFC", relative.with_suffix("").as_posix())
        if key in found:
            clashes.append(f"{found[key].relative_to(folder)} and {relative}")
        found[key] = path
    if clashes:
        raise UsageError(
            f"{folder}: files with one name and different suffixes cannot be told apart as partners: "
            f"{listed(clashes)}. Move one of each away."
        )
    if not found:
        raise UsageError(
            f"{folder} holds no image (looked below it for {', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"is it the right folder?"
        )
    return found


def plan_pairs(restored: Path, reference: Path | None, *, partial: bool = False) -> PairPlan:
    """Pair restored files with their references, by name.

    Args:
        restored: a folder, or one file.
        reference: a folder, or one file (whatever it is called), or None for no-reference metrics only.
        partial: score the files that have a partner although others have none.

    Raises:
        UsageError: missing paths, a file against a folder, or files without partner.
    """
    for path in (restored, reference):
        if path is not None and not path.exists():
            raise UsageError(f"{path} does not exist; check the spelling, it is taken from {Path.cwd()}")
    if reference is not None and restored.resolve() == reference.resolve():
        raise UsageError(f"{restored} is compared with itself: every score would be perfect. Check --reference.")
    if restored.is_file() and (reference is None or reference.is_file()):
        return PairPlan((Pair(restored.stem, restored, reference),))
    if restored.is_file() or (reference is not None and reference.is_file()):
        raise UsageError(
            f"{restored} and {reference}: one is a file, the other a folder. Give two files or two folders."
        )
    left = find_images(restored)
    if reference is None:
        return PairPlan(tuple(Pair(name, path, None) for name, path in left.items()))
    return match_pairs(left, find_images(reference), partial=partial, restored=str(restored), reference=str(reference))


def match_pairs(
    left: Mapping[str, Path], right: Mapping[str, Path], *, partial: bool, restored: str, reference: str
) -> PairPlan:
    """Pair two sets of files by their keys.

    Args:
        left: key -> restored file.
        right: key -> reference file.
        partial: allow files without partner, on either side.
        restored: what to call the left side in a message.
        reference: what to call the right side.

    Raises:
        UsageError: files without partner and not ``partial``, or no pair at all.
    """
    pairs = tuple(Pair(name, path, right[name]) for name, path in left.items() if name in right)
    lone_left = tuple(name for name in left if name not in right)
    lone_right = tuple(name for name in right if name not in left)
    if not pairs or ((lone_left or lone_right) and not partial):
        sides = [
            f"{len(names)} only in {where}: {listed(names)}"
            for names, where in ((lone_left, restored), (lone_right, reference))
            if names
        ]
        cure = "Rename the files, or score the pairs there are with --partial." if pairs else "Rename the files."
        raise UsageError(
            f"{len(pairs)} files pair by name (path without suffix), the others have no partner. "
            f"{'. '.join(sides)}. {cure}"
        )
    return PairPlan(pairs, lone_left, lone_right)


def listed(names: Iterable[str]) -> str:
    """Up to ten names and how many more."""
    every = list(names)
    more = f" and {len(every) - NAMES_SHOWN} more" if len(every) > NAMES_SHOWN else ""
    return ", ".join(every[:NAMES_SHOWN]) + more


def read_rgb8(path: Path) -> tuple[Image8, str]:
    """Read a file as published protocols do: upright, 8 bit, RGB.

    Returns:
        The image (H, W, 3) and a note on what was left out or converted, empty as a rule.

    Raises:
        InputError: the file is no readable image.
    """
    try:
        picture = decode(read_bytes(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    color, notes = picture.color, []
    if picture.depth > 8:
        color = np.rint(color / 257).astype(np.uint8)
        notes.append(f"{picture.depth} bit scored as 8")
    if picture.alpha is not None:
        notes.append("alpha ignored")
    notes += [loss.text for loss in picture.losses if loss.name in {"cmyk", "lab", "frames"}]
    return np.broadcast_to(color, (*color.shape[:2], 3)).astype(np.uint8), ", ".join(notes)


def score_pairs(
    pairs: Sequence[Pair],
    metrics: Sequence[Metric],
    *,
    crop_border: int = 0,
    on_done: Callable[[PairScore], None] = lambda score: None,
) -> tuple[PairScore, ...]:
    """Score every pair with every metric; a pair that fails is recorded and the next one is taken.

    Args:
        pairs: what to compare.
        metrics: from ``metrics.load_metrics``.
        crop_border: pixels cut off each side of both images first.
        on_done: called after each pair.
    """
    scores = []
    for pair in pairs:
        score = _score_pair(pair, metrics, crop_border)
        scores.append(score)
        on_done(score)
    return tuple(scores)


def _score_pair(pair: Pair, metrics: Sequence[Metric], crop_border: int) -> PairScore:
    if pair.problem:
        return PairScore(pair, reason=pair.problem)
    try:
        restored, note = read_rgb8(pair.restored)
        reference, note_reference = (None, "") if pair.reference is None else read_rgb8(pair.reference)
    except InputError as error:
        return PairScore(pair, reason=str(error))
    height, width = restored.shape[:2]
    size = (width, height)
    if reference is not None and reference.shape != restored.shape:
        other = f"{reference.shape[1]}x{reference.shape[0]}"
        return PairScore(
            pair,
            size=size,
            reason=f"sizes differ: restored {width}x{height}, reference {other} (width x height); "
            f"nothing is resized or cropped to make them fit",
        )
    if min(size) <= 2 * crop_border:
        return PairScore(pair, size=size, reason=f"a border of {crop_border} pixels leaves nothing of {width}x{height}")
    inner = slice(crop_border, -crop_border or None)
    restored = np.ascontiguousarray(restored[inner, inner])
    reference = None if reference is None else np.ascontiguousarray(reference[inner, inner])
    values: dict[str, float] = {}
    for metric in metrics:
        try:
            values[metric.name] = metric.compute(restored, reference)
        except Exception as error:  # pyiqa's metrics raise what they like on small or flat images
            text = (str(error).strip().splitlines() or ["no message"])[0]
            return PairScore(pair, size=size, reason=f"{metric.name} failed ({type(error).__name__}: {text})")
        if math.isnan(values[metric.name]):
            return PairScore(pair, size=size, reason=f"{metric.name} is not a number for this image")
    notes = {"restored: " + note} if note else set()
    notes |= {"reference: " + note_reference} if note_reference else set()
    notes |= {f"{name} infinite: identical images" for name, value in values.items() if math.isinf(value)}
    return PairScore(pair, values, size, note="; ".join(sorted(notes)))


def summarize(values: Sequence[float], *, seed: int = 0) -> Summary:
    """Mean with a 95 % bootstrap percentile interval: pairs drawn with replacement, 2000 times.

    Args:
        values: one score per pair; infinite ones are counted, not averaged.
        seed: of the draws; the same scores and seed give the same interval.
    """
    finite = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    infinite = len(values) - len(finite)
    if not len(finite):
        return Summary(math.inf if infinite else None, None, 0, infinite)
    if len(finite) == 1:
        return Summary(float(finite[0]), None, 1, infinite)
    rng = np.random.default_rng(seed)
    # In blocks: all draws of a set of thousands at once would be hundreds of megabytes.
    blocks = [100] * (BOOTSTRAP_DRAWS // 100)
    means = np.concatenate([finite[rng.integers(0, len(finite), (n, len(finite)))].mean(axis=1) for n in blocks])
    tail = 50 * (1 - BOOTSTRAP_LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Summary(float(finite.mean()), (float(low), float(high)), len(finite), infinite)
