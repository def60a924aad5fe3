"""``make evidence``: intervals, verdicts and images by hand-made rows; measures on known answers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from varestorer_cli.bench import evidence, evidence_measures, evidence_page
from varestorer_cli.core.errors import CheckpointError
from varestorer_cli.core.training.options import TrainOptions
from varestorer_cli.core.training.presets import preset
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_models.multistep import MultiStepRestorer
from varestorer_models.restorer import OneStepRestorer

MINI = preset("mini")


def row(variant: str, seed: int, **columns: float) -> dict[str, str]:
    every = dict.fromkeys(("psnr_y", "ssim_y", "lite2", "bits", "bits_1", "ms"), "")
    return {"variant": variant, "seed": str(seed), **every, **{name: str(value) for name, value in columns.items()}}


def test_interval_is_students_t() -> None:
    mean, half = evidence_page.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 * 1.0 / math.sqrt(3))
    assert math.isnan(evidence_page.interval([1.0])[1])
    assert evidence_page.interval([5.0, 5.0])[1] == 0.0


@pytest.mark.parametrize(
    ("differences", "less", "expected"),
    [
        ([-1.0, -1.1, -0.9], False, "worse"),
        ([-1.0, -1.1, -0.9], True, "better"),
        ([1.0, 1.1, 0.9], False, "better"),
        ([-1.0, 2.0, 0.5], False, "(cannot tell)"),
        ([3.0], False, "(cannot tell)"),
    ],
)
def test_verdict(differences: list[float], less: bool, expected: str) -> None:
    assert evidence_page.verdict(differences, less) == expected


def test_differences_are_of_the_same_seed() -> None:
    rows = [row("full", seed, psnr_y=20.0 + 5 * seed, lite2=0.5) for seed in range(3)]
    rows += [row("no_kl", seed, psnr_y=19.0 + 5 * seed, lite2=0.5 + 0.01 * seed) for seed in range(3)]
    text = evidence_page.differences(rows)
    line = next(line for line in text.splitlines() if line.startswith("| without KL"))
    assert "-1.00 ± 0.00 worse" in line and "cannot tell" in line and "-0.0987" in line
    assert "| full | 25.00 ± 12.42 |" in evidence_page.table(rows)
    assert ".7669" in evidence_page.table(rows)


def test_images_hold_every_number(tmp_path: Path) -> None:
    rows = [row("full", 0, psnr_y=20.0, bits_1=0.9)]
    for one in rows:
        evidence.add_row(tmp_path / "rows.csv", one)
    for scale, error in enumerate((0.25, 0.5), 1):
        evidence.add_row(tmp_path / "path.csv", {"seed": 0, "path": "a < b", "scale": scale, "error": error})
    names = ("block", "asking", "seen", "share")
    for entry in evidence.entries([[[0.25, 0.75], [0.5, 0.5]]]):
        evidence.add_row(tmp_path / "attention.csv", dict(zip(names, entry, strict=True)) | {"seed": 0})
    text = evidence_page.write_page(tmp_path)
    assert (tmp_path / "tables.md").read_text() == text
    attention, path = (tmp_path / "attention.svg").read_text(), (tmp_path / "path.svg").read_text()
    assert all(f">{number}<" in attention for number in (25, 75, 50)) and "extra" in attention
    assert "a &lt; b" in path and path.count("<circle") == 2


class Half(torch.nn.Module):
    """A judge that counts what it is asked."""

    def scores(self, restored: Tensor, reference: Tensor) -> dict[str, list[float]]:
        return {"psnr_y": [float((a - b).abs().max()) for a, b in zip(restored, reference, strict=True)]}


@pytest.fixture(scope="module")
def restorer() -> OneStepRestorer:
    """The bundled model that the page is about."""
    made = load_restorer("mini").restorer
    assert isinstance(made, OneStepRestorer)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def crops() -> evidence_measures.HeldOut:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return evidence_measures.HeldOut(images, images.clone(), (4, 5, 6))


def test_the_inputs_own_codes_are_all_right_where_nothing_is_degraded(
    restorer: OneStepRestorer, crops: evidence_measures.HeldOut
) -> None:
    untouched = OneStepRestorer(restorer.config, torch.nn.Identity(), restorer.tokenizer, restorer.transformer)
    judge: Any = Half()
    columns = evidence_measures.measure(untouched, evidence_measures.of_input, crops, judge)
    assert columns["bits"] == columns["bits_1"] == columns["bits_5"] == [1.0, 1.0, 1.0]
    assert evidence_measures.error_path(untouched, evidence_measures.of_input, crops) == [0.0] * 5
    random = evidence_measures.measure(untouched, evidence_measures.at_random(restorer.tokenizer, 1), crops, judge)
    assert all(abs(share - 0.5) < 0.05 for share in random["bits"])
    path = evidence_measures.error_path(untouched, evidence_measures.at_random(restorer.tokenizer, 1), crops)
    assert min(path) > 0.1
    ceiling = evidence_measures.ceiling(untouched, crops, judge)
    assert columns["psnr_y"] == pytest.approx(ceiling["psnr_y"], abs=1e-5)


def test_attention_shares_are_those_of_the_pass(restorer: OneStepRestorer, crops: evidence_measures.HeldOut) -> None:
    tables = evidence_measures.attention_between_scales(restorer, crops)
    assert np.array(tables).shape == (MINI.teacher.depth, 5, 6)
    assert np.allclose(np.array(tables).sum(-1), 1, atol=1e-5)
    attention = restorer.transformer.blocks[0].get_submodule("self_attention")
    hidden = torch.randn(1, 9, MINI.teacher.width)
    rotation = torch.stack([torch.ones(9, 16), torch.zeros(9, 16)], dim=-1)
    weights = attention.weights(hidden, rotation)  # type: ignore[operator]
    bias = torch.cat([torch.zeros(2 * MINI.teacher.width), attention.value_bias])  # type: ignore[list-item]
    values = attention.qkv(hidden, bias)[..., 2 * MINI.teacher.width :].unflatten(-1, (4, -1))  # type: ignore[operator]
    mixed = torch.einsum("bnlm,bmnk->blnk", weights, values).flatten(2)
    torch.testing.assert_close(attention.proj(mixed), attention(hidden, rotation))  # type: ignore[operator]


def test_a_step_from_the_references_history_adds_its_own_error_only(
    restorer: OneStepRestorer, crops: evidence_measures.HeldOut
) -> None:
    iterative = MultiStepRestorer(restorer.config, restorer.prerestorer, restorer.tokenizer, restorer.transformer)
    forced = evidence_measures.forced_path(iterative, crops)
    own = evidence_measures.error_path(iterative, evidence_measures.all_steps(iterative), crops)
    assert forced[0] == pytest.approx(own[0], abs=1e-5)
    shares = evidence_measures.forced_accuracy(iterative, crops, seeing=True)
    assert set(shares) == {"bits", *(f"bits_{scale}" for scale in range(1, 6))}


def test_differences_of_crops_go_by_photographs() -> None:
    """Ten crops of one photograph are no ten witnesses."""
    mean, half = evidence_page.clustered([[1.0], [2.0], [3.0]])
    assert (mean, half) == pytest.approx(evidence_page.interval([1.0, 2.0, 3.0]))
    assert evidence_page.clustered([[1.0] * 10, [2.0] * 10, [3.0] * 10]) == pytest.approx((mean, half))
    assert evidence_page.clustered([[1.0, 3.0]] * 3) == (2.0, 0.0) and math.isnan(
        evidence_page.clustered([[1.0, 3.0]])[1]
    )
    rows = [
        {"variant": name, "seed": "0", "photograph": photo, "crop": f"{photo}{n}", "psnr_y": str(psnr + extra),
         "ssim_y": "0.5", "lite2": str(lite2)}
        for name, psnr, lite2 in (("shipped", 21.0, 0.4), ("teacher_steps", 20.0, 0.5))
        for photo, extra in (("a", 0.0), ("b", 5.0), ("c", 9.0)) for n in range(2)
    ]  # fmt: skip
    (line,) = evidence_page.compared(rows).splitlines()[2:]
    assert line.split(" | ")[1:] == [
        "+1.00 ± 0.00 better",
        "+0.0000 ± 0.0000 (cannot tell)",
        "-0.1000 ± 0.0000 better |",
    ]


DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_says_what_its_rows_say() -> None:
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    rows = evidence.read_rows(DOCS / "evidence" / "rows.csv")
    assert len({row["seed"] for row in rows}) >= 3
    for table in (evidence_page.table(rows), evidence_page.bits_table(rows), evidence_page.differences(rows)):
        assert table in page
    crops = evidence.read_rows(DOCS / "evidence" / "crops.csv")
    assert evidence_page.compared(crops) in page
    for variant in {row["variant"] for row in crops}:
        mean = sum(float(row["psnr_y"]) for row in crops if row["variant"] == variant) / 240
        assert mean == pytest.approx(evidence_page.values_of(rows, variant, "psnr_y")["0"], abs=1e-3)
    path, attention = (evidence.read_rows(DOCS / "evidence" / f"{name}.csv") for name in ("path", "attention"))
    assert (DOCS / "evidence" / "path.svg").read_text() == evidence_page.path_figure(path)
    assert (DOCS / "evidence" / "attention.svg").read_text() == evidence_page.attention_figure(attention)


def test_nothing_is_shipped_before_there_is_a_teacher(tmp_path: Path) -> None:
    base = TrainOptions(stage="distill", data=tmp_path, out=tmp_path, preset="mini")
    with pytest.raises(CheckpointError, match="no teacher"):
        evidence.Evidence(replace(base), 1.0, (0,), 4).ship(tmp_path / "mini.safetensors", "")


def test_the_sentences_say_what_the_rows_say() -> None:
    page = " ".join((DOCS / "evidence.md").read_text(encoding="utf-8").split())
    rows = {
        name: evidence.read_rows(DOCS / "evidence" / f"{name}.csv") for name in ("rows", "path", "attention", "crops")
    }

    def of(variant: str, column: str = "psnr_y") -> float:
        return evidence_page.interval(list(evidence_page.values_of(rows["rows"], variant, column).values()))[0]

    def error(path: str, scale: int) -> float:
        found = [float(row["error"]) for row in rows["path"] if (row["path"], row["scale"]) == (path, str(scale))]
        return sum(found) / len(found)

    def share(asking: int, seen: int) -> float:
        wanted = (str(asking), str(seen))
        found = [float(row["share"]) for row in rows["attention"] if (row["asking"], row["seen"]) == wanted]
        return sum(found) / len(found)

    last, alone = error("all steps", 5), error("one step of the iterative path alone", 5)
    for sentence in (
        f"one step ({of('shipped'):.1f} dB) is ahead of all steps ({of('teacher_steps'):.1f} dB)",
        f"and of the input's codes ({of('input_codes'):.1f} dB)",
        f"({of('prerestored'):.1f} dB; features the same within the interval)",
        f"there is room ({of('ceiling'):.1f} dB)",
        f"bits of the coarsest scale no better than chance ({100 * of('causal', 'bits_1'):.0f} % against "
        f"{100 * of('full', 'bits_1'):.0f} %)",
        f"with KL PSNR is {of('no_kl') - of('full'):.1f} dB",
        f"at {of('no_distillation', 'ms') / of('full', 'ms'):.1f} times its time",
        f"random ones cost the full student {of('full') - of('random_codes'):.1f} dB and "
        f"{of('random_codes', 'lite2') - of('full', 'lite2'):.2f} in features",
        f"({last:.2f} against {alone:.2f})".replace("0.", "."),
        f"240 crops of {len({row['photograph'] for row in rows['crops']})} held-out photographs",
        f"is {of('shipped') - of('full_expected'):.1f} dB above their mean codes",
    ):
        assert sentence in page
    assert min(share(scale, 6) for scale in range(1, 6)) > 0.45 and max(share(scale, 6) for scale in range(1, 6)) < 0.72
    assert all(0.2 <= round(share(scale, 5), 2) <= 0.25 for scale in range(1, 6))
