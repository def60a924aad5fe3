import csv
import json
from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest
from conftest import Ran, load, many, photo, save

Cli = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("no_pyiqa")


def test_prints_and_writes(cli: Cli, out: Path) -> None:
    ran = cli("score", "out", "--reference", "gt")
    assert ran.code == 0
    assert "out against gt: 3 pairs scored, 0 failed" in ran.out
    assert "Protocol both: PSNR and SSIM on Y of YCbCr (ITU-R BT.601, 16-235), on RGB, and SSIM on Y of YIQ;" in ran.out
    assert "; 8 bit, border crop 0\nComputed by varestorer " in ran.out
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    content = json.loads((out / "scores.json").read_text())
    for name in ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "ssim_yiq"):
        mean = np.mean([float(row[name]) for row in rows])
        assert content["summary"][name]["mean"] == pytest.approx(mean, abs=1e-6)
        label = name.upper().replace("_", "-")
        line = next(line for line in ran.out.splitlines() if label in line)
        assert f"{mean:.2f}" in line if name.startswith("psnr") else f"{mean:.4f}" in line
        assert "↑" in line and "[" in line
    assert "wrote out/scores.csv" in ran.err and "wrote" not in ran.out
    assert "\x1b" not in ran.out + ran.err


def test_a_second_run_replaces_its_own_files_and_takes_none_for_an_image(cli: Cli, out: Path) -> None:
    cli("score", "out", "-r", "gt")
    first = (out / "scores.json").read_bytes()
    assert cli("score", "out", "-r", "gt").code == 0
    assert (out / "scores.json").read_bytes() == first


def test_foreign_files_stay(cli: Cli, out: Path) -> None:
    (out / "scores.csv").write_text("name,points\n")
    ran = cli("score", "out", "-r", "gt")
    assert ran.code == 0 and (out / "scores.csv").read_text() == "name,points\n"
    assert "out/scores.csv holds something else and stays as it is; --csv FILE" in ran.err
    assert (out / "scores.json").exists()


def test_files_as_asked(cli: Cli, out: Path) -> None:
    assert cli("score", "out", "-r", "gt", "--csv", "new/t.csv", "--json", "new/t.json", "-q").code == 0
    assert Path("new/t.csv").exists() and Path("new/t.json").exists()
    assert not (out / "scores.csv").exists()
    ran = cli("score", "out", "-r", "gt", "--csv", "out/a.png")
    assert ran.code == 2 and "text file" in ran.err
    (out.parent / "file").write_text("")
    assert cli("score", "out", "-r", "gt", "--csv", "file/t.csv").code == 5


def test_one_pair_of_files(cli: Cli, out: Path) -> None:
    ran = cli("score", "out/a.png", "-r", "gt/a.png", "--metrics", "psnr_y")
    assert ran.code == 0 and "1 pair scored" in ran.out
    assert (out / "a.scores.csv").exists() and not (out / "scores.csv").exists()


def test_quiet_prints_the_table_only(cli: Cli, out: Path) -> None:
    ran = cli("score", "out", "-r", "gt", "-q")
    assert ran.err == "" and "PSNR-Y" in ran.out


def test_markdown(cli: Cli, out: Path) -> None:
    ran = cli("score", "out", "-r", "gt", "--table", "markdown", "--protocol", "osediff")
    assert "| metric | mean | 95% interval |" in ran.out and "| PSNR-Y ↑ |" in ran.out
    assert "PSNR-RGB" not in ran.out


def test_failed_pairs_are_named_and_in_no_mean(cli: Cli, out: Path) -> None:
    clean = cli("score", "out", "-r", "gt", "--metrics", "psnr_rgb")
    before = json.loads((out / "scores.json").read_text())["images"]
    assert clean.code == 0
    (out / "b.png").write_bytes((out / "b.png").read_bytes()[:60])
    save(out / "c.png", photo(24, 25))
    ran = cli("score", "out", "-r", "gt", "--metrics", "psnr_rgb")
    assert ran.code == 1
    assert "1 pair scored, 2 failed" in ran.out
    assert "error: b: out/b.png" in ran.err
    assert "error: c: sizes differ: restored 25x24, reference 24x24" in ran.err
    content = json.loads((out / "scores.json").read_text())
    assert content["summary"]["psnr_rgb"]["mean"] == before[0]["psnr_rgb"]
    assert [image["status"] for image in content["images"]] == ["scored", "failed", "failed"]


