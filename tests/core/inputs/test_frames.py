"""Frame sequences: every spelling, ranges, gaps, chunks that reach too far."""

from pathlib import Path

import pytest
from conftest import photo, save

from varestorer_cli.core.choices import Missing
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.inputs.frames import FramePattern, read_range
from varestorer_cli.core.inputs.plan import RestorePlan, make_plan
from varestorer_cli.core.sharding import Shard


@pytest.fixture(autouse=True)
def shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames 1-6 without 4, and files that only look like frames."""
    monkeypatch.chdir(tmp_path)
    for frame in (1, 2, 3, 5, 6):
        save(Path(f"in/plate.{frame:04}.png"), photo(3, 3))
    for name in ("plate.0007.png.part", "plate.7.png", "plate.00007.png", "plate.0x07.png", "plate2.0001.png"):
        Path(f"in/{name}").touch()


def plan(source: str = "in/plate.####.png", output: str = "out", **more: object) -> RestorePlan:
    return make_plan([source], output, **more)  # type: ignore[arg-type]


def outputs(found: RestorePlan) -> list[str]:
    return [job.output.as_posix() for job in found.jobs]


@pytest.mark.parametrize("spelling", ["%04d", "####", "@@@@", "$F4"])
def test_every_spelling_finds_the_same_frames(spelling: str) -> None:
    found = plan(f"in/plate.{spelling}.png")
    assert outputs(found) == [f"out/plate.{frame:04}.png" for frame in (1, 2, 3, 5, 6)]
    assert found.notes == [f"in/plate.{spelling}.png: frames 4 between 1 and 6 are not there"]


@pytest.mark.parametrize(
    ("text", "frame", "name"),
    [
        ("a.####.png", 12, "a.0012.png"),
        ("a.####.png", 123456, "a.123456.png"),
        ("a.%d.png", 7, "a.7.png"),
        ("a.%04d.png", -3, "a.-003.png"),
        ("shot#3_$F6.png", 8, "shot#3_000008.png"),
        ("a@.png", 8, "a8.png"),
    ],
)
def test_names_and_numbers_are_inverse(text: str, frame: int, name: str) -> None:
    pattern = FramePattern.parse(text)
    assert pattern is not None
    assert pattern.name(frame) == name
    assert pattern.number(name) == frame
    assert pattern.number(name + "x") is None and pattern.number("x" + name) is None


def test_one_digit_takes_any_width() -> None:
    assert [job.input for job in plan("in/plate.#.png").jobs][:2] == ["in/plate.0001.png", "in/plate.0002.png"]


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("1-9x4", [1, 5, 9]),
        ("1-6y2", [2, 4, 6]),
        ("1-5:2", [1, 3, 5, 2, 4]),
        ("1,3,7-9", [1, 3, 7, 8, 9]),
        ("3-1", [3, 2, 1]),
        ("2,2,1-2", [2, 1]),
    ],
)
def test_ranges(text: str, frames: list[int]) -> None:
    assert read_range(text) == frames


@pytest.mark.parametrize("text", ["", "abc", "1-5x0", "1-", "1-1000000000", "#FRAMESPEC#"])
def test_what_is_no_range_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="--frames"):
        read_range(text)


def test_missing_frames_stop_the_run_with_their_numbers() -> None:
    with pytest.raises(UsageError, match=r"in/plate\.####\.png: frames 4 are missing; nothing was done"):
        plan(frames="1-6")


def test_missing_frames_are_skipped_or_counted_when_asked() -> None:
    skipped = plan(frames="1-6", missing=Missing.SKIP)
    assert len(skipped.jobs) == 5 and not skipped.unreadable
    assert "frames 4 are missing and left out (--missing skip)" in skipped.notes[0]
    failed = plan(frames="1-6", missing=Missing.FAIL)
    assert [(aside.path, aside.reason) for aside in failed.unreadable] == [
        ("in/plate.0004.png", "the frame is missing")
    ]


def test_a_chunk_beyond_the_end_is_only_said() -> None:
    found = plan(frames="5-9")
    assert outputs(found) == ["out/plate.0005.png", "out/plate.0006.png"]
    assert found.notes == ["in/plate.####.png: ends with frame 6; frames 7-9 are left out"]
    assert plan(frames="8-9").jobs == []


def test_the_output_may_be_a_pattern_of_its_own() -> None:
    found = plan(output="up/new_%05d.tif", frames="2,6")
    assert outputs(found) == ["up/new_00002.tif", "up/new_00006.tif"]
    assert found.folder == Path("up")


def test_patterns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="is a frame pattern, and the input is none"):
        make_plan(["in"], "out.####.png")
    with pytest.raises(UsageError, match="cannot be written"):
        plan(output="up.####.mov")
    with pytest.raises(UsageError, match="no input is a frame sequence"):
        make_plan(["in"], "out", frames="1-3")
    with pytest.raises(UsageError, match="there is no frame of this sequence"):
        plan("in/none.####.png")
    with pytest.raises(UsageError, match="the folder cannot be listed"):
        plan("nowhere/none.####.png")


def test_a_real_file_with_a_mark_in_its_name_is_a_file() -> None:
    save(Path("in/photo #1.png"), photo(3, 3))
    assert outputs(plan("in/photo #1.png")) == ["out/photo #1.png"]


def test_frames_are_mirrored_and_sharded_as_single_files_are() -> None:
    alone = make_plan(["in/plate.0002.png"], "out/").jobs[0]
    frame = plan(frames="2").jobs[0]
    assert (frame.key, frame.output) == (alone.key, alone.output)
    parts = [plan(shard=Shard(i, 3)) for i in range(3)]
    assert sorted(job.key for part in parts for job in part.jobs) == sorted(job.key for job in plan().jobs)
