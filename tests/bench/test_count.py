"""The counted work of one full-size tile: its products are those of the method, and optimisations take kernels away."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from varestorer_cli.bench.compiled_count import count_compiled, counted_compiled
from varestorer_cli.bench.count import Count, count, counted, main, write_table
from varestorer_cli.bench.gpu import sizes_of
from varestorer_models.layers import _directions


@pytest.fixture(scope="module")
def tiny() -> dict[str, Count]:
    return count(sizes_of("tiny"))


def test_every_stage_is_counted(tiny: dict[str, Count], capsys: pytest.CaptureFixture[str]) -> None:
    whole = tiny.pop("whole tile")
    assert whole.flops == pytest.approx(sum(one.flops for one in tiny.values()), rel=0.01)
    assert whole.products == sum(one.products for one in tiny.values())
    assert whole.others >= sum(one.others for one in tiny.values())
    main(["--size", "tiny"])
    assert capsys.readouterr().out.count("\n") == 2 + len(tiny) + 1


def test_optimisations_take_traffic_and_products_away(tiny: dict[str, Count]) -> None:
    plain = count(sizes_of("tiny"), plain=True)
    # folded doublings are more, smaller operations: the traffic tells, not the number of kernels
    assert tiny["pre-restorer"].traffic < plain["pre-restorer"].traffic, "tables are not made again"
    assert tiny["decoder"].flops < 0.9 * plain["decoder"].flops, "doublings are folded"


def test_the_compiler_puts_the_norm_and_rotation_of_queries_and_keys_together() -> None:
    """Two kernels by the compiler of a CPU, in place of seven, and less than half of what these move."""
    heads, table = torch.empty(1, 256, 2, 2, 64, dtype=torch.bfloat16), torch.empty(256, 32, 2)
    lengths = torch.empty(4, 2, 1).unflatten(0, (2, 2))[0]

    def work(heads: torch.Tensor) -> torch.Tensor:
        return _directions(heads, table, lengths, heads.dtype)

    with FakeTensorMode(allow_non_fake_inputs=True):
        eager = counted(lambda: work(heads))
    compiled = counted_compiled(work, heads)
    assert compiled.products == eager.products == 0 and eager.others > 2 * compiled.others
    assert compiled.others <= 2, "rounded before the halves are put together"
    assert 2 * heads.nbytes < compiled.traffic < eager.traffic / 2


def test_products_are_no_traffic() -> None:
    left, right = torch.empty(64, 64), torch.empty(64, 64)
    one = counted_compiled(lambda a, b: torch.relu(a @ b) + 1, left, right)
    assert (one.products, one.others, one.traffic) == (1, 1, 2 * left.nbytes)


def test_the_table_has_columns_for_what_was_counted_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    write_table({"a": Count(1e12, 1, 2, 3e9), "b": Count()}, {"a": Count(0.0, 1, 1, 1e9)})
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| a | 1.000 | 1 | 2 | 3.00 | 1 | 1.00 |",
        "| b | 0.000 | 0 | 0 | 0.00 |  |  |",
    ]


@pytest.mark.slow
def test_compiled_the_transformer_moves_less() -> None:
    # kernels are not compared: with two blocks what is done once outweighs what each block saves
    sizes = sizes_of("tiny")
    eager, compiled = count(sizes)["transformer"], count_compiled(sizes)["transformer"]
    assert 0 < compiled.traffic < 0.6 * eager.traffic


@pytest.mark.slow
def test_the_products_of_a_full_size_tile_are_those_of_the_method() -> None:
    """TFLOP per stage as computed by hand from the layers' sizes."""
    counted = {stage: one.flops / 1e12 for stage, one in count(sizes_of("2b")).items()}
    expected = {"pre-restorer": 0.18, "encoder": 1.04, "transformer": 16.82}
    for stage, flops in expected.items():
        assert counted[stage] == pytest.approx(flops, rel=0.08), stage
    assert 0.8 * 2.46 < counted["decoder"] < 2.46, "16 % less: folded doublings"
