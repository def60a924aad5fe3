"""The totals of a run: counts, times, failed inputs, the summary and the exit code."""

from dataclasses import dataclass, field

from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.options import FailureLimit
from varestorer_cli.core.phrases import clock, count, speed
from varestorer_cli.core.report.rows import DONE, FAILED, IGNORED, LARGE, SKIPPED, Row


@dataclass
class Times:
    """Where the time of a run went, in seconds of its main thread.

    Attributes:
        model: in calls of the model.
        decode: waiting for images to be read and decoded.
        encode: waiting for results to be encoded and written.
    """

    model: float = 0.0
    decode: float = 0.0
    encode: float = 0.0

    def add(self, other: "Times") -> None:
        """Join the times of another process."""
        self.model += other.model
        self.decode += other.decode
        self.encode += other.encode

    def shares(self, seconds: float) -> str:
        """Shares of ``seconds`` of main threads, such as ``model 91 %, decode 3 %, encode 5 %, rest 1 %``."""
        parts = {"model": self.model, "decode": self.decode, "encode": self.encode}
        percent = {name: round(100 * part / seconds) for name, part in parts.items()}
        percent["rest"] = max(0, 100 - sum(percent.values()))
        return ", ".join(f"{name} {share} %" for name, share in percent.items())


@dataclass
class BatchReport:
    """What happened to each input of a run.

    Attributes:
        rows: in the order of completion.
        megapixels: of all outputs written.
        seconds: wall time of the run.
        failed_inputs: failed inputs in the form that ``@list`` files understand.
        kept: existing files that were left as they are and are not this run's.
        internal: whether a failure was our own bug.
        times: where the time went.
        processes: that worked at the same time.
    """

    rows: list[Row] = field(default_factory=list)
    megapixels: float = 0.0
    seconds: float = 0.0
    failed_inputs: list[str] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    internal: bool = False
    times: Times = field(default_factory=Times)
    processes: int = 1

    def count(self, status: str) -> int:
        """Rows of a status."""
        return sum(row.status == status for row in self.rows)

    @property
    def total(self) -> int:
        """Inputs, without the ignored files."""
        return len(self.rows) - self.count(IGNORED)

    def record(self, row: Row, *, retry_as: str = "", kept: bool = False) -> None:
        """Add the final row of one input to rows, totals and lists.

        Args:
            row: with its status.
            retry_as: what names the input in a list of failed inputs; read where the row is a failure.
            kept: whether an existing file that is not this run's was left as it is.
        """
        self.rows.append(row)
        if row.status == DONE:
            self.megapixels += (row.out_width or 0) * (row.out_height or 0) / 1e6
        elif row.status == FAILED:
            self.failed_inputs.append(retry_as or row.input)
        elif kept:
            self.kept.append(row)

    def stopped_text(self, inputs: int) -> str:
        """Sentence for a run that was stopped.

        Args:
            inputs: that the run was to deal with.
        """
        return (
            f"stopped: {self.total} of {count(inputs, 'image')} {'is' if inputs == 1 else 'are'} dealt with, "
            "nothing is half written; run the same command again for the rest"
        )

    def exit_code(self, limit: FailureLimit | None = None) -> ExitCode:
        """Code of the run: failures beyond the limit, or a bug, are no success."""
        if self.internal:
            return ExitCode.INTERNAL
        allowed = (limit or FailureLimit()).allows(self.count(FAILED), self.total)
        return ExitCode.OK if allowed else ExitCode.SOME_FAILED

    def summary(self) -> str:
        """One sentence on the run: counts and speed."""
        done, skipped, failed = self.count(DONE), self.count(SKIPPED), self.count(FAILED)
        large = sum(row.status == SKIPPED and row.reason.startswith(LARGE) for row in self.rows)
        up_to_date = skipped - len(self.kept) - large
        parts = [f"{count(done, 'image')} restored"]
        if up_to_date:
            parts.append(f"{up_to_date} already up to date")
        if large:
            copied = sum(row.reason.startswith(LARGE) and bool(row.output_sha256) for row in self.rows)
            parts.append(f"{large} {LARGE}" + (f" ({copied} copied)" if copied else ""))
        if self.kept:
            parts.append(f"{count(len(self.kept), 'existing file')} kept")
        parts.append(f"{failed} failed")
        if self.count(IGNORED):
            parts.append(f"{self.count(IGNORED)} ignored")
        text = ", ".join(parts)
        if done and self.seconds > 0:
            rate = f"{speed(done / self.seconds)} images/s, {speed(self.megapixels / self.seconds)} MP/s"
            text += f" in {clock(self.seconds)} ({rate}; {self.times.shares(self.seconds * self.processes)})"
        return text
