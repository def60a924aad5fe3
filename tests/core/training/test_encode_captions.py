"""Texts of training photographs: where captions come from, what is written, and that training takes it."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_text
import torch

from varestorer_cli.app import run
from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.text import transformers_backend
from varestorer_cli.core.text.transformers_backend import DEFAULT_PROMPT
from varestorer_cli.core.training.data.crop_builder import named_photos
from varestorer_cli.core.training.data.crop_cache import PairBatch
from varestorer_cli.core.training.data.crops import CropCacheConfig, held_out
from varestorer_cli.core.training.encode_captions import make_features, photo_captions
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.training.run import train
from varestorer_cli.core.training.text_features import DEFAULT_FILE, TextFolder, feature_file
from varestorer_cli.core.training.tool_options import TextsOptions
from varestorer_cli.core.weights.model_metadata import read_metadata
from varestorer_cli.core.weights.stored_text import read_text


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def captions(data: Path, source: str | None = None) -> dict[str, str]:
    return photo_captions(named_photos(data), source).by_key


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two loose photographs and a shard of four; their content does not matter here."""
    folder = tmp_path / "photos"
    (folder / "sea").mkdir(parents=True)
    for name in ("sea/a.jpg", "b.png"):
        (folder / name).write_bytes(b"x")
    (folder / "sea" / "a.txt").write_text("a red\n cat ")
    members = {
        "0.jpg": b"x", "0.txt": b"a dog",
        "1.jpg": b"x", "1.json": json.dumps({"url": "u", "caption": "a house"}).encode(),
        "2.jpg": b"x", "2.txt": b" ", "2.json": b'"snow"',
        "3.jpg": b"x", "3.json": b'{"width": 3}',
    }  # fmt: skip
    shard(folder / "part.tar", members)
    return folder


BESIDE = {"sea/a.jpg": "a red cat", "part.tar/0.jpg": "a dog", "part.tar/1.jpg": "a house", "part.tar/2.jpg": "snow"}


def test_captions_lie_beside_the_photographs_and_in_their_shards(photos: Path) -> None:
    assert captions(photos) == BESIDE
    assert captions(photos / "part.tar") == {
        f"part.tar/{n}.jpg": text for n, text in enumerate(("a dog", "a house", "snow"))
    }


