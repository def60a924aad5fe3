"""Lines that tell programs how far a run is: plain percentages, and the dialects of render managers.

Sources: Deadline's command line plugins look for ``Progress: N%``; Open Job Description for ``openjd_progress: N``,
``openjd_status: TEXT`` and ``openjd_fail: TEXT`` (How Jobs Are Run); Tractor for ``TR_PROGRESS N%`` and
``TR_EXIT_STATUS N``.
"""

from dataclasses import dataclass

from varestorer_cli.core.options import Progress


@dataclass(frozen=True)
class Dialect:
    """How a reader of the log wants to be told; fields are templates of whole lines, empty for none.

    Attributes:
        step: percent between two lines.
        progress: ``{percent}`` (an integer) and ``{status}``.
        status: ``{status}``, said beside the percentage.
        failure: ``{text}``, said when the run ends with another code than 0.
        end: ``{code}``, the last line.
        asked: said with ``--quiet`` too, since it was asked for by name.
    """

    step: int = 5
    progress: str = "Progress: {percent}% ({status})"
    status: str = ""
    failure: str = ""
    end: str = ""
    asked: bool = False


DIALECTS = {
    Progress.LINES: Dialect(),
    Progress.DEADLINE: Dialect(1, "Progress: {percent}%", asked=True),
    Progress.OPENJD: Dialect(
        1, "openjd_progress: {percent}", "openjd_status: {status}", "openjd_fail: {text}", asked=True
    ),
    Progress.TRACTOR: Dialect(1, "TR_PROGRESS {percent}%", end="TR_EXIT_STATUS {code}", asked=True),
}
