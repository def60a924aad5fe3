import pytest

from varestorer_cli.core.metrics.protocols import CONVENTION_METRICS
from varestorer_cli.core.score.datasets import BENCHMARKS
from varestorer_cli.core.score.published import CONVENTION_TEXT, published_rows

ROWS = [row for name in BENCHMARKS for row in published_rows(name)]


def test_every_set_has_rows_on_both_conventions() -> None:
    for name in ("div2k", "realsr", "drealsr"):
        methods = {
            convention: {r.method for r in published_rows(name) if r.convention == convention}
            for convention in CONVENTION_TEXT
        }
        assert {"VARestorer", "OSEDiff", "SinSR", "SeeSR", "VARSR"} <= methods["paper"]
        assert {"OSEDiff", "SinSR", "SeeSR", "TSD-SR", "PiSA-SR"} <= methods["osediff"]
        assert "VARestorer" not in methods["osediff"]
    assert published_rows("dped") == published_rows("mine") == ()


def test_values_are_keyed_by_the_metric_they_are() -> None:
    for row in ROWS:
        assert set(row.values) <= set(CONVENTION_METRICS[row.convention]), row
        assert row.values and row.source and all(float(text) > 0 for text in row.values.values()), row
    labels = [(name, row.convention, row.label) for name in BENCHMARKS for row in published_rows(name)]
    assert len(labels) == len(set(labels)) == 57


@pytest.mark.parametrize(
    ("name", "convention", "method", "values"),
    [
        (
            "div2k",
            "paper",
            "VARestorer",
            {"psnr_rgb": "21.08", "ssim_yiq": "0.5355", "maniqa": "0.5590", "fid": "31.11"},
        ),
        ("realsr", "paper", "VARestorer", {"psnr_rgb": "22.78", "lpips": "0.3249", "qalign": "4.180", "fid": "117.2"}),
        ("drealsr", "paper", "OSEDiff", {"psnr_rgb": "25.85", "ssim_yiq": "0.7548", "musiq": "64.69"}),
        ("realsr", "osediff", "OSEDiff", {"psnr_y": "25.15", "ssim_y": "0.7341", "maniqa-pipal": "0.6326"}),
        ("drealsr", "osediff", "TSD-SR", {"psnr_y": "27.77", "dists": "0.2136", "clipiqa": "0.7344"}),
    ],
)
def test_known_values(name: str, convention: str, method: str, values: dict[str, str]) -> None:
    (row,) = (row for row in published_rows(name) if (row.convention, row.method) == (convention, method))
    assert {metric: row.values[metric] for metric in values} == values and not row.second_hand


def test_what_was_not_read_in_the_table_itself_is_marked() -> None:
    marked = {row.method for row in ROWS if row.second_hand}
    assert marked == {"PiSA-SR", "S3Diff", "FiDeSR", "AdcSR"}