def test_unpaired_files_are_refused_unless_partial(cli: Cli, out: Path) -> None:
    (out.parent / "gt/b.png").unlink()
    ran = cli("score", "out", "-r", "gt")
    assert ran.code == 2 and "1 only in out: b" in ran.err and ran.out == ""
    assert not (out / "scores.csv").exists()
    ran = cli("score", "out", "-r", "gt", "--partial")
    assert ran.code == 0 and "PARTIAL: 1 file without partner left out (b)" in ran.out


def test_identical_images_are_infinite_in_print_and_empty_in_files(cli: Cli, out: Path) -> None:
    for name in ("a", "b", "c"):
        save(out / f"{name}.png", load(out.parent / f"gt/{name}.png"))
    ran = cli("score", "out", "-r", "gt")
    assert ran.code == 0 and "inf" in ran.out and "3 identical pairs (infinite) not in the mean" in ran.out
    row = next(csv.DictReader((out / "scores.csv").open()))
    assert row["psnr_y"] == "" and "identical" in row["note"] and float(row["ssim_y"]) == 1


def test_a_missing_extra_is_code_3(cli: Cli, out: Path) -> None:
    ran = cli("score", "out", "-r", "gt", "--metrics", "psnr,niqe")
    assert ran.code == 3 and "pip install 'pyiqa" in ran.err and ran.out == ""


def test_usage_errors(cli: Cli, out: Path) -> None:
    for words, said in (
        (["out"], "add --reference GT"),
        (["--reference", "gt"], "name the restored images"),
        (["out", "-r", "nowhere"], "nowhere does not exist"),
        (["out", "-r", "gt", "--dataset", "realsr"], "brings its own references"),
        (["out", "-r", "gt", "--model", "compact"], "add --dataset"),
        (["out", "-r", "gt", "--metrics", "psnr_rgb", "--protocol", "osediff"], "excludes psnr_rgb"),
        (["out", "-r", "gt", "--protocol", "none"], "none"),
        (["out", "-r", "gt", "--crop-border", "-1"], "crop-border"),
    ):
        ran = cli("score", *words)
        assert (ran.code, ran.out) == (2, ""), words
        assert said in ran.err, words


