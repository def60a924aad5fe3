"""Published files become model files: exactly, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import releases
import torch
from released_states import from_released
from safetensors.torch import load_file, save_file

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.install.importer import import_files
from varestorer_cli.core.weights.model_file import load_bundle, load_restorer
from varestorer_cli.core.weights.model_metadata import read_metadata
from varestorer_cli.core.weights.root import Record
from varestorer_cli.core.weights.stored_text import StoredText, read_text, write_text

FILES = (releases.STUDENT, releases.AUTOENCODER, releases.PRERESTORER)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return releases.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def merged(path: Path) -> dict[str, torch.Tensor]:
    """The student as the model code converts and merges it, in float32."""
    transformer = from_released("transformer", torch.load(path, weights_only=True))
    transformer.merge_adapters()
    return transformer.state_dict()


@pytest.mark.parametrize("matrices", [torch.bfloat16, torch.float32])
def test_the_student_is_merged_in_float32_and_then_rounded(release: Path, root: Path, matrices: torch.dtype) -> None:
    (made,) = import_files([release / name for name in FILES], root, matrices=matrices)
    assert (made.name, made.path) == ("2b", root / "2b.safetensors")
    stored, expected = load_file(made.path), merged(release / releases.STUDENT)
    rounded = 0
    for key, value in expected.items():
        mine = stored[f"transformer.{key}"]
        if key.startswith("blocks.") and key.endswith("weight") and value.ndim == 2:
            rounded += 1
            assert mine.dtype == matrices and torch.equal(mine, value.to(matrices)), key
        else:
            assert mine.dtype == torch.float32 and torch.equal(mine, value), key
    assert rounded == 8 * 7
    config = load_bundle(made.path).components["transformer"].config
    assert config.adapter_rank == 0 and not config.cross_value_bias  # the released student never adds that bias


def test_the_file_says_what_it_is_and_where_it_comes_from(release: Path, root: Path) -> None:
    import hashlib

    import_files([release / name for name in FILES], root)
    loaded = load_restorer("2b", weights=root)
    assert loaded.name == "2b" and "Apache-2.0" in loaded.metadata["licence"]
    sources = json.loads(loaded.metadata["sources"])
    for part, name in (("transformer", FILES[0]), ("tokenizer", FILES[1]), ("prerestorer", FILES[2])):
        assert sources[part]["file"] == name
        assert sources[part]["sha256"] == hashlib.sha256((release / name).read_bytes()).hexdigest()
    assert loaded.restorer.config.sampling == "sample" and loaded.restorer.config.extra_block
    assert Record.read(root).models == {"2b": loaded.sha256}
    assert loaded.restorer.transformer.blocks[0].feed_forward.fc1.weight.dtype == torch.bfloat16


def test_importing_again_gives_the_same_bytes_and_keeps_the_prompt(release: Path, root: Path) -> None:
    files = [release / name for name in FILES]
    import_files(files, root)
    first = (root / "2b.safetensors").read_bytes()
    import_files(files, root)
    assert (root / "2b.safetensors").read_bytes() == first
    write_text(root / "2b.safetensors", StoredText("sharp", torch.ones(2, 128)))
    import_files(files, root)
    text = read_text(root / "2b.safetensors")
    assert text is not None and text.prompt == "sharp"


def test_parts_given_one_by_one_meet_in_the_root(release: Path, root: Path) -> None:
    student, autoencoder, prerestorer = (release / name for name in FILES)
    with pytest.raises(MissingDependencyError, match=r"needs a prerestorer too.*general_swinir_v1\.ckpt"):
        import_files([student], root)
    assert not root.exists()
    assert [made.name for made in import_files([prerestorer], root)] == ["prerestorer"]
    assert [made.name for made in import_files([autoencoder], root)] == ["tokenizer"]
    import_files([student], root)
    apart = load_file(root / "2b.safetensors")
    import_files([student, autoencoder, prerestorer], root)
    together = load_file(root / "2b.safetensors")
    assert apart.keys() == together.keys() and all(torch.equal(apart[key], together[key]) for key in together)
    assert read_metadata(root / "2b.safetensors")["notes"].count(releases.AUTOENCODER) == 1


def test_a_transformer_without_adapters_is_the_teacher(release: Path, root: Path) -> None:
    (made,) = import_files([release / releases.TEACHER, release / releases.AUTOENCODER], root)
    assert made.name == "teacher"
    bundle = load_bundle(made.path)
    assert set(bundle.components) == {"tokenizer", "transformer"} and bundle.restorer is None
    assert bundle.components["transformer"].config.cross_value_bias
    with pytest.raises(CheckpointError, match="not a whole restorer"):
        load_restorer("teacher", weights=root)


def test_safetensors_and_files_of_old_pytorch_are_read_too(release: Path, root: Path, tmp_path: Path) -> None:
    state = torch.load(release / releases.PRERESTORER, weights_only=True)["state_dict"]
    plain, old = tmp_path / "swinir.safetensors", tmp_path / "old.ckpt"
    save_file({key: value.contiguous() for key, value in state.items()}, plain)
    torch.save({"state_dict": state}, old, _use_new_zipfile_serialization=False)
    results = []
    for path in (release / releases.PRERESTORER, plain, old):
        (made,) = import_files([path], root)
        results.append(load_file(made.path))
    for other in results[1:]:
        assert all(torch.equal(other[key], results[0][key]) for key in results[0])


def test_a_bundle_is_checked_and_copied(release: Path, root: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    import_files([release / name for name in FILES], bundle)
    (made,) = import_files([bundle], root)
    assert made.path.read_bytes() == (bundle / "2b.safetensors").read_bytes()
    damaged = bytearray((bundle / "2b.safetensors").read_bytes())
    damaged[-5] ^= 1
    (bundle / "2b.safetensors").write_bytes(damaged)
    before = made.path.read_bytes()
    with pytest.raises(CheckpointError, match="its metadata says"):
        import_files([bundle / "2b.safetensors"], root)
    assert made.path.read_bytes() == before


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def damage_truncated(state: dict[str, Any], path: Path) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_foreign(state: dict[str, Any], path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3), "conv1.bias": torch.zeros(3)}, path)


def damage_code(state: dict[str, Any], path: Path) -> None:
    torch.save(state | {"extra": Malicious(path.with_name("executed"))}, path)


def damage_key(state: dict[str, Any], path: Path) -> None:
    torch.save(state | {"block_chunks.0.module.0.sa.backdoor": torch.zeros(2)}, path)


def damage_missing(state: dict[str, Any], path: Path) -> None:
    torch.save({key: value for key, value in state.items() if key != "pos_start"}, path)


def damage_collision(state: dict[str, Any], path: Path) -> None:
    # two spellings of one block's parameter
    torch.save(state | {"blocks.1.ada_gss": state["block_chunks.1.module.0.ada_gss"]}, path)


def damage_shape(state: dict[str, Any], path: Path) -> None:
    torch.save(state | {"block_chunks.1.module.0.ffn.fc2.bias": torch.zeros(33)}, path)


def damage_nan(state: dict[str, Any], path: Path) -> None:
    bias = state["block_chunks.7.module.0.ffn.fc1.bias"].clone()
    bias[5] = float("nan")
    torch.save(state | {"block_chunks.7.module.0.ffn.fc1.bias": bias}, path)


def damage_nan_adapter(state: dict[str, Any], path: Path) -> None:
    torch.save(state | {"block_chunks.7.module.0.sa.proj.lora_up.weight": torch.full((32, 4), float("inf"))}, path)


def damage_views(state: dict[str, Any], path: Path) -> None:
    giant = torch.zeros(1).expand(10**9, 128)  # a terabyte by name, four bytes on the disk
    torch.save(state | {"cfg_uncond": giant}, path)


def damage_list(state: dict[str, Any], path: Path) -> None:
    torch.save([1, 2, 3], path)


def damage_empty(state: dict[str, Any], path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_truncated, "cut off or damaged"),
        (damage_empty, "cut off or damaged"),
        (damage_foreign, r"none of the 2 keys, first 'conv1.weight', are known"),
        (damage_code, r"holds more than weights.*nothing of it was run"),
        (damage_key, r"first 'block_chunks.0.module.0.sa.backdoor'"),
        (damage_missing, r"first 'pos_start'"),
        (damage_collision, r"'block_chunks.1.module.0.ada_gss' and 'blocks.1.ada_gss' are the same parameter"),
        (damage_shape, r"'block_chunks.1.module.0.ffn.fc2.bias' of shape \(33,\) instead of \(32,\)"),
        (damage_nan, r"'block_chunks.7.module.0.ffn.fc1.bias' holds NaN or infinity"),
        (damage_nan_adapter, r"'block_chunks.7.module.0.sa.proj.lora_up.weight' holds NaN or infinity"),
        (damage_views, r"claim \d+ bytes, the file has \d+"),
        (damage_list, "holds a list"),
    ],
)
def test_damaged_files_are_refused_and_nothing_is_written(
    release: Path, root: Path, tmp_path: Path, damage: Callable[[dict[str, Any], Path], None], words: str
) -> None:
    path = tmp_path / "varestorer.pth"
    damage(torch.load(release / releases.STUDENT, weights_only=True), path)
    with pytest.raises(CheckpointError, match=words) as caught:
        import_files([path, *(release / name for name in FILES[1:])], root)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "executed").exists()
    assert not root.exists() or list(root.iterdir()) == []


def test_a_torn_safetensors_file_is_refused(release: Path, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "swinir.safetensors"
    save_file(torch.load(release / releases.PRERESTORER, weights_only=True)["state_dict"], path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        import_files([path], root)


def test_parts_of_different_releases_do_not_mix(release: Path, root: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    sizes = replace(releases.SMALL, autoencoder=replace(releases.SMALL.autoencoder, latent_channels=16))
    other = releases.write_release(tmp_path / "other", sizes)
    with pytest.raises(CheckpointError, match=r"predicts 32 bits per code.*has 16; they do not belong together"):
        import_files([release / FILES[0], other / FILES[1], release / FILES[2]], root)
    with pytest.raises(CheckpointError, match="a second tokenizer"):
        import_files([release / FILES[1], other / FILES[1]], root)


def test_the_default_prompt_is_stored_on_request(
    release: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from varestorer_cli.core.install import importer

    asked: list[Path] = []

    def stored_text(folder: Path) -> StoredText:
        asked.append(folder)
        return StoredText("sharp", torch.ones(3, 128 if folder.name == "t5" else 64), "t5 0123")

    monkeypatch.setattr(importer, "stored_text", stored_text)
    files = [release / name for name in FILES]
    with pytest.raises(CheckpointError, match=r"is \(3, 64\), its transformer takes \(n, 128\)"):
        import_files(files, root, encoder=tmp_path / "other")
    assert not (root / "2b.safetensors").exists()
    import_files(files, root, encoder=tmp_path / "t5")
    text = read_text(root / "2b.safetensors")
    assert text is not None and (text.prompt, text.encoder, len(text.rows)) == ("sharp", "t5 0123", 3)
    import_files([release / releases.PRERESTORER], root, encoder=tmp_path / "t5")
    assert len(asked) == 2  # a part alone takes no text
