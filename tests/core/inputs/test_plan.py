import codecs
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import photo, save

from varestorer_cli.core.choices import ImageFormat
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.inputs.plan import NameTemplate, RestorePlan, make_plan
from varestorer_cli.core.options import RestoreOptions
from varestorer_cli.core.phrases import REPORT_HEADER
from varestorer_cli.core.report.rows import COLUMNS
from varestorer_cli.core.sharding import Shard
from varestorer_cli.core.sizing import Sizing


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n")


def pairs(plan: RestorePlan) -> list[tuple[str, str]]:
    return [(job.input, str(job.output)) for job in plan.jobs]


def ignored(plan: RestorePlan) -> dict[str, str]:
    return {aside.path: aside.reason for aside in plan.ignored}


def test_a_folder_is_mirrored_in_name_order(here: Path) -> None:
    touch("in/b.png", "in/a.JPG", "in/sub/deep/ü ñ.tif", "in/フォト/c.webp")
    assert pairs(make_plan(["in"], "out")) == [
        ("in/a.JPG", "out/a.JPG"),
        ("in/b.png", "out/b.png"),
        ("in/sub/deep/ü ñ.tif", "out/sub/deep/ü ñ.tif"),
        ("in/フォト/c.webp", "out/フォト/c.webp"),
    ]
    assert [job.key for job in make_plan(["in/"], "out/").jobs][-1] == "フォト/c.webp"


def test_suffixes_are_kept_or_changed(here: Path) -> None:
    touch("in/a.jpeg", "in/b.PNG", "in/c.gif", "in/d.tar.tif")
    assert [j.output.name for j in make_plan(["in"], "out").jobs] == ["a.jpeg", "b.PNG", "c.png", "d.tar.tif"]
    changed = make_plan(["in"], "out", format=ImageFormat.JPEG)
    assert [j.output.name for j in changed.jobs] == ["a.jpeg", "b.jpg", "c.jpg", "d.tar.jpg"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("out", "out/a.jpg"),
        ("out/", "out/a.jpg"),
        ("there", "there/a.jpg"),
        ("new.png", "new.png"),
        ("deep/new.tif", "deep/new.tif"),
        ("folder.v2", "folder.v2/a.jpg"),
        ("there.png", "there.png/a.jpg"),
    ],
)
def test_the_output_of_a_single_file(here: Path, output: str, expected: str) -> None:
    touch("in/a.jpg")
    Path("there").mkdir()
    Path("there.png").mkdir()
    assert pairs(make_plan(["in/a.jpg"], output)) == [("in/a.jpg", expected)]


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["in/a.jpg", "in/b.jpg"], "out.png", "out.png: is a file name, and there may be several outputs"),
        (["in"], "out.png", "is a file name"),
        (["in/a.jpg"], "out.heic", r"\.heic cannot be written; possible suffixes are \.png"),
        (["in"], "in/a.jpg/", "is a file, and a folder is needed"),
        (["none.png"], "out", "none.png: no such file or folder"),
        (["@none.txt"], "out", "none.txt: the list cannot be read"),
        (["in"], "in", "output and input are the same folder"),
        (["in/a.jpg"], "in/a.jpg", "would replace the input in/a.jpg"),
        (["in/a.jpg"], "in", "would replace the input in/a.jpg"),
        (["in"], ".", "would lie among the inputs"),
    ],
)
def test_refused_before_work(here: Path, inputs: list[str], output: str, words: str) -> None:
    touch("in/a.jpg", "in/b.jpg", "in/in/c.jpg")
    with pytest.raises(UsageError, match=words):
        make_plan(inputs, output)


def test_a_suffix_that_contradicts_the_format(here: Path) -> None:
    touch("a.jpg")
    with pytest.raises(UsageError, match="its suffix says png, --format says tif"):
        make_plan(["a.jpg"], "b.png", format=ImageFormat.TIFF)