def test_a_missing_test_set_is_code_3(cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("score", "out", "--dataset", "div2k").code == 3
    monkeypatch.setenv("VARESTORER_DATA", "sets")
    ran = cli("score", "out", "--dataset", "div2k")
    assert ran.code == 3 and "sets/StableSR_testsets/DIV2K_V2_val" in ran.err


def dataset(root: Path) -> Path:
    for i, name in enumerate(("a", "b")):
        lq = photo(12, 12, seed=i)
        save(root / f"RealSRVal_crop128/test_LR/{name}.png", lq)
        save(root / f"RealSRVal_crop128/test_HR/{name}.png", np.repeat(np.repeat(lq, 4, 0), 4, 1))
    return root


def test_a_test_set_stands_beside_the_published_rows(cli: Cli, tmp_path: Path) -> None:
    root = dataset(tmp_path / "sets")
    for name in ("a", "b"):
        reference = load(root / f"RealSRVal_crop128/test_HR/{name}.png")
        save(tmp_path / f"out/{name}.png", reference // 2)
    words = ("score", "out", "--dataset", "realsr", "--data-root", "sets")
    ran = cli(*words)
    assert ran.code == 0
    line = next(line for line in ran.out.splitlines() if "OSEDiff-1" in line)
    assert line.split()[:3] == ["OSEDiff-1", "25.15", "0.7341"]
    assert "holds 2 pairs, the released realsr 100: the published values are of another set" in ran.out
    cropped = cli(*words, "--crop-border", "4", "-q").out
    assert "OSEDiff" not in cropped and "published rows crop no border" in cropped


def test_a_test_set_is_restored_first(cli: Cli, tmp_path: Path) -> None:
    dataset(tmp_path / "sets")
    words = ("score", "--dataset", "realsr", "--data-root", "sets", "--metrics", "psnr_rgb")
    model = fakes.FakeModel()
    ran = cli(*words, model=model)
    assert ran.code == 0 and "fine on realsr: 2 pairs scored" in ran.out
    folder = tmp_path / "scores/realsr-fine"
    assert load(folder / "a.png").shape == (48, 48, 3)
    assert (folder / "scores.csv").exists() and (folder / "scores.json").exists()
    assert model.calls
    again = fakes.FakeModel()
    assert cli(*words, model=again).out == ran.out and not again.calls


def test_what_cannot_be_restored_is_a_failed_pair(cli: Cli, tmp_path: Path) -> None:
    root = dataset(tmp_path / "sets")
    words = ("score", "--dataset", "realsr", "--data-root", "sets", "--restored", "work", "--model", "compact")
    assert cli(*words).code == 0
    # The output of the first run is still there, but it is not this input's.
    (root / "RealSRVal_crop128/test_LR/a.png").write_bytes(b"broken")
    ran = cli(*words)
    assert ran.code == 1 and "1 pair scored, 1 failed" in ran.out
    assert "error: a: not restored:" in ran.err and (tmp_path / "work/a.png").exists()


def test_help_names_protocols_and_examples(cli: Cli) -> None:
    ran = cli("score", "--help")
    assert ran.code == 0
    for words in ("--reference", "osediff", "  varestorer score restored/ --reference originals/"):
        assert words in ran.out


def test_a_sheet_shows_degraded_restored_and_reference(cli: Cli, out: Path, tmp_path: Path) -> None:
    save(tmp_path / "lq/a.png", photo(6, 6))
    ran = cli("score", "out", "-r", "gt", "--sheet", "sheet.png", "--degraded", "lq")
    assert ran.code == 0 and "wrote sheet.png" in ran.err
    height, width = load(tmp_path / "sheet.png").shape[:2]
    assert (width, height) == (3 * 260 + 4, 260 + 26), "one image has a degraded input: one row of three"
    assert cli("score", "out", "-r", "gt", "--sheet", "sheet.nothing").code == 5


def test_a_sheet_replaces_no_image_that_is_scored_and_costs_no_score(cli: Cli, out: Path, tmp_path: Path) -> None:
    before = (out / "a.png").read_bytes()
    ran = cli("score", "out", "-r", "gt", "--sheet", "out/a.png")
    assert ran.code == 2 and "out/a.png is one of the images that are scored" in ran.err
    assert (out / "a.png").read_bytes() == before
    (tmp_path / "lq").mkdir()
    (tmp_path / "lq/a.png").write_text("no image")
    ran = cli("score", "out", "-r", "gt", "--sheet", "sheet.png", "--degraded", "lq")
    assert ran.code == 1 and "lq/a.png" in ran.err
    assert len(list(csv.DictReader((out / "scores.csv").open()))) == 3


def test_a_sheet_of_nothing_is_refused(cli: Cli, out: Path, tmp_path: Path) -> None:
    save(tmp_path / "lq/other.png", photo(6, 6))
    ran = cli("score", "out", "-r", "gt", "--sheet", "sheet.png", "--degraded", "lq")
    assert ran.code == 2 and "nothing to show on the sheet" in ran.err


# --- shards, comparison, ceiling, sets of one's own ------------------------------------------------------------------


def test_two_folders_are_compared(cli: Cli, out: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        better = (load(out / f"{name}.png").astype(int) + load(out.parent / f"gt/{name}.png")) // 2
        save(tmp_path / f"new/{name}.png", better.astype(np.uint8))
    words = ("score", "--compare", "out", "new", "-r", "gt", "--metrics", "psnr_rgb")
    ran = cli(*words, "--csv", "c.csv", "--json", "c.json")
    assert ran.code == 0 and "A = out against gt" in ran.out and "B = new against gt" in ran.out
    line = next(line for line in ran.out.splitlines() if "PSNR-RGB" in line)
    assert line.split()[-4:] == ["0", "3", "0", "0.25"] and "+" in line
    assert json.loads(Path("c.json").read_text())["metrics"]["psnr_rgb"]["better_b"] == 3
    assert len(Path("c.csv").read_text().splitlines()) == 4
    assert not (out / "scores.csv").exists()
    (tmp_path / "new/c.png").unlink()
    ran = cli(*words)
    assert ran.code == 2 and "only in gt: c" in ran.err
    assert "2 pairs scored in both" in cli(*words, "--partial").out
    assert "leave out --shard" in cli(*words, "--shard", "0/2").err


def test_compared_folders_need_the_same_images(cli: Cli, out: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"new/{name}.png", photo(24, 24))
    ran = cli("score", "--compare", "out", "new", "--metrics", "niqe")
    assert ran.code == 2 and "only one of out and new has 1 image: c" in ran.err


def test_pairs_from_photographs(cli: Cli, tmp_path: Path) -> None:
    for i in range(2):
        save(tmp_path / f"hq/{i}.png", photo(80, 96, seed=i))
    words = ("score", "--dataset", "div2k-synth", "hq", "--metrics", "psnr_rgb")
    ran = cli(*words)
    assert ran.code == 0 and "fine on div2k-synth-hq-" in ran.out and "2 pairs scored" in ran.out
    assert "stand-ins for DIV2K-Val, not its images" in ran.out and "OSEDiff" not in ran.out
    (folder,) = (tmp_path / "scores").glob("div2k-synth-hq-????????")
    assert (folder / "recipe.json").exists() and load(folder / "lq/0.png").shape == (20, 24, 3)
    assert cli(*words, "-q").out == ran.out
    assert "needs a folder of photographs" in cli("score", "--dataset", "div2k-synth").err


def test_a_set_with_a_broken_an_unpaired_and_an_odd_image(cli: Cli, tmp_path: Path) -> None:
    root = many(tmp_path, 4)
    (root / "gt/p1.png").write_bytes(b"broken")
    save(root / "gt/p2.png", photo(47, 48))
    save(root / "lq/alone.png", photo(12, 12))
    words = ("score", "--dataset", "mine", "--metrics", "psnr_rgb")
    ran = cli(*words)
    assert ran.code == 2 and "1 only in mine/lq: alone" in ran.err and ran.out == ""
    ran = cli(*words, "--partial")
    assert ran.code == 1 and "2 pairs scored, 2 failed" in ran.out
    assert "PARTIAL: 1 file without partner left out (alone)" in ran.out
    assert "error: p1: mine/gt/p1.png" in ran.err
    assert "error: p2: sizes differ: restored 48x48, reference 48x47" in ran.err


def test_a_set_without_references(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "sets/DPED/lq/a.png", photo(12, 12))
    ran = cli("score", "--dataset", "dped", "--data-root", "sets")
    assert ran.code == 2 and "compare with a reference and none is given" in ran.err


def test_the_whole_table_field_by_field(cli: Cli, tmp_path: Path) -> None:
    root = dataset(tmp_path / "sets")
    for name in ("a", "b"):
        save(tmp_path / f"out/{name}.png", load(root / f"RealSRVal_crop128/test_HR/{name}.png") // 2)
    words = ("score", "out", "--dataset", "realsr", "--data-root", "sets", "--protocol", "paper", "--table", "markdown")
    lines = cli(*words).out.splitlines()
    summary = json.loads((tmp_path / "out/scores.json").read_text())["summary"]
    psnr, ssim = summary["psnr_rgb"], summary["ssim_yiq"]
    assert lines[0] == "out against realsr: 2 pairs scored, 0 failed  "
    assert lines[1] == "Protocol paper: PSNR on RGB, SSIM on Y of YIQ, MANIQA of KonIQ; 8 bit, border crop 0  "
    assert lines[5:9] == [
        "| metric | mean | 95% interval |",
        "| --- | ---: | ---: |",
        f"| PSNR-RGB ↑ | {psnr['mean']:.2f} | [{psnr['low']:.2f}, {psnr['high']:.2f}] |",
        f"| SSIM-YIQ ↑ | {ssim['mean']:.4f} | [{ssim['low']:.4f}, {ssim['high']:.4f}] |",
    ]
    assert lines[14:18] == [
        "| method-steps | PSNR-RGB ↑ | SSIM-YIQ ↑ | source |",
        "| --- | ---: | ---: | ---: |",
        f"| this run | {psnr['mean']:.2f} | {ssim['mean']:.4f} |  |",
        "| DiffBIR-50 | 23.33 | 0.6180 | [1] |",
    ]
    assert "| VARestorer-1 | 22.78 | 0.6453 | [1] |" in lines and "25.15" not in "".join(lines)


def test_a_protocol_without_convention_shows_no_row(cli: Cli, tmp_path: Path) -> None:
    root = dataset(tmp_path / "sets")
    for name in ("a", "b"):
        save(tmp_path / f"out/{name}.png", load(root / f"RealSRVal_crop128/test_HR/{name}.png") // 2)
    ran = cli("score", "out", "--dataset", "realsr", "--data-root", "sets", "--protocol", "rgb")
    assert "no published row stands under a convention of protocol rgb" in ran.out and "OSEDiff" not in ran.out


def test_a_kept_score_is_not_computed_again(cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cli("score", "out", "-r", "gt")
    monkeypatch.setattr("varestorer_cli.core.score.scorer.decode", lambda data: pytest.fail("decoded"))
    assert cli("score", "out", "-r", "gt").out == first.out
    with pytest.raises(pytest.fail.Exception):
        cli("score", "out", "-r", "gt", "--cache", "none")


def test_a_folder_to_restore_to_needs_a_model(cli: Cli, tmp_path: Path) -> None:
    many(tmp_path, 1)
    ran = cli("score", "--dataset", "mine", "--restored", "nowhere")
    assert ran.code == 2 and "nowhere is no folder" in ran.err and "add --model to restore to it first" in ran.err


def test_both_names_of_one_folder_are_refused(cli: Cli, out: Path) -> None:
    ran = cli("score", "out", "--restored", "gt", "-r", "gt")
    assert ran.code == 2 and "leave one out" in ran.err
    assert cli("score", "--restored", "out", "-r", "gt", "-q").code == 0


def test_the_page_as_a_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        save(Path(f"gt/{number}.png"), photo(20, 20, seed=number))
        for place, folder in enumerate(("out", "other"), 1):
            save(Path(f"{folder}/{number}.png"), photo(20, 20, seed=number + 9 * place))
    words = ("score", "out", "-r", "gt", "--metrics", "psnr_y", "--cache", "none")
    ran = cli(*words, "--report-dir", "page")
    assert ran.code == 0 and "wrote page/index.html" in ran.err
    text = Path("page/index.html").read_text()
    images = [path.name for path in Path("page/index-images").iterdir()]
    assert len(images) == 6 and all(f"./index-images/{name}" in text for name in images) and "data:image" not in text
    two = ("score", "--compare", "out", "other", "-r", "gt", "--metrics", "psnr_y", "--cache", "none")
    assert cli(*two, "--report-dir", "two").code == 0
    assert Path("two/index.html").exists() and list(Path("two/index-images").iterdir())
    assert cli(*words, "--report-dir", "page", "--report", "p.html").code == 2
