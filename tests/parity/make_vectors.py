"""Make the small files of ``tests/data`` from the complete vectors of the released code.

    python tests/parity/make_vectors.py FOLDER

The parity tests must pass on the complete vectors first: only then is what our networks give for drawn weights an
expected value. ``tests/data/README.md`` says what is kept.
"""

import argparse
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "parity"), str(TESTS.parent), str(TESTS.parent / "models")]

import torch  # noqa: E402
from reference_data import (  # noqa: E402
    DATA,
    ROUNDS,
    Reference,
    candidates,
    sampled,
    seeded_state,
    thinned,
    uniforms_of,
)
from released_pipeline import to_bgr  # noqa: E402
from released_states import from_released  # noqa: E402
from safetensors.torch import save  # noqa: E402
from torch import Tensor  # noqa: E402

from varestorer_models.quantizer import MultiScaleQuantizer  # noqa: E402
from varestorer_models.sampler import draw_bits  # noqa: E402
from varestorer_models.schedule import ScaleSchedule  # noqa: E402
from varestorer_models.transformer import TextFeatures  # noqa: E402

LEAST_MARGIN = 0.02  # of a score that chooses a bit; rounding is 1e-4
SHORT = 4096  # outputs up to this many values are kept whole
# weights are float16: contexts of two bytes compress them best
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]