def test_an_output_with_too_long_a_name_is_planned(here: Path) -> None:
    """Writing it fails with the reason; planning raises no ``OSError``."""
    touch("a.png")
    assert make_plan(["a.png"], "x" * 260 + ".png").single
    assert not make_plan(["a.png"], "x" * 260).single


def test_clashes_name_both_inputs(here: Path) -> None:
    touch("in/a.jpg", "in/a.png")
    assert len(make_plan(["in"], "out").jobs) == 2
    with pytest.raises(
        UsageError, match=r"in/a.jpg and in/a.png would both become out/a.png; nothing was done: add --name"
    ):
        make_plan(["in"], "out", format=ImageFormat.PNG)
    touch("x/a.jpg", "y/a.jpg")
    with pytest.raises(UsageError, match=r"would both become out/a.jpg; nothing was done: restore their folders"):
        make_plan(["x/a.jpg", "y/a.jpg"], "out")


def test_an_input_named_twice_is_done_once(here: Path) -> None:
    touch("in/a.jpg")
    assert len(make_plan(["in/a.jpg", "./in/a.jpg"], "out").jobs) == 1


def test_several_folders_keep_their_names(here: Path) -> None:
    touch("x/a.jpg", "y/a.jpg", "b.jpg")
    assert [out for _, out in pairs(make_plan(["x", "y/", "b.jpg"], "out"))] == [
        "out/x/a.jpg",
        "out/y/a.jpg",
        "out/b.jpg",
    ]


def test_foreign_files_are_ignored_and_named(here: Path) -> None:
    touch(
        "in/a.jpg", "in/Thumbs.db", "in/._a.jpg", "in/.hidden.png", "in/notes.txt", "in/x.png.host-1.part", "in/README"
    )
    touch("in/__MACOSX/a.jpg", "in/.git/a.png")
    os.mkfifo("in/pipe.png")
    plan = make_plan(["in"], "out")
    assert [job.input for job in plan.jobs] == ["in/a.jpg"]
    assert ignored(plan) == {
        "in/Thumbs.db": "not a type that is read (.db)",
        "in/._a.jpg": "macOS metadata",
        "in/.hidden.png": "a hidden file",
        "in/notes.txt": "not a type that is read (.txt)",
        "in/x.png.host-1.part": "a temporary file",
        "in/README": "not a type that is read (no suffix)",
        "in/__MACOSX": "a hidden or system folder",
        "in/.git": "a hidden or system folder",
        "in/pipe.png": "not a regular file",
    }


def test_the_report_header_is_recognised_by_the_report_itself() -> None:
    assert ",".join(COLUMNS).startswith(REPORT_HEADER)


def test_own_outputs_are_never_inputs(here: Path) -> None:
    touch("in/a.jpg", "in/out/b.jpg", "in/old/c.jpg")
    Path("in/old/metrics.csv").write_text(REPORT_HEADER + ",more\n")
    plan = make_plan(["in"], "in/out")
    assert pairs(plan) == [("in/a.jpg", "in/out/a.jpg")]
    assert ignored(plan) == {
        "in/out": "the output folder",
        "in/old": "outputs of an earlier run (it holds a varestorer report)",
    }
    assert len(make_plan(["in/old"], "out").jobs) == 1  # named by the user: an input like any other


def test_symlink_loops_end(here: Path) -> None:
    touch("in/sub/a.jpg", "other/b.jpg")
    Path("in/sub/loop").symlink_to("..")
    Path("in/again").symlink_to("sub")
    Path("in/other").symlink_to("../other")
    Path("in/other2").symlink_to("../other")
    Path("in/self.jpg").symlink_to("self.jpg")
    plan = make_plan(["in"], "out")
    assert [job.input for job in plan.jobs] == ["in/other/b.jpg", "in/sub/a.jpg"]
    assert set(ignored(plan)) == {"in/sub/loop", "in/again", "in/other2"}
    assert [aside.path for aside in plan.unreadable] == ["in/self.jpg"]


