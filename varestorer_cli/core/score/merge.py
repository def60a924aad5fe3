"""Joins the scores of a sharded run: ``scores.I-of-N.json`` of one folder -> one report.

Every shard must be there, scored under the same settings; a pair that two shards hold is refused.
"""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.metrics.base import MetricInfo
from varestorer_cli.core.metrics.protocols import PROTOCOLS
from varestorer_cli.core.phrases import named, reason_of
from varestorer_cli.core.score.export import TOOL
from varestorer_cli.core.score.pairing import Pair, PairPlan
from varestorer_cli.core.score.published import published_rows
from varestorer_cli.core.score.scorer import PairScore
from varestorer_cli.core.score.summary import ScoreReport

_NAME = re.compile(r"scores\.(\d+)-of-(\d+)\.json")
_SETTINGS = ("protocol", "crop_border", "subject", "benchmark", "bootstrap", "unpaired", "notes")


def merge_shards(folder: Path, *, partial: bool = False) -> ScoreReport:
    """Read every shard's scores.

    Args:
        folder: where the shards wrote them, the restored folder by default.
        partial: join the shards there are although some are missing.

    Raises:
        UsageError: no shard, missing or foreign files, different settings, or pairs held twice.
    """
    found = {path: match for path in sorted(folder.glob("scores.*.json")) if (match := _NAME.fullmatch(path.name))}
    if not found:
        raise UsageError(f"{folder} holds no scores of shards (scores.0-of-N.json ...); run score --shard I/N first")
    counts = {int(match[2]) for match in found.values()}
    if len(counts) > 1:
        every = ", ".join(map(str, sorted(counts)))
        raise UsageError(f"{folder} holds scores of runs with {every} shards; move those of the old run away")
    (shards,) = counts
    missing = [f"{i}/{shards}" for i in range(shards) if i not in {int(match[1]) for match in found.values()}]
    if missing and not partial:
        raise UsageError(
            f"{folder}: the scores of {len(missing)} of {shards} shards are missing: {named(missing, 10)}. "
            f"Run score --shard for them, or join those there are with --partial."
        )
    parts = {path: _read(path) for path in found}
    first = next(iter(parts.values()))
    for path, part in parts.items():
        different = [name for name in _SETTINGS if part.get(name) != first.get(name)]
        if _columns(part) != _columns(first):
            different.append("metrics")
        if different:
            raise UsageError(f"{path} was scored under another {', '.join(different)} than {next(iter(parts))}")
    scores = sorted((score for part in parts.values() for score in part["images"]), key=lambda score: score.pair.name)
    twice = sorted({a.pair.name for a, b in itertools.pairwise(scores) if a.pair.name == b.pair.name})
    if twice:
        raise UsageError(f"{folder}: {len(twice)} pairs are in more than one shard: {named(twice, 10)}")
    notes = [*first["notes"], *([f"shards missing: {named(missing, 10)}"] if missing else [])]
    protocol = PROTOCOLS[first["protocol"]]
    plan = PairPlan(
        tuple(score.pair for score in scores),
        tuple(first["unpaired"]["restored"]),
        tuple(first["unpaired"]["reference"]),
    )
    rows = published_rows(first["benchmark"]) if not first["crop_border"] else ()
    return ScoreReport(
        scores=tuple(scores),
        metrics=tuple(_metric(name, about) for name, about in first["summary"].items()),
        protocol=protocol,
        crop_border=first["crop_border"],
        plan=plan,
        seed=first["bootstrap"]["seed"],
        benchmark=first["benchmark"],
        published=tuple(row for row in rows if row.convention in protocol.conventions),
        subject=first["subject"],
        notes=tuple(notes),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as scores ({reason_of(error)}); score that shard again") from error
    if not isinstance(content, dict) or content.get("tool") != TOOL or content.get("protocol") not in PROTOCOLS:
        raise UsageError(f"{path} holds no scores of this program; move it away")
    try:
        unpaired = {side: [str(name) for name in content["unpaired"][side]] for side in ("restored", "reference")}
        for about in content["summary"].values():
            _metric("", about)
        return {
            **{name: content[name] for name in _SETTINGS},
            "bootstrap": {"seed": int(content["bootstrap"]["seed"])},
            "notes": [str(note) for note in content["notes"]],
            "summary": content["summary"],
            "unpaired": unpaired,
            "images": [_score(image) for image in content["images"]],
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{path} is no whole report of scores ({error!r}); score that shard again") from error


def _columns(part: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, about["library"]) for name, about in part["summary"].items()]


def _metric(name: str, about: dict[str, Any]) -> MetricInfo:
    return MetricInfo(name, about["label"], about["needs_reference"], about["lower_better"], about["library"])


def _score(image: dict[str, Any]) -> PairScore:
    reference = Path(image["reference"]) if image["reference"] else None
    pair = Pair(image["name"], Path(image["restored"]), reference)
    size = (image["width"], image["height"]) if image["width"] else None
    if image["status"] == "failed":
        return PairScore(pair, size=size, reason=image["reason"])
    about = {"name", "status", "reason", "note", "width", "height", "restored", "reference", "infinite"}
    values = {name: value for name, value in image.items() if name not in about}
    values.update((name, math.inf) for name in image["infinite"])
    return PairScore(pair, values, size, note=image["note"])
