import csv
import json
from pathlib import Path

import pytest
from conftest import rows

from varestorer_cli.core.errors import ExitCode, UsageError
from varestorer_cli.core.inputs.plan import make_plan
from varestorer_cli.core.options import FailureLimit
from varestorer_cli.core.phrases import clock
from varestorer_cli.core.report.csv_file import (
    ReportFile,
    failed_list_path,
    read_failed_list,
    report_name,
    write_failed_list,
)
from varestorer_cli.core.report.rows import COLUMNS, DONE, FAILED, IGNORED, SKIPPED, Row, read_rows
from varestorer_cli.core.report.summary import BatchReport, Times
from varestorer_cli.core.sharding import Shard

CONTRACT = [
    "input",
    "output",
    "status",
    "reason",
    "width",
    "height",
    "out_width",
    "out_height",
    "depth",
    "icc",
    "alpha",
    "scale",
    "tile",
    "tiles",
    "retries",
    "device",
    "precision",
    "seconds",
    "peak_mb",
    "mean_colour_error",
    "consistency_psnr",
    "input_sha256",
    "output_sha256",
    "model_sha256",
    "settings_sha256",
    "seed",
    "version",
    "host",
    "shard",
]


def test_the_columns_are_a_stable_interface() -> None:
    assert list(COLUMNS[: len(CONTRACT)]) == CONTRACT
    assert COLUMNS[len(CONTRACT) :] == ("warnings", "oom_split", "transfer", "model", "caption", "calls")


def test_not_measured_is_empty_never_zero_or_nan() -> None:
    row = Row(input="a", seconds=float("nan"), retries=0, consistency_psnr=38.123456789, host="h")
    cells = dict(zip(COLUMNS, row.cells(), strict=True))
    assert (cells["seconds"], cells["width"], cells["retries"], cells["consistency_psnr"]) == ("", "", "0", "38.1235")
    values = json.loads(json.dumps(row.values()))
    assert (values["seconds"], values["output"], values["retries"]) == (None, None, 0)