def test_a_folder_that_cannot_be_read_is_a_failure_and_stops_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("in/a.jpg", "in/locked/b.jpg", "in/フォト/ü ñ.jpg")
    plain = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    plan = make_plan(["in"], "out")
    assert [job.key for job in plan.jobs] == ["a.jpg", "フォト/ü ñ.jpg"]
    assert [(aside.path, aside.reason) for aside in plan.unreadable] == [
        ("in/locked", "the folder cannot be read: Permission denied")
    ]


def test_a_link_to_a_file_is_a_file_and_a_dangling_one_a_failure(here: Path) -> None:
    touch("elsewhere/a.jpg")
    Path("in").mkdir()
    Path("in/link.jpg").symlink_to("../elsewhere/a.jpg")
    Path("in/gone.jpg").symlink_to("../elsewhere/none.jpg")
    plan = make_plan(["in"], "out")
    assert pairs(plan) == [("in/link.jpg", "out/link.jpg")]
    assert [(aside.path, aside.reason) for aside in plan.unreadable] == [
        ("in/gone.jpg", "cannot be opened: No such file or directory")
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.jpg", ["out/a.jpg", "out/b.jpg"]),
        ("in/**/*.jpg", ["out/a.jpg", "out/b.jpg", "out/sub/c.jpg"]),
        ("in/*", ["out/a.jpg", "out/b.jpg", "out/sub/c.jpg", "out/sub/d.png"]),
        ("in/none*.png", []),
    ],
)
def test_patterns_are_expanded_by_us(here: Path, pattern: str, expected: list[str]) -> None:
    touch("in/a.jpg", "in/b.jpg", "in/sub/c.jpg", "in/sub/d.png", "in/x.txt")
    assert [out for _, out in pairs(make_plan([pattern], "out"))] == expected


def test_a_name_with_brackets_is_a_name(here: Path) -> None:
    touch("in/scan [1].jpg")
    assert pairs(make_plan(["in/scan [1].jpg"], "out")) == [("in/scan [1].jpg", "out/scan [1].jpg")]


def test_explicit_files_are_judged_by_content(here: Path) -> None:
    touch("image.dat", "a.png")
    Path("Thumbs.db").write_bytes(b"no image")
    plan = make_plan(["image.dat", "a.png", "Thumbs.db"], "out")
    assert pairs(plan) == [("image.dat", "out/image.dat.png"), ("a.png", "out/a.png")]
    assert list(ignored(plan)) == ["Thumbs.db"]
    assert pairs(make_plan(["Thumbs.db"], "out")) == [("Thumbs.db", "out/Thumbs.db.png")]  # fails with its reason


# --- lists


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("in/sub/c.jpg", "out/in/sub/c.jpg"),
        ("./in/a.jpg", "out/in/a.jpg"),
        ("in/./sub/c.jpg", "out/sub/c.jpg"),
        ("in/sub/../a.jpg", "out/in/a.jpg"),
    ],
)
def test_lists_are_mirrored_as_written_or_from_the_dot(here: Path, line: str, output: str) -> None:
    touch("in/a.jpg", "in/sub/c.jpg")
    Path("list.txt").write_text(f"# a comment\n\n{line}\r\n")
    assert pairs(make_plan(["@list.txt"], "out")) == [(line, output)]


def test_absolute_lists_are_mirrored_from_their_common_folder(here: Path) -> None:
    touch("in/a.jpg", "in/sub/c.jpg")
    Path("list.txt").write_text(f"{here}/in/a.jpg\n{here}/in/sub/c.jpg\n")
    assert [out for _, out in pairs(make_plan(["@list.txt"], "out"))] == ["out/a.jpg", "out/sub/c.jpg"]


