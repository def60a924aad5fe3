"""The tokenizer's ceiling: references sent through the tokenizer alone, tiled by the engine as any picture is.

Reference -> encoder -> bits of all scales -> codes -> decoder: what a restorer would give back whose bits are all
right. A decoder that is guided by the pre-restored picture gets the one of the degraded input, as in ``restore``;
only the codes come from the reference.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from varestorer_cli.core.api import Session, open_session
from varestorer_cli.core.atomic import atomic_file, check_writable
from varestorer_cli.core.console import Console
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.image.image_data import Extras, OutputImage
from varestorer_cli.core.image.reader import read_bytes
from varestorer_cli.core.image.resample import Floats, Resampler, to_float
from varestorer_cli.core.image.writer import write_picture
from varestorer_cli.core.options import ImageFormat, RestoreOptions
from varestorer_cli.core.restore import fingerprint as provenance
from varestorer_cli.core.score.scorer import rgb8
from varestorer_models.restorer import OneStepRestorer, RestoredTiles

_VERSION = 1  # raised when the same files give other pixels


@dataclass(frozen=True)
class CeilingJob:
    """One reference and where its round trip goes; the degraded input guides the decoder where it takes a guide."""

    reference: Path
    degraded: Path | None
    output: Path


class RoundTrip:
    """A tile model that encodes and decodes.

    Args:
        restorer: whose tokenizer (and, for a guided decoder, pre-restorer) is used.
    """

    def __init__(self, restorer: OneStepRestorer) -> None:
        self._restorer = restorer
        self.guided = restorer.tokenizer.config.autoencoder.guided
        self.tile = restorer.tile
        self.tile_sides = restorer.tile_sides
        self.uniforms_shape = restorer.uniforms_shape
        self.config = SimpleNamespace(sampling="argmax", upscale_filter=restorer.config.upscale_filter)

    def __call__(self, degraded_B3TT: Tensor, **settings: Any) -> RestoredTiles:  # noqa: N803
        """Reference tiles (B, 3, T, T) in [0, 1], the upscaled degraded ones behind them (B, 6, T, T) if guided."""
        reference, degraded = degraded_B3TT[:, :3], degraded_B3TT[:, 3:]
        tokenizer = self._restorer.tokenizer
        codes = tokenizer.quantize(tokenizer.encode(reference * 2 - 1).float()).accumulated_Bdhw
        degraded = degraded if self.guided else reference
        guide = self._restorer.prerestore(degraded) if self.guided else reference
        image = (self._restorer.decode(codes, guide).float() + 1) / 2
        return RestoredTiles(image.clamp(0, 1), guide.clamp(0, 1))


def make_ceiling(
    jobs: Sequence[CeilingJob], folder: Path, options: RestoreOptions, console: Console
) -> dict[Path, str]:
    """Write the round trip of every reference as PNG; what is there and up to date is kept.

    Args:
        jobs: what to do.
        folder: they are all written below.
        options: model, device and precision.
        console: for the first line and progress.

    Returns:
        References that failed, and why.

    Raises:
        UsageError: the decoder needs degraded pictures and there are none.
        VarestorerError: as for ``restore``.
    """
    session = open_session(options)
    model = RoundTrip(session.engine.model)  # type: ignore[arg-type]
    if model.guided and any(job.degraded is None for job in jobs):
        raise UsageError(
            f"the decoder of {session.model} is guided by the pre-restored picture, so its ceiling needs the degraded "
            "pictures too: name a data set with both halves (--dataset)"
        )
    engine = RestoreEngine(model, EngineOptions(device=session.runtime.device, precision=session.runtime.precision))
    console.info(f"ceiling: {session.describe()}")
    check_writable(folder)
    problems: dict[Path, str] = {}
    console.start(len(jobs), "ceiling")
    try:
        for number, job in enumerate(jobs, 1):
            try:
                _round_trip(job, engine, session)
            except InputError as error:
                problems[job.reference] = str(error)
            console.update(number, "ceiling")
    finally:
        console.finish()
    return problems


def _round_trip(job: CeilingJob, engine: RestoreEngine, session: Session) -> None:
    files = [read_bytes(path) for path in (job.reference, job.degraded) if path is not None]
    settings = {
        "ceiling": _VERSION,
        "overlap": engine.overlap,
        "precision": engine.options.precision,
    }
    identity = provenance.Identity(
        hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files)).hexdigest(),
        session.model_sha256,
        hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    )
    found = provenance.verdict(job.output, identity, tuple)
    if found == provenance.UP_TO_DATE:
        return
    if found is not None:
        raise InputError(f"{job.output}: {found}")
    reference = to_float(rgb8(files[0])[0])
    height, width = reference.shape[:2]
    stack = (
        reference if job.degraded is None else np.concatenate([reference, _upscaled(files[1], engine, reference)], 2)
    )
    with torch.inference_mode():
        result = engine.restore(stack, (width, height), dtype=np.uint8)
    software = provenance.software_text(identity, model="ceiling", scale=1, tile=result.tile, seed=0)
    with atomic_file(job.output) as stream:
        write_picture(stream, OutputImage(result.image, False, None, Extras()), ImageFormat.PNG, 95, software)


def _upscaled(degraded: bytes, engine: RestoreEngine, reference: Floats) -> Floats:
    """The degraded picture at the reference's size, by the model's own filter."""
    small = rgb8(degraded)[0]
    size = (reference.shape[0], reference.shape[1])
    resampler = Resampler((small.shape[0], small.shape[1]), size, engine.model.config.upscale_filter)
    return resampler.window(small, 0, 0, *size).clip(0, 1)
