"""Text encoder and captioner from local folders: the released rule, other folders, damaged ones."""

import gc
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text
import torch
from conftest import photo

from varestorer_cli.core.errors import CheckpointError, MissingDependencyError
from varestorer_cli.core.text import transformers_backend
from varestorer_cli.core.text.transformers_backend import captioner, folder_fingerprint

transformers = pytest.importorskip("transformers")

PROMPTS = ["a red cat on the house", "snow", "sharp , detailed photograph of unknownword"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_text.text_encoder(tmp_path_factory.mktemp("encoder"))


def released_features(folder: Path, prompt: str, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """The released script's rule: padded to 512, masked, float32, the rows of the mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # the script's own arithmetic; older versions of torch cannot fill a mask in half precision for the fused one
    model = transformers.T5EncoderModel.from_pretrained(folder, dtype=kind, attn_implementation="eager").eval()
    tokens = tokenizer(text=[prompt], max_length=512, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind != torch.float32):
        features = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)["last_hidden_state"].float()
    return features[0, : int(tokens.attention_mask.sum())]


def test_features_are_those_of_the_released_rule(encoder: Path) -> None:
    found = tiny_text.encoded(encoder, PROMPTS, width=32)
    assert [len(found[prompt]) for prompt in PROMPTS] == [7, 2, 7]  # words and the end token
    for prompt in PROMPTS:
        assert found[prompt].dtype == torch.float32 and found[prompt].device.type == "cpu"
        torch.testing.assert_close(found[prompt], released_features(encoder, prompt), atol=2e-6, rtol=1e-5)


def test_half_precision_of_the_released_script_is_the_same_function(encoder: Path) -> None:
    exact = tiny_text.encoded(encoder, PROMPTS[:1])[PROMPTS[0]]
    half = released_features(encoder, PROMPTS[0], torch.float16)
    error = (half - exact).norm() / exact.norm()
    assert 1e-5 < error < 2e-2


def test_features_of_a_prompt_do_not_depend_on_its_company(encoder: Path) -> None:
    together = tiny_text.encoded(encoder, PROMPTS)
    for prompt in PROMPTS:
        assert torch.equal(together[prompt], tiny_text.encoded(encoder, [prompt])[prompt])
    assert not torch.equal(together[PROMPTS[0]][-1], together[PROMPTS[1]][-1])


def test_a_long_prompt_is_cut_at_512_tokens_and_said(encoder: Path) -> None:
    long, cut = " ".join(["red cat"] * 300), []
    found = tiny_text.encoded(encoder, [long], on_cut=lambda prompt, tokens: cut.append((prompt, tokens)))
    assert found[long].shape == (512, 32) and cut == [(long, 601)]
    torch.testing.assert_close(found[long], released_features(encoder, long), atol=5e-6, rtol=1e-4)


def test_the_encoder_is_gone_afterwards(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks: list[Any] = []
    whole = transformers_backend._whole

    def remembered(*args: Any) -> Any:
        network = whole(*args)
        networks.append(weakref.ref(network))
        return network

    monkeypatch.setattr(transformers_backend, "_whole", remembered)
    tiny_text.encoded(encoder, PROMPTS)
    gc.collect()
    assert len(networks) == 1 and networks[0]() is None


def test_loading_is_offline_and_leaves_the_environment_alone(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    seen = []
    whole = transformers_backend._whole
    monkeypatch.setattr(
        transformers_backend, "_whole", lambda *args: seen.append(os.environ["HF_HUB_OFFLINE"]) or whole(*args)
    )
    tiny_text.encoded(encoder, PROMPTS[:1])
    assert seen == ["1"]
    assert os.environ["HF_HUB_OFFLINE"] == "0" and "TRANSFORMERS_OFFLINE" not in os.environ


def test_another_width_and_another_kind_are_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="features are 32 wide, the model expects 2048"):
        tiny_text.encoded(encoder, PROMPTS, width=2048)
    other = tmp_path / "other"
    transformers.BertConfig(hidden_size=32).save_pretrained(other)
    with pytest.raises(CheckpointError, match="type 'bert', a T5 text encoder is needed"):
        tiny_text.encoded(other, PROMPTS)
    with pytest.raises(MissingDependencyError, match=r"nowhere: a T5 text encoder is not there"):
        tiny_text.encoded(tmp_path / "nowhere", PROMPTS)


@pytest.mark.parametrize("damage", ["cut", "key", "nan", "tokenizer"])
def test_a_damaged_encoder_is_named(damage: str, tmp_path: Path) -> None:
    folder = tiny_text.text_encoder(tmp_path / "encoder")
    file = folder / "model.safetensors"
    from safetensors.torch import load_file, save_file

    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    else:
        tensors = load_file(file)
        key = "encoder.block.1.layer.0.SelfAttention.q.weight"
        if damage == "key":
            del tensors[key]
        else:
            tensors[key] = tensors[key] * float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=str(folder)):
        tiny_text.encoded(folder, PROMPTS)


def test_a_missing_library_says_what_to_install(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'transformers"):
        tiny_text.encoded(encoder, PROMPTS)


def test_the_fingerprint_tells_encoders_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, same = tiny_text.text_encoder(tmp_path / "one"), tiny_text.text_encoder(tmp_path / "same")
    other = tiny_text.text_encoder(tmp_path / "other", seed=1)
    assert folder_fingerprint(one) == folder_fingerprint(same) != folder_fingerprint(other)
    (same / "README.md").write_text("a note")
    assert folder_fingerprint(one) == folder_fingerprint(same)
    monkeypatch.setattr(transformers_backend, "_WHOLE_BELOW", 10)
    monkeypatch.setattr(transformers_backend, "_SAMPLE_BYTES", 16)
    assert folder_fingerprint(one) == folder_fingerprint(same) != folder_fingerprint(other)
    (same / "model.safetensors").write_bytes((same / "model.safetensors").read_bytes()[:-1] + b"\x7f")
    assert folder_fingerprint(one) != folder_fingerprint(same)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDependencyError, match="holds no model"):
        folder_fingerprint(tmp_path / "empty")


def test_the_captioner_describes_images(tmp_path: Path) -> None:
    folder = tiny_text.captioner(tmp_path / "blip")
    with captioner(folder) as describe:
        first = [describe(photo(40, 50, seed=1)), describe(photo(7, 3, seed=2)), describe(photo(9, 9, depth=16))]
        assert describe(photo(40, 50, seed=1)) == first[0]
        assert describe(photo(40, 50, seed=1).astype(np.float32) / 255) == first[0]
        gray = np.broadcast_to(photo(6, 5, 1), (6, 5, 3))
        assert describe(gray)
    assert all(set(text.split()) <= set(tiny_text.WORDS) | {"[UNK]"} and text for text in first)
    other = tiny_text.text_encoder(tmp_path / "t5")
    with pytest.raises(CheckpointError, match="'t5', a BLIP captioner is needed"), captioner(other):
        pass
