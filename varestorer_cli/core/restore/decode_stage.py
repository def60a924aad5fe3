"""The stage ahead of the engine: read an image, hash it, decide whether there is anything to do, decode it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from varestorer_cli.core.atomic import atomic_file
from varestorer_cli.core.choices import Existing, ImageFormat, Large
from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.formats import output_format
from varestorer_cli.core.image.image_data import DecodedImage
from varestorer_cli.core.image.reader import decode, probe, read_bytes
from varestorer_cli.core.image.writer import check_side, losses_of
from varestorer_cli.core.inputs.plan import Job
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.report.rows import LARGE, SKIPPED, Row
from varestorer_cli.core.restore import fingerprint
from varestorer_cli.core.restore.item import BatchContext, PixelBudget, RestoreItem, name_of
from varestorer_cli.version import __version__

_LONGEST_TILE = 99999  # the tile is not known yet; what is said of losses holds for any


class DecodeStage:
    """Turns jobs into decoded items.

    Args:
        folder: output folder; outputs are named relative to it in the report.
        context: model and device.
        options: as given by the user.
        settings: from the format and the key of an image to the hash of what decides its output's bytes beside input
            and model.
        report_file: knows what earlier runs wrote.
        budget: bounds the pixels in memory.
        should_stop: whether the run was told to stop.
    """

    def __init__(
        self,
        folder: Path,
        context: BatchContext,
        options: RestoreOptions,
        settings: Callable[[ImageFormat, str], str],
        report_file: ReportFile,
        budget: PixelBudget,
        should_stop: Callable[[], bool],
    ) -> None:
        self.folder = folder
        self.context = context
        self.options = options
        self.settings = settings
        self.report_file = report_file
        self.budget = budget
        self.should_stop = should_stop

    def prepare(self, job: Job) -> RestoreItem:
        """Read, hash, decide what to do, decode. Never raises: the error travels with the item."""
        format = output_format(job.output.name) or ImageFormat.PNG
        row = Row(
            input=job.input,
            output=name_of(job.output, self.folder),
            model=self.context.model,
            model_sha256=self.context.model_sha256,
            settings_sha256=self.settings(format, job.key),
            caption=self.context.texts.of(job.key) or "",
            seed=self.options.seed,
            version=__version__,
            shard=str(self.options.shard or ""),
        )
        item = RestoreItem(job, row, format)
        if self.should_stop():
            return item
        started = time.monotonic()
        try:
            self._decide(item)
        except BaseException as error:
            item.error = error
        row.seconds = time.monotonic() - started
        return item

    def _decide(self, item: RestoreItem) -> None:
        """Read, hash, leave out what need not be done, decode the rest."""
        job, row, options = item.job, item.row, self.options
        data = read_bytes(job.input)
        row.input_sha256 = fingerprint.sha256(data)
        if options.only_below is not None:
            row.width, row.height = probe(job.input, options.layer, options.pages)
            if max(row.width, row.height) >= options.only_below:
                self._leave_large(item, data)
                return
        item.identity = fingerprint.Identity(row.input_sha256, self.context.model_sha256, row.settings_sha256)
        if options.existing != Existing.OVERWRITE:
            reason = fingerprint.reason_to_keep(
                job.output, item.identity, lambda: self.report_file.earlier_rows(row.output)
            )
            if reason is not None:
                self._skip(item, reason)
                return
        else:
            fingerprint.look_at(job.output, read=False)
        image = decode(data, options.transfer, options.layer, options.pages)
        del data
        self._describe(item, image)
        self._name_losses(item, image)
        item.image = image
        pixels = sum(page.width * page.height for page in image.pages) + sum(w * h for w, h in item.sizes)
        item.pixels = self.budget.take(pixels)

    def _describe(self, item: RestoreItem, image: DecodedImage) -> None:
        """Apply the options to a decoded image; fill in the sizes of its output and what the report says of it.

        Raises:
            InputError: the output's format cannot hold it.
        """
        row, options = item.row, self.options
        for page in image.pages:
            page.keep_hidden = options.keep_hidden
            if options.strip:
                page.extras = page.extras.stripped()
            if options.sizing.ppi is not None:
                page.extras = page.extras.with_dpi(options.sizing.ppi)
        if image.more and item.format != ImageFormat.TIFF:
            raise InputError(
                f"its {len(image.pages)} pages can be written to TIFF only; add --format tif, or choose one: --pages N"
            )
        item.sizes = [options.target(page.width, page.height) for page in image.pages]
        item.size = item.sizes[0]
        row.width, row.height = image.width, image.height
        row.out_width, row.out_height = item.size
        row.depth = image.depth
        row.icc, row.alpha = _yes(bool(image.extras.icc)), _yes(image.alpha is not None)
        row.scale = item.size[0] / image.width
        check_side(item.format, *item.size)
        if image.extras.scene is not None:
            row.transfer = "linear to sRGB and back" if image.extras.scene.linear else "as encoded"

    def _name_losses(self, item: RestoreItem, image: DecodedImage) -> None:
        """Note what reading lost and what writing will lose.

        Raises:
            InputError: something is lost, and ``--strict`` forbids it.
        """
        row = item.row
        assert item.identity is not None
        software = fingerprint.software_text(
            item.identity,
            model=self.context.model,
            scale=row.scale or 1,
            tile=_LONGEST_TILE,
            seed=self.options.seed,
            caption=row.caption,
        )
        losses = list(image.losses)
        for page in image.pages:
            losses += losses_of(
                item.format,
                depth=page.depth,
                alpha=page.alpha is not None,
                source=page.source,
                extras=page.extras,
                software=software,
            )
        losses = list(dict.fromkeys(losses))
        row.warnings = "; ".join(f"{loss.name}: {loss.text}" for loss in losses)
        hard = [loss.text for loss in losses if loss.strict]
        if self.options.strict and hard:
            raise InputError(f"{'; '.join(hard)} (--strict)")
        item.warnings = [loss.text for loss in losses]

    def _leave_large(self, item: RestoreItem, data: bytes) -> None:
        """An image that is large already is left out, or copied under its own suffix; nothing is replaced.

        Raises:
            OutputError: the copy cannot be written.
        """
        job, row, options = item.job, item.row, self.options
        row.status = SKIPPED
        row.reason = f"{LARGE}: {row.width}x{row.height} is not below {options.only_below} pixels"
        if options.large is Large.SKIP:
            return
        target = job.output
        if output_format(job.output.name) != output_format(job.input):
            target = job.output.with_suffix(Path(job.input).suffix)
        row.output = name_of(target, self.folder)
        there = target.is_file()
        if there and target.read_bytes() != data and options.existing is not Existing.OVERWRITE:
            item.kept, row.reason = True, fingerprint.FOREIGN
            return
        if not (there and target.read_bytes() == data):
            with atomic_file(target) as stream:
                stream.write(data)
        row.output_sha256, row.reason = row.input_sha256, f"{row.reason}; copied"
        row.settings_sha256 = ""  # a later run without --only-below restores it

    def _skip(self, item: RestoreItem, reason: str) -> None:
        """Skip a finished output; the measurements of the earlier run stay in the report."""
        item.kept = reason != fingerprint.UP_TO_DATE
        known = (
            []
            if item.kept or item.identity is None
            else [row for row in self.report_file.earlier_rows(item.row.output) if item.identity.matches(row)]
        )
        if known:
            item.row = replace(known[-1], input=item.job.input, shard=item.row.shard)
        item.row.status, item.row.reason = SKIPPED, reason


def _yes(value: bool) -> str:
    return "yes" if value else "no"
