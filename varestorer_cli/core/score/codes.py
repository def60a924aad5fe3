"""Restore a data set with codes that the transformer did not predict: the reference's, the input's, noise, zeros.

Everything else stays as in ``restore``: tiles, pre-restored guide, decoder, colour fix. Where noise or zeros in place
of the predicted codes give the same scores, the transformer does nothing; the codes of the reference give what a
perfect prediction would.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from varestorer_cli.core.atomic import atomic_file, check_writable
from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.console import Console
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions
from varestorer_cli.core.engine.tile_check import not_finite
from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.core.image.image_data import Extras, OutputImage
from varestorer_cli.core.image.resample import Floats, Resampler, to_float
from varestorer_cli.core.image.writer import write_image
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.restore import fingerprint
from varestorer_cli.core.restore.session import Session, open_session
from varestorer_cli.core.score.options import Codes
from varestorer_cli.core.score.scorer import read_named, rgb8
from varestorer_models.first_stage import RestoredTiles
from varestorer_models.restorer import OneStepRestorer

_VERSION = 2  # raised when the same files give other pixels


@dataclass(frozen=True)
class CodesJob:
    """One image of a data set and where its restored version goes.

    Attributes:
        degraded: the model's input; None for a reference that goes through the tokenizer alone.
        reference: whose codes are taken; needed for ``Codes.REFERENCE`` only.
        output: PNG file.
    """

    degraded: Path | None
    reference: Path | None
    output: Path

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        return [path for path in (self.degraded, self.reference) if path is not None]


class ReplacedCodes:
    """A tile model: a restorer whose decoder gets other codes than its transformer's; the transformer is not called.

    Args:
        restorer: with tokenizer and pre-restorer.
        source: of the codes; not ``Codes.PREDICTED``.
        seed: of ``Codes.NOISE``: coin flips per tile, the same for the same tile on every machine.
    """

    def __init__(self, restorer: OneStepRestorer, source: Codes, seed: int = 0) -> None:
        self._restorer = restorer
        self._source = source
        self._seed = seed
        self.tile = restorer.tile
        self.tile_sides = restorer.tile_sides
        self.uniforms_shape = restorer.uniforms_shape
        self.config = replace(restorer.config, sampling="argmax")  # no noise of the engine's

    @property
    def guided(self) -> bool:
        """Whether the decoder needs the pre-restored image beside the codes."""
        return self._restorer.tokenizer.config.autoencoder.guided

    def __call__(self, degraded_B3TT: Tensor, **settings: Any) -> RestoredTiles:  # noqa: N803
        """Tiles with replaced codes.

        Args:
            degraded_B3TT: degraded tiles (B, 3, T, T) in [0, 1]; for ``Codes.REFERENCE`` the reference's tiles, or
                (B, 6, T, T): the degraded tiles behind them.
            settings: of the engine; they change nothing here.
        """
        if self._source is Codes.REFERENCE and degraded_B3TT.shape[1] == 3:
            image = (self._restorer.decode(self._codes(degraded_B3TT), degraded_B3TT).float() + 1) / 2
            return RestoredTiles(image.clamp(0, 1), degraded_B3TT)
        degraded = degraded_B3TT[:, -3:]
        prerestored = self._restorer.prerestore(degraded)
        if self._source is Codes.INPUT:
            codes = self._codes(prerestored)
        elif self._source is Codes.REFERENCE:
            codes = self._codes(degraded_B3TT[:, :3])
        else:
            codes = self._made_up(degraded)
        image = self._restorer.image_from_codes(codes, prerestored)
        return RestoredTiles(image.clamp(0, 1), prerestored.clamp(0, 1))

    def _codes(self, image_B3TT: Tensor) -> Tensor:  # noqa: N803
        """The encoder's own codes of an image in [0, 1], accumulated over the scales: (B, d, h, w)."""
        tokenizer = self._restorer.tokenizer
        return tokenizer.quantize(tokenizer.encode(image_B3TT * 2 - 1).float()).accumulated_Bdhw

    def _made_up(self, tiles_B3TT: Tensor) -> Tensor:  # noqa: N803
        """Codes (B, d, h, w) of coin flips, or zeros."""
        tokenizer = self._restorer.tokenizer
        stride = tokenizer.config.autoencoder.stride
        bits = tokenizer.quantizer.config.bits
        grid = (tiles_B3TT.shape[2] // stride, tiles_B3TT.shape[3] // stride)
        if self._source is Codes.ZEROS:
            return torch.zeros((len(tiles_B3TT), bits, *grid), device=tiles_B3TT.device)
        schedule = tokenizer.schedule_for(grid)
        flips = torch.stack([self._flips(tile, (schedule.length, bits)) for tile in tiles_B3TT])
        return tokenizer.quantizer.accumulate(flips.to(tiles_B3TT.device), schedule)

    def _flips(self, tile: Tensor, shape: tuple[int, int]) -> Tensor:
        """Coin flips from the seed and the tile's own pixels, whatever batch it came in."""
        text = str(self._seed).encode() + tile.float().cpu().contiguous().numpy().tobytes()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float()


def restore_with_codes(
    jobs: Sequence[CodesJob], source: Codes, folder: Path, options: RestoreOptions, console: Console
) -> dict[Path, str]:
    """Restore every image with codes from ``source`` as PNG; what is there and up to date is kept.

    Args:
        jobs: what to do.
        source: of the codes; not ``Codes.PREDICTED``.
        folder: all outputs lie below it.
        options: model, device, precision and seed.
        console: for the first line and progress.

    Returns:
        Outputs that were not made, and why.

    Raises:
        UsageError: the model has no tokens, or its decoder needs degraded images and there are none.
        VarestorerError: as for ``restore``.
    """
    session = open_session(options)
    restorer = session.engine.model
    if not isinstance(restorer, OneStepRestorer):
        raise UsageError(
            f"--codes {source}: {session.model} has no tokens, so there are no codes to replace; leave out --codes"
        )
    model = ReplacedCodes(restorer, source, options.seed)
    if model.guided and any(job.degraded is None for job in jobs):
        raise UsageError(
            f"the decoder of {session.model} is guided by the pre-restored image, so codes of the reference need the "
            "degraded images too: name a data set with both halves (--dataset)"
        )
    engine = RestoreEngine(model, EngineOptions(device=session.runtime.device, precision=session.runtime.precision))
    engine.inference.fault = not_finite  # what noise or zeros give is no fault of a tile, however odd it looks
    console.info(f"codes {source}: {session.describe()}")
    check_writable(folder)
    problems: dict[Path, str] = {}
    console.start(len(jobs), "restoring")
    try:
        for number, job in enumerate(jobs, 1):
            try:
                _restore(job, source, engine, session, options)
            except InputError as error:
                problems[job.output] = str(error)
            console.update(number, "restoring")
    finally:
        console.finish()
    return problems


def _restore(job: CodesJob, source: Codes, engine: RestoreEngine, session: Session, options: RestoreOptions) -> None:
    files = [read_named(path) for path in job.files]
    settings = {
        "codes": source.value,
        "seed": options.seed if source is Codes.NOISE else None,
        "version": _VERSION,
        "overlap": engine.overlap,
        "precision": engine.options.precision,
    }
    identity = fingerprint.Identity(
        hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files)).hexdigest(),
        session.model_sha256,
        hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    )
    found = fingerprint.reason_to_keep(job.output, identity, tuple)
    if found == fingerprint.UP_TO_DATE:
        return
    if found is not None:
        raise InputError(f"{job.output}: {found}")
    images = [rgb8(data)[0] for data in files]
    if source is not Codes.REFERENCE:
        image: Any = images[0]
        size = options.target(image.shape[1], image.shape[0])
    else:
        image = to_float(images[-1])
        size = (image.shape[1], image.shape[0])
        if job.degraded is not None:
            image = np.concatenate([image, _upscaled(images[0], engine, size)], 2)
    with torch.inference_mode():
        result = engine.restore(ImageTask(image, size, dtype=np.uint8))
    software = fingerprint.software_text(
        identity, model=f"{session.model} with codes of {source}", scale=1, tile=result.tile, seed=options.seed
    )
    with atomic_file(job.output) as stream:
        write_image(stream, OutputImage(result.image, False, None, Extras()), ImageFormat.PNG, 95, software)


def _upscaled(degraded: Any, engine: RestoreEngine, size: tuple[int, int]) -> Floats:
    """The degraded image upscaled to the reference's (width, height) by the model's own filter."""
    resampler = Resampler(degraded.shape[:2], (size[1], size[0]), engine.model.config.upscale_filter)
    return resampler.window(degraded, 0, 0, size[1], size[0]).clip(0, 1)
