"""``restore`` with captions: which text each image gets, what is cached, what is said, which code it ends with."""

import gc
import os
import socket
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text
import torch
from conftest import load, photo, rows, save, tree
from PIL import Image

from varestorer_cli import RestoreOptions, Restorer, app
from varestorer_cli.core.choices import Precision
from varestorer_cli.core.engine.engine import RestoreEngine
from varestorer_cli.core.engine.image_task import ImageTask
from varestorer_cli.core.engine.inference import EngineOptions, TileInference
from varestorer_cli.core.options import TextOptions
from varestorer_cli.core.text import prepare, transformers_backend
from varestorer_cli.core.weights.model_file import load_restorer, save_bundle
from varestorer_cli.core.weights.stored_text import StoredText, write_text

STORED = "a photograph"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text.text_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes a text and has none of its own."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    restorer = tiny_text.restorer()
    save_bundle(path, restorer.components(), restorer=restorer.config)
    return path


@pytest.fixture(scope="module")
def model(plain_model: Path, encoder: Path) -> Path:
    """A model with the features of a default text."""
    path = plain_model.with_name("stored.safetensors")
    path.write_bytes(plain_model.read_bytes())
    write_text(path, transformers_backend.stored_text(encoder, STORED))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VARESTORER_WEIGHTS", str(tmp_path / "no-weights"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("restore opened a connection"))
    for name, seed in (("a.png", 0), ("b.png", 0), ("sub/c.png", 0)):
        save(Path("in", name), photo(12, 16, seed=seed))  # the same pixels: only the text can differ
    return tmp_path


def run(model: Path, out: str, *words: object) -> int:
    return app.run(["restore", "in", out, "--model", str(model), "--precision", "fp32", *map(str, words)])


def captions(out: str = "out") -> dict[str, str]:
    return {row["output"]: row["caption"] for row in rows(Path(out, "metrics.csv")) if row["output"]}


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(prepare, name, lambda *args, **settings: pytest.fail(f"{name} was called"))


def test_every_image_gets_its_caption(model: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("path,caption\na.png,a red cat\nsub/c.png,blue snow\nz.png,nobody\n")
    assert run(model, "out", "--captions", "t.csv", "--text-encoder", encoder) == 0
    assert captions() == {"a.png": "a red cat", "b.png": STORED, "sub/c.png": "blue snow"}
    err = capsys.readouterr().err
    assert "warning: 1 of 3 images have no caption and use 'a photograph': in/b.png\n" in err
    assert "1 captions of t.csv belong to no image of this run: z.png\n" in err
    assert "text: 2 of 3 images with a caption, 1 with 'a photograph'; distinct texts: 3, encoded now: 2\n" in err
    pixels = [load(Path("out", name)) for name in ("a.png", "b.png", "sub/c.png")]
    assert not np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])
    # alone and as a prompt each gives the same bytes as in company
    for name, prompt in (("a.png", "a red cat"), ("b.png", STORED), ("sub/c.png", "blue snow")):
        assert run(model, "alone", "--prompt", prompt, "--text-encoder", encoder, "-q") == 0
        np.testing.assert_array_equal(load(Path("alone", name)), load(Path("out", name)))
    with Image.open("out/a.png") as image:
        assert '; caption "a red cat"; fingerprint' in image.info["Software"]


def test_the_pixels_are_those_of_the_condition(model: Path, encoder: Path) -> None:
    assert run(model, "out", "--prompt", "a red cat", "--text-encoder", encoder) == 0
    restorer = load_restorer(model).restorer
    features = tiny_text.encoded(encoder, ["a red cat"])["a red cat"]
    with torch.inference_mode():
        condition = restorer.condition(features)
        batch = torch.zeros(1, 3, restorer.tile, restorer.tile)
        batch[:] = torch.from_numpy(_degraded(restorer.tile))
        expected = restorer(batch, condition=condition).image_B3TT
        null = restorer(batch).image_B3TT
    found = load(Path("out/a.png")).transpose(2, 0, 1) / 255
    assert np.abs(found - expected[0, :, :48].numpy()).max() < 1.01 / 255
    assert float((expected - null).abs().max()) > 5 / 255


def _degraded(tile: int) -> Any:
    """The first tile of the first image, cut as the engine does."""
    from varestorer_cli.core.image.resample import Resampler

    resampler = Resampler((12, 16), (48, 64), "bicubic_sharp")
    pixels = resampler.window(load(Path("in/a.png")), 0, 0, 48, 64).clip(0, 1)
    missing = tile - pixels.shape[0], tile - pixels.shape[1]
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect").transpose(2, 0, 1)


