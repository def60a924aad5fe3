"""``make ablate``: the research choices of distillation one by one, everything else equal, and a table of them.

At smoke size it shows that every choice runs; figures that mean something want ``--preset compact``, earlier stages
that were trained in full, and more than one ``--seed``. Run again, it goes on where it was.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import Preset, preset, preset_names
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.starting_weights import MODEL
from varestorer_cli.core.weights.model_file import load_bundle

EARLIER = ("prerestorer", "tokenizer", "teacher")


def choices(chosen: Preset, *, texts: bool = False) -> dict[str, dict[str, Any]]:
    """What each run changes of the options, by name; only what makes a difference to that preset.

    Args:
        chosen: the preset.
        texts: whether there are texts to guide the teacher by.
    """
    found: dict[str, dict[str, Any]] = {
        "bits head": {},
        "latent head": {"head": "latent"},
        "greedy bits": {"variant": {"bits": "greedy"}},
        "expected bits": {"variant": {"bits": "expected"}},
        "bit flips": {"variant": {"flips": 0.1}},
        "encoder trained": {"variant": {"encoder": 0.5}, "losses": {"alignment": 0.1}},
        "learned score": {"losses": {"score": 0.1, "critic": 1.0}},
        "causal attention": {"variant": {"attention": "causal"}},
        "no KL": {"losses": {"kl": 0.0}},
    }
    rate = chosen.recipes["distill"].decoder
    found |= {"decoder slower": {"decoder": 0.1 * rate}} if rate else {"decoder trained": {"decoder": 0.5}}
    if chosen.restorer.extra_block and chosen.teacher.extra_block_positions == "next_scale":
        found["extra block in its place"] = {"variant": {"extra_positions": "last_scale"}}
    if texts:
        found["guided teacher"] = {"variant": {"guidance": 3.0}}
    return found


def main() -> None:
    """Train the earlier stages that are not given, each choice of distillation from them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="photographs, as for training")
    parser.add_argument("--out", type=Path, required=True, help="a folder for each choice goes there")
    parser.add_argument("--preset", default="smoke", choices=preset_names())
    parser.add_argument("--prerestorer", type=Path, default=None, help="trained run or model, in place of a new one")
    parser.add_argument("--teacher", type=Path, default=None, help="the same; it holds its tokenizer")
    parser.add_argument("--tokenizer", type=Path, default=None, help="the same, where a new teacher is trained")
    parser.add_argument("--steps", type=int, default=None, help="of each distillation")
    parser.add_argument("--earlier-steps", type=int, default=None, help="of each earlier stage that is trained")
    parser.add_argument("--batch", type=int, default=None, help="of each distillation")
    parser.add_argument("--crops", type=int, default=None)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--metrics", default=None, help="of validation, as train --metrics")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=Path, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    base = TrainOptions(
        stage="distill",
        data=asked.data,
        out=asked.out,
        preset=asked.preset,
        steps=asked.steps,
        batch=asked.batch,
        crops=asked.crops,
        cache=asked.cache or asked.out / "cache",
        metrics=asked.metrics,
        seed=asked.seed,
        device=asked.device,
        precision=asked.precision,
        threads=asked.threads,
        resume=True,
        quiet=True,
    )
    earlier: dict[str, Path | None] = {stage: getattr(asked, stage) for stage in EARLIER}
    for stage in EARLIER:
        if earlier[stage] is not None or (stage == "tokenizer" and earlier["teacher"] is not None):
            continue
        earlier[stage] = asked.out / stage
        tokenizer = earlier["tokenizer"] if stage == "teacher" else None
        train(
            replace(
                base, stage=stage, out=asked.out / stage, steps=asked.earlier_steps, batch=None, tokenizer=tokenizer
            )
        )
        sys.stderr.write(f"{stage}: done\n")
    del earlier["tokenizer"]  # the teacher holds it
    figures: dict[str, dict[str, float]] = {}
    for name, changes in choices(preset(asked.preset), texts=asked.texts is not None).items():
        out = asked.out / name.replace(" ", "-")
        train(replace(base, out=out, **{"head": "bits", "texts": asked.texts, **earlier, **changes}))
        figures[name] = json.loads(load_bundle(out / MODEL).notes["validation"])
        sys.stderr.write(f"{name}: done\n")
    sys.stdout.write(table(figures))


def table(figures: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one row per choice."""
    columns = sorted({column for row in figures.values() for column in row})
    lines = ["| choice | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in figures.items():
        cells = " | ".join(f"{row[column]:.4f}" if column in row else "" for column in columns)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
