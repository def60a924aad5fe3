"""``make ablate``: the research choices of distillation one by one, everything else equal, and a table of them.

At smoke size it shows that every choice runs; figures that mean something want ``--preset compact`` (hours on a CPU)
and more than one ``--seed``.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from varestorer_cli.core.checkpoint import load_bundle
from varestorer_cli.core.presets import PRESET_NAMES
from varestorer_cli.core.training.build import MODEL
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.run import train

CHOICES: dict[str, dict[str, Any]] = {
    "published": {},
    "greedy bits": {"variant": {"bits": "greedy"}},
    "expected bits": {"variant": {"bits": "expected"}},
    "extra block in its place": {"variant": {"extra_positions": "last_scale"}},
    "bit flips": {"variant": {"flips": 0.1}},
    "decoder trained": {"decoder": 0.5},
    "encoder trained": {"variant": {"encoder": 0.5}, "losses": {"alignment": 0.1}},
    "learned score": {"losses": {"score": 0.1, "critic": 1.0}},
    "no KL": {"losses": {"kl": 0.0}},
}
"""What each run changes; guidance needs texts and is added where they are given."""


def main() -> None:
    """Train the earlier stages once, each choice of distillation from them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="smoke", choices=PRESET_NAMES)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--crops", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    base = TrainOptions(
        stage="prerestorer",
        data=asked.data,
        out=asked.out / "prerestorer",
        preset=asked.preset,
        steps=asked.steps,
        crops=asked.crops,
        seed=asked.seed,
        threads=asked.threads,
        resume=True,
        quiet=True,
    )
    for stage in ("prerestorer", "tokenizer", "teacher"):
        train(replace(base, stage=stage, out=asked.out / stage))
    choices = dict(CHOICES)
    if asked.texts is not None:
        choices["guided teacher"] = {"variant": {"guidance": 3.0}}
    figures: dict[str, dict[str, float]] = {}
    for name, changes in choices.items():
        out = asked.out / name.replace(" ", "-")
        earlier = {stage: asked.out / stage for stage in ("prerestorer", "teacher")}
        run = replace(base, stage="distill", out=out, head="bits", texts=asked.texts, **earlier, **changes)
        train(run)
        figures[name] = json.loads(load_bundle(out / MODEL).notes["validation"])
        sys.stderr.write(f"{name}: done\n")
    sys.stdout.write(table(figures))


def table(figures: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one row a choice."""
    columns = sorted({column for row in figures.values() for column in row})
    lines = ["| choice | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in figures.items():
        cells = " | ".join(f"{row[column]:.4f}" if column in row else "" for column in columns)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
