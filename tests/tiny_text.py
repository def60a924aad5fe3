"""Tiny random text networks on the disk, laid out as the real ones are, and a restorer that takes a text."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import without_quirks
from torch import Tensor

from varestorer_cli.core.text.transformers_backend import features_of
from varestorer_cli.core.training.presets import preset
from varestorer_models.conv_restorer import ConvRestorer
from varestorer_models.restorer import OneStepRestorer
from varestorer_models.tokenizer import ImageTokenizer
from varestorer_models.transformer import Transformer

WIDTH = 32
_WORDS = "a an the red blue cat dog house tree car on in of sharp detailed high quality photograph snow , ."
WORDS = _WORDS.split()


def text_encoder(folder: Path, *, width: int = WIDTH, seed: int = 0) -> Path:
    """A two-layer T5 of the gated kind that the released one is, decoder included, and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def encoded(folder: Path, prompts: Sequence[str], **settings: Any) -> dict[str, Tensor]:
    """Features of every prompt."""
    return dict(features_of(folder, prompts, **settings))


def captioner(folder: Path) -> Path:
    """A BLIP of two small halves that says something about any image."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    torch.manual_seed(1)
    text = {
        "vocab_size": len(words), "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
        "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=vision)
    model = transformers.BlipForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    model.text_decoder.cls.predictions.bias.data[:5] = -1000  # words only
    model.save_pretrained(folder)
    return folder


def restorer(width: int = WIDTH, *, takes_text: bool = True) -> OneStepRestorer:
    """An untrained restorer whose result depends on the text; none that is bundled takes one."""
    torch.manual_seed(0)
    smoke = preset("smoke")
    config = without_quirks(32, 2, 2, bits=16, text_width=width, text_heads=2, null_tokens=4, levels=5, mlp_hidden=64)
    transformer = Transformer(config)
    torch.nn.init.normal_(transformer.shared_modulation.weight, std=0.5)
    torch.nn.init.normal_(transformer.head.weight, std=0.5)
    parts: tuple[Any, ...] = ConvRestorer(smoke.prerestorer), ImageTokenizer(smoke.tokenizer), transformer
    return OneStepRestorer(replace(smoke.restorer, takes_text=takes_text), *parts).eval()


def in_shards(folder: Path) -> dict[str, bytes]:
    """Files of a text encoder's folder with its weights in two, as large models are published: the second has a part of
    the decoder only."""
    from safetensors.torch import load_file, save

    state = load_file(folder / "model.safetensors")
    late = {name for name in state if name.startswith(("decoder.block.1", "lm_head"))}
    shards = {
        "model-00001-of-00002.safetensors": [name for name in state if name not in late],
        "model-00002-of-00002.safetensors": sorted(late),
    }
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "model.safetensors"}
    for shard, names in shards.items():
        files[shard] = save({name: state[name] for name in names}, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}