def test_a_table_or_a_folder_goes_before_what_lies_beside(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("path,caption\nb.png,a tree\npart.tar/0.jpg,a blue car\nelsewhere.jpg,a road\n")
    found = photo_captions(named_photos(photos), str(table))
    assert found.by_key == {**BESIDE, "b.png": "a tree", "part.tar/0.jpg": "a blue car"}
    assert found.unused == ["elsewhere.jpg"]
    (tmp_path / "texts" / "part.tar").mkdir(parents=True)
    (tmp_path / "texts" / "part.tar" / "3.txt").write_text("a tree")
    assert captions(photos, str(tmp_path / "texts")) == {**BESIDE, "part.tar/3.jpg": "a tree"}
    with pytest.raises(UsageError, match="cannot be read"):
        captions(photos, str(tmp_path / "none.csv"))


@pytest.mark.parametrize("data", [b"{", b"[" * 60_000, b" " * 70_000], ids=["broken", "deep", "long"])
def test_files_that_are_no_captions_are_named(data: bytes, tmp_path: Path) -> None:
    shard(tmp_path / "part.tar", {"0.jpg": b"x", "0.json": data, "1.jpg": b"x", "1.txt": b"a dog"})
    found = photo_captions(named_photos(tmp_path), None)
    assert found.by_key == {"part.tar/1.jpg": "a dog"}
    assert len(found.problems) == 1 and "0.json" in found.problems[0]


@pytest.mark.parametrize("name", ["../up.jpg", "/root.jpg", "//root.jpg", "part.tar/../../up.jpg"])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    file = feature_file(tmp_path / "out", name)
    assert ".." not in file.parts and file.is_relative_to(tmp_path / "out") and file.name.endswith(".jpg.safetensors")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


@pytest.mark.usefixtures("home")
def test_every_photograph_gets_the_features_of_its_text(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tiny_text.text_encoder(tmp_path / "t5"), tmp_path / "texts"
    assert run(["texts", str(photos), "--out", str(out), "--text-encoder", str(folder), "--device", "cpu"]) == 0
    message = capsys.readouterr().err
    assert f"6 photographs: 4 with a caption, 2 with {DEFAULT_PROMPT!r}; 5 texts encoded now" in message
    assert len(list(out.rglob("*.safetensors"))) == 7

    class Cache:
        sources = tuple({"name": name, "first": n, "crops": 1} for n, name in enumerate(sorted(named_photos(photos))))

    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    texts = TextFolder(out, Cache(), tiny_text.encoded(folder, [""])[""].shape[1])  # type: ignore[arg-type]
    wanted = [BESIDE.get(source["name"], DEFAULT_PROMPT) for source in Cache.sources]
    alone = tiny_text.encoded(folder, list(dict.fromkeys(wanted)))
    found = texts.of(PairBatch(images, images, torch.arange(6)))
    assert all(rows is not None and torch.equal(rows, alone[text]) for rows, text in zip(found, wanted, strict=True))
    assert texts.default is not None and texts.default.prompt == DEFAULT_PROMPT
    assert texts.default.encoder == transformers_backend.folder_fingerprint(folder)


@pytest.mark.usefixtures("home")
def test_again_encodes_only_what_changed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TextsOptions(
        photos, tmp_path / "texts", tiny_text.text_encoder(tmp_path / "t5"), device="cpu", quiet=True
    )
    assert make_features(options) == 4
    asked: list[str] = []
    features = transformers_backend._features

    def counted(folder: Path, tokenizer: object, encoder: object, prompt: str, on_cut: object) -> torch.Tensor:
        asked.append(prompt)
        return features(folder, tokenizer, encoder, prompt, on_cut)  # type: ignore[arg-type]

    monkeypatch.setattr(transformers_backend, "_features", counted)
    make_features(options)
    assert asked == []
    (photos / "sea" / "a.txt").write_text("a blue cat")
    (tmp_path / "texts" / "part.tar" / "0.jpg.safetensors").write_bytes(b"cut off")
    make_features(options)
    assert sorted(asked) == ["a blue cat", "a dog"]
    asked.clear()
    make_features(replace(options, prompt="a sharp photograph"))
    assert asked == ["a sharp photograph"]


@pytest.mark.usefixtures("home")
def test_a_distilled_model_takes_the_default_text_with_it(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    held = next(name for name in (f"{n}.png" for n in range(200)) if held_out(name, CropCacheConfig()))
    for name in (held, "one.png", "two.png"):
        coarse = rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / name), cv2.resize(coarse, (160, 128), interpolation=cv2.INTER_CUBIC))
    (tmp_path / "photos" / "one.txt").write_text("a red cat")
    width = preset("smoke").teacher.text_width
    encoder = tiny_text.text_encoder(tmp_path / "t5", width=width)
    texts = tmp_path / "texts"
    make_features(TextsOptions(tmp_path / "photos", texts, encoder, prompt="a house", device="cpu", quiet=True))
    base = TrainOptions(
        "prerestorer", tmp_path / "photos", tmp_path / "prerestorer", preset="smoke", steps=1, crops=12, threads=1,
        device="cpu", quiet=True,
    )  # fmt: skip
    for stage in ("prerestorer", "tokenizer"):
        train(replace(base, stage=stage, out=tmp_path / stage))
    for stage in ("teacher", "distill"):
        train(replace(base, stage=stage, out=tmp_path / stage, texts=texts, variant={"text_drop": 0.5}))
    text = read_text(tmp_path / "distill" / "model.safetensors")
    assert text is not None and text.prompt == "a house" and text.rows.shape[1] == width
    assert json.loads(read_metadata(tmp_path / "distill" / "model.safetensors")["restorer"])["takes_text"] is True
    (texts / DEFAULT_FILE).unlink()
    train(replace(base, stage="distill", out=tmp_path / "without", texts=texts))
    assert read_text(tmp_path / "without" / "model.safetensors") is None
