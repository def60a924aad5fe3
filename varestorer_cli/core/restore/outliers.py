"""Which pictures of a folder came out unlike the others? Robust statistics over the two numbers every row has.

A picture is compared with the median of its run; the spread is the median absolute deviation (times 1.4826, so that
it is a standard deviation where values are normal), which a few bad pictures cannot widen. Hampel's rule of three
spreads is taken wider, and a floor in dB or 8-bit steps keeps folders of near-identical pictures quiet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from varestorer_cli.core.report.rows import Row

_LEAST_ROWS = 8
_SPREADS = 4.0
_FLOOR_DB = 3.0
_FLOOR_STEPS = 2.0


@dataclass(frozen=True)
class Outlier:
    """A picture that stands out, and in what."""

    row: Row
    reason: str


def outliers(rows: Sequence[Row]) -> list[Outlier]:
    """Pictures that resemble their inputs far less than the rest of the folder does, the worst first.

    Args:
        rows: of a run; those without measurements do not count. Fewer than eight give no statistics.
    """
    found: dict[int, tuple[float, Outlier]] = {}
    for name, sign, floor, unit in (
        ("consistency_psnr", -1.0, _FLOOR_DB, "dB against its input"),
        ("mean_colour_error", 1.0, _FLOOR_STEPS, "8-bit steps of mean colour shift"),
    ):
        measured = [(row, float(value)) for row in rows if (value := getattr(row, name)) is not None]
        if len(measured) < _LEAST_ROWS:
            continue
        middle = median(value for _, value in measured)
        spread = 1.4826 * median(abs(value - middle) for _, value in measured)
        for row, value in measured:
            excess = sign * (value - middle)
            if excess > max(floor, _SPREADS * spread):
                said = Outlier(row, f"{value:.1f} {unit}, the median is {middle:.1f}")
                weight = excess / max(spread, floor / _SPREADS)
                if id(row) not in found or found[id(row)][0] < weight:
                    found[id(row)] = (weight, said)
    return [said for _, said in sorted(found.values(), key=lambda pair: -pair[0])]