def test_plain_restore_needs_no_encoder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("features_of", "folder_fingerprint", "captioner"):
        forbid(monkeypatch, name)
    assert run(model, "out") == 0
    assert set(captions().values()) == {STORED}
    assert run(model, "same", "--prompt", STORED) == 0  # asking for the stored text is the same run
    assert tree(Path("same")) == tree(Path("out"))


def test_without_any_text_the_null_condition_is_used_and_said(
    plain_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(plain_model, "out") == 0
    assert set(captions().values()) == {""}
    assert "brings no default text" in capsys.readouterr().err


def test_a_prompt_is_encoded_once_and_then_found(model: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(model, "one", "--prompt", "a red cat", "--text-encoder", encoder) == 0
    forbid(monkeypatch, "features_of")
    assert run(model, "two", "--prompt", "a red cat", "--text-encoder", encoder) == 0
    assert tree(Path("one")) == tree(Path("two"))
    # the model knows which encoder it belongs to: what that one made before is enough
    assert run(model, "three", "--prompt", " a  red cat ") == 0
    assert tree(Path("one")) == tree(Path("three"))


@pytest.mark.parametrize("damage", ["cut", "other text", "nothing"])
def test_a_damaged_cache_is_made_anew(model: Path, encoder: Path, damage: str) -> None:
    words = ("--prompt", "a red cat", "--text-encoder", encoder)
    assert run(model, "one", *words) == 0
    (file,) = Path("cache/varestorer/text").rglob("*.safetensors")
    if damage == "other text":
        assert run(model, "x", "--prompt", "blue snow", "--text-encoder", encoder) == 0
        (other,) = set(file.parent.glob("*.safetensors")) - {file}
        other.replace(file)
    else:
        file.write_bytes(b"" if damage == "nothing" else file.read_bytes()[:-10])
    assert run(model, "two", *words) == 0
    assert tree(Path("one")) == tree(Path("two"))


def test_no_cache_is_no_failure(
    model: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("file").resolve() / "below"))
    Path("t.csv").write_text("path,caption\na.png,a red cat\nb.png,blue snow\nsub/c.png,a dog\n")
    assert run(model, "out", "--captions", "t.csv", "--text-encoder", encoder) == 0
    err = capsys.readouterr().err
    assert err.count("text features are not kept for the next run") == 1
    assert "Not a directory" in err


def test_a_changed_text_makes_outputs_stale(model: Path, encoder: Path) -> None:
    Path("t.csv").write_text("path,caption\na.png,a red cat\nb.png,a dog\n")
    words = ("--captions", "t.csv", "--text-encoder", encoder, "-q")
    assert run(model, "out", *words) == 0
    Path("t.csv").write_text("path,caption\na.png,blue snow\nb.png,a dog\n")
    assert run(model, "out", *words) == 0
    assert {row["output"]: row["status"] for row in rows(Path("out/metrics.csv"))} == {
        "a.png": "done",
        "b.png": "skipped",
        "sub/c.png": "skipped",
    }
    assert captions()["a.png"] == "blue snow"
    Path("out/metrics.csv").unlink()  # the files themselves know their text
    assert run(model, "out", *words) == 0
    assert {row["status"] for row in rows(Path("out/metrics.csv"))} == {"skipped"}


def test_the_report_is_a_table_of_captions(model: Path, encoder: Path) -> None:
    Path("t.csv").write_text('path,caption\na.png,a red cat\nb.png,"a dog, blue"\n')
    assert run(model, "out", "--captions", "t.csv", "--text-encoder", encoder, "-q") == 0
    assert run(model, "again", "--captions", "out/metrics.csv", "--text-encoder", encoder, "-q") == 0
    assert captions("again") == captions("out") and tree(Path("again")) == tree(Path("out"))


def test_text_files_beside_the_images_are_no_foreign_files(
    model: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in/a.txt").write_text("a red cat\n")
    Path("in/sub/c.txt").write_text("blue snow\n")
    Path("in/notes.txt").write_text("x")
    assert run(model, "out", "--captions", "beside", "--text-encoder", encoder) == 0
    assert captions() == {"a.png": "a red cat", "b.png": STORED, "sub/c.png": "blue snow"}
    assert "ignored 1 path:\n  in/notes.txt" in capsys.readouterr().err
    assert run(model, "same", "--captions", "in", "--text-encoder", encoder, "-q") == 0
    assert captions("same") == captions()


@pytest.mark.parametrize("words", [["--prompt", "a cat"], ["--captions", "beside"], ["--caption", "auto"]])
def test_a_model_without_text_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["restore", "in", "out", *words]) == 2
    err = capsys.readouterr().err
    assert f"error: {' '.join(words) if words[0] == '--caption' else words[0]}: the model fine takes no text" in err
    assert not list(Path("out").glob("**/*.png"))


def test_a_missing_encoder_is_3_and_says_where_it_looked(
    plain_model: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(plain_model, "out", "--prompt", "a cat", "--text-encoder", "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err
    monkeypatch.setenv("VARESTORER_WEIGHTS", str(here / "weights"))
    assert run(plain_model, "out", "--prompt", "a cat") == 3
    err = capsys.readouterr().err
    assert (
        f"--prompt needs a T5 text encoder with features of width 32, and there is none below {here / 'weights'};"
        in err
    )
    assert "google/flan-t5-xl" in err and "--text-encoder DIR" in err
    assert run(plain_model, "out", "--caption", "auto") == 3
    assert "--caption auto needs a BLIP captioner" in capsys.readouterr().err


def test_the_encoder_is_found_below_the_weights_root(
    plain_model: Path, encoder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = here / "weights"
    tiny_text.text_encoder(root / "another-width", width=16)
    (root / "broken").mkdir()
    (root / "broken/config.json").write_text("{")
    (root / "t5").symlink_to(encoder)
    monkeypatch.setenv("VARESTORER_WEIGHTS", str(root))
    assert run(plain_model, "out", "--prompt", "a cat") == 0


def test_another_encoder_is_another_setting(model: Path, encoder: Path, here: Path) -> None:
    assert run(model, "out", "--prompt", "a cat", "--text-encoder", encoder, "-q") == 0
    other = tiny_text.text_encoder(here / "other", seed=3)
    assert run(model, "out", "--prompt", "a cat", "--text-encoder", other, "-q") == 0
    assert {row["status"] for row in rows(Path("out/metrics.csv"))} == {"done"}
    wide = tiny_text.text_encoder(here / "wide", width=64)
    assert run(model, "out", "--prompt", "a cat", "--text-encoder", wide, "-q") == 4


def test_the_networks_are_gone_before_the_first_tile(
    model: Path, encoder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[Any] = []
    alive: list[int] = []
    whole, submit = transformers_backend._whole, TileInference.submit

    def remembered(*args: Any) -> Any:
        network = whole(*args)
        networks.append(weakref.ref(network))
        return network

    def counted(self: Any, *args: Any, **settings: Any) -> Any:
        gc.collect()
        alive.append(sum(network() is not None for network in networks))
        return submit(self, *args, **settings)

    monkeypatch.setattr(transformers_backend, "_whole", remembered)
    monkeypatch.setattr(TileInference, "submit", counted)
    blip = tiny_text.captioner(here / "blip")
    assert run(model, "out", "--caption", "auto", "--captioner", blip, "--text-encoder", encoder) == 0
    assert len(networks) == 2 and alive and not any(alive)


def test_captions_made_edited_and_fed_back(
    model: Path, encoder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("in/b.png"), photo(12, 16, seed=9))
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    blip = tiny_text.captioner(here / "blip")
    words = ("--caption", "auto", "--captioner", blip, "--text-encoder", encoder)
    assert run(model, "out", *words) == 1
    made = rows(Path("out/captions.csv"))
    assert [row["path"] for row in made] == ["a.png", "b.png", "sub/c.png"] and all(row["caption"] for row in made)
    assert {row["path"]: row["caption"] for row in made}.items() <= captions().items()
    assert "captions: out/captions.csv" in capsys.readouterr().err
    before = tree(Path("out"))

    Path("in/broken.png").unlink()
    forbid(monkeypatch, "captioner")  # nobody is left to describe
    assert run(model, "fed", "--captions", "out/captions.csv", "--text-encoder", encoder) == 0
    assert {name: data for name, data in before.items() if name.endswith("png")} == tree(Path("fed"))

    Path("out/captions.csv").write_text(f"path,caption\na.png,a red cat\nb.png,{made[1]['caption']}\nsub/c.png,snow\n")
    assert run(model, "out", *words) == 0
    assert captions()["a.png"] == "a red cat" and captions()["b.png"] == made[1]["caption"]
    assert Path("out/captions.csv").read_text().count("\n") == 4


def test_given_captions_come_before_made_ones(model: Path, encoder: Path, here: Path) -> None:
    Path("t.csv").write_text("path,caption\na.png,a red cat\n")
    words = ("--captions", "t.csv", "--captioner", tiny_text.captioner(here / "blip"), "--captions-file", "made.csv")
    assert run(model, "out", "--caption", "auto", *words, "--text-encoder", encoder, "-q") == 0
    assert captions()["a.png"] == "a red cat"
    assert [row["path"] for row in rows(Path("made.csv"))] == ["b.png", "sub/c.png"]
    assert not Path("out/captions.csv").exists()


def test_a_dry_run_loads_nothing_and_knows_the_captions(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("features_of", "captioner"):
        forbid(monkeypatch, name)
    Path("t.csv").write_text("path,caption\na.png,a red cat\n")
    assert run(model, "out", "--captions", "t.csv", "--dry-run", "--json") == 0
    assert '"caption": "a red cat"' in capsys.readouterr().out
    assert run(model, "out", "--captions", "none.csv", "--dry-run") == 2


def test_one_condition_a_text_and_batches_that_mix_them(encoder: Path) -> None:
    restorer = tiny_text.restorer()
    engine = RestoreEngine(restorer, EngineOptions(batch=4))
    prompts = ["a red cat", "blue snow , sharp detailed house"]
    engine.conditions.add(tiny_text.encoded(encoder, prompts))
    tiles = torch.rand(3, 3, restorer.tile, restorer.tile, generator=torch.Generator().manual_seed(0))
    mixed, _ = engine.inference.infer(tiles, None, precision="fp32", texts=[prompts[0], prompts[1], None])
    for i, text in enumerate([*prompts, None]):
        alone, _ = engine.inference.infer(tiles[i : i + 1], None, precision="fp32", texts=[text])
        np.testing.assert_allclose(mixed[i], alone[0], atol=1e-5)
        other, _ = engine.inference.infer(tiles[i : i + 1], None, precision="fp32", texts=[prompts[i == 0]])
        assert i == 2 or (other[0] - alone[0]).abs().max() > 1e-2

    made = []
    make = restorer.transformer.encode_condition
    restorer.transformer.encode_condition = lambda *args: made.append(1) or make(*args)  # type: ignore[assignment]
    source = photo(40, 40)
    fresh = RestoreEngine(restorer, EngineOptions(batch=1))
    fresh.conditions.add(tiny_text.encoded(encoder, prompts))
    for _ in range(2):
        assert fresh.restore(ImageTask(source, (160, 160), text=prompts[0])).tiles > 4
    assert len(made) == 1
    for number in range(20):  # only the last few are kept
        fresh.conditions.add({str(number): torch.randn(3, 32)})
        fresh.conditions.of([str(number)], "fp32")
    assert len(fresh.conditions._kept) == 16


def test_the_library(model: Path, encoder: Path) -> None:
    options = RestoreOptions(
        model=str(model),
        precision=Precision.FP32,
        threads=1,
        text=TextOptions(prompt="a red cat", encoder=str(encoder)),
    )
    restorer, plain = Restorer(options=options), Restorer(options=replace(options, text=TextOptions()))
    image = load(Path("in/a.png"))
    prompted = restorer.restore_image(image)
    assert not np.array_equal(prompted, plain.restore_image(image))
    restorer.restore("in", "out")
    np.testing.assert_array_equal(load(Path("out/a.png")), prompted)
    assert set(captions().values()) == {"a red cat"}


def test_stopping_while_prompts_are_encoded(model: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    features = transformers_backend._features

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return features(*args)

    monkeypatch.setattr(transformers_backend, "_features", interrupted)
    Path("t.csv").write_text("path,caption\na.png,a red cat\nb.png,a dog\n")
    assert run(model, "out", "--captions", "t.csv", "--text-encoder", encoder, "-q") == 130
    assert not Path("out/a.png").exists()


def test_stored_text_names_its_encoder(encoder: Path) -> None:
    stored = transformers_backend.stored_text(encoder)
    assert isinstance(stored, StoredText)
    assert (
        stored.prompt == transformers_backend.DEFAULT_PROMPT
        and stored.encoder == transformers_backend.folder_fingerprint(encoder)
    )
    expected = tiny_text.encoded(encoder, [stored.prompt])[stored.prompt]
    assert torch.equal(stored.rows, expected)