@pytest.mark.parametrize(("nul", "data"), [(False, b"in/a.jpg\nin/b\xff.jpg\n"), (True, b"in/a.jpg\0in/b\xff.jpg\0")])
def test_lists_on_stdin(here: Path, nul: bool, data: bytes) -> None:
    touch("in/a.jpg", os.fsdecode(b"in/b\xff.jpg"))
    plan = make_plan(["-"], "out", nul_lists=nul, read_stdin=lambda: data)
    assert [os.fsencode(job.output) for job in plan.jobs] == [b"out/in/a.jpg", b"out/in/b\xff.jpg"]


def test_a_missing_entry_of_a_list_is_a_job_that_fails(here: Path) -> None:
    touch("a.jpg")
    plan = make_plan(["-"], "out", read_stdin=lambda: b"a.jpg\nnone.jpg\n")
    assert [job.input for job in plan.jobs] == ["a.jpg", "none.jpg"]


@pytest.mark.parametrize("inputs", [["in"], ["in/"], ["in", "x"], ["in/a.jpg", "x/b.jpg"], ["in/*"], ["."]])
def test_what_failed_can_be_fed_back_to_the_same_place(here: Path, inputs: list[str]) -> None:
    touch("in/a.jpg", "in/sub/c.jpg", "x/b.jpg")
    plan = make_plan(inputs, "/tmp/none/out")
    Path("/dev/null").read_bytes()
    text = "".join(f"{job.feed}\n" for job in plan.jobs).encode()
    again = make_plan(["-"], "/tmp/none/out", read_stdin=lambda: text)
    assert [(job.output, job.key) for job in again.jobs] == [(job.output, job.key) for job in plan.jobs]


# --- shards


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_share_the_work_and_only_the_first_reports_the_rest(here: Path, count: int) -> None:
    touch(*(f"in/{i}.png" for i in range(40)), "in/x.txt")
    plans = [make_plan(["in"], "out", shard=Shard(i, count)) for i in range(count)]
    assert sorted(job.key for plan in plans for job in plan.jobs) == sorted(f"{i}.png" for i in range(40))
    assert [len(plan.ignored) for plan in plans] == [1] + [0] * (count - 1)
    assert all(plan.elsewhere + len(plan.jobs) == 40 for plan in plans)


def test_adding_files_moves_no_other_to_another_shard(here: Path) -> None:
    touch(*(f"in/{i}.png" for i in range(10)))
    before = {job.key for job in make_plan(["in"], "out", shard=Shard(1, 3)).jobs}
    touch(*(f"in/new{i}.png" for i in range(10)))
    after = {job.key for job in make_plan(["in"], "out", shard=Shard(1, 3)).jobs}
    assert before == {key for key in after if not key.startswith("new")}


def test_clashes_are_seen_by_every_shard(here: Path) -> None:
    touch("in/a.jpg", "in/a.png")
    for index in range(5):
        with pytest.raises(UsageError, match="would both become"):
            make_plan(["in"], "out", format=ImageFormat.PNG, shard=Shard(index, 5))


def test_no_input_is_opened_beyond_its_first_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("in/a.png"), photo())
    plain: Callable[..., Any] = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"read {self}"))
    assert len(make_plan(["in"], "out").jobs) == 1
    monkeypatch.setattr(Path, "read_bytes", plain)


@pytest.mark.parametrize("line", ["in/./../a.png", "in/./sub/../../a.png", "in/.//a.png", "in/./..//a.png"])
def test_no_key_leads_out_of_the_output_folder(here: Path, line: str) -> None:
    Path("list.txt").write_text(f"{line}\n")
    for named in (line, "@list.txt"):
        assert [str(job.output) for job in make_plan([named], "out/deep/").jobs] == ["out/deep/a.png"]


# --- names of outputs -------------------------------------------------------------------------------------------------

