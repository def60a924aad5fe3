"""Archives as folders: found, mirrored, read; hostile and damaged ones fail with a reason."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, photo
from PIL import Image

from varestorer_cli.core.errors import InputError
from varestorer_cli.core.image.reader import probe, read_bytes
from varestorer_cli.core.inputs.plan import make_plan

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("alone")


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo(8, 12)).save(stream, "PNG")
    return stream.getvalue()


def archive(name: str, files: dict[str, bytes]) -> Path:
    path = Path(name)
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for member, data in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for member, data in files.items():
                file.writestr(member, data)
    return path


@pytest.mark.parametrize("name", ["scans.zip", "scans.cbz", "scans.tar"])
def test_an_archive_is_restored_as_a_folder(cli: Cli, name: str) -> None:
    archive(name, {"b.png": png(), "sub/a.png": png(), "notes.txt": b"x", "__MACOSX/._b.png": b"y"})
    ran = cli("restore", name, "out")
    assert ran.code == 0
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.png")) == ["b.png", "sub/a.png"]
    again = cli("restore", name, "out")
    assert again.code == 0 and "2 already up to date" in again.err + again.out


@pytest.mark.parametrize("name", ["scans.zip", "scans.tar"])
def test_a_name_that_occurs_twice_is_said(cli: Cli, name: str) -> None:
    first, last = png(), png()[:-12] + b"\0\0\0\4tEXtx\0yz" + b"\0\0\0\0" + png()[-12:]
    if name.endswith("zip"):
        with zipfile.ZipFile(name, "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
            for data in (first, last):
                file.writestr("a.png", data)
            file.writestr("b.png", first)
    else:
        with tarfile.open(name, "w") as tar:
            for member, data in (("a.png", first), ("b.png", first), ("a.png", last)):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert read_bytes(f"{name}/a.png") == last, "the last one counts, as for unpacking"
    ran = cli("restore", name, "out", "--dry-run")
    assert f"{name}: 1 name occurs several times in it (a.png); the last file of each is read" in ran.err


def test_many_names_that_occur_twice_are_one_line(cli: Cli) -> None:
    with tarfile.open("a.tar", "w") as tar:
        for member in [f"{number}.png" for number in range(9)] * 2 + ["notes.txt", "notes.txt"]:
            info = tarfile.TarInfo(member)
            info.size = len(png())
            tar.addfile(info, io.BytesIO(png()))
    ran = cli("restore", "a.tar", "out", "--dry-run")
    assert "9 names occur several times in it (0.png, 1.png, 2.png and others)" in ran.err
    assert ran.err.count("several times") == 1 and "notes.txt and" not in ran.err


@pytest.mark.parametrize("name", ["scans.zip", "scans.tar"])
def test_names_are_read_as_paths_are(cli: Cli, name: str) -> None:
    archive(name, {"./a.png": png(), "d//b.png": png(), "./d/./c.png": png()})
    ran = cli("restore", name, "out")
    assert ran.code == 0
    outputs = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.png"))
    assert outputs == ["a.png", "d/b.png", "d/c.png"]


def test_forms_of_one_name_are_one_name(cli: Cli) -> None:
    archive("a.zip", {"./a.png": b"first", "a.png": png()})
    assert read_bytes("a.zip/a.png") == png()
    assert "1 name occurs several times in it (a.png)" in cli("restore", "a.zip", "out", "--dry-run").err


def test_several_archives_keep_their_names() -> None:
    archive("a.zip", {"1.png": png()})
    archive("b.tar", {"1.png": png()})
    plan = make_plan(["a.zip", "b.tar"], "out")
    assert [(job.input, str(job.output)) for job in plan.jobs] == [
        ("a.zip/1.png", "out/a/1.png"),
        ("b.tar/1.png", "out/b/1.png"),
    ]


def test_failed_members_can_be_given_back(cli: Cli) -> None:
    archive("a.zip", {"sub/bad.png": png()[:40], "good.png": png()})
    assert cli("restore", "a.zip", "out").code == 1
    archive("a.zip", {"sub/bad.png": png(), "good.png": png()})
    assert cli("restore", "@out/failed.txt", "out").code == 0
    assert Path("out/sub/bad.png").is_file()


def test_members_are_probed_and_read() -> None:
    archive("a.zip", {"sub/a.png": png()})
    assert probe("a.zip/sub/a.png") == (12, 8)
    assert read_bytes("a.zip/sub/a.png") == png()
    with pytest.raises(InputError, match=r"a\.zip holds no file none\.png"):
        read_bytes("a.zip/none.png")


def test_names_that_lead_out_are_left_out() -> None:
    archive("a.zip", {"../x.png": png(), "/y.png": png(), "ok.png": png()})
    plan = make_plan(["a.zip"], "out")
    assert [job.key for job in plan.jobs] == ["ok.png"]
    assert {aside.reason for aside in plan.ignored} == {"its name leads out of the archive"}


def test_a_damaged_archive_is_a_failure(cli: Cli) -> None:
    archive("a.zip", {"a.png": png()})
    Path("a.zip").write_bytes(Path("a.zip").read_bytes()[:-30])
    ran = cli("restore", "a.zip", "out")
    assert ran.code == 1 and "the archive is damaged or cut off" in ran.err


def test_a_damaged_member_fails_alone(cli: Cli) -> None:
    data = archive("a.zip", {"a.png": png(), "b.png": png()}).read_bytes()
    place = data.index(b"a.png") + 30
    Path("a.zip").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    ran = cli("restore", "a.zip", "out")
    assert ran.code == 1 and Path("out/b.png").is_file() and not Path("out/a.png").exists()


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    archive("a.zip", {"a.png": png() + bytes(1 << 27)})
    with pytest.raises(InputError, match="decompression bomb"):
        read_bytes("a.zip/a.png")


def test_an_archive_inside_a_folder_is_named() -> None:
    Path("in").mkdir()
    archive("in/a.zip", {"a.png": png()})
    (aside,) = make_plan(["in"], "out").ignored
    assert aside.reason == "an archive inside a folder; name it to restore what it holds"


def test_a_tar_file_that_ends_with_a_zip_file_is_a_tar_file() -> None:
    inner = archive("inner.zip", {"inside.png": png()}).read_bytes()
    archive("all.tar", {"a.png": png(), "inner.zip": inner})
    assert [job.input for job in make_plan(["all.tar"], "out").jobs] == ["all.tar/a.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damage_in_a_member_is_its_failure_whatever_its_compression(method: int) -> None:
    with zipfile.ZipFile("in.zip", "w", method) as file:
        file.writestr("a.png", png())
    data = bytearray(Path("in.zip").read_bytes())
    for place in (60, 100, 200):
        data[place] ^= 0x5A
    Path("in.zip").write_bytes(data)
    with pytest.raises(InputError):
        read_bytes("in.zip/a.png")
