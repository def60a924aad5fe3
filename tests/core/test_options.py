from dataclasses import replace
from pathlib import Path

import pytest

from varestorer_cli.core.choices import ColorFix, Compat, ImageFormat
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.inputs.plan import plan_for
from varestorer_cli.core.options import FailureLimit, RestoreOptions, TextOptions
from varestorer_cli.core.sizing import Sizing


def test_the_released_way_rounds_halves_to_even() -> None:
    options = RestoreOptions(sizing=Sizing(scale=2.5))
    assert options.target(25, 27) == (63, 68)
    released = replace(options, compat=Compat.RELEASED)
    assert released.target(25, 27) == (62, 68)
    hashes = {o.settings_sha256(overlap=8, sampling="sample", format=ImageFormat.PNG) for o in (options, released)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fidelity": 1.5}, "--fidelity 1.5"),
        ({"quality": 0}, "--quality 0"),
        ({"tile": 0}, "--tile 0"),
        ({"batch": -1}, "--batch -1"),
        ({"overlap": -1}, "--overlap -1"),
        ({"threads": 0}, "--threads 0"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RestoreOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "failed", "total", "allowed"),
    [("0", 0, 9, True), ("0", 1, 9, False), ("2", 2, 9, True), ("10%", 1, 10, True), ("10%", 2, 10, False)],
)
def test_failure_limits(text: str, failed: int, total: int, allowed: bool) -> None:
    assert FailureLimit.parse(text).allows(failed, total) is allowed


@pytest.mark.parametrize("text", ["-1", "a", "101%", "1.5"])
def test_bad_failure_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-failed"):
        FailureLimit.parse(text)


def test_settings_hash_tells_what_changes_pixels_and_nothing_else() -> None:
    def of(format: ImageFormat = ImageFormat.PNG, **values: object) -> str:
        options = RestoreOptions(**values)  # type: ignore[arg-type]
        return options.settings_sha256(overlap=4, sampling="argmax", format=format)

    base = of()
    assert base == of(sizing=Sizing(scale=4)) == of(device="cuda", batch=3, threads=2, strict=True, seed=9)
    assert len({base, of(sizing=Sizing(scale=2)), of(fidelity=0.5), of(strip=True), of(color_fix=ColorFix.NONE)}) == 5


@pytest.mark.parametrize("format", ImageFormat)
def test_the_quality_counts_only_for_formats_that_have_one(format: ImageFormat) -> None:
    hashes = {
        RestoreOptions(quality=quality).settings_sha256(overlap=4, sampling="argmax", format=format)
        for quality in (80, 90)
    }
    assert len(hashes) == (2 if format in (ImageFormat.JPEG, ImageFormat.WEBP) else 1)


def test_the_seed_counts_only_where_noise_is_drawn() -> None:
    hashes = [
        RestoreOptions(seed=seed).settings_sha256(overlap=4, sampling="sample", format=ImageFormat.PNG)
        for seed in (0, 1)
    ]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("precision", "fp33", "--precision fp33: possible are auto, fp32, bf16 and fp16"),
        ("format", "webpp", "--format webpp: possible are png, jpg, webp, tif, bmp, exr and dpx"),
        ("existing", "skipp", "--existing skipp: possible are skip, overwrite and error"),
        ("color_fix", "x", "--color-fix x: possible are auto, wavelet, adain and none"),
    ],
)
def test_values_from_python_are_checked_as_those_of_the_command(name: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RestoreOptions(**{name: value})  # type: ignore[arg-type]


def test_plain_text_becomes_the_option() -> None:
    made = RestoreOptions(format="webp", color_fix="none")  # type: ignore[arg-type]
    assert made.format is ImageFormat.WEBP and made.color_fix is ColorFix.NONE
    with pytest.raises(UsageError, match="possible are none and auto"):
        TextOptions(captioning="all")  # type: ignore[arg-type]


def test_a_pdf_is_no_folder_of_outputs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"out.pdf: .pdf cannot be written; possible suffixes are .png"):
        plan_for([str(tmp_path / "a.png")], str(tmp_path / "out.pdf"), RestoreOptions())