class Small:
    """One file in the making."""

    def __init__(self, full: Reference) -> None:
        self.full = full
        self.tensors: dict[str, Tensor] = {}
        self.shapes: dict[str, list[int]] = {}
        self.drawn: dict[str, tuple[list[int], float, float]] = {}
        self.own: list[str] = []

    def keep(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.tensors[key] = self.full.tensors[key]

    def output(self, key: str, value: Tensor) -> None:
        """A whole output if it is short or 0 and 1, else a sample of it."""
        value = value.contiguous()
        whole = value.numel() <= SHORT or key.endswith("hidden_fp32") or "/bits" in key
        # the variance's epsilon moves a few logits of thousands above their limit
        whole |= self.full.name == "transformer_lora" and "logits_fp32" in key and value.numel() < 20_000
        if whole:
            self.tensors[key] = value
            return
        self.shapes[key] = list(value.shape)
        values, means = sampled(value)
        self.tensors[f"{key}#sample"], self.tensors[f"{key}#means"] = values.contiguous(), means.float()

    def draw(self, key: str, shape: Iterable[int], low: float, high: float) -> Tensor:
        """An input that the tests draw again."""
        self.drawn[key] = (list(shape), low, high)
        return torch.from_numpy(uniforms_of(f"{self.full.name}/{key}", tuple(shape), low, high))

    def uniforms(self, key: str, logits: list[Tensor], bits: Tensor) -> None:
        """Rounds of drawing that give the released bits, far from the edge for all of ``logits``."""
        shape = tuple(bits.shape)
        rounds = torch.full(shape, ROUNDS, dtype=torch.uint8)
        drawn = candidates(f"{self.full.name}/{key}", shape)
        for index in reversed(range(ROUNDS)):
            noise = -torch.log(-torch.log(drawn[index] + 1e-20) + 1e-20)
            margins = [(scores + noise)[..., 1] - (scores + noise)[..., 0] for scores in logits]
            good = torch.ones(shape, dtype=torch.bool)
            for margin in margins:
                good &= ((margin > 0) == bits.bool()) & (margin.abs() > LEAST_MARGIN)
            rounds[good] = index
        self.tensors[f"{key}#round"] = rounds
        self.tensors[f"{key}#rest"] = self.full.tensors[key][rounds == ROUNDS].contiguous()

    def write(self) -> None:
        metadata = {key: value for key, value in self.full.metadata.items() if key not in ("set", "subject")}
        metadata |= {"shapes": json.dumps(self.shapes), "drawn": json.dumps(self.drawn), "own": json.dumps(self.own)}
        path = DATA / f"{self.full.name}.safetensors.xz"
        path.write_bytes(lzma.compress(save(self.tensors, metadata), lzma.FORMAT_XZ, filters=FILTERS))
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")  # noqa: T201


def weights(full: Reference) -> list[str]:
    """Keys of the weights without the tables that follow from the configuration."""
    tables = ("attn_mask", "relative_position_index")
    return [key for key in full.tensors if key.startswith("state/") and not key.endswith(tables)]


def quantisation(full: Reference) -> Small:
    small = Small(full)
    small.keep(key for key in full.tensors if "/in/" in key)
    for key in full.tensors:
        if "/out/" in key:
            small.output(key, full.tensors[key])
    return small


def rotary(full: Reference) -> Small:
    small = Small(full)
    small.keep(full.tensors)
    return small


def swinir(full: Reference) -> Small:
    small = Small(full)
    network = from_released("prerestorer", seeded_state("swinir"))
    for case in sorted(full.cases):
        image = small.draw(f"{case}/in/image", full.tensors[f"{case}/in/image"].shape, 0, 1)
        small.output(f"{case}/out/image", network(image))
        small.own.append(case)
    small.keep(key for key in full.tensors if key.endswith(("attn_mask", "relative_position_index")))
    small.tensors = {key.replace("state/", "tables/"): value for key, value in small.tensors.items()}
    return small


def vae(full: Reference) -> Small:
    small = Small(full)
    network = from_released("autoencoder", seeded_state("vae"))
    for size in ("64x64", "96x128"):
        key = f"encode_{size}/in/image"
        small.output(f"encode_{size}/out/features", network.encode(small.draw(key, full.tensors[key].shape, -1, 1)))
        key = f"decode_{size}/in/latent"
        image = network.decode(small.draw(key, full.tensors[key].shape, -1.5, 1.5))
        print(f"clamped: {(image.abs() == 1).float().mean():.3f}")  # noqa: T201
        small.output(f"decode_{size}/out/image", image)
    case, schedule = "sample_0.06M", ScaleSchedule.infinity("0.06M")
    logits = small.draw(f"{case}/in/logits", (1, schedule.length, 64), -4, 4).unflatten(-1, (32, 2))
    uniforms = small.draw(f"{case}/in/uniforms", (1, schedule.length, 32, 2), 0, 1)
    bits = draw_bits(logits, uniforms)
    scores = logits - torch.log(-torch.log(uniforms + 1e-20) + 1e-20)
    assert (scores[..., 0] - scores[..., 1]).abs().min() > 1e-5, "a bit lies on the edge: rename the case"
    codes = MultiScaleQuantizer().accumulate(bits, schedule)
    image = network.decode(codes)
    small.output(f"{case}/out/bits", bits)
    small.output(f"{case}/out/codes", codes)
    small.output(f"{case}/out/image_thinned", thinned(image))
    small.output(f"{case}/out/picture_bgr", torch.from_numpy(to_bgr(image).copy()))
    small.own = sorted(full.cases)
    return small


def own_case(small: Small, case: str, state: dict[str, Tensor]) -> None:
    """A case whose outputs are those of our network."""
    from test_transformer_parity import run

    full = small.full
    small.own.append(case)
    names = ("schedule", "text", "text_lengths")
    small.keep([*(f"{case}/in/{name}" for name in names), f"{case}/out/hidden_positions"])
    key = f"{case}/in/tokens"
    tokens = small.draw(key, full.tensors[key].shape, -0.8, 0.8)
    for rounding, text_attention in (("fp32", "exact"), ("bf16", "bfloat16")):
        found = run(from_released("transformer", state, text_attention=text_attention), full, case, tokens)
        small.output(f"{case}/out/logits_{rounding}_every_4th", found["logits_every_4th"])
        small.output(f"{case}/out/condition_{rounding}", found["condition"])
        if rounding == "fp32":
            positions = full.get(f"{case}/out/hidden_positions")
            hidden = torch.zeros_like(full.get(f"{case}/out/hidden_fp32"))
            for index, rows in enumerate(hidden):
                kept = positions < found[f"hidden_{index}"].shape[1]  # the last block leaves out the extra block
                rows[:, kept] = found[f"hidden_{index}"][:, positions[kept]]
            small.output(f"{case}/out/hidden_fp32", hidden)


def transformer_plain(full: Reference) -> Small:
    small = Small(full)
    for case in sorted(full.cases):
        own_case(small, case, seeded_state("transformer_plain"))
    return small


def transformer_lora(full: Reference) -> Small:
    small = Small(full)
    small.keep(weights(full))
    for key in full.tensors:
        if "/in/" in key and not key.startswith("long_0.25M"):
            small.keep([key])
        elif "/out/" in key and not key.startswith("long_0.25M"):
            small.output(key, full.tensors[key])
    own_case(small, "long_0.25M", full.state("transformer"))
    return small


def end_to_end(full: Reference) -> Small:
    from test_end_to_end_parity import tiles_of  # the tests' own way to the tiles

    small = Small(full)
    small.keep(weights(full))
    small.keep(key for key in full.tensors if "/in/" in key and not key.endswith("uniforms"))
    for key in full.tensors:
        if "/out/" in key:
            small.output(key, full.tensors[key])
    prerestorer, autoencoder = (from_released(c, full.state(c)) for c in ("prerestorer", "autoencoder"))
    schedule, quantizer = ScaleSchedule.infinity("0.25M"), MultiScaleQuantizer()
    for case in sorted(full.cases):
        scores: list[list[Tensor]] = [[], []]
        for tile in tiles_of(full, case):
            image = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].float() / 255
            clean = prerestorer(image)
            tokens = quantizer(autoencoder.encode(clean + clean - 1), schedule).tokens_with_extra()
            for found, text_attention in zip(scores, ("exact", "bfloat16"), strict=True):
                model = from_released("transformer", full.state("transformer"), text_attention=text_attention)
                text = full.get(f"{case}/in/text")
                condition = model.encode_condition(TextFeatures(text, (len(text),)))
                found.append(model(tokens, schedule, condition, extra_block=True))
        logits = [torch.cat(found, dim=1) for found in scores]
        released = draw_bits(logits[0], full.get(f"{case}/in/uniforms"))
        assert torch.equal(released, full.get(f"{case}/out/bits")), case
        small.uniforms(f"{case}/in/uniforms", logits, full.get(f"{case}/out/bits"))
    return small


def main() -> None:
    """Check, then write the files."""
    makers = (quantisation, rotary, swinir, vae, transformer_plain, transformer_lora, end_to_end)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="complete vectors (*.safetensors)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="files to write; the default is all")
    parser.add_argument("--unchecked", action="store_true", help="the parity tests have passed on the complete vectors")
    chosen = parser.parse_args()
    if not chosen.unchecked:
        environment = os.environ | {"REFERENCE_VECTORS": str(chosen.folder.resolve())}
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "parity"], env=environment, check=True)
    with torch.no_grad():
        for make in makers:
            if not chosen.only or make.__name__ in chosen.only:
                make(Reference(make.__name__, chosen.folder)).write()
    total = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file())
    print(f"tests/data: {total / 1e6:.2f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
