from varestorer_cli.core.report.rows import Row
from varestorer_cli.core.restore.outliers import outliers


def made(psnr: list[float | None], shift: list[float | None] | None = None) -> list[Row]:
    shift = shift or [0.3] * len(psnr)
    return [
        Row(output=f"{i}.png", consistency_psnr=p, mean_colour_error=s)
        for i, (p, s) in enumerate(zip(psnr, shift, strict=True))
    ]


def named(rows: list[Row]) -> list[str]:
    return [one.row.output for one in outliers(rows)]


def test_pictures_far_below_the_rest_are_named_worst_first() -> None:
    rows = made([34, 35, 36, 33, 20, 34.5, 35.5, 36.5, 12, 35])
    assert named(rows) == ["8.png", "4.png"]
    assert outliers(rows)[0].reason == "12.0 dB against its input, the median is 34.8"


def test_many_bad_pictures_do_not_hide_each_other() -> None:
    assert named(made([34, 35, 36, 33, 34, 35, 36, 10, 11, 12, 13])) == ["7.png", "8.png", "9.png", "10.png"]


def test_a_colour_shift_stands_out_once() -> None:
    rows = made([34, 35, 36, 33, 34, 35, 36, 20], [0.2, 0.3, 0.1, 0.4, 0.2, 0.3, 0.2, 9.0])
    assert named(rows) == ["7.png"]
    assert "9.0 8-bit steps" in outliers(rows)[0].reason


def test_better_than_the_rest_alike_and_few_are_quiet() -> None:
    assert named(made([34, 35, 36, 33, 34, 35, 36, 60])) == []
    assert named(made([34.0, 34.01, 34.02, 34.0, 34.01, 34.0, 34.02, 32.5])) == []
    assert named(made([34, 35, 5])) == []
    assert named(made([None] * 20)) == []