OPTIONS = RestoreOptions(model="runs/best.safetensors", sizing=Sizing(long_side=2048), seed=7)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{stem}_x4", "a.b_x4.png"),
        ("{stem}-{model}-{size}-{seed}.{ext}", "a.b-best-long2048-7.png"),
        ("{ext}/{stem}", "png/a.b.png"),
        ("{{{stem}}}", "{a.b}.png"),
    ],
)
def test_fields(template: str, name: str) -> None:
    assert NameTemplate.of(template, OPTIONS).apply("a.b.png") == name


@pytest.mark.parametrize("bad", ["{stem", "{what}", "{stem!r}", "{stem:>9}", "{}", "/abs/{stem}", "../{stem}", "", "."])
def test_bad_templates_are_refused_with_a_reason(bad: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        NameTemplate.of(bad, OPTIONS)


def test_names_are_planned_below_the_mirrored_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("in/sub/a.png"), photo(3, 3))
    template = NameTemplate.of("{stem}_{size}", RestoreOptions(sizing=Sizing(scale=2)))
    (job,) = make_plan(["in"], "out", format=ImageFormat.WEBP, template=template).jobs
    assert job.output == Path("out/sub/a_x2.webp")
    with pytest.raises(UsageError, match="--name names files too"):
        make_plan(["in/sub/a.png"], "b.png", template=template)


def test_clashes_made_by_a_template_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save(Path(f"in/{name}.png"), photo(3, 3))
    with pytest.raises(UsageError, match=r"in/a\.png and in/b\.png would both become out/all\.png"):
        make_plan(["in"], "out", template=NameTemplate.of("all", RestoreOptions()))


# --- refusals --------------------------------------------------------------------------------------------------------


def test_lists_without_an_end_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varestorer_cli.core.inputs.discovery.LARGEST_LIST", 1 << 20)
    with pytest.raises(UsageError, match="the list is larger than 1 MB"):
        make_plan(["@/dev/zero"], "out")


def test_a_file_whose_name_begins_with_at_is_an_input(here: Path) -> None:
    touch("@home.png")
    assert pairs(make_plan(["@home.png"], "out")) == [("@home.png", "out/@home.png")]


def test_a_pattern_in_a_folder_that_does_not_exist_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder none"):
        make_plan(["none/*.png"], "out")
    touch("in/a.jpg")
    assert make_plan(["in/*.png"], "out").jobs == []


@pytest.mark.parametrize("output", ["icon@2x.png", "photo #2.png", "shot.####.png", "a%04d.png"])
def test_one_image_may_become_a_file_whose_name_looks_like_a_pattern(here: Path, output: str) -> None:
    touch("icon.png")
    assert pairs(make_plan(["icon.png"], output)) == [("icon.png", output)]


def test_a_folder_still_needs_a_folder(here: Path) -> None:
    touch("in/icon.png")
    with pytest.raises(UsageError, match="is a frame pattern"):
        make_plan(["in"], "shot.####.png")


def test_comments_are_in_list_files_only(here: Path) -> None:
    touch("#1 cover.png", "b.png")
    plan = make_plan(["-"], "out", read_stdin=lambda: b"#1 cover.png\nb.png\n")
    assert [job.input for job in plan.jobs] == ["#1 cover.png", "b.png"]
    Path("list.txt").write_text("#1 cover.png\nb.png\n")
    assert [job.input for job in make_plan(["@list.txt"], "out").jobs] == ["b.png"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\r\n", "\0"])
def test_a_list_as_windows_writes_it(here: Path, encoding: str, end: str) -> None:
    touch("möwe.png")
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    Path("list.txt").write_bytes(mark + f"möwe.png{end}".encode(encoding))
    plan = make_plan(["@list.txt"], "out", nul_lists=end == "\0")
    assert [job.input for job in plan.jobs] == ["möwe.png"]


def test_a_cut_off_list_in_utf_16_is_refused(here: Path) -> None:
    Path("list.txt").write_bytes("möwe.png\r\n".encode("utf-16")[:-1])
    with pytest.raises(UsageError, match="begins as UTF-16 and is none"):
        make_plan(["@list.txt"], "out")