def test_rows_are_in_the_file_at_once_and_unique_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    report = ReportFile(path)
    report.open()
    report.add(Row(input="b", output="b.png", status=FAILED, reason='it said "no",\nreally'))
    report.add(Row(input="a", output="a.png", status=DONE))
    assert [row["input"] for row in rows(path)] == ["b", "a"]
    again = ReportFile(path)
    again.open()
    again.add(Row(input="b", output="b.png", status=DONE))
    assert [row["status"] for row in rows(path)] == [FAILED, DONE, DONE]  # a kill now loses nothing
    again.close()
    assert [(row["input"], row["status"]) for row in rows(path)] == [("a", DONE), ("b", DONE)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    report = ReportFile(path)
    report.open()
    report.add(Row(input="a", output="a.png", status=DONE, output_sha256="1"))
    report.add(Row(input="b", output="b.png", status=DONE, output_sha256="2"))
    path.write_bytes(path.read_bytes()[:-20])
    again = ReportFile(path)
    assert again.earlier_rows("a.png") and not again.earlier_rows("b.png")
    again.close()
    assert [row["input"] for row in rows(path)] == ["a"]


def test_values_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    report = ReportFile(path)
    report.open()
    row = Row(
        "ü\udcff.png", "o", DONE, "", 3, 4, 12, 16, 8, "no", "yes", 4.0, 32, 1, 0, "cpu", "fp32", 0.5, 10.0, 1.5, 40.0
    )
    report.add(row)
    assert read_rows(path) == [row]


def test_ignored_rows_of_earlier_runs_do_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for name in ("x.txt", "y.txt"):
        report = ReportFile(path)
        report.open()
        report.add(Row(input=name, status=IGNORED))
        report.close()
    assert [row["input"] for row in rows(path)] == ["y.txt"]


def test_a_foreign_csv_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("name,price\n")
    with pytest.raises(
        UsageError, match="exists and is not a varestorer report; move it, or choose another --metrics-csv"
    ):
        ReportFile(path)
    assert path.read_text() == "name,price\n"


def test_reports_of_other_shards_are_witnesses_and_stay_theirs(tmp_path: Path) -> None:
    other = tmp_path / "metrics.1-of-2.csv"
    report = ReportFile(other)
    report.open()
    report.add(Row(input="b", output="b.png", status=DONE, output_sha256="2"))
    mine = ReportFile(tmp_path / "metrics.0-of-2.csv", [other])
    assert mine.earlier_rows("b.png")
    mine.close()
    assert rows(tmp_path / "metrics.0-of-2.csv") == []


def test_names_carry_the_shard() -> None:
    assert report_name(None) == "metrics.csv"
    assert report_name(Shard(3, 16)) == "metrics.3-of-16.csv"
    assert report_name(None, frames="1-10x2,40") == "metrics.frames-1-10x2,40.csv"
    assert report_name(None, frames="1-5:2") == "metrics.frames-1-5_2.csv"
    assert len(report_name(None, frames=",".join(map(str, range(999))))) < 80


@pytest.mark.parametrize(
    ("report", "failed"),
    [
        ("out/metrics.csv", "out/failed.txt"),
        ("out/metrics.3-of-16.csv", "out/failed.3-of-16.txt"),
        ("out/metrics.frames-1-10.csv", "out/failed.frames-1-10.txt"),
        ("logs/my.csv", "logs/my.failed.txt"),
    ],
)
def test_each_report_has_its_own_list_of_failures(report: str, failed: str) -> None:
    assert failed_list_path(Path(report)) == Path(failed)


def test_counts_summary_and_exit_code_step_by_step() -> None:
    report = BatchReport()
    assert report.summary() == "0 images restored, 0 failed"
    assert report.exit_code() == ExitCode.OK
    report.rows.append(Row(input="a", status=DONE))
    report.seconds, report.megapixels = 2.0, 4.0
    assert report.summary() == (
        "1 image restored, 0 failed in 2.0 s (0.50 images/s, 2.00 MP/s; model 0 %, decode 0 %, encode 0 %, rest 100 %)"
    )
    report.rows += [Row(input="b", status=SKIPPED), Row(input="c", status=SKIPPED), Row(input="x", status=IGNORED)]
    report.kept.append(report.rows[2])
    assert report.summary().startswith(
        "1 image restored, 1 already up to date, 1 existing file kept, 0 failed, 1 ignored"
    )
    assert report.exit_code() == ExitCode.OK
    report.rows.append(Row(input="d", status=FAILED))
    assert report.exit_code() == ExitCode.SOME_FAILED
    assert report.exit_code(FailureLimit(1)) == ExitCode.OK
    assert report.exit_code(FailureLimit(25, True)) == ExitCode.OK
    report.internal = True
    assert report.exit_code(FailureLimit(9)) == ExitCode.INTERNAL


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (75, "1:15"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_failed_list_comes_and_goes_and_spares_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "failed.txt"
    assert write_failed_list(path, ["in/./a.png"]) == path
    assert path.read_text().splitlines()[1:] == ["in/./a.png"]
    assert write_failed_list(path, []) is None
    assert not path.exists()
    path.write_text("my own notes\n")
    assert write_failed_list(path, ["b"]) is None
    assert path.read_text() == "my own notes\n"


def test_the_file_is_plain_csv(tmp_path: Path) -> None:
    report = ReportFile(tmp_path / "m.csv")
    report.open()
    report.add(Row(input="a,b", output="o", status=DONE, host="h"))
    with (tmp_path / "m.csv").open(newline="") as stream:
        assert len({len(line) for line in csv.reader(stream)}) == 1


def test_every_report_is_a_witness_and_the_own_one_comes_last(tmp_path: Path) -> None:
    for name, digest in (("metrics.csv", "old"), ("metrics.0-of-2.csv", "new")):
        file = ReportFile(tmp_path / name)
        file.open()
        file.add(Row(input="a", output="a.png", status=DONE, output_sha256=digest))
        file.close()
    mine = ReportFile(tmp_path / "metrics.0-of-2.csv", sorted(tmp_path.glob("metrics*.csv")))
    assert [row.output_sha256 for row in mine.earlier_rows("a.png")] == ["old", "new"]


def test_a_promise_outlives_a_killed_run_until_the_output_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    killed = ReportFile(path)
    killed.open()
    killed.announce(Row(input="a", output="a.png", output_sha256="1"))
    for digest in ("2", "3"):  # each run is killed again before its rows
        again = ReportFile(path)
        again.open()
        again.announce(Row(input="a", output="a.png", output_sha256=digest))
    last = ReportFile(path)
    assert [row.output_sha256 for row in last.earlier_rows("a.png")] == ["1", "2", "3"]
    last.open()
    last.add(Row(input="a", output="a.png", status=DONE, output_sha256="3"))
    last.close()
    assert [(row.status, row.output_sha256) for row in read_rows(path)] == [(DONE, "3")]


def test_shares_of_time_add_up() -> None:
    times = Times(model=8.0, decode=0.5, encode=1.0)
    assert times.shares(10.0) == "model 80 %, decode 5 %, encode 10 %, rest 5 %"
    times.add(Times(model=8.0))
    assert times.shares(20.0) == "model 80 %, decode 2 %, encode 5 %, rest 13 %"


def test_names_in_the_failed_list_are_read_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["#1.png", "in/./a\u2028b.png", "in/./c\x0cd.png"]
    listed = write_failed_list(Path("failed.txt"), names)
    found = [job.key for job in make_plan([f"@{listed}"], "out/").jobs]
    assert found == ["#1.png", "a\u2028b.png", "c\x0cd.png"]
    assert read_failed_list(Path("failed.txt")) == ["./#1.png", *names[1:]]
    assert read_failed_list(Path("none.txt")) == []
    Path("notes.txt").write_text("in/a.png\n")
    assert read_failed_list(Path("notes.txt")) == []


def test_a_file_that_no_csv_reader_takes_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b'"' + b"x" * 200_000 + b'"\n')
    with pytest.raises(UsageError, match="is not a varestorer report"):
        ReportFile(tmp_path / "metrics.csv")


def test_a_report_that_is_in_order_is_not_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [Row(input=f"{n}.png", output=f"{n}.png", status="done", seconds=n / 3, reason="=1\n\\x") for n in range(3)]
    first = ReportFile(path)
    first.open()
    for row in rows:
        first.add(row)
    first.close()

    def opened() -> bool:
        before = path.stat().st_ino
        report = ReportFile(path)
        report.open()
        assert len(report.rows) == 3
        return path.stat().st_ino == before

    assert opened()
    whole = path.read_bytes()
    for changed in (whole + b"half a", whole + whole.split(b"\n")[1] + b"\n", whole.replace(b",seed", b",", 1)):
        path.write_bytes(changed)
        assert not opened()
        assert opened()
