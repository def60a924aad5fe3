"""The counted work of one full-size tile: its products are those of the method, and optimisations take kernels away."""

import pytest

from varestorer_cli.bench.count import Count, count, main
from varestorer_cli.bench.gpu import sizes_of


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


@pytest.mark.slow
def test_the_products_of_a_full_size_tile_are_those_of_the_method() -> None:
    """TFLOP per stage as computed by hand from the layers' sizes."""
    counted = {stage: one.flops / 1e12 for stage, one in count(sizes_of("2b")).items()}
    expected = {"pre-restorer": 0.18, "encoder": 1.04, "transformer": 16.82}
    for stage, flops in expected.items():
        assert counted[stage] == pytest.approx(flops, rel=0.08), stage
    assert 0.8 * 2.46 < counted["decoder"] < 2.46, "16 % less: folded doublings"
