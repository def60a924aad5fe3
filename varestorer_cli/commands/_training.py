"""Options that the training commands share, written once: names, types, defaults and help."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from varestorer_cli.commands._options import WeightsOption
from varestorer_cli.core.errors import UsageError

KeepOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of a sharper image in the target: the --label model's (prerestorer), the pre-restored (distill).",
        show_default="the preset's",
    ),
]
Command = Callable[..., None]
"""(shared fields of ``TrainOptions``, own arguments by name) -> None."""


PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="Model size: compact, fine, mini, smoke or 2b.", show_default="compact"),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", help="Other sizes and recipes; what the file leaves out is as in the preset."),
]
TextsOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of text features, one file per photograph; varestorer texts makes them."),
]
TextDropOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Probability of training a picture without its text.")
]


class Parallel(StrEnum):
    """How several processes share a run."""

    AUTO = "auto"
    DDP = "ddp"
    FSDP = "fsdp"


@dataclass(frozen=True)
class SharedOptions:
    """Every field is one option and the field of ``TrainOptions`` of the same name."""

    data: Annotated[Path, typer.Argument(help="Folder of photographs, or a text file with one path a line.")]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: checkpoints, logs, pictures, model.")]
    preset: PresetOption = None
    config: ConfigOption = None
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="Optimiser steps instead of the preset's; 0 writes the model that a run starts with."),
    ] = None
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Pictures a step, of all processes together.")] = (
        None
    )
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts in which a process computes its share of a batch, to save memory.")
    ] = 1
    parallel: Annotated[
        Parallel,
        typer.Option(help="Under torchrun: ddp, each process holds all weights; fsdp, transformers are divided."),
    ] = Parallel.AUTO
    recompute: Annotated[
        bool | None,
        typer.Option(
            "--recompute/--no-recompute",
            help="Compute transformer blocks twice to save memory [default: with --preset 2b].",
            show_default=False,
        ),
    ] = None
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Peak learning rate instead of the preset's.")] = (
        None
    )
    losses: Annotated[
        list[str] | None,
        typer.Option("--loss", metavar="NAME=WEIGHT", help="Weight of a loss term; repeat for several, 0 drops one."),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of initialisation, data order and noise.")] = 0
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly from the run's last checkpoint.")] = False
    init: Annotated[Path | None, typer.Option(help="Run folder or model file whose weights to start from.")] = None
    weights: WeightsOption = None
    cache: Annotated[Path | None, typer.Option(help="Folder for crop caches [default: 'cache' beside the run].")] = None
    recipe: Annotated[
        str,
        typer.Option("--degradation", help="moderate, realesrgan, mild, released, or a file with the known keys."),
    ] = "moderate"
    crops: Annotated[int | None, typer.Option(min=1, help="Training crops to cut instead of the preset's number.")] = (
        None
    )
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto"
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto"
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: what the machine gives].")] = None
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0
    keep_checkpoints: Annotated[int, typer.Option(min=1, help="Checkpoints that stay, the newest ones.")] = 2
    log_every: Annotated[int, typer.Option(min=1, help="Steps between log lines.")] = 20
    sample_every: Annotated[int, typer.Option(min=1, help="Steps between validations with sample pictures.")] = 500
    metrics: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Metrics of validation, as of score [default: those that need no weights]."),
    ] = None
    stop_after: Annotated[
        float | None, typer.Option("--stop-after", help="Pause with a checkpoint after so many minutes.")
    ] = None
    license_text: Annotated[str, typer.Option("--license", help="Licence to write into the model file.")] = ""
    half: Annotated[bool, typer.Option("--half", help="Store the model in float16, half the size.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print weights, memory per GPU, arithmetic and hours; do nothing.")
    ] = False
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the effective sizes and recipes for --config; do nothing.")
    ] = False
    processes: Annotated[int, typer.Option(min=1, help="GPUs that --dry-run plans for.")] = 1
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False


def shared_options(*names: str) -> Callable[[Command], Callable[..., None]]:
    """Add shared options behind a command's own; it gets theirs as its first argument, fields of ``TrainOptions``.

    Args:
        names: which of :class:`SharedOptions`; all by default.
    """
    chosen = {f.name: f for f in dataclasses.fields(SharedOptions) if not names or f.name in names}

    def add(command: Command) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True) | get_type_hints(SharedOptions, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]
        defaults = {
            name: inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            for name, field in chosen.items()
        } | {parameter.name: parameter.default for parameter in own}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            fields = {name: values.pop(name) for name in chosen}
            if "losses" in fields:
                fields["losses"] = loss_weights(fields["losses"])
            command(fields, **values)

        kind = inspect.Parameter.KEYWORD_ONLY
        order = [parameter.name for parameter in own] + list(chosen)
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind, default=defaults[name], annotation=hints[name]) for name in order]
        )
        run.__annotations__ = {name: hints[name] for name in order}
        return run

    return add


def loss_weights(entries: list[str] | None) -> dict[str, float]:
    """``["l1=1", "kl=0.1"]`` -> ``{"l1": 1.0, "kl": 0.1}``.

    Raises:
        UsageError: an entry of another form.
    """
    weights = {}
    for entry in entries or []:
        name, _, number = entry.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            raise UsageError(f"--loss {entry!r}: write NAME=WEIGHT, for example --loss l1=1.0") from None
    return weights
