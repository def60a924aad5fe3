from varestorer_cli.core.report.rows import DONE, FAILED, IGNORED, SKIPPED, Row
from varestorer_cli.core.report.summary import BatchReport


def test_the_books_are_kept_by_the_rows_alone() -> None:
    report = BatchReport()
    report.record(Row(input="notes.txt", status=IGNORED))
    report.record(Row(input="a.png", status=DONE, out_width=2000, out_height=500))
    report.record(Row(input="b.png", status=FAILED, reason="broken"), retry_as="in/b.png")
    report.record(Row(input="gone.png", status=FAILED, reason="no such file"))
    report.record(Row(input="c.png", status=SKIPPED, reason="up to date"))
    report.record(Row(input="d.png", status=SKIPPED, reason="not ours"), kept=True)
    assert [row.input for row in report.rows] == ["notes.txt", "a.png", "b.png", "gone.png", "c.png", "d.png"]
    assert report.megapixels == 1.0 and report.total == 5
    assert report.failed_inputs == ["in/b.png", "gone.png"]
    assert [row.input for row in report.kept] == ["d.png"]
    assert report.summary() == "1 image restored, 1 already up to date, 1 existing file kept, 2 failed, 1 ignored"
    assert report.stopped_text(9).startswith("stopped: 5 of 9 images are dealt with, nothing is half written;")
